"""HyperQueue: server and one worker of 2 CPUs on this machine, driven by its command line.

  latency     `hq submit --wait -- /bin/true`, one after another (with the journal `hq submit`, then
              `hq job wait`: see submit_and_wait). A start of the command line, a connection with
              its handshake and a process of the task are in it; the line also says
              what those cost alone (`floor_*`).
  true-flood  one array job of n `/bin/true`, from submit to the end of `--wait`.
  million     one array job of n tasks without a worker: submit until accepted, memory of the
              server; then kill -9 and the time until a new server on the same journal answers
              with all n tasks.

With `--journal` a submit is synced to disk before it is accepted; ends of tasks sit in a buffer
until the next flush (`--journal-flush-period`, HyperQueue's default 30 s), so a crash forgets them
and the tasks run again. Client and worker connections are encrypted (the default).
The scheduler runs at most every 20 ms (built in): a job submitted right after another waits for it.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import time

import common

HQ = os.environ.get("HQ_BIN", str(common.HERE / "target/dist/hq"))


class Cluster:
    """A server and perhaps a worker, in one folder. Use with `with`."""

    def __init__(self, folder, journal, flush_period=None):
        self.folder = folder
        self.journal = folder / "journal.bin" if journal else None
        self.flush_period = flush_period
        self.env = {**os.environ, "HQ_SERVER_DIR": str(folder / "hq"), "NO_COLOR": "1"}
        self.server = None
        self.worker = None

    def __enter__(self):
        self.start_server()
        self.wait_for(["server", "info"])
        return self

    def __exit__(self, *_):
        for process in (self.worker, self.server):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()

    def spawn(self, name, *args):
        log = open(self.folder / f"{name}.log", "ab")
        return subprocess.Popen(
            [HQ, *args], env=self.env, cwd=self.folder, stdout=log, stderr=log,
            stdin=subprocess.DEVNULL,
        )

    def start_server(self):
        args = ["server", "start", "--host", "127.0.0.1"]
        if self.journal:
            args += ["--journal", str(self.journal)]
            if self.flush_period:
                args += ["--journal-flush-period", self.flush_period]
        self.server = self.spawn("server", *args)

    def start_worker(self):
        self.worker = self.spawn(
            "worker", "worker", "start", f"--cpus={common.SLOTS}", "--detect-resources=none",
            "--work-dir", str(self.folder / "work"),
        )
        workers = self.wait_for(["worker", "list", "--output-mode=json"], lambda out: len(out) == 1)
        common.check(len(workers) == 1, "one worker")

    def run(self, *args):
        """One call of the command line, output thrown away; any failure ends the script."""
        subprocess.run(
            [HQ, *args], env=self.env, cwd=self.folder, check=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )

    def submit_and_wait(self, *options):
        """One job of `/bin/true` from submit to its end.

        With a journal `submit --wait` of HyperQueue 0.26.2 hangs now and then: the server syncs the
        journal between taking the job and registering this client as a listener, so the end of a
        job shorter than the sync is never told. There it is `submit`, then `job wait`: one more
        start and connection of the command line.
        """
        silent = ["--stdout=none", "--stderr=none"]
        if self.journal:
            self.run("submit", *silent, *options, "--", common.TRUE)
            self.run("job", "wait", "last")
        else:
            self.run("submit", "--wait", *silent, *options, "--", common.TRUE)

    def wait_for(self, args, accept=lambda out: True, limit=120.0):
        """Repeats a call every 20 ms until it succeeds and `accept`s its JSON."""
        end = time.perf_counter() + limit
        while time.perf_counter() < end:
            common.check(self.server.poll() is None, "the server ended")
            call = subprocess.run(
                [HQ, *args], env=self.env, cwd=self.folder, capture_output=True,
                stdin=subprocess.DEVNULL,
            )
            if call.returncode == 0:
                out = json.loads(call.stdout) if "--output-mode=json" in args else None
                if accept(out):
                    return out
            time.sleep(0.02)
        raise SystemExit(f"hq {' '.join(args)}: not ready in {limit} s")

    def job_counts(self):
        """How many tasks of the last job are in which state."""
        out = self.wait_for(["job", "list", "--all", "--output-mode=json"], limit=5)
        return max(out, key=lambda job: job["id"])

    def memory_mib(self):
        """Resident memory of the server now, and its peak, in MiB."""
        status = open(f"/proc/{self.server.pid}/status").read()
        kib = {key: int(re.search(rf"{key}:\s+(\d+) kB", status)[1]) for key in ("VmRSS", "VmHWM")}
        return round(kib["VmRSS"] / 1024, 1), round(kib["VmHWM"] / 1024, 1)


def latency(cluster, n):
    cluster.start_worker()
    warm_ups = min(20, n)
    seconds = common.time_each(cluster.submit_and_wait, n, warm_ups)
    counts = cluster.job_counts()
    common.check(counts["id"] == n + warm_ups, f"{n} jobs")
    common.check(counts["task_stats"]["finished"] == 1, "last task finished")

    def floor(*command):
        call = lambda: subprocess.run(
            command, env=cluster.env, check=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        return common.percentiles(common.time_each(call, min(n, 50), 5))["p50_ms"]

    return dict(
        **common.percentiles(seconds),
        floor_process_ms=floor(common.TRUE),
        floor_cli_start_ms=floor(HQ, "--version"),
        floor_cli_and_connection_ms=floor(HQ, "server", "info"),
    )


def true_flood(cluster, n):
    cluster.start_worker()
    cluster.submit_and_wait("--array=1-8")
    start = time.perf_counter()
    cluster.submit_and_wait(f"--array=1-{n}")
    seconds = time.perf_counter() - start
    common.check(cluster.job_counts()["task_stats"]["finished"] == n, f"{n} tasks finished")
    return common.flood_rates(seconds, n)


def million(cluster, n, entries):
    submit = ["submit", "--stdout=none", "--stderr=none"]
    if entries:
        # Every task has a line of its own, as a sweep's tasks have their own parameters. An
        # `--array` is one record in the journal, however many tasks it makes.
        lines = cluster.folder / "entries.txt"
        lines.write_text("".join(f"lr=0.001 seed={i}\n" for i in range(1, n + 1)))
        submit.append(f"--each-line={lines}")
    else:
        submit.append(f"--array=1-{n}")
    idle, _ = cluster.memory_mib()

    start = time.perf_counter()
    cluster.run(*submit, "--", common.TRUE)
    accepted = time.perf_counter() - start
    time.sleep(1.0)
    rss, peak = cluster.memory_mib()
    waiting = lambda job: job["task_count"] == n and job["task_stats"]["waiting"] == n
    common.check(waiting(cluster.job_counts()), f"{n} tasks wait")
    journal = cluster.journal.stat().st_size if cluster.journal else 0
    result = dict(
        submit_s=round(accepted, 3), rss_mib=rss, peak_mib=peak, idle_rss_mib=idle,
        journal_bytes=journal,
    )
    if cluster.journal:
        cluster.server.send_signal(signal.SIGKILL)
        cluster.server.wait()
        start = time.perf_counter()
        cluster.start_server()
        # The start is clocked to the first answer that shows every task. A poll costs one start
        # of the command line; the answer may be late by that and the 20 ms between two polls.
        cluster.wait_for(
            ["job", "list", "--all", "--output-mode=json"],
            lambda jobs: len(jobs) == 1 and waiting(jobs[0]),
        )
        result["restart_s"] = round(time.perf_counter() - start, 3)
        result["restart_rss_mib"] = cluster.memory_mib()[0]
        # The same after-check as a user would make: does it still run a task?
        cluster.start_worker()
        start = time.perf_counter()
        cluster.wait_for(
            ["job", "list", "--all", "--output-mode=json"],
            lambda jobs: jobs[0]["task_stats"]["finished"] > 0,
        )
        result["first_result_after_worker_s"] = round(time.perf_counter() - start, 3)
    return result


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("bench", choices=["latency", "true-flood", "million"])
    args.add_argument("-n", type=int)
    args.add_argument("--journal", action="store_true")
    args.add_argument("--flush-period", help="default: HyperQueue's own (30 s)")
    args.add_argument("--entries", action="store_true", help="million: one line of text per task")
    args = args.parse_args()
    n = args.n or {"latency": 200, "true-flood": 10_000, "million": 1_000_000}[args.bench]

    setting = "journal" if args.journal else "no journal"
    if args.bench == "latency":
        setting += ", submit then job wait" if args.journal else ", submit --wait"
    if args.flush_period:
        setting += f", flush every {args.flush_period}"
    if args.entries:
        setting += ", a line per task"
    state = common.IN_MEMORY
    if args.journal:
        period = args.flush_period or "30 s (default)"
        state = dict(
            durable=False, durable_submit=True,
            durability=f"submits synced before accepted; ends of tasks synced every {period}",
        )
    with common.private_folder() as folder, Cluster(
        folder, args.journal, args.flush_period
    ) as cluster:
        measured = {
            "latency": lambda: latency(cluster, n),
            "true-flood": lambda: true_flood(cluster, n),
            "million": lambda: million(cluster, n, args.entries),
        }[args.bench]()
    version = subprocess.run([HQ, "--version"], capture_output=True, text=True).stdout.split()[-1]
    common.emit(
        peer="HyperQueue", version=version, bench=args.bench, setting=setting, n=n,
        **measured, **state,
    )


if __name__ == "__main__":
    main()
