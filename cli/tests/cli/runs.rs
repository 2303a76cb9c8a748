//! Whole experiments through the real programs: results, refusals, and what is kept.

use crate::bench::{Bench, wait_until};
use std::fs;
use std::process::{Command, Stdio};

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
      metric: {name: loss, goal: minimize}
"#;

/// Reports the square of its argument.
const SCRIPT: &str = r#"
echo "{\"metric\": \"loss\", \"step\": 1, \"value\": $(($1 * $1))}" >&"$BRINE_METRICS_FD"
echo "x is $1"
"#;

fn bench(script: &str) -> Bench {
    let bench = Bench::new();
    bench.write("shell.yaml", SWEEP);
    bench.write("script.sh", script);
    bench
}

#[test]
fn a_sweep_of_programs_runs_and_is_answered_from_what_is_stored() {
    let bench = bench(SCRIPT);
    let first = bench.brine(&["run", "shell.yaml", "--output", "json"]).code(0);
    let json = first.json();
    assert_eq!(json["state"], "complete");
    let trials = json["trials"].as_array().unwrap();
    let losses = trials.iter().map(|trial| trial["metrics"]["loss"].as_f64().unwrap());
    assert_eq!(losses.collect::<Vec<_>>(), [1.0, 4.0, 9.0]);
    for trial in trials {
        assert_eq!((&trial["state"], &trial["attempts"]), (&"completed".into(), &1.into()));
        assert!(trial["seed"].is_u64() && trial["parameters"]["x"].is_i64(), "{trial}");
    }
    let again = bench.brine(&["run", "shell.yaml", "--output", "json"]).code(0);
    assert_eq!(again.json()["trials"], json["trials"]);
    let id = trials[1]["id"].as_str().unwrap();
    let logs = bench.brine(&["logs", id]).code(0);
    assert!(logs.stdout.contains("x is 2"), "{}", logs.stdout);
    let table = bench.brine(&["metrics", id]).code(0).stdout;
    let cells: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(cells, ["loss", "1", "1", "4.000", "4.000", "4.000", "4.000", "▄"]);
    let csv = bench.brine(&["metrics", id, "--metric", "loss", "--format", "csv"]).code(0).stdout;
    assert_eq!(csv, format!("trial,attempt,metric,step,value\n{id},1,loss,1,4\n"));
    let json = bench.brine(&["metrics", id, "--output", "json"]).code(0).json();
    assert_eq!((&json["series"][0]["stored"], &json["trial"]), (&1.into(), &id.into()));
    let unknown = bench.brine(&["metrics", id, "--metric", "lost"]).code(1);
    assert!(unknown.stderr.contains("hint: it has: loss"), "{}", unknown.stderr);
    bench.brine(&["metrics", id, "--points", "3"]).code(2);
}

// Goal: what is noticed is said once, in words for people.
#[test]
fn what_is_noticed_is_said_once_and_without_the_log() {
    let line = r#"{\"metric\": \"loss\", \"step\": $step, \"value\": NaN}"#;
    let bench =
        bench(&format!("for step in 1 2 3; do echo \"{line}\" >&\"$BRINE_METRICS_FD\"; done\n"));
    bench.write("shell.yaml", &SWEEP.replace("[1, 2, 3]", "[1]"));
    let ended = bench.brine(&["run", "shell.yaml"]);
    assert_eq!(ended.stderr.matches("loss is NaN").count(), 1, "{}", ended.stderr);
    assert!(!ended.stderr.contains("coordinator::driver"), "{}", ended.stderr);
}

#[test]
fn results_are_printed_even_when_the_report_cannot_be_written() {
    let bench = bench(SCRIPT);
    bench.write(".brine/reports", "a file in the way");
    let ended = bench.brine(&["run", "shell.yaml"]).code(1);
    assert!(ended.stdout.contains("completed"), "{}", ended.stdout);
    assert!(ended.stderr.contains("reports"), "{}", ended.stderr);
}

#[test]
fn a_failed_program_is_shown_and_tried_again_on_request() {
    let bench = bench("test \"$1\" != 2 -o -e \"$HOME/mended\" || exit 7\n");
    // The metric is missing too, so no trial has a result.
    let ended = bench.brine(&["run", "shell.yaml", "--output", "json"]);
    let json = ended.json();
    let word = |index: usize| json["trials"][index]["state"].as_str().unwrap().to_owned();
    assert_eq!([word(0), word(1), word(2)], ["completed", "failed", "completed"]);
    assert_eq!((ended.code, &json["state"]), (Some(3), &"failed".into()), "{}", ended.stderr);
    bench.write("mended", "");
    let retried = bench.brine(&["run", "shell.yaml", "--retry-failed", "--output", "json"]);
    assert_eq!(retried.json()["trials"][1]["state"], "completed");
}

