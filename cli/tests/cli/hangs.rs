//! Goal: a program that stops to report is noticed by a real agent, the notice is in the journal,
//! and what follows is what the recipe says: the attempt ends and another one completes the trial,
//! or nothing but the notice.

use crate::bench::{Bench, wait_until};
use coordinator::store::Store;
use proto::{Attempt, Event, NoticeKind, Outcome};
use serde_json::Value;
use std::process::Stdio;

const RECIPE: &str = "
apiVersion: brine.dev/v1
kind: Experiment
metadata: {name: frozen}
spec:
  study:
    sweep:
      command:
        arguments: [sh, script.sh]
        files: [script.sh]
      parameters: {x: {choice: [1]}}
      search: grid
      metric: null
  hang: HANG
";

/// Enough steps that the next one is expected, and then what the test says.
const STEPS: &str = r#"
step=0
while test $step -lt 12; do
    step=$((step + 1))
    echo "{\"metric\": \"loss\", \"step\": $step, \"value\": 1}" >&"$BRINE_METRICS_FD"
    sleep 0.05
done
"#;

fn bench(hang: &str, then: &str) -> Bench {
    let bench = Bench::new();
    bench.write("frozen.yaml", &RECIPE.replace("HANG", hang));
    bench.write("script.sh", &format!("{STEPS}{then}"));
    bench
}

/// What is in the journal, which nobody serves any more.
fn events(bench: &Bench) -> Vec<Event> {
    let mut events = Vec::new();
    let store = Store::open(&bench.path(".brine")).expect("nobody else has it open");
    store.replay(|record| events.push(record.event.clone())).expect("it is whole");
    events
}

/// The attempts in which a hang was noticed, after which step.
fn hangs(events: &[Event]) -> Vec<(Attempt, u64)> {
    let mut hangs = Vec::new();
    for event in events {
        if let Event::Noticed { attempt, notice, .. } = event
            && notice.kind == NoticeKind::Hang
        {
            hangs.push((*attempt, notice.step));
        }
    }
    hangs
}

/// How attempts ended, in words.
fn ends(events: &[Event]) -> Vec<(Attempt, String)> {
    let mut ends = Vec::new();
    for event in events {
        if let Event::AttemptFailed { attempt, outcome, .. }
        | Event::TrialEnded { attempt, outcome, .. } = event
        {
            let why = match outcome {
                Outcome::Failed { message, .. } => format!(": {message}"),
                Outcome::Completed { .. } | Outcome::Diverged { .. } => String::new(),
            };
            ends.push((*attempt, format!("{}{why}", outcome.word())));
        }
    }
    ends
}

fn trial_id(bench: &Bench) -> Option<String> {
    let status = bench.brine(&["status", "frozen", "--output", "json"]);
    let json: Value = serde_json::from_str(&status.stdout).ok()?;
    Some(json["trials"][0]["id"].as_str()?.to_owned())
}

#[test]
fn a_program_that_freezes_is_ended_and_completes_at_its_next_attempt() {
    let freeze = "test -e \"$HOME/frozen\" || { touch \"$HOME/frozen\"; exec sleep 1000; }\n";
    let bench = bench("{at_least: 1s, then: retry}", freeze);
    bench.brine(&["run", "frozen.yaml", "--output", "quiet"]).code(0);
    let id = trial_id(&bench).expect("there is a trial");
    let explained = bench.brine(&["explain", &id]).code(0).stdout;
    for text in [
        "is completed",
        "attempt 1: hang: nothing was heard for",
        "after step 12; a report every",
        "attempts that did not end it, oldest first:",
    ] {
        assert!(explained.contains(text), "{text}: {explained}");
    }

    let events = events(&bench);
    assert_eq!(hangs(&events), [(Attempt(1), 12)]);
    let ends = ends(&events);
    assert_eq!(ends[1..], [(Attempt(2), "completed".to_owned())], "{ends:?}");
    let (attempt, why) = &ends[0];
    assert_eq!(*attempt, Attempt(1));
    assert!(why.starts_with("infrastructure: it made no step for far longer"), "{why}");
    let noticed = events.iter().position(|event| matches!(event, Event::Noticed { .. }));
    let failed = events.iter().position(|event| matches!(event, Event::AttemptFailed { .. }));
    assert!(noticed < failed, "first noticed, then ended");
}

#[test]
fn a_program_that_may_be_silent_is_noticed_and_goes_on() {
    let wait = "while ! test -e \"$HOME/go\"; do sleep 0.05; done\n";
    let bench = bench("{at_least: 1s}", wait);
    let mut run = bench.command(&["run", "frozen.yaml", "--output", "quiet"]);
    let run = run.stdout(Stdio::null()).spawn().expect("brine can be started");
    wait_until("the hang is noticed", || {
        let explained = trial_id(&bench).map(|id| bench.brine(&["explain", &id]).stdout);
        explained.is_some_and(|text| text.contains("attempt 1: hang: "))
    });
    // It runs all the same, and ends as it wants.
    let id = trial_id(&bench).expect("there is a trial");
    let json = bench.brine(&["explain", &id, "--output", "json"]).code(0).json();
    assert_eq!((&json["state"], &json["attempts"]), (&"running".into(), &1.into()));
    assert_eq!(json["noticed"][0]["notice"]["kind"], "hang");
    bench.write("go", "");
    bench.finish(run).code(0);
    let events = events(&bench);
    assert_eq!(hangs(&events), [(Attempt(1), 12)]);
    assert_eq!(ends(&events), [(Attempt(1), "completed".to_owned())]);
}
