"""GPT-2 in PyTorch as one writes it by hand, for the comparison of speed.

    python3 torch_train.py '{"mode": "bf16", "device": "cuda", "seconds": 12, ...}'

Three ways: `autocast` and `eager` are the usual one, compiled and not; `bf16` is the quickest one,
compiled. Attention is F.scaled_dot_product_attention, which chooses between cuDNN's and
FlashAttention. Prints one line of JSON: the windows of (steps, seconds) between two readings of
the loss, which come every 100 ms as Brine's.
"""

import json
import math
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

LEARNING_RATE, BETA1, BETA2, EPSILON, WEIGHT_DECAY, CLIP = 6e-4, 0.9, 0.95, 1e-8, 0.1, 1.0
# The first one compiles; the second one meets what the first has left, as moments and caches.
COMPILED_STEPS = 2
REPORT_SECONDS = 0.1
# A GPU must not run away from its losses without bound.
PENDING_STEPS_MAX = 64


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.mlp_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def attention(self, x):
        batch, sequence, width = x.shape
        parts = self.qkv(x).split(width, dim=2)
        q, k, v = (p.view(batch, sequence, self.heads, -1).transpose(1, 2) for p in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.output(mixed.transpose(1, 2).reshape(batch, sequence, width))

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x)), approximate="tanh"))


class Decoder(nn.Module):
    """GPT-2's shape: learned positions, tied output; no biases in linear layers, as in Brine."""

    def __init__(self, shape):
        super().__init__()
        width, layers = shape["width"], shape["layers"]
        self.tokens = nn.Embedding(shape["vocabulary"], width)
        self.positions = nn.Embedding(shape["sequence"], width)
        self.blocks = nn.ModuleList(Block(width, shape["heads"]) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, shape["vocabulary"], bias=False)
        self.head.weight = self.tokens.weight
        for name, value in self.named_parameters():
            if value.ndim == 2:
                adds = name.endswith(("output.weight", "down.weight"))
                nn.init.normal_(value, std=0.02 / math.sqrt(2 * layers) if adds else 0.02)

    def forward(self, inputs, targets):
        places = torch.arange(inputs.shape[1], device=inputs.device)
        x = self.tokens(inputs) + self.positions(places)
        for block in self.blocks:
            x = block(x)
        scores = self.head(self.norm(x))
        # A sum of 50,304 exponentials needs float32; compiled, no such tensor is written.
        return F.cross_entropy(scores.flatten(0, 1).float(), targets.flatten())


