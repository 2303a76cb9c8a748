"""Runs everything that needs a GPU, and writes OUT/results.md and OUT/results.json.

    bash run.sh OUT [sweep] [--steps NAME,NAME] [--device cpu]

`sweep` runs recipes/isoflop-h200.yaml instead. `--steps` runs only these. `--device cpu` runs the
same script with tiny sizes, to try the script itself. A step that fails is noted, and the rest
still run.
"""

import argparse
import json
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from datetime import datetime, timezone
from pathlib import Path

import torch

import figures
import steps
import sweep
from brine import Failed, Limit, call

# All steps together, the start of this script included: 9 minutes with room to write the results.
SECONDS_MAX = 500
# A step is begun only with so much time left.
STEP_SECONDS_MIN = 10
# Steps and their own limits in seconds, the most important first.
STEPS = [
    (steps.doctor, 30),
    (steps.kernels, 100),
    (steps.trainer, 150),
    (steps.speed, 260),
    (steps.bandwidth, 60),
    (steps.resume, 90),
    (steps.checkpoints, 70),
    (steps.members, 60),
    (steps.packing, 130),
    (sweep.small_sweep, 75),
]
SWEEP = [(steps.doctor, 30), (sweep.sweep, 1_800)]
SWEEP_SECONDS_MAX = 1_800


class Ground:
    """What every step stands on."""

    def __init__(self, out, work, log, device):
        self.out, self.work, self.log, self.device = out, work, log, device
        self.folder = Path(__file__).resolve().parent
        self.programs = self.folder / "bin"
        self.use_gpu = device == "cuda"
        self.shape = steps.GPT2 if self.use_gpu else steps.TINY
        self.batch = 32 if self.use_gpu else 4
        # A processor without instructions for bfloat16 would take an age.
        self.precision = "bf16" if self.use_gpu else "float32"
        # Tokens per second over all windows of the step `speed`, for the steps after it.
        self.brine_rate = None
        without = ("processor", "none", "")
        self.card, self.driver, self.card_line = card() if self.use_gpu else without


def card():
    """Name and driver of the first GPU, and a line about it."""
    if not torch.cuda.is_available():
        return "none", "unknown", "PyTorch finds no GPU"
    if not shutil.which("nvidia-smi"):
        name = torch.cuda.get_device_name(0)
        return name, "unknown", f"{name}; there is no nvidia-smi"
    query = "--query-gpu=name,driver_version,memory.total,power.limit,clocks.max.sm"
    try:
        line = subprocess.run(["nvidia-smi", query, "--format=csv,noheader"], capture_output=True,
                              text=True, timeout=60, check=True).stdout.splitlines()[0]
        name, driver = line.split(", ")[:2]
    except (subprocess.SubprocessError, IndexError, ValueError) as error:
        return "unknown", "unknown", f"nvidia-smi fails: {error}"
    return name, driver, line


def perform(step, seconds, ground):
    """One step, whatever happens in it."""
    begun = time.monotonic()
    print(f"{step.__name__} ...", flush=True)
    ground.log.write(f"\n== {step.__name__}\n")
    rows, raw, error = [], {}, None
    try:
        rows, raw, error = step(ground, Limit(seconds))
    except Failed as failed:
        error = str(failed)
    except Exception as unexpected:  # The other steps are worth more than this one's style.
        traceback.print_exc(file=ground.log)
        error = f"{type(unexpected).__name__}: {unexpected}"
    took = time.monotonic() - begun
    print(f"{step.__name__}: {error or 'done'}, {took:.0f} s", flush=True)
    return {"name": step.__name__, "seconds": took, "error": error, "rows": rows, "raw": raw}


def check(arguments, ground, begun):
    results = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "card": ground.card, "driver": ground.driver, "torch": torch.__version__,
        "python": platform.python_version(), "command": " ".join(["run.sh", *sys.argv[1:]]),
        "steps": [],
    }
    version = [ground.programs / "brine", "--version"]
    try:
        results["brine"] = call(version, Limit(30), ground.log).strip().removeprefix("brine ")
    except (Failed, OSError) as error:
        results["brine"] = f"unknown ({error})"
    wanted = SWEEP if arguments.what == "sweep" else STEPS
    if arguments.steps:
        wanted = [(step, seconds) for step, seconds in wanted if step.__name__ in arguments.steps]
    most = arguments.seconds or (SWEEP_SECONDS_MAX if arguments.what == "sweep" else SECONDS_MAX)
    for step, seconds in wanted:
        left = most - (time.monotonic() - begun)
        if left < STEP_SECONDS_MIN:
            error = f"no time was left for it; --steps {step.__name__} runs it alone"
            done = {"name": step.__name__, "seconds": 0, "error": error, "rows": [], "raw": {}}
        else:
            done = perform(step, min(seconds, left), ground)
        results["steps"].append(done)
        results["seconds"] = time.monotonic() - begun
        # After every step, so that nothing is lost with the machine.
        (ground.out / "results.json").write_text(json.dumps(results, indent=1))
        (ground.out / "results.md").write_text(figures.markdown(results))
    return results


def names(text):
    """The names of steps on the command line."""
    chosen, known = text.split(","), {step.__name__ for step, _ in [*STEPS, *SWEEP]}
    unknown = sorted(set(chosen) - known)
    if unknown:
        raise argparse.ArgumentTypeError(
            f"no step {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    return chosen


def main():
    begun = time.monotonic()
    as_written = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("out", type=Path, help="folder for the results")
    parser.add_argument("what", nargs="?", default="check", choices=["check", "sweep"])
    parser.add_argument("--steps", type=names, help="only these, by name")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--seconds", type=float, help="for all steps together")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    # Whoever ends this ends what it started too: an exit runs what stands in `finally`.
    for ended in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ended, lambda number, _: sys.exit(128 + number))
    work = Path(tempfile.mkdtemp(prefix="brine-gpu-check-"))
    try:
        with open(arguments.out / "log.txt", "w") as log:
            results = check(arguments, Ground(arguments.out, work, log, arguments.device), begun)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print((arguments.out / "results.md").read_text())
    failed = figures.failed(results)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
