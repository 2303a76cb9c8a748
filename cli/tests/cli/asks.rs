//! What a person asks about trials: why one waits, what it wrote, where all of them are.

use crate::bench::Bench;
use std::fs::File;
use std::process::{Child, Stdio};

const SWEEP: &str = r#"
apiVersion: brine.dev/v1
kind: Experiment
metadata: {name: shell}
spec:
  study:
    sweep:
      command:
        arguments: [sh, script.sh, "{x}"]
        files: [script.sh]
      parameters: {x: {choice: [1, 2, 3]}}
      search: grid
      metric: null
  retries: {trial: 1}
"#;

/// The second trial fails each time; the others take part of the folder's state.
const SCRIPT: &str = "echo \"x is $1\"\ntest \"$1\" != 2 || exit 7\n";

/// Whoever starts waits for the file `go`.
const GATED: &str = "echo \"x is $1\"\n\
                     while ! test -e \"$HOME/go\"; do sleep 0.05; done\necho \"done $1\"\n";

const GRID: &str = "
apiVersion: brine.dev/v1
kind: Experiment
metadata: {name: grid}
spec:
  study:
    sweep:
      noop: {}
      parameters: {x: {range: [0, 1000000]}}
      search: grid
";

fn bench(script: &str) -> Bench {
    let bench = Bench::new();
    bench.write("shell.yaml", SWEEP);
    bench.write("script.sh", script);
    bench
}

/// A coordinator or an agent that is killed with its test.
struct Process(Child);

impl Process {
    /// An agent of two CPU slots for the bench's coordinator.
    fn agent(bench: &Bench) -> Self {
        let url = bench.wait_for(".brine/address", |text| text.starts_with("http"));
        let program =
            std::path::Path::new(env!("CARGO_BIN_EXE_brine")).with_file_name("brine-agent");
        let mut command = std::process::Command::new(program);
        command
            .args(["--coordinator", url.trim(), "--token-file", ".brine/token", "--id", "local-0"])
            .args(["--cpus", "2", "--gpus", "none", "--data-dir", "agent"])
            .current_dir(bench.path(""))
            .env("HOME", bench.path(""))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self(command.spawn().expect("brine-agent can be started"))
    }

    fn coordinator(bench: &Bench) -> Self {
        Self::coordinator_with(bench, &[])
    }

