"""The steps of the check. Each gets the ground and its time limit, and answers rows, raw data, and
what is wrong."""

import json
import random
import re
import shutil
import subprocess
import sys
import threading
from array import array

import torch

import figures
from brine import Failed, Run, call
from figures import number, percent, row

# Largest relative difference of a final loss that a killed and resumed training may have on a GPU,
# whose sums have no fixed order. On the processor it has none.
RESUMED_DIFFERENCE_MAX = 5e-3
# Likewise that two members may have from one, whose sums have another order, in bfloat16.
MEMBERS_DIFFERENCE_MAX = 5e-3
# Time after which a training's step is taken for settled.
WARMUP_SECONDS = 3.0
# Memory is steady while a training goes on, and asking for it takes the driver's locks.
MEMORY_POLL_SECONDS = 2.0

GPT2 = {"width": 768, "layers": 12, "heads": 12, "vocabulary": 50_304, "sequence": 1_024}
TINY = {"width": 64, "layers": 2, "heads": 2, "vocabulary": 512, "sequence": 64}
# The same everywhere: small enough for a processor, too small to fill a GPU.
SMALL = {"width": 256, "layers": 4, "heads": 4, "vocabulary": 256, "sequence": 256}


def doctor(ground, limit):
    printed = call([ground.programs / "brine-agent", "doctor", "--output", "json"], limit,
                   ground.log, check=False)
    checks = json.loads(printed)["checks"]
    rows = [row(c["name"], f"{c['state']}: {c['found']}") for c in checks]
    broken = [c["name"] for c in checks if c["state"] == "broken"]
    if ground.use_gpu:
        broken += [c["name"] for c in checks if c["state"] == "absent"]
        rows.append(row("nvidia-smi", ground.card_line))
    return rows, {"checks": checks}, f"not well: {', '.join(broken)}" if broken else None


def kernels(ground, limit):
    """Every kernel beside its reference on the processor."""
    return tests(ground, limit, "kernels")


def trainer(ground, limit):
    """Whole trainings beside the processor's, kill and resume, and NCCL with one member."""
    return tests(ground, limit, "trainer")


def tests(ground, limit, what):
    """Those tests of `what` that need a GPU; without one they say that they are skipped."""
    required = {"BRINE_REQUIRE_GPU": "1", "BRINE_REQUIRE_NVRTC": "1"} if ground.use_gpu else {}
    passed = wrong = 0
    names = []
    # What they keep for the next time lies beside them.
    programs = [path for path in (ground.programs / what).iterdir() if path.is_file()]
    for program in sorted(programs):
        command = [program, "on_gpu", "--test-threads=1", "--nocapture"]
        printed = call(command, limit, ground.log, required, check=False)
        line = re.search(r"test result: .*?(\d+) passed; (\d+) failed", printed)
        if not line:
            raise Failed(f"{program.name} did not come to its end; see log.txt")
        passed, wrong = passed + int(line[1]), wrong + int(line[2])
        names += figures.failed_tests(printed)
    where = "on the GPU" if ground.use_gpu else "skipped without a GPU"
    met = wrong == 0 and passed > 0 if ground.use_gpu else None
    rows = [row(f"tests {where}", f"{passed} passed, {wrong} failed", "0 failed", met)]
    problem = f"failed: {', '.join(names)}" if wrong else None
    if passed + wrong == 0:
        problem = "there is no test"
    return rows, {"passed": passed, "failed": names}, problem


def bandwidth(ground, limit):
    """The kernels' examples, which print each kernel's rate beside the card's limit."""
    programs = sorted((ground.programs / "examples").iterdir())
    if not ground.use_gpu or not programs:
        return [row("kernels", "not measured")], {}, None
    rows, raw = [], {}
    for program in programs:
        raw[program.name] = call([program], limit, ground.log)
        title, _, *lines = raw[program.name].splitlines()
        rows.append(row("limit", title))
        for line in lines:
            name, *numbers = re.split(r"\s{2,}", line.strip())
            rows.append(row(name, " ".join(numbers) + " (us, GB/s, share)"))
    return rows, raw, None


OPTIMIZER = {"beta1": 0.9, "epsilon": 1e-8, "weight_decay": 0.1, "clip": 1.0, "warmup": 0.1,
             "decay": 0.9}


def recipe(ground, name, shape, training, resources=None, **more):
    """A recipe of the study `train` on random tokens; `training` wins over the study here, and
    `more` stands beside it. Without a GPU a trial has one CPU and not `resources`."""
    model = {key: shape[key] for key in ["sequence", "width", "layers", "heads"]}
    study = {
        "data": {"files": str(tokens(ground, shape["vocabulary"])), "format": "u16"},
        "vocabulary": shape["vocabulary"],
        "model": {**model, "tied": True, "positions": "learned", "norm": "layer_norm"},
        "learning_rates": [6e-4],
        "beta2": 0.95,
        "optimizer": OPTIMIZER,
        "training": {"precision": ground.precision},
        "validation": {"tokens": 16 * shape["sequence"]},
        **training,
    }
    resources = (resources or {"gpus": 1, "cpus": 4}) if ground.use_gpu else {"cpus": 1}
    spec = {"study": {"train": study}, "resources": resources, **more}
    return {"apiVersion": "brine.dev/v1", "kind": "Experiment", "metadata": {"name": name},
            "spec": spec}


