"""What every peer script shares: a private folder, a stop watch's arithmetic, one JSON line.

A script does ONE run of one bench and prints one JSON line (the Python peers, whose start takes
seconds, can `--repeat` it on one cluster: one line each). Fields that all lines have:
  peer, version, bench, setting, n
  durable         true only if every accepted submit AND every reported result was on disk
                  (synced) before the client was told
  durable_submit  true if an accepted submit was synced before the client was told
  durability      the same in words
"""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
TRUE = "/bin/true"
SLOTS = 2

# A run that took longer than this is not repeated.
LONG_RUN_S = 20.0

IN_MEMORY = dict(durable=False, durable_submit=False, durability="none: state lives in memory")


@contextmanager
def private_folder():
    """A folder for all files of one run; gone afterwards. On the same disk in every run."""
    # Short, because Ray and Parsl put Unix sockets into it (limit: 107 bytes).
    base = os.environ.get("PEERS_TMP", tempfile.gettempdir())
    # A SIGTERM (a time limit) must unwind too, or servers and folders stay behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="peers-", dir=base))
    try:
        yield folder
    finally:
        if os.environ.get("PEERS_KEEP") != "1":
            shutil.rmtree(folder, ignore_errors=True)


def percentiles(seconds):
    """p50 and p99 (nearest rank) of a list of seconds, in ms."""
    ordered = sorted(seconds)
    rank99 = max(0, -(-99 * len(ordered) // 100) - 1)
    return dict(
        p50_ms=round(statistics.median(ordered) * 1e3, 3),
        p99_ms=round(ordered[rank99] * 1e3, 3),
        mean_ms=round(statistics.fmean(ordered) * 1e3, 3),
    )


def time_each(action, count, warm_ups):
    """Calls `action` one after another; the seconds of each call after the warm-ups."""
    for _ in range(warm_ups):
        action()
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return seconds


def run_true():
    """The body of a `true flood` task for the Python peers: one child process."""
    return subprocess.run([TRUE], stdin=subprocess.DEVNULL).returncode


def check(condition, message):
    """A run that did not do its work must not print a number."""
    if not condition:
        sys.exit(f"wrong result: {message}")


def flood_rates(seconds, n):
    return dict(seconds=round(seconds, 3), tasks_per_s=round(n / seconds, 1))


def emit(**fields):
    """One line, at once: what ran before a time limit is not lost."""
    print(json.dumps(fields), flush=True)


def emit_runs(repeat, run, **fields):
    """Calls `run` up to `repeat` times and prints a line for each."""
    for _ in range(repeat):
        start = time.perf_counter()
        measured = run()
        emit(**fields, **measured)
        if time.perf_counter() - start > LONG_RUN_S:
            break
