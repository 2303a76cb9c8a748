"""Runs every peer's benches one at a time and prints medians: a markdown table, then JSON.

The Python peers start in seconds, so their repetitions share one cluster. HyperQueue and xargs get
a fresh start per repetition and go round robin: each round has xargs next to HyperQueue. A run of
more than 20 s is not repeated, and a repetition that would not fit the budget is left out (column
`runs` says how many there were). Everything started here carries a mark in its environment; what
still lives at the end is killed by that mark, and the number of such leftovers is reported.

Results: results/<time>.json (all lines) and .md.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from datetime import datetime
from pathlib import Path

HERE = Path(__file__).resolve().parent
LONG_RUN_S = 20.0
# The slowest single script may take this long.
RUN_LIMIT_S = 150
MARK = f"PEERS_RUN_ID={uuid.uuid4().hex[:12]}"

# script and arguments; small n for --quick; True where the script repeats on one cluster itself
OWN_REPEAT = [
    ("peer_ray.py latency", 30),
    ("peer_dask.py latency", 30),
    ("peer_parsl.py latency", 30),
    ("peer_ray.py noop-flood", 500),
    ("peer_dask.py noop-flood", 500),
    ("peer_parsl.py noop-flood", 500),
]
ROUND_ROBIN = [
    ("peer_xargs.py true-flood", 200),
    ("peer_hq.py true-flood", 200),
    ("peer_hq.py true-flood --journal", 200),
    ("peer_hq.py latency", 30),
    ("peer_hq.py latency --journal", 30),
    ("peer_hq.py million --journal", 10_000),
]
# One run each, with what is left of the budget.
EXTRA = [
    ("peer_hq.py million --journal --entries", 10_000),
    ("peer_hq.py true-flood --journal --flush-period=10ms", 200),
    ("peer_ray.py true-flood", 200),
    ("peer_dask.py true-flood", 200),
    ("peer_parsl.py true-flood", 200),
]

NOT_MEASURED = {"peer", "version", "bench", "setting", "n", "durable", "durable_submit", "durability"}


class Sitting:
    def __init__(self, args):
        self.args = args
        self.start = time.monotonic()
        self.lines = []
        self.failures = []
        self.took = {}
        self.folder = Path(tempfile.gettempdir()) / f"peers-{MARK[-12:]}"
        self.folder.mkdir()
        name, value = MARK.split("=")
        self.env = {**os.environ, name: value, "PEERS_TMP": str(self.folder)}

    def left(self):
        return self.args.budget - (time.monotonic() - self.start)

    def run(self, command, quick_n, repeat=1):
        """One script; its lines are kept. Seconds per run go to `took`."""
        full = [sys.executable, str(HERE / command.split()[0]), *command.split()[1:]]
        if self.args.quick:
            full += ["-n", str(quick_n)]
        if repeat > 1:
            full += ["--repeat", str(repeat)]
        print(f"[{time.monotonic() - self.start:5.0f} s] {command}", file=sys.stderr, flush=True)
        start = time.monotonic()
        process = subprocess.Popen(
            full, env=self.env, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )
        limit = max(20.0, min(RUN_LIMIT_S, self.left()))
        try:
            out, err = process.communicate(timeout=limit)
            reason = f"exit code {process.returncode}"
        except subprocess.TimeoutExpired:
            process.terminate()
            try:
                out, err = process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                kill_marked()
                out, err = process.communicate()
            reason = f"stopped after {limit:.0f} s"
        lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        self.lines += lines
        self.took[command] = (time.monotonic() - start) / max(1, len(lines))
        if process.returncode != 0:
            self.failures.append(dict(command=command, reason=reason, stderr=err[-2000:]))
            print(f"  FAILED, {reason}: {err[-600:]}", file=sys.stderr)

    def all(self):
        repeat = 1 if self.args.quick else self.args.repeat
        for command, quick_n in OWN_REPEAT:
            self.run(command, quick_n, repeat)
        for index in range(repeat):
            for command, quick_n in ROUND_ROBIN:
                before = self.took.get(command)
                if before is not None and (before > LONG_RUN_S or before > self.left()):
                    continue
                self.run(command, quick_n)
        for command, quick_n in EXTRA:
            # A guess for a first run: the slowest thing seen so far.
            if max(self.took.values()) < self.left() or self.args.quick:
                self.run(command, quick_n)
            else:
                self.failures.append(dict(command=command, reason="left out: no time left"))


def marked():
    """Ids of living processes (not this one) that were started by this run."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if MARK.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            pass
    return found