def tokens(ground, vocabulary):
    """A file of random token ids, two bytes each."""
    path = ground.work / f"tokens-{vocabulary}.bin"
    if not path.exists():
        draw = random.Random(1)
        values = array("H", draw.choices(range(vocabulary), k=2_000_000))
        if sys.byteorder == "big":
            values.byteswap()
        path.write_bytes(values.tobytes())
    return path


def run_of(ground, name, shape, training, resources=None, **more):
    made = recipe(ground, name, shape, training, resources, **more)
    return Run(ground.programs, ground.work / name, made, ground.use_gpu, ground.log)


def resume(ground, limit):
    """A training that is killed after a checkpoint beside two that are not."""
    steps = 2_000 if ground.use_gpu else 300
    training = {"batch": 16, "length": {"steps": steps}}
    shape = SMALL if ground.use_gpu else TINY
    trials = []
    for name in ["whole-1", "whole-2", "killed"]:
        run = run_of(ground, name, shape, training, checkpoint={"every": "1s"})
        if name == "killed":
            found = run.complete_with_a_kill(limit)
            noted = re.findall(r"resumed from the checkpoint at step (\d+)", run.logs())
        else:
            found, _ = run.complete(limit)
        trials.append(only_trial(found))
        run.remove()
    first, second, killed = (trial["metrics"]["validation_loss"] for trial in trials)
    attempts = trials[2]["attempts"]
    if attempts < 2 or not noted:
        raise Failed(f"the killed trial has {attempts} attempts and resumed from {noted or 'none'}")
    difference, noise = abs(killed - first) / first, abs(second - first) / first
    most = RESUMED_DIFFERENCE_MAX if ground.use_gpu else 0.0
    goal = f"at most {percent(most)}" if most else "the same bits"
    rows = [
        row("attempts; resumed at step", f"{attempts}; {', '.join(noted)} of {steps}"),
        row("final loss, whole and killed", f"{first:.6f} and {killed:.6f}"),
        row("difference", f"{percent(difference)}{', the same bits' if killed == first else ''}",
            goal, difference <= most),
        row("difference of two whole ones", percent(noise)),
    ]
    raw = {"losses": [first, second, killed], "attempts": attempts, "resumed_at": noted}
    return rows, raw, None if difference <= most else "the resumed training ends elsewhere"


def members(ground, limit):
    """One model trained by one process, and by two that exchange gradients."""
    if ground.use_gpu and torch.cuda.device_count() < 2:
        return [row("two members", "not measured: there is one GPU")], {}, None
    steps = 500 if ground.use_gpu else 100
    training = {"batch": 16, "length": {"steps": steps}}
    losses, rates = [], []
    for count in (1, 2):
        run = run_of(ground, f"members-{count}", SMALL if ground.use_gpu else TINY, training,
                     members=count)
        found, _ = run.complete(limit)
        metrics = only_trial(found)["metrics"]
        losses.append(metrics["validation_loss"])
        rates.append(metrics["tokens_per_second"])
        run.remove()
    difference = abs(losses[1] - losses[0]) / losses[0]
    most = MEMBERS_DIFFERENCE_MAX
    rows = [
        row("final loss, one member and two", f"{losses[0]:.6f} and {losses[1]:.6f}"),
        row("difference", percent(difference), f"at most {percent(most)}", difference <= most),
        row("tokens per second", f"{number(rates[0])} and {number(rates[1])}"),
    ]
    raw = {"losses": losses, "tokens_per_second": rates}
    return rows, raw, None if difference <= most else "two members find another loss than one"


def only_trial(found):
    """The one trial of an experiment, which must have completed."""
    trial, = found["trials"]
    if trial["state"] != "completed":
        raise Failed(f"the trial ended as {trial['state']}: {trial['message']}")
    return trial


# What an agent adds to the metrics of a trial with a GPU.
GPU_METRICS = ["gpu_memory_bytes", "gpu_utilisation", "mfu"]