#[test]
fn a_loss_that_is_not_a_number_is_diverged_and_left_out() {
    let bench = Bench::new();
    bench.write("text.txt", &"to be or not to be, that is the question\n".repeat(4_000));
    let recipe = r#"
apiVersion: brine.dev/v1
kind: Experiment
metadata: {name: wild}
spec:
  study:
    isoflop:
      data: {files: text.txt}
      flop_budgets: [1.0e10]
      widths: [16]
      grid: {learning_rate: {scale: 1.0e+30, max: 1.0e+30}}
      optimizer: {clip: 0}
      closed_loop: {extra_cells_max: 0}
      fit: {resamples: 0}
"#;
    bench.write("wild.yaml", recipe);
    let ended = bench.brine(&["run", "wild.yaml", "--output", "json"]);
    let json = ended.json();
    assert_eq!(json["trials"][0]["state"], "diverged", "{json:#}\n{}", ended.stderr);
    assert_eq!(json["state"], "failed");
    let notes = json["notes"].to_string();
    assert!(notes.contains("diverged"), "{notes}");
}

#[test]
fn a_data_folder_has_one_coordinator_and_one_token() {
    let bench = bench(SCRIPT);
    let mut coordinator = bench.command(&["coordinator", "--listen", "127.0.0.1:0"]);
    let mut coordinator = coordinator.stderr(Stdio::null()).spawn().unwrap();
    let url = bench.wait_for(".brine/address", |text| text.starts_with("http"));
    let second = bench.brine(&["run", "shell.yaml"]).code(1);
    assert!(second.stderr.contains("in use by another coordinator"), "{}", second.stderr);
    bench.write("wrong", "not-the-token-of-anyone\n");
    let wrong = ["status", "--coordinator", url.trim(), "--token-file", "wrong"];
    let refused = bench.brine(&wrong).code(1);
    assert!(refused.stderr.contains("token"), "{}", refused.stderr);
    let port = url.trim().strip_prefix("http://").unwrap();
    let taken = bench.brine(&["coordinator", "--listen", port, "--data-dir", "other"]).code(1);
    assert!(taken.stderr.contains("--listen"), "{}", taken.stderr);
    // The folder is as it was: the experiment can be submitted, and cancelled.
    let id = bench.brine(&["submit", "shell.yaml"]).code(0).stdout.trim().to_owned();
    let cancelled = bench.brine(&["cancel", &id]).code(0);
    assert!(cancelled.stdout.contains("is cancelled"), "{}", cancelled.stdout);
    coordinator.kill().unwrap();
    coordinator.wait().unwrap();
}

#[test]
fn a_journal_that_is_newer_or_cut_is_refused() {
    let bench = bench(SCRIPT);
    bench.brine(&["run", "shell.yaml", "--output", "quiet"]).code(0);
    let ours = fs::read_to_string(bench.path(".brine/format")).unwrap();
    bench.write(".brine/format", "999\n");
    let newer = bench.brine(&["results"]).code(1);
    assert!(newer.stderr.contains("has format 999"), "{}", newer.stderr);
    bench.write(".brine/format", &ours);
    bench.brine(&["results"]).code(0);
    let journal = fs::File::options().write(true).open(bench.path(".brine/journal/db")).unwrap();
    // sled reserves far more room than these few records take.
    journal.set_len(1_000).unwrap();
    let cut = bench.brine(&["results"]).code(1);
    assert!(cut.stderr.contains("damaged"), "{}", cut.stderr);
}

#[test]
fn a_full_disk_is_said_and_what_was_stored_is_kept() {
    let bench = bench("head -c 1000000 /dev/zero | tr '\\0' x; exec sleep 30\n");
    fs::create_dir(bench.path("small")).unwrap();
    let mount = ["-t", "tmpfs", "-o", "size=24m", "tmpfs", "small"];
    let mounted = Command::new("mount").args(mount).current_dir(bench.path(".")).status();
    if !mounted.is_ok_and(|status| status.success()) {
        // Only root may mount. Said, so that nobody takes this for a pass of the whole test.
        #[expect(clippy::print_stdout, reason = "a skipped test says so")]
        {
            println!("skipped: this user cannot mount a small tmpfs");
        }
        return;
    }
    let mut full = bench.command(&["run", "shell.yaml", "--data-dir", "small/data"]);
    let child = full.spawn().unwrap();
    wait_until("the experiment is stored", || {
        bench.path("small/data/address").exists() && bench.path("small/data/logs").exists()
    });
    // Fill the rest; the next record finds no room.
    drop(
        Command::new("dd")
            .args(["if=/dev/zero", "bs=64k"])
            .arg(format!("of={}", bench.path("small/ballast").display()))
            .stderr(Stdio::null())
            .status(),
    );
    let stored = bench.brine(&["cancel", "--data-dir", "small/data", "shell"]);
    let ended = bench.finish(child);
    fs::remove_file(bench.path("small/ballast")).unwrap();
    let status = bench.brine(&["status", "--data-dir", "small/data"]);
    drop(Command::new("umount").arg("small").current_dir(bench.path(".")).status());
    assert_ne!(ended.code, Some(0), "{}\n{}", ended.stderr, stored.stderr);
    assert!(ended.stderr.contains("space"), "{}", ended.stderr);
    // Nobody has pressed a key, and the store's own complaints are not for people.
    for words in ["Ctrl-C again", "ERROR sled"] {
        assert!(!ended.stderr.contains(words), "{}", ended.stderr);
    }
    assert_eq!(status.code, Some(0), "{}", status.stderr);
    assert!(status.stdout.contains("shell-"), "{}", status.stdout);
}
