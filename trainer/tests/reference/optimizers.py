"""What PyTorch 2.11 makes of the updates in `optimizers.json`.

Run it with `python optimizers.py > optimizers.json` where `torch` 2.11 is installed. The weights
and gradients are functions of their place, which the test computes too. Lion is not in PyTorch; its
numbers follow algorithm 2 of arXiv 2302.06675 in 64 bits.
"""

import json

import torch

STEPS = 10
SHAPES = {"wide": (4, 6), "tall": (6, 4)}


def wave(count, phase):
    """`count` numbers in (-1, 1), exact to 32 bits whatever computes the sine."""
    places = torch.arange(count, dtype=torch.float64)
    return torch.round(torch.sin(places * 1.7 + phase) * 4096) / 4096


def start(shape):
    return wave(shape[0] * shape[1], 0.3).reshape(shape)


def gradient(shape, step):
    return wave(shape[0] * shape[1], 1.0 + step).reshape(shape)


def trained(make, shape):
    """The weights after all steps, with a rate that falls by a tenth of the peak per step."""
    weight = torch.nn.Parameter(start(shape).float())
    optimizer = make([weight])
    peaks = [group["lr"] for group in optimizer.param_groups]
    for step in range(STEPS):
        for group, peak in zip(optimizer.param_groups, peaks):
            group["lr"] = peak * (1 - step / STEPS)
        weight.grad = gradient(shape, step).float()
        optimizer.step()
    return weight.detach().flatten().tolist()


def lion(shape, lr, beta1, beta2, weight_decay):
    weight, moment = start(shape), torch.zeros(shape, dtype=torch.float64)
    for step in range(STEPS):
        rate, g = lr * (1 - step / STEPS), gradient(shape, step)
        direction = torch.sign(beta1 * moment + (1 - beta1) * g)
        weight = weight - rate * (direction + weight_decay * weight)
        moment = beta2 * moment + (1 - beta2) * g
    return weight.flatten().tolist()


def orthogonal(shape):
    """Five steps of Newton and Schulz in 64 bits."""
    x = gradient(shape, 0)
    tall = shape[0] > shape[1]
    x = x.T if tall else x
    x = x / x.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
    return (x.T if tall else x).flatten().tolist()


def cases():
    for name, shape in SHAPES.items():
        yield name, "adamw", trained(
            lambda w: torch.optim.AdamW(w, lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1),
            shape,
        )
        for nesterov in (False, True):
            yield name, f"sgd{'_nesterov' * nesterov}", trained(
                lambda w: torch.optim.SGD(
                    w, lr=0.05, momentum=0.9, nesterov=nesterov, weight_decay=0.1
                ),
                shape,
            )
        for scale in ("original", "match_rms_adamw"):
            yield name, f"muon_{scale}", trained(
                lambda w: torch.optim.Muon(
                    w, lr=0.02, momentum=0.95, weight_decay=0.1, adjust_lr_fn=scale
                ),
                shape,
            )
        yield name, "lion", lion(shape, 0.003, 0.9, 0.99, 0.1)
        yield name, "orthogonal", orthogonal(shape)


if __name__ == "__main__":
    found = {}
    for name, case, values in cases():
        shape = list(SHAPES[name])
        entry = found.setdefault(name, {"shape": shape, "values": {}})
        entry["values"][case] = [float(f"{value:.9g}") for value in values]
    print(json.dumps({"torch": torch.__version__, "cases": found}, indent=1))