class Memory:
    """The most memory of the GPU that was in use while this was watched, over that before."""

    def __init__(self, ground):
        self.done = threading.Event()
        self.is_seen = ground.use_gpu and shutil.which("nvidia-smi") is not None
        self.before = self.most = self.used() if self.is_seen else None
        self.is_seen = self.before is not None
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def used(self):
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        try:
            printed = subprocess.run(query, capture_output=True, text=True, timeout=30).stdout
            return int(printed.split()[0]) << 20
        except (subprocess.SubprocessError, IndexError, ValueError):
            return None  # Not told, as in a container without the right.

    def watch(self):
        while not self.done.wait(MEMORY_POLL_SECONDS):
            self.most = max(self.most, self.used() or 0)

    def __enter__(self):
        if self.is_seen:
            self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        if self.is_seen:
            self.thread.join(1)

    def peak(self):
        return None if self.before is None else self.most - self.before


def brine_speed(ground, limit, name, seconds, every):
    """A training of GPT-2 for so much time of updates."""
    shape, batch = ground.shape, ground.batch
    # More steps than fit into the time. Their share that warms up is ten, so that it trains.
    training = {"batch": batch, "length": {"steps": 1_000_000}, "budget": {"wall": f"{seconds}s"},
                "optimizer": {**OPTIMIZER, "warmup": 1e-5}}
    run = run_of(ground, name, shape, training, checkpoint={"every": every})
    with Memory(ground) as memory:
        found, _ = run.complete(limit)
    trial = only_trial(found)
    per_step = batch * shape["sequence"]
    rates = run.series(limit, found["experiment"])[trial["id"]]
    # Every report has a loss; a rate is from one report to the next.
    reports = [step for step, _ in rates["loss"]]
    earlier = dict(zip(reports[1:], reports))
    windows = [(step - earlier[step], (step - earlier[step]) * per_step / rate)
               for step, rate in rates["tokens_per_second"]]
    noted = run.logs()
    run.remove()
    return {"windows": windows, "parameters": int(trial["metrics"]["parameters"]),
            "first_loss": rates["loss"][0][1], "last_loss": rates["loss"][-1][1],
            "used_bytes": memory.peak(), "log": noted,
            "of_gpu": {name: rates[name][-1][1] for name in GPU_METRICS if name in rates}}


def torch_speed(ground, limit, mode, seconds):
    request = {"mode": mode, "device": ground.device, "seconds": seconds, "shape": ground.shape,
               "batch": ground.batch}
    command = [sys.executable, ground.folder / "torch_train.py", json.dumps(request)]
    # What was compiled once is found by the second run.
    variables = {"TORCHINDUCTOR_CACHE_DIR": str(ground.work / "inductor")}
    if not ground.use_gpu:
        variables["OMP_NUM_THREADS"] = "1"  # as many as the recipes have CPUs
    with Memory(ground) as memory:
        printed = call(command, limit, ground.log, variables)
    return {**json.loads(printed), "used_bytes": memory.peak()}


# Of PyTorch's sides those that may be the quickest; the goal is judged by whichever it is.
COMPILED = {"PyTorch autocast": "autocast", "PyTorch bf16": "bf16"}
EAGER = "PyTorch eager"


def speed(ground, limit):
    """All sides in turn, Brine before and after the two compiled ones, so that a card that grows
    warm is nobody's advantage; then eager."""
    seconds = 12 if ground.use_gpu else 4
    torch_side = lambda mode: lambda _: torch_speed(ground, limit, mode, seconds)
    measures = {"Brine": lambda name: brine_speed(ground, limit, name, seconds, "1h"),
                **{side: torch_side(mode) for side, mode in COMPILED.items()},
                EAGER: torch_side("eager")}
    sides, problem = {side: [] for side in measures}, None
    for turn, side in enumerate(["Brine", *COMPILED, "Brine", EAGER]):
        try:
            sides[side].append(measures[side](f"speed-{turn}"))
        except Failed as error:
            # What the others found is still worth a row.
            problem = problem or f"{side}: {error}"
    rows, rates = [], {}
    for side, runs in sides.items():
        if runs:
            rates[side] = side_rows(ground, side, runs, rows)
    rows += comparison(ground, rates)
    logs = "\n".join(run["log"] for run in sides["Brine"])
    if noted := re.search(r"the GPU's kernels are not used.*", logs):
        problem = problem or noted[0]
    counts = {run["parameters"] for runs in sides.values() for run in runs}
    if len(counts) > 1:
        problem = problem or f"the sides have different models: {sorted(counts)} parameters"
    ours = [window for run in sides["Brine"] for window in settled(ground, run)]
    ground.brine_rate = mean_rate(ground, ours) if ours else None
    if ground.use_gpu and sides["Brine"]:
        told = sides["Brine"][-1]["of_gpu"]
        found = ", ".join(f"{name} {number(value)}" for name, value in told.items())
        rows.append(row("metrics of the agent", found or "none", ", ".join(GPU_METRICS),
                        len(told) == len(GPU_METRICS)))
    return rows, {"sides": sides, "batch": ground.batch, "shape": ground.shape}, problem


