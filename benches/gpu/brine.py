"""Brine's programs: recipes written, run, followed and killed."""

import csv
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

# Between two looks at something that will come.
POLL_SECONDS = 0.05


class Failed(Exception):
    """A step cannot go on; the text says why."""


class Limit:
    """The time that a step has."""

    def __init__(self, seconds):
        self.end = time.monotonic() + seconds

    def left(self):
        left = self.end - time.monotonic()
        if left <= 0:
            raise Failed("its time is over")
        return left

    def until(self, what, found):
        """Waits for the first true answer of `found`."""
        while not (answer := found()):
            try:
                self.left()
            except Failed:
                raise Failed(f"{what} did not come in time") from None
            time.sleep(POLL_SECONDS)
        return answer


def call(command, limit, log, environment=None, check=True):
    """What a program prints; all of it also goes to `log`."""
    process = start(command, log, environment)
    try:
        printed, _ = process.communicate(timeout=limit.left())
    except subprocess.TimeoutExpired:
        raise Failed(f"{Path(command[0]).name} took too long") from None
    finally:
        kill(process)
    log.write(printed)
    if check and process.returncode != 0:
        raise Failed(f"{Path(command[0]).name} ended with {process.returncode}; see log.txt")
    return printed


def start(command, log, environment=None):
    """Starts a program in a group of its own, so that nothing of it is left when it is killed."""
    log.write(f"$ {' '.join(map(str, command))}\n")
    log.flush()
    return subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env={**os.environ, **(environment or {})},
        start_new_session=True,
    )


def kill(process):
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


# Where an agent of `brine run` keeps compiled kernels, in the data folder.
KERNELS = Path("agents/blobs/kernels")


class Run:
    """`brine run` of a recipe in a folder of its own. Kernels that a run before compiled are there."""

    def __init__(self, programs, folder, recipe, use_gpu, log):
        self.programs, self.folder, self.log = programs, folder, log
        self.folder.mkdir(parents=True)
        self.kept = folder.parent / "kernels"
        self.recipe = folder / "recipe.yaml"
        # JSON is YAML.
        self.recipe.write_text(json.dumps(recipe, indent=1))
        self.data = folder / "data"
        if self.kept.exists():
            shutil.copytree(self.kept, self.data / KERNELS)
        self.use_gpu = use_gpu

    def command(self):
        gpus = "all" if self.use_gpu else "none"
        base = [self.programs / "brine", "run", self.recipe, "--data-dir", self.data]
        return [*base, "--gpus", gpus, "--output", "json"]

    def complete(self, limit):
        """Runs it to its end; what it found, and the seconds that it took."""
        begun = time.monotonic()
        printed = call(self.command(), limit, self.log)
        return json.loads(printed), time.monotonic() - begun

    def complete_with_a_kill(self, limit):
        """The same, and its trial's process is killed when a second checkpoint is begun: the agent
        has recorded the first one by then."""
        process, seen = start(self.command(), self.log), set()

        def is_second_begun():
            ended(process)
            seen.update(self.checkpoints())
            return len(seen) > 1

        try:
            limit.until("the second checkpoint", is_second_begun)
            trials = descendants(process.pid, b"run-trial")
            if not trials:
                raise Failed("no process of a trial is there to be killed")
            for trial in trials:
                os.kill(trial, signal.SIGKILL)
            printed, _ = process.communicate(timeout=limit.left())
        except subprocess.TimeoutExpired:
            raise Failed("the killed trial did not come to its end in time") from None
        finally:
            kill(process)
        if process.returncode != 0:
            raise Failed(f"brine ended with {process.returncode}; see log.txt")
        return json.loads(printed)

    def checkpoints(self):
        """Folders of checkpoints that are there now; they are named after attempt and step."""
        names = self.data.glob("agents/checkpoints/**/*.safetensors")
        return {name.parent.name for name in names}

    def ask(self, limit, *arguments):
        """What another command of brine prints about the data folder."""
        command = [self.programs / "brine", *arguments, "--data-dir", self.data]
        return call(command, limit, self.log)

    def series(self, limit, experiment):
        """Every point as {metric: [(step, value)]} by trial."""
        to = self.folder / "export"
        self.ask(limit, "export", experiment, "--format", "csv", "--to", to)
        trials = {}
        for path in to.rglob("*.csv"):
            with open(path, newline="") as file:
                for point in csv.DictReader(file):
                    series = trials.setdefault(point["trial"], {})
                    point_of = (int(point["step"]), float(point["value"]))
                    series.setdefault(point["metric"], []).append(point_of)
        return trials

    def logs(self):
        """What the trials' processes noted."""
        return "\n".join(path.read_text() for path in self.data.rglob("log.txt"))

    def remove(self):
        if (self.data / KERNELS).exists():
            shutil.copytree(self.data / KERNELS, self.kept, dirs_exist_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def ended(process):
    if process.poll() is not None:
        raise Failed(f"brine ended with {process.returncode} before the second checkpoint")


def descendants(ancestor, argument):
    """Processes below `ancestor` that have this argument."""
    parents, wanted = {}, []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # The parent follows the name, which may hold anything, and the state.
            stat = (entry / "stat").read_text()
            parents[int(entry.name)] = int(stat.rsplit(")", 1)[1].split()[1])
            if argument in (entry / "cmdline").read_bytes().split(b"\0"):
                wanted.append(int(entry.name))
        except OSError:
            pass  # It has ended.
    return [process for process in wanted if is_below(process, ancestor, parents)]


def is_below(process, ancestor, parents):
    while process in parents:
        process = parents[process]
        if process == ancestor:
            return True
    return False
