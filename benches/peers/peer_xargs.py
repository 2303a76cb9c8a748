"""The floor of `true flood`: `xargs -P2 -n1 /bin/true`, fork and exec and nothing else."""

import argparse
import subprocess
import time

import common


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("bench", choices=["true-flood"])
    args.add_argument("-n", type=int, default=10_000)
    args = args.parse_args()

    lines = "".join(f"{i}\n" for i in range(args.n)).encode()
    start = time.perf_counter()
    # Without a `true` that fails, exit code 0 of xargs says that all n ended with 0.
    subprocess.run(
        ["xargs", f"-P{common.SLOTS}", "-n1", common.TRUE], input=lines, check=True
    )
    seconds = time.perf_counter() - start
    version = subprocess.run(["xargs", "--version"], capture_output=True, text=True)
    common.emit(
        peer="xargs",
        version=version.stdout.split("\n")[0].split()[-1],
        bench=args.bench,
        setting=f"-P{common.SLOTS} -n1",
        n=args.n,
        **common.flood_rates(seconds, args.n),
        durable=False,
        durable_submit=False,
        durability="none: no state at all",
    )


if __name__ == "__main__":
    main()