def comparison(ground, rates):
    """Brine over each of the others; the goal stands beside the quickest of PyTorch."""
    if "Brine" not in rates:
        return []
    if not ground.use_gpu:
        return [row("Brine over PyTorch", "not measured: without a GPU they differ in precision")]
    rival, rows = figures.rival(rates, COMPILED), []
    for side in [*COMPILED, EAGER]:
        if side not in rates:
            continue
        ratio = rates["Brine"] / rates[side]
        is_rival = side == rival
        name = f"Brine over {side}, the quickest of PyTorch" if is_rival else f"Brine over {side}"
        rows.append(row(name, f"{ratio:.3f} times", "1.0, aim 1.15" if is_rival else "",
                        ratio >= 1.0 if is_rival else None))
    return rows


def settled(ground, run):
    """The windows of a run after its warm-up."""
    return figures.after(run["windows"], WARMUP_SECONDS if ground.use_gpu else 1.0)


def mean_rate(ground, windows):
    """Tokens per second over all of them."""
    steps, seconds = (sum(column) for column in zip(*windows))
    return steps * ground.batch * ground.shape["sequence"] / seconds


def side_rows(ground, side, runs, rows):
    """Adds a side's rows; answers its tokens per second."""
    shape = ground.shape
    kept = [settled(ground, run) for run in runs]
    times = [time for windows in kept for time in figures.step_times(windows)]
    if not times:
        raise Failed(f"{side} reported nothing after its warm-up")
    step = figures.median(times)
    rate = ground.batch * shape["sequence"] / step
    each = [ground.batch * shape["sequence"] / figures.median(figures.step_times(windows))
            for windows in kept if windows]
    per_token = figures.flops_per_token(
        runs[0]["parameters"], shape["layers"], shape["width"], shape["sequence"])
    share, spread = figures.mfu(rate, per_token, ground.card), figures.spread(times)
    is_ours = side == "Brine" and ground.use_gpu
    rows += [
        row(f"{side}: tokens/s", f"{number(rate)} (runs: {', '.join(map(number, each))})"),
        row(f"{side}: step", f"{1e3 * step:.2f} ms"),
        row(f"{side}: spread of steps, 10 to 90 %", percent(spread),
            "under 2 %" if is_ours else "", spread < 0.02 if is_ours else None),
        row(f"{side}: MFU", percent(share), "at least 50 %" if is_ours else "",
            share >= 0.5 if is_ours and share is not None else None),
        row(f"{side}: GPU memory at most", memory_words(runs)),
        row(f"{side}: first and last loss",
            f"{runs[0]['first_loss']:.3f} and {runs[0]['last_loss']:.3f}"),
    ]
    return rate


def memory_words(runs):
    used = [run["used_bytes"] for run in runs if run["used_bytes"] is not None]
    return f"{max(used) / 2**30:.1f} GiB" if used else "not measured"


def checkpoints(ground, limit):
    """What checkpoints cost: standing still for them, and slower steps while they are written."""
    seconds = 25 if ground.use_gpu else 13
    found = brine_speed(ground, limit, "checkpoints", seconds, None)
    noted = re.search(r"about every (\d+) s .*?stands still for ([\d.]+) ms", found["log"])
    if not noted:
        raise Failed("the training did not say what a checkpoint costs")
    every, still = float(noted[1]), float(noted[2]) / 1e3
    rate, usual = mean_rate(ground, settled(ground, found)), ground.brine_rate
    rows = [
        row("stands still, once", f"{1e3 * still:.1f} ms, about every {every:.0f} s"),
        row("share of the time", percent(still / every), "under 1 %", still / every < 0.01),
        row("rate with checkpoints over without",
            f"{rate / usual:.3f} times" if usual else "not measured"),
    ]
    return rows, {"every": every, "still": still, "rate": rate, "windows": found["windows"]}, None


def packing(ground, limit):
    """Five equal small trials that share a GPU beside the same one after the other."""
    steps, seconds = 1_500 if ground.use_gpu else 60, {}
    for at_once in [5, 1]:
        training = {"batch": 16, "length": {"steps": steps}, "seeds": [1, 2, 3, 4, 5]}
        shape = SMALL if ground.use_gpu else TINY
        run = run_of(ground, f"packing-{at_once}", shape, training, {"gpus": 0.2, "cpus": 1},
                     limits={"trials_at_once": at_once})
        found, seconds[at_once] = run.complete(limit)
        states = [trial["state"] for trial in found["trials"]]
        run.remove()
        if states != ["completed"] * 5:
            raise Failed(f"trials ended as {', '.join(states)}")
    rows = [row("5 trials at once", f"{seconds[5]:.1f} s"),
            row("5 trials one after the other", f"{seconds[1]:.1f} s"),
            row("at once over one at a time", f"{seconds[1] / seconds[5]:.2f} times as fast")]
    return rows, {"seconds": seconds}, None