class Autocast:
    """Weights, gradients and AdamW (fused) in float32, the passes in bfloat16 by autocast."""

    def __init__(self, model, is_compiled):
        self.parameters = list(model.parameters())
        self.loss_of = torch.compile(model) if is_compiled else model
        groups = [
            {"params": [p for p in self.parameters if p.ndim >= 2], "weight_decay": WEIGHT_DECAY},
            {"params": [p for p in self.parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        # Fused on the GPU and on the processor.
        self.optimizer = torch.optim.AdamW(
            groups, lr=LEARNING_RATE, betas=(BETA1, BETA2), eps=EPSILON, fused=True)

    def step(self, inputs, targets):
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16):
            loss = self.loss_of(inputs, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()


class Bfloat16:
    """Weights, gradients and passes in bfloat16; AdamW on float32 masters, in one compiled
    function that also clips and rounds."""

    def __init__(self, model):
        self.masters = [p.detach().clone() for p in model.parameters()]
        self.parameters = list(model.to(torch.bfloat16).parameters())
        self.weights = [p.detach() for p in self.parameters]
        self.firsts = [torch.zeros_like(master) for master in self.masters]
        self.seconds = [torch.zeros_like(master) for master in self.masters]
        # Both betas to the number of steps. On the device, because a number would be compiled anew
        # when it changes.
        self.powers = [torch.ones((), device=self.masters[0].device) for _ in range(2)]
        self.loss_of = torch.compile(model)
        self.update = torch.compile(adamw, fullgraph=True)

    def step(self, inputs, targets):
        loss = self.loss_of(inputs, targets)
        loss.backward()
        gradients = [p.grad for p in self.parameters]
        self.update(
            self.weights, self.masters, self.firsts, self.seconds, gradients, self.powers)
        for parameter in self.parameters:
            parameter.grad = None
        return loss.detach()


@torch.no_grad()
def adamw(weights, masters, firsts, seconds, gradients, powers):
    """Clips all gradients together, updates moments and masters by AdamW, and rounds the masters
    into the weights. Compiled, this is one pass over memory for the norm and one for the rest."""
    norms = torch._foreach_norm(gradients, dtype=torch.float32)
    norm = torch.linalg.vector_norm(torch.stack(norms))
    scale = (CLIP / (norm + 1e-6)).clamp(max=1.0)
    corrections = [1 - power.mul_(beta) for power, beta in zip(powers, [BETA1, BETA2])]
    for weight, master, first, second, gradient in zip(
        weights, masters, firsts, seconds, gradients
    ):
        gradient = gradient.float() * scale
        first.lerp_(gradient, 1 - BETA1)
        second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        if master.ndim >= 2:
            master.mul_(1 - LEARNING_RATE * WEIGHT_DECAY)
        step = first / corrections[0] / ((second / corrections[1]).sqrt() + EPSILON)
        master.sub_(step, alpha=LEARNING_RATE)
        weight.copy_(master)


class Batches:
    """Random windows of random tokens, in pinned memory, one batch ahead of the GPU."""

    def __init__(self, request, device):
        shape = request["shape"]
        self.device = device
        generator = torch.Generator().manual_seed(1)
        count = 2_000 * shape["sequence"]
        self.text = torch.randint(shape["vocabulary"], (count,), generator=generator)
        self.window = torch.arange(shape["sequence"] + 1)
        self.starts = (count - shape["sequence"], (request["batch"], 1))

    def next(self):
        tokens = self.text[torch.randint(*self.starts) + self.window]
        pair = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        if self.device.type == "cuda":
            pair = tuple(part.pin_memory().to(self.device, non_blocking=True) for part in pair)
        return pair


def training(mode, model):
    """How a step is done in this mode."""
    return {
        "bf16": lambda: Bfloat16(model),
        "autocast": lambda: Autocast(model, is_compiled=True),
        "eager": lambda: Autocast(model, is_compiled=False),
    }[mode]()


class Losses:
    """Reads losses without letting the GPU run dry: each is copied behind its step, and read when
    the next step waits already."""

    def __init__(self, device):
        self.is_gpu = device.type == "cuda"
        self.pending = []

    def add(self, loss):
        end = None
        if self.is_gpu:
            loss = loss.to("cpu", non_blocking=True)
            end = torch.cuda.Event()
            end.record()
        self.pending.append((loss, end))

    def read(self, count):
        """The losses of the oldest `count` steps, when these have ended."""
        ready, self.pending = self.pending[:count], self.pending[count:]
        if self.is_gpu:
            ready[-1][1].synchronize()
        return [loss.item() for loss, _ in ready]


def train(request):
    device = torch.device(request["device"])
    torch.manual_seed(1)
    # What is still in float32 may use the tensor cores.
    torch.set_float32_matmul_precision("high")
    model = Decoder(request["shape"]).to(device)
    parameters = sum(p.numel() for p in model.parameters())
    way = training(request["mode"], model)
    batches, losses = Batches(request, device), Losses(device)
    batch = batches.next()
    # The first steps compile, whatever that takes.
    for _ in range(COMPILED_STEPS):
        losses.add(way.step(*batch))
        batch = batches.next()
    first_loss = losses.read(COMPILED_STEPS)[0]
    windows, last_loss = [], None
    start = reported = time.perf_counter()
    while time.perf_counter() - start < request["seconds"] or last_loss is None:
        losses.add(way.step(*batch))
        batch = batches.next()
        count = len(losses.pending) - 1
        is_due = time.perf_counter() - reported >= REPORT_SECONDS or count == PENDING_STEPS_MAX
        if count > 0 and is_due:
            last_loss = losses.read(count)[-1]
            now = time.perf_counter()
            windows.append((count, now - reported))
            reported = now
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
    return {
        "windows": windows,
        "parameters": parameters,
        "first_loss": first_loss,
        "last_loss": last_loss,
        "allocated_bytes": peak,
        # From 9.15.1 on its attention is the first choice on H100 and H200.
        "cudnn": torch.backends.cudnn.version(),
    }


def main():
    # What libraries print must not come between.
    answers, sys.stdout = sys.stdout, sys.stderr
    print(json.dumps(train(json.loads(sys.argv[1]))), file=answers, flush=True)


if __name__ == "__main__":
    main()
