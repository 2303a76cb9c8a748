"""IsoFLOP sweeps that share the GPU."""

import json
import shutil
import time

import text
from brine import Failed, Limit, call
from figures import number, row

# Of a sweep's time, for its report.
REPORT_SECONDS = 15
SMALL_TEXT_MEGABYTES = 20


def sweep(ground, limit):
    """recipes/isoflop-h200.yaml to its report."""
    recipe = (ground.folder / "recipes" / "isoflop-h200.yaml").read_text()
    return report_of(ground, limit, recipe, text.MEGABYTES_MAX)


def small_sweep(ground, limit):
    """A sweep of the same kind in less than a minute."""
    sizes = {"flop_budgets": [1e9, 3e9], "widths": [16, 24, 32]}
    grid = {"sequence": 64, "steps_target": 200}
    resources = {"cpus": 1}
    if ground.use_gpu:
        sizes = {"flop_budgets": [3e13, 1e14, 3e14], "widths": [96, 128, 192, 256, 320]}
        grid = {"sequence": 256, "head_width": 32, "steps_target": 500,
                "learning_rate": {"scale": 0.2, "max": 0.01}}
        resources = {"cpus": 1, "gpus": 0.2}
    study = {
        "data": {"files": "isoflop-h200/*.txt", "held_out": 0.02},
        **sizes,
        "grid": grid,
        "training": {"precision": ground.precision},
        "closed_loop": {"extra_cells_max": 0},
    }
    spec = {"study": {"isoflop": study}, "resources": resources}
    recipe = {"apiVersion": "brine.dev/v1", "kind": "Experiment",
              "metadata": {"name": "isoflop-small"}, "spec": spec}
    return report_of(ground, limit, json.dumps(recipe), SMALL_TEXT_MEGABYTES)


def report_of(ground, limit, recipe, megabytes):
    """Runs a sweep, and reports what it has found when its time is over."""
    folder = ground.work / "sweep"
    written = text.write(folder / "isoflop-h200", megabytes * text.MEGABYTE)
    path, data = folder / "recipe.yaml", folder / "data"
    path.write_text(recipe)
    brine = ground.programs / "brine"
    begun, problem = time.monotonic(), None
    try:
        gpus = "all" if ground.use_gpu else "none"
        run = [brine, "run", path, "--data-dir", data, "--gpus", gpus]
        call(run, Limit(limit.left() - REPORT_SECONDS), ground.log)
    except Failed as error:
        # What has ended until then is worth a report too.
        problem = f"the sweep is not complete: {error}"
    seconds = time.monotonic() - begun
    ask = [brine, "results", "--data-dir", data, "--report", folder / "report", "--output", "json"]
    found = json.loads(call(ask, limit, ground.log))
    shutil.copy(folder / "report" / "report.html", ground.out / "sweep.html")
    trials = [trial for trial in found["trials"] if trial["state"] == "completed"]
    flops = sum(trial["metrics"]["training_flops"] for trial in trials)
    sizes = sorted({trial["metrics"]["parameters"] for trial in trials})
    rows = [
        row("text", f"{written / 1e6:.0f} MB"),
        row("trials", f"{len(trials)} of {len(found['trials'])} in {seconds:.0f} s"),
        row("counted FLOP/s together", f"{flops / seconds:.3g}"),
        row("N of all", ", ".join(number(size) for size in sizes)),
    ]
    for section in found["sections"]:
        rows += [row(section["heading"], line) for line in section["text"][:2]]
    return rows, {"study": found["study"], "seconds": seconds, "flops": flops}, problem