def kill_marked():
    """Kills what is left; returns the command lines of what it had to kill."""
    # Processes that are just ending are no leftovers.
    end = time.monotonic() + 5
    while marked() and time.monotonic() < end:
        time.sleep(0.2)
    killed = []
    for _ in range(3):
        for pid in marked():
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                os.kill(pid, signal.SIGKILL)
                killed.append(words.strip()[:120])
            except OSError:
                pass
        time.sleep(0.3)
    return killed


def summarize(lines):
    """Rows of one (bench, peer, setting, n) each with median, least and greatest."""
    groups = {}
    for line in lines:
        key = (line["bench"], line["peer"], line["setting"], line["n"])
        groups.setdefault(key, []).append(line)
    rows = []
    for (bench, peer, setting, n), runs in groups.items():
        measured = {}
        for field in runs[0]:
            if field not in NOT_MEASURED:
                values = [run[field] for run in runs]
                measured[field] = dict(
                    median=statistics.median(values), least=min(values), greatest=max(values)
                )
        rows.append(
            dict(
                bench=bench, peer=peer, version=runs[0]["version"], setting=setting, n=n,
                runs=len(runs), durable=runs[0]["durable"],
                durable_submit=runs[0]["durable_submit"], durability=runs[0]["durability"],
                **measured,
            )
        )
    floor = [r for r in rows if r["bench"] == "true-flood" and r["peer"] == "xargs"]
    for row in rows:
        if floor and row["bench"] == "true-flood":
            row["times_xargs"] = round(
                row["seconds"]["median"] / floor[0]["seconds"]["median"], 2
            )
    order = ["latency", "noop-flood", "true-flood", "million"]
    return sorted(rows, key=lambda row: order.index(row["bench"]))


def markdown(rows):
    def show(value):
        if isinstance(value, dict):
            median, least, greatest = (f"{value[k]:,.5g}" if value[k] < 1000 else f"{value[k]:,.0f}" for k in ("median", "least", "greatest"))
            return median if least == greatest else f"{median} ({least} to {greatest})"
        return str(value)

    text = ["| bench | peer | setting | n | runs | measured: median (least to greatest) | durable |"]
    text.append("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        measured = "; ".join(
            f"{key} {show(value)}" for key, value in row.items()
            if isinstance(value, dict) or key == "times_xargs"
        )
        durable = "yes" if row["durable"] else "submit only" if row["durable_submit"] else "no"
        text.append(
            f"| {row['bench']} | {row['peer']} {row['version']} | {row['setting']} | {row['n']:,} "
            f"| {row['runs']} | {measured} | {durable} |"
        )
    return "\n".join(text)


def machine():
    cpu = [line for line in open("/proc/cpuinfo") if line.startswith("model name")]
    return dict(
        cpu=cpu[0].split(":")[1].strip() if cpu else "unknown", cores=os.cpu_count(),
        kernel=platform.release(), python=platform.python_version(),
        load_before=os.getloadavg()[0],
    )


def main():
    args = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    args.add_argument("--quick", action="store_true", help="small sizes, one run: does it work?")
    args.add_argument("--repeat", type=int, default=5)
    args.add_argument("--budget", type=float, default=440, help="seconds in all (default 440)")
    args = args.parse_args()

    where = machine()
    if where["load_before"] > 0.5:
        print(f"the machine is not quiet: load {where['load_before']}", file=sys.stderr)
    sitting = Sitting(args)
    # An interrupt or a SIGTERM ends the sitting through `finally`.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sitting.all()
    finally:
        leftovers = kill_marked()
        shutil.rmtree(sitting.folder, ignore_errors=True)

    rows = summarize(sitting.lines)
    report = dict(
        date=datetime.now().isoformat(timespec="seconds"), quick=args.quick, machine=where,
        seconds=round(time.monotonic() - sitting.start), leftovers=leftovers,
        failures=sitting.failures, rows=rows, lines=sitting.lines,
    )
    (HERE / "results").mkdir(exist_ok=True)
    base = HERE / "results" / datetime.now().strftime("%Y-%m-%dT%H-%M-%S")
    base.with_suffix(".json").write_text(json.dumps(report, indent=1))
    base.with_suffix(".md").write_text(markdown(rows) + "\n")
    print(markdown(rows))
    print()
    print(json.dumps({key: value for key, value in report.items() if key != "lines"}))
    sys.exit(1 if sitting.failures or leftovers else 0)


if __name__ == "__main__":
    main()
