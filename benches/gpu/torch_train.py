"""GPT-2 in PyTorch as one writes it by hand, for the comparison of speed.

    python3 torch_train.py '{"mode": "compile", "device": "cuda", "seconds": 15, ...}'

Weights and AdamW (fused) in float32, forward and backward pass in bfloat16 by autocast, attention
by F.scaled_dot_product_attention; `compile` compiles model and loss. Prints one line of JSON: the
windows of (steps, seconds) between two readings of the loss, which come every 100 ms as Brine's.
"""

import json
import math
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

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
        return F.cross_entropy(scores.flatten(0, 1), targets.flatten())


def adamw(model):
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": 0.1},
        {"params": others, "weight_decay": 0.0},
    ]
    # Fused on the GPU and on the processor.
    return torch.optim.AdamW(groups, lr=6e-4, betas=(0.9, 0.95), eps=1e-8, fused=True)


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


def train(request):
    device = torch.device(request["device"])
    torch.manual_seed(1)
    # What is still in float32 may use the tensor cores.
    torch.set_float32_matmul_precision("high")
    model = Decoder(request["shape"]).to(device)
    parameters = sum(p.numel() for p in model.parameters())
    optimizer = adamw(model)
    loss_of = torch.compile(model) if request["mode"] == "compile" else model
    batches = Batches(request, device)
    losses, windows, first_loss = [], [], None
    start = reported = None
    batch = batches.next()
    while start is None or time.perf_counter() - start < request["seconds"]:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = loss_of(*batch)
        batch = batches.next()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
        if start is None:
            # The first step compiles, whatever that takes.
            first_loss, losses = losses[0].item(), []
            start = reported = time.perf_counter()
        elif (
            time.perf_counter() - reported >= REPORT_SECONDS or len(losses) == PENDING_STEPS_MAX
        ):
            last_loss = [value.item() for value in losses][-1]
            now = time.perf_counter()
            windows.append((len(losses), now - reported))
            losses, reported = [], now
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
    return {
        "windows": windows,
        "parameters": parameters,
        "first_loss": first_loss,
        "last_loss": last_loss,
        "allocated_bytes": peak,
    }


def main():
    # What libraries print must not come between.
    answers, sys.stdout = sys.stdout, sys.stderr
    print(json.dumps(train(json.loads(sys.argv[1]))), file=answers, flush=True)


if __name__ == "__main__":
    main()
