"""Trains a small network with one hidden layer on two interleaved spirals.

Needs only Python's standard library, and runs without Brine too:

    python3 train.py --learning-rate 0.3 --width 16 --seed 0

Under Brine it does what any training script can do to join an experiment:
  * it writes its metrics, one JSON object per line, to the file descriptor in BRINE_METRICS_FD,
    while it runs, so that a study may end it early;
  * it keeps its state in the folder in BRINE_CHECKPOINT_FOLDER and goes on from there.
"""

import argparse
import json
import math
import os
import random

POINTS = 160  # per spiral
NOISE = 0.08
CHECKPOINT_EVERY = 10  # epochs


def spirals(seed):
    """Points (x, y) with their class, 0 or 1."""
    rng = random.Random(f"data/{seed}")
    points = []
    for label in (0, 1):
        for place in range(POINTS):
            radius = 0.1 + 0.9 * place / POINTS
            angle = 7.0 * radius + math.pi * label
            x = radius * math.cos(angle) + rng.gauss(0.0, NOISE)
            y = radius * math.sin(angle) + rng.gauss(0.0, NOISE)
            points.append((x, y, label))
    rng.shuffle(points)
    return points


def new_network(width, seed):
    """Rows of (weight of x, weight of y, bias, output weight), and the output's bias."""
    rng = random.Random(f"network/{seed}")
    scale = 1.0 / math.sqrt(width)
    rows = [
        [rng.gauss(0.0, 1.5), rng.gauss(0.0, 1.5), rng.gauss(0.0, 0.5), rng.gauss(0.0, scale)]
        for _ in range(width)
    ]
    return {"rows": rows, "bias": 0.0}


def logit(network, x, y):
    hidden = [math.tanh(a * x + b * y + c) for a, b, c, _ in network["rows"]]
    output = network["bias"]
    for value, row in zip(hidden, network["rows"]):
        output += value * row[3]
    return hidden, output


def cross_entropy(output, label):
    """-log of the probability of `label`, in nats, without overflow."""
    signed = output if label else -output
    return max(-signed, 0.0) + math.log1p(math.exp(-abs(signed)))


def train_epoch(network, points, rate, momentum, velocity, rng):
    """One pass of stochastic gradient descent with momentum; returns the mean loss."""
    total = 0.0
    for x, y, label in rng.sample(points, len(points)):
        hidden, output = logit(network, x, y)
        total += cross_entropy(output, label)
        error = 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, output)))) - label
        for value, row, speed in zip(hidden, network["rows"], velocity["rows"]):
            inner = error * row[3] * (1.0 - value * value)
            for place, slope in enumerate((inner * x, inner * y, inner, error * value)):
                speed[place] = momentum * speed[place] - rate * slope
                row[place] += speed[place]
        velocity["bias"] = momentum * velocity["bias"] - rate * error
        network["bias"] += velocity["bias"]
    return total / len(points)


def evaluate(network, points):
    """Mean loss in nats, and the share of points that are classified correctly."""
    total, correct = 0.0, 0
    for x, y, label in points:
        _, output = logit(network, x, y)
        total += cross_entropy(output, label)
        correct += (output > 0.0) == bool(label)
    return total / len(points), correct / len(points)


class Metrics:
    """Writes metrics to Brine; without Brine, prints them."""

    def __init__(self):
        descriptor = os.environ.get("BRINE_METRICS_FD")
        self.file = os.fdopen(int(descriptor), "w", buffering=1) if descriptor else None

    def report(self, metric, step, value):
        line = json.dumps({"metric": metric, "step": step, "value": value})
        print(line, file=self.file, flush=True)


def checkpoint_path():
    folder = os.environ.get("BRINE_CHECKPOINT_FOLDER")
    return os.path.join(folder, "state.json") if folder else None


def load(path):
    if path and os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    return None


def save(path, state):
    """The file is complete or absent, also when the machine stops in the middle."""
    if path is None:
        return
    with open(path + ".tmp", "w", encoding="utf-8") as file:
        json.dump(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".tmp", path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--momentum", type=float, default=0.5)
    parser.add_argument("--epochs", type=int, default=120)
    parser.add_argument("--seed", type=int, default=int(os.environ.get("BRINE_SEED", "0")))
    options = parser.parse_args()

    points = spirals(options.seed)
    held_out, training = points[: POINTS // 2], points[POINTS // 2 :]
    metrics, path = Metrics(), checkpoint_path()
    state = load(path) or {
        "epoch": 0,
        "network": new_network(options.width, options.seed),
        "velocity": {"rows": [[0.0] * 4 for _ in range(options.width)], "bias": 0.0},
    }

    for epoch in range(state["epoch"], options.epochs):
        # The order depends on seed and epoch only, so a resumed training repeats it exactly.
        rng = random.Random(f"order/{options.seed}/{epoch}")
        loss = train_epoch(
            state["network"], training, options.learning_rate, options.momentum,
            state["velocity"], rng,
        )
        state["epoch"] = epoch + 1
        metrics.report("training_loss", epoch + 1, loss)
        if epoch + 1 < options.epochs:
            # Early stopping compares this with other trials at the same epoch.
            metrics.report("loss", epoch + 1, evaluate(state["network"], held_out)[0])
        if (epoch + 1) % CHECKPOINT_EVERY == 0:
            save(path, state)

    loss, accuracy = evaluate(state["network"], held_out)
    metrics.report("loss", options.epochs, loss)
    metrics.report("accuracy", options.epochs, accuracy)


if __name__ == "__main__":
    main()
