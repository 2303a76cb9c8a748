"""The training of `benches/benches/torch` in eager PyTorch, as one writes it by hand.

Each line of standard input is a request: a training's specification, how many steps to run before
the clock starts and with it running, and which of PyTorch's AdamW to use. Each answer is a line.
"""

import json
import math
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

EPSILON = 1e-5


def rotate(x, rotation):
    """x (B, S, h, hd): neighbouring values as complex numbers, as in Meta's Llama."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotation).flatten(-2)


def rotations(sequence, head):
    frequencies = 10_000.0 ** (-torch.arange(0, head, 2, dtype=torch.float64) / head)
    angles = torch.outer(torch.arange(sequence, dtype=torch.float64), frequencies)
    return torch.polar(torch.ones_like(angles), angles).to(torch.complex64)[:, None]


class Block(nn.Module):
    def __init__(self, model, norm):
        super().__init__()
        width = model["width"]
        self.heads = model["heads"]
        self.attention_norm = norm()
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.mlp_norm = norm()
        self.up = nn.Linear(width, model["mlp_width"], bias=False)
        self.down = nn.Linear(model["mlp_width"], width, bias=False)

    def attention(self, x, rotation):
        batch, sequence, width = x.shape
        parts = self.qkv(x).split(width, dim=2)
        q, k, v = (part.view(batch, sequence, self.heads, -1) for part in parts)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.output(mixed.transpose(1, 2).reshape(batch, sequence, width))

    def forward(self, x, rotation):
        x = x + self.attention(self.attention_norm(x), rotation)
        return x + self.down(F.gelu(self.up(self.mlp_norm(x)), approximate="tanh"))


class Decoder(nn.Module):
    def __init__(self, model):
        super().__init__()
        width, vocabulary, sequence = model["width"], model["vocabulary"], model["sequence"]
        kind = {"layer_norm": nn.LayerNorm, "rms_norm": nn.RMSNorm}[model["norm"]]
        norm = lambda: kind(width, eps=EPSILON)
        self.tokens = nn.Embedding(vocabulary, width)
        learned = model["positions"] == "learned"
        self.positions = nn.Embedding(sequence, width) if learned else None
        rotation = None if learned else rotations(sequence, width // model["heads"])
        self.register_buffer("rotation", rotation, persistent=False)
        self.register_buffer("places", torch.arange(sequence), persistent=False)
        self.blocks = nn.ModuleList(Block(model, norm) for _ in range(model["layers"]))
        self.norm = norm()
        self.output = nn.Linear(width, vocabulary, bias=False)
        if model["tied"]:
            self.output.weight = self.tokens.weight
        std = 0.02 * math.sqrt(768 / width)
        for name, value in self.named_parameters():
            if value.ndim == 2:
                adds = name.endswith(("output.weight", "down.weight")) and "blocks" in name
                nn.init.normal_(value, std=std / math.sqrt(2 * model["layers"]) if adds else std)

    def forward(self, tokens):
        x = self.tokens(tokens)
        if self.positions is not None:
            x = x + self.positions(self.places[: tokens.shape[1]])
        for block in self.blocks:
            x = block(x, self.rotation)
        return self.output(self.norm(x))


def adamw(model, config, fused):
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": config["weight_decay"]},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=config["learning_rate"], betas=(config["beta1"], config["beta2"]),
        eps=config["epsilon"], fused=fused, foreach=not fused,
    )


def train(request):
    spec, warmup, steps = request["spec"], request["warmup"], request["steps"]
    torch.set_num_threads(request["threads"])
    torch.manual_seed(1)
    config, shape = spec["optimizer"], spec["model"]
    model = Decoder(shape)
    optimizer = adamw(model, config, request["fused"])
    text = torch.from_numpy(np.fromfile(request["text"], dtype=np.uint8)).long()
    window = torch.arange(shape["sequence"] + 1)
    losses = []
    for step in range(warmup + steps):
        if step == warmup:
            begun = time.perf_counter()
        starts = torch.randint(len(text) - shape["sequence"], (spec["batch"], 1))
        tokens = text[starts + window]
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        rate = config["learning_rate"] * min(1.0, (step + 1) / (0.1 * (warmup + steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config["clip"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    seconds = time.perf_counter() - begun
    parameters = sum(p.numel() for p in model.parameters())
    return {"seconds": seconds, "parameters": parameters, "first_loss": losses[0]}


def main():
    # What libraries print must not come between the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        print(json.dumps(train(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
