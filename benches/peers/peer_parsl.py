"""Parsl: HighThroughputExecutor with one manager of 2 workers, Python apps.

The interchange and the manager are processes of their own; the task table is in this script's
process, in memory (memoization and checkpoints are off, their default).
"""

import argparse
import os
import sys
import time

# Parsl finds its interchange and worker pool by PATH.
os.environ["PATH"] = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"

import parsl
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider

import common


@parsl.python_app
def noop():
    return None


@parsl.python_app
def nap():
    import os
    import time

    time.sleep(0.2)
    return os.getpid()


@parsl.python_app
def true():
    import common

    return common.run_true()


def config(folder, prefetch):
    return Config(
        executors=[
            HighThroughputExecutor(
                label="htex",
                address="127.0.0.1",
                max_workers_per_node=common.SLOTS,
                cores_per_worker=1,
                prefetch_capacity=prefetch,
                provider=LocalProvider(
                    init_blocks=1, max_blocks=1,
                    worker_init=f"export PYTHONPATH={common.HERE}",
                ),
            )
        ],
        run_dir=str(folder / "runinfo"),
        # One fixed block: nothing to scale.
        strategy="none",
        usage_tracking=0,
        initialize_logging=False,
    )


def warm_up():
    for _ in range(20):
        if len({app.result() for app in [nap() for _ in range(2 * common.SLOTS)]}) >= common.SLOTS:
            return
    raise SystemExit("the second worker never came")


def flood(app, n, expected):
    start = time.perf_counter()
    results = [future.result() for future in [app() for _ in range(n)]]
    seconds = time.perf_counter() - start
    common.check(results == [expected] * n, f"{n} results")
    return common.flood_rates(seconds, n)


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("bench", choices=["latency", "noop-flood", "true-flood"])
    args.add_argument("-n", type=int)
    args.add_argument("--prefetch", type=int, default=0, help="default: Parsl's own (0)")
    args.add_argument("--repeat", type=int, default=1, help="runs on the one cluster")
    args = args.parse_args()
    n = args.n or {"latency": 200, "noop-flood": 20_000, "true-flood": 10_000}[args.bench]

    setting = "HighThroughputExecutor, 2 workers"
    if args.prefetch:
        setting += f", prefetch {args.prefetch}"
    with common.private_folder() as folder:
        os.chdir(folder)  # Parsl writes a few files into the current folder
        with parsl.load(config(folder, args.prefetch)):
            warm_up()
            flood(noop, 200, None)
            common.emit_runs(
                args.repeat,
                {
                    "latency": lambda: common.percentiles(
                        common.time_each(lambda: noop().result(), n, 20)
                    ),
                    "noop-flood": lambda: flood(noop, n, None),
                    "true-flood": lambda: flood(true, n, 0),
                }[args.bench],
                peer="Parsl", version=parsl.__version__, bench=args.bench, setting=setting, n=n,
                **common.IN_MEMORY,
            )
        os.chdir("/")


if __name__ == "__main__":
    main()