    fn coordinator_with(bench: &Bench, options: &[&str]) -> Self {
        let mut command = bench.command(&["coordinator", "--listen", "127.0.0.1:0"]);
        command.args(options);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        bench.wait_for(".brine/address", |text| text.starts_with("http"));
        Self(child.expect("brine can be started"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; the test then fails for another reason.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn trial_ids(bench: &Bench, experiment: &str) -> Vec<String> {
    let json = bench.brine(&["status", experiment, "--output", "json"]).code(0).json();
    let trials = json["trials"].as_array().expect("a list");
    trials.iter().map(|trial| trial["id"].as_str().expect("a text").to_owned()).collect()
}

#[test]
fn ended_trials_say_how_they_came_there_and_what_they_wrote() {
    let bench = bench(SCRIPT);
    bench.brine(&["run", "shell.yaml", "--output", "quiet"]);
    let ids = trial_ids(&bench, "shell");
    let good = bench.brine(&["explain", &ids[0][..10]]).code(0);
    assert!(good.stdout.contains(&format!("trial {} is completed", ids[0])), "{}", good.stdout);
    assert!(good.stdout.contains("parameters: x=1 seed="), "{}", good.stdout);
    assert!(good.stderr.contains("brine results shell-"), "{}", good.stderr);
    let failed = bench.brine(&["explain", &ids[1]]).code(0);
    for text in
        [" failed\n", "it ended: failed: ", "attempts that did not end it, oldest first:", "exit"]
    {
        assert!(failed.stdout.contains(text), "{text}: {}", failed.stdout);
    }
    let json = bench.brine(&["explain", &ids[1], "--output", "json"]).code(0).json();
    assert_eq!((&json["attempts"], &json["state"]), (&2.into(), &"failed".into()));
    assert_eq!(json["failed"][0]["attempt"], 1);
    let unknown = bench.brine(&["explain", "zz"]).code(1);
    assert!(unknown.stderr.contains("no trial begins with zz"), "{}", unknown.stderr);
    let ambiguous = bench.brine(&["explain", ""]).code(1);
    assert!(ambiguous.stderr.contains("give more digits"), "{}", ambiguous.stderr);

    let log = bench.brine(&["logs", &ids[1][..10], "--attempt", "1"]).code(0);
    assert!(log.stdout.contains("x is 2"), "{}", log.stdout);
    let beyond = bench.brine(&["logs", &ids[1], "--attempt", "5"]).code(1);
    assert!(beyond.stderr.contains("has had no attempt 5; its newest is 2"), "{}", beyond.stderr);
    let all = bench.brine(&["logs", "shell"]).code(0);
    for (id, line) in
        [(&ids[0], " | x is 1\n"), (&ids[1], "#2 | x is 2\n"), (&ids[2], " | x is 3\n")]
    {
        assert!(all.stdout.contains(&format!("{}{line}", &id[..8])), "{}", all.stdout);
    }
    let neither = bench.brine(&["logs", "nothing"]).code(1);
    assert!(neither.stderr.contains("no trial begins with nothing"), "{}", neither.stderr);
}

#[test]
fn a_trial_that_waits_says_for_what() {
    let bench = bench(SCRIPT);
    let _coordinator = Process::coordinator(&bench);
    bench.brine(&["submit", "shell.yaml"]).code(0);
    let ids = trial_ids(&bench, "shell");
    let waiting = bench.brine(&["explain", &ids[2]]).code(0);
    assert!(
        waiting.stdout.contains("it waits for: an agent: none is connected"),
        "{}",
        waiting.stdout
    );
    assert!(waiting.stdout.contains("it starts when an agent connects"), "{}", waiting.stdout);
    assert!(
        waiting.stderr.contains("hint: start an agent with: brine-agent"),
        "{}",
        waiting.stderr
    );
    let log = bench.brine(&["logs", &ids[2]]).code(1);
    assert!(log.stderr.contains("has had no attempt yet: it waits for an agent"), "{}", log.stderr);
    bench.brine(&["cancel", "shell"]).code(0);
    let ended = bench.brine(&["logs", "--follow", "shell"]).code(0);
    assert!(
        ended.stderr.contains("is cancelled; this is what its trials wrote"),
        "{}",
        ended.stderr
    );
}

#[test]
fn the_logs_of_an_experiment_are_followed_to_its_end() {
    let bench = bench(GATED);
    // Not `brine run`, which ends with its experiment and takes the coordinator along.
    let _coordinator = Process::coordinator(&bench);
    let _agent = Process::agent(&bench);
    bench.brine(&["submit", "shell.yaml"]).code(0);
    crate::bench::wait_until("an attempt runs", || {
        let status = bench.brine(&["status", "shell", "--output", "json"]);
        status.stdout.contains("\"state\": \"running\"")
            && status.stdout.contains("\"attempts\": 1")
    });
    let mut follow = bench.command(&["logs", "-f", "shell"]);
    let file = File::create(bench.path("followed")).unwrap();
    let follow = follow.stdout(file).spawn().unwrap();
    bench.wait_for("followed", |text| text.contains(" | x is "));
    // A look at the same moment: the running trial is in it.
    let top = bench.brine(&["top", "--once"]).code(0);
    for text in ["CPU slots ", "shell-", "running trial", "local-"] {
        assert!(top.stdout.contains(text), "{text}: {}", top.stdout);
    }
    bench.write("go", "");
    bench.finish(follow).code(0);
    let text = std::fs::read_to_string(bench.path("followed")).unwrap();
    for (id, x) in trial_ids(&bench, "shell").iter().zip(1..) {
        for line in [format!("{} | x is {x}\n", &id[..8]), format!("{} | done {x}\n", &id[..8])] {
            assert_eq!(text.matches(&line).count(), 1, "{line}: {text}");
        }
    }
}

// Goal: what a killed coordinator leaves behind is not called running.
#[test]
fn nothing_runs_where_the_coordinator_was_killed() {
    let bench = bench(GATED);
    let coordinator = Process::coordinator(&bench);
    let agent = Process::agent(&bench);
    bench.brine(&["submit", "shell.yaml"]).code(0);
    crate::bench::wait_until("an attempt runs", || {
        bench.brine(&["status", "shell"]).stdout.contains(" running ")
    });
    let live = bench.brine(&["status", "--output", "json"]).code(0).json();
    assert!(live["stored"].is_null() && live["coordinator"].is_string(), "{live}");
    drop((coordinator, agent));
    let status = bench.brine(&["status"]).code(0);
    let said = "no coordinator runs for .brine; this is what was stored, last changed at ";
    assert!(status.stderr.contains(said), "{}", status.stderr);
    assert!(status.stderr.contains("brine run RECIPE"), "{}", status.stderr);
    assert!(status.stdout.contains(" interrupted "), "{}", status.stdout);
    let json = bench.brine(&["status", "shell", "--output", "json"]).code(0).json();
    assert_eq!((&json["state"], &json["running"]), (&"interrupted".into(), &0.into()));
    assert!(json["stored"]["changed_ms"].is_u64(), "{json}");
    let trials = json["trials"].as_array().expect("a list");
    assert!(trials.iter().any(|trial| trial["state"] == "interrupted"), "{json:#}");
    for trial in trials {
        assert!(["interrupted", "waiting"].contains(&trial["state"].as_str().unwrap()), "{trial}");
        assert_eq!(trial["waiting_for"], "a coordinator: none runs");
    }
    let id = trials[0]["id"].as_str().unwrap();
    let explain = bench.brine(&["explain", id]).code(0);
    assert!(
        explain.stdout.contains("it waits for: a coordinator: none runs"),
        "{}",
        explain.stdout
    );
    let results = bench.brine(&["results", "shell", "--output", "json"]).code(0).json();
    assert_eq!(results["state"], "interrupted");
    // Nobody writes any more, so following ends.
    bench.brine(&["logs", "--follow", id]).code(0);
    bench.brine(&["logs", "--follow", "shell"]).code(0);
}

// Goal: a cancelled trial is called so, and of several experiments of a name the newest is meant.
#[test]
fn a_name_means_its_newest_experiment() {
    let bench = bench(SCRIPT);
    let _coordinator = Process::coordinator(&bench);
    let old = bench.brine(&["submit", "shell.yaml"]).code(0).stdout;
    bench.write(
        "shell.yaml",
        &SWEEP.replace("name: shell", "name: shell3").replace("[1, 2, 3]", "[5]"),
    );
    bench.brine(&["submit", "shell.yaml"]).code(0);
    let alone = bench.brine(&["cancel", "shell"]).code(0);
    assert!(!alone.stderr.contains("newest"), "{}", alone.stderr);
    let json = bench.brine(&["status", "shell", "--output", "json"]).code(0).json();
    assert_eq!(json["experiment"], old.trim());
    assert_eq!(json["trials"][0]["state"], "cancelled");
    bench.write("shell.yaml", &SWEEP.replace("[1, 2, 3]", "[4]"));
    let new = bench.brine(&["submit", "shell.yaml"]).code(0).stdout;
    let status = bench.brine(&["status", "shell"]).code(0);
    assert!(status.stdout.starts_with(new.trim()), "{}", status.stdout);
    assert!(status.stderr.contains(old.trim()), "{}", status.stderr);
}

/// Reports another metric than the one of the recipe.
const OTHER_METRIC: &str =
    "echo '{\"metric\": \"val_loss\", \"step\": 1, \"value\": 0.5}' >&\"$BRINE_METRICS_FD\"\n";

#[test]
fn a_completed_trial_without_its_metric_is_explained() {
    let bench = bench(OTHER_METRIC);
    let recipe = SWEEP.replace("metric: null", "metric: {name: loss, goal: minimize}");
    bench.write("shell.yaml", &recipe);
    bench.brine(&["run", "shell.yaml", "--output", "quiet"]).code(3);
    let id = &trial_ids(&bench, "shell")[0];
    let explain = bench.brine(&["explain", id]).code(0);
    let said = "`loss` is missing, so it gave shell-";
    assert!(explain.stdout.contains(said), "{}", explain.stdout);
    assert!(explain.stdout.contains("it reported `val_loss`"), "{}", explain.stdout);
}

/// Six of these are more than the limit.
const TALKATIVE: &str = "head -c 900000 /dev/zero | tr '\\0' x\n";

#[test]
fn logs_beyond_the_limit_go_and_whoever_asks_hears_why() {
    let bench = bench(TALKATIVE);
    bench.write("shell.yaml", &SWEEP.replace("[1, 2, 3]", "[1, 2, 3, 4, 5, 6]"));
    let few = bench.brine(&["coordinator", "--log-limit", "1MiB"]).code(2);
    assert!(few.stderr.contains("must be at least 4MiB"), "{}", few.stderr);
    let _coordinator = Process::coordinator_with(&bench, &["--log-limit", "4MiB"]);
    let _agent = Process::agent(&bench);
    bench.brine(&["submit", "shell.yaml"]).code(0);
    bench.brine(&["watch", "shell", "--output", "quiet"]).code(0);
    let ids = trial_ids(&bench, "shell");
    let removed = || {
        let gone = |id: &&String| bench.path(&format!(".brine/logs/{id}/1.removed")).is_file();
        ids.iter().filter(gone).collect::<Vec<_>>()
    };
    crate::bench::wait_until("a log is removed", || !removed().is_empty());
    let log = bench.brine(&["logs", removed()[0]]).code(0);
    let why = "removed to keep the coordinator's logs below 4.0 MiB";
    assert_eq!(log.stdout, "");
    assert!(log.stderr.contains(&format!("the log of attempt 1 was {why}")), "{}", log.stderr);
    let all = bench.brine(&["logs", "shell"]).code(0);
    assert!(all.stderr.contains(why), "{}", all.stderr);
    let kept = ids.iter().find(|id| !removed().contains(id)).expect("the newest stays");
    assert_eq!(bench.brine(&["logs", kept]).code(0).stdout.len(), 900_000);
}

#[test]
fn a_million_trials_are_shown_by_their_start_and_their_newest() {
    let bench = Bench::new();
    bench.write("grid.yaml", GRID);
    let _coordinator = Process::coordinator(&bench);
    bench.brine(&["submit", "grid.yaml"]).code(0);
    let status = bench.brine(&["status", "grid"]).code(0);
    let head = status.stdout.lines().next().unwrap();
    assert!(head.ends_with("is running: 0 of 1000000 trials ended, 0 running"), "{head}");
    assert!(status.stdout.lines().count() < 210, "{}", status.stdout);
    assert!(status.stdout.ends_with("999800 trials not shown\n"), "{}", status.stdout);
    assert!(status.stderr.contains("--from 101"), "{}", status.stderr);
    let json = bench.brine(&["status", "grid", "--from", "101", "--output", "json"]).code(0).json();
    assert_eq!(json["trials"][0]["parameters"]["x"], 100);
    assert_eq!((&json["planned"], &json["left_out"]), (&1_000_000.into(), &999_700.into()));
    let json = bench.brine(&["top", "--once", "--output", "json"]).code(0).json();
    assert_eq!(json["experiments"][0]["trials"], 1_000_000);
    assert_eq!(json["experiments"][0]["priority"], 0);
    assert_eq!(json["agents"].as_array().map(Vec::len), Some(0));
}

#[test]
fn an_ended_experiment_that_is_long_is_shown_by_its_two_ends() {
    let bench = Bench::new();
    bench.write("grid.yaml", &GRID.replace("1000000", "300"));
    bench.brine(&["run", "grid.yaml", "--output", "quiet"]).code(0);
    let json = bench.brine(&["status", "grid", "--output", "json"]).code(0).json();
    let trials = json["trials"].as_array().unwrap();
    let shown: Vec<i64> =
        trials.iter().map(|trial| trial["parameters"]["x"].as_i64().unwrap()).collect();
    let expected: Vec<i64> = (0..100).chain(200..300).collect();
    assert_eq!(shown, expected);
    assert_eq!((&json["ended"], &json["left_out"]), (&300.into(), &100.into()));
}

/// Starts `brine top` in a terminal of its own, ends it by the first argument, and says how.
const TERMINAL: &str = r#"
import fcntl, os, pty, signal, struct, sys, termios
end, program, arguments = sys.argv[1], sys.argv[2], sys.argv[2:]
child, terminal = pty.fork()
if child == 0:
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    os.execv(program, arguments)
said, sent = b"", False
while True:
    try:
        piece = os.read(terminal, 4096)
    except OSError:
        piece = b""
    if not piece:
        break
    said += piece
    if b"no agent" in said and not sent:
        sent = True
        os.kill(child, signal.SIGTERM) if end == "TERM" else os.write(terminal, end.encode())
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(code, said.count(b"\x1b[?1049h"), said.count(b"\x1b[?1049l"), said.count(b"\x1b[2J") < 3)
"#;

#[test]
fn the_live_view_gives_the_terminal_back_however_it_ends() {
    let bench = Bench::new();
    let _coordinator = Process::coordinator(&bench);
    bench.write("terminal.py", TERMINAL);
    let top = bench.command(&["top"]);
    for end in ["q", "\u{3}", "TERM"] {
        let mut python = std::process::Command::new("python3");
        python.args(["terminal.py", end]).arg(top.get_program()).arg("top");
        let output = python.current_dir(bench.path(".")).env("TERM", "xterm").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said.trim(), "0 1 1 True", "{}", String::from_utf8_lossy(&output.stderr));
    }
    let piped = bench.brine(&["top"]).code(1);
    assert!(piped.stderr.contains("brine top --once"), "{}", piped.stderr);
    bench.brine(&["top", "--output", "json"]).code(2);
}
