"""Dask distributed: a LocalCluster of 2 worker processes with one thread each.

The scheduler runs in this script's process, as LocalCluster does by default (`--scheduler process`
starts it as a process of its own instead). State is in the scheduler's memory.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager

import dask
import distributed

import common


def noop(_=None):
    return None


def true(_=None):
    return common.run_true()


def flood(client, task, n, expected):
    start = time.perf_counter()
    # `map` sends one graph: faster than n calls of `submit`. pure=False: without it equal calls
    # are one task.
    results = client.gather(client.map(task, range(n), pure=False))
    seconds = time.perf_counter() - start
    common.check(results == [expected] * n, f"{n} results")
    return common.flood_rates(seconds, n)


@contextmanager
def local_cluster(folder):
    with distributed.LocalCluster(
        n_workers=common.SLOTS, threads_per_worker=1, processes=True, dashboard_address=None,
        local_directory=str(folder),
    ) as cluster:
        yield cluster.scheduler_address


@contextmanager
def own_processes(folder):
    """Scheduler and workers by Dask's command line, each a process of its own."""
    bin_folder = os.path.dirname(sys.executable)
    children = []
    log = open(folder / "log", "ab")

    def spawn(*command):
        children.append(
            subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        )

    try:
        contact = folder / "scheduler.json"
        spawn(
            f"{bin_folder}/dask", "scheduler", "--host", "127.0.0.1", "--port", "0",
            "--no-dashboard", "--scheduler-file", str(contact),
        )
        while not contact.exists():
            common.check(children[0].poll() is None, "the scheduler ended")
            time.sleep(0.05)
        for _ in range(common.SLOTS):
            spawn(
                f"{bin_folder}/dask", "worker", "--scheduler-file", str(contact), "--nthreads",
                "1", "--no-dashboard", "--no-nanny", "--local-directory", str(folder),
            )
        yield json.loads(contact.read_text())["address"]
    finally:
        for child in reversed(children):
            child.terminate()
        for child in children:
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("bench", choices=["latency", "noop-flood", "true-flood"])
    args.add_argument("-n", type=int)
    args.add_argument("--scheduler", choices=["local", "process"], default="local")
    args.add_argument("--repeat", type=int, default=1, help="runs on the one cluster")
    args = args.parse_args()
    n = args.n or {"latency": 200, "noop-flood": 20_000, "true-flood": 10_000}[args.bench]

    start_cluster = local_cluster if args.scheduler == "local" else own_processes
    where = "in the client's process" if args.scheduler == "local" else "a process of its own"
    # The functions of this file travel by value: a worker has no module `__main__` of ours, and
    # `common` is found by PYTHONPATH.
    os.environ["PYTHONPATH"] = str(common.HERE)
    with common.private_folder() as folder, start_cluster(folder) as address:
        with distributed.Client(address, set_as_default=False) as client:
            client.wait_for_workers(common.SLOTS, timeout=60)
            flood(client, noop, 200, None)
            one = lambda: client.submit(noop, pure=False).result()
            common.emit_runs(
                args.repeat,
                {
                    "latency": lambda: common.percentiles(common.time_each(one, n, 20)),
                    "noop-flood": lambda: flood(client, noop, n, None),
                    "true-flood": lambda: flood(client, true, n, 0),
                }[args.bench],
                peer="Dask", version=distributed.__version__, bench=args.bench,
                setting=f"2 worker processes, scheduler {where}", n=n, **common.IN_MEMORY,
            )


if __name__ == "__main__":
    main()
