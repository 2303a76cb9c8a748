"""Ray: a local cluster of 2 CPUs started and stopped by this script, remote functions.

Ray keeps its state in the memory of the head process (no external store): after a crash of the
head everything is gone. A task is a call in a long-lived Python worker, not a process.
"""

import argparse
import os
import time

# Read when ray is imported: no usage reports, no prints of the workers, no warning of a later
# default.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_DEDUP_LOGS"] = "0"
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"

import ray

import common


@ray.remote
def noop():
    return None


@ray.remote
def nap():
    time.sleep(0.2)
    return os.getpid()


@ray.remote
def true():
    return common.run_true()


def warm_up():
    """Until both slots have a live worker: the first calls start Python processes."""
    for _ in range(20):
        if len(set(ray.get([nap.remote() for _ in range(2 * common.SLOTS)]))) >= common.SLOTS:
            return
    raise SystemExit("the second worker never came")


def flood(task, n, expected):
    start = time.perf_counter()
    results = ray.get([task.remote() for _ in range(n)])
    seconds = time.perf_counter() - start
    common.check(results == [expected] * n, f"{n} results")
    return common.flood_rates(seconds, n)


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("bench", choices=["latency", "noop-flood", "true-flood"])
    args.add_argument("-n", type=int)
    args.add_argument("--repeat", type=int, default=1, help="runs on the one cluster")
    args = args.parse_args()
    n = args.n or {"latency": 200, "noop-flood": 20_000, "true-flood": 10_000}[args.bench]

    with common.private_folder() as folder:
        ray.init(
            num_cpus=common.SLOTS, num_gpus=0, include_dashboard=False, log_to_driver=False,
            object_store_memory=200 << 20, _temp_dir=str(folder), logging_level="error",
        )
        try:
            warm_up()
            flood(noop, 200, None)
            common.emit_runs(
                args.repeat,
                {
                    "latency": lambda: common.percentiles(
                        common.time_each(lambda: ray.get(noop.remote()), n, 20)
                    ),
                    "noop-flood": lambda: flood(noop, n, None),
                    "true-flood": lambda: flood(true, n, 0),
                }[args.bench],
                peer="Ray", version=ray.__version__, bench=args.bench,
                setting="local cluster, remote function", n=n, **common.IN_MEMORY,
            )
        finally:
            ray.shutdown()


if __name__ == "__main__":
    main()
