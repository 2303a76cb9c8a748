use super::*;
use crate::estimate::tests::command;
use coordinator::core::Waits;
use proto::wire::{FailedAttempt, TrialView};
use proto::{AgentId, FailureClass};

fn reply(state: &str, waiting_for: &str) -> ExplainReply {
    let spec = command(3);
    let trial = TrialView {
        trial: spec.id().into(),
        state: state.to_owned(),
        attempts: 1,
        spec_json: serde_json::to_string(&spec).unwrap(),
        waiting_for: waiting_for.to_owned(),
        ..TrialView::default()
    };
    ExplainReply {
        trial: Some(trial),
        experiments: vec!["mini-1".to_owned()],
        ..ExplainReply::default()
    }
}

#[track_caller]
fn check(reply: ExplainReply, expected: &[&str], hint: &str) {
    let explanation = Explanation::parse(reply).unwrap();
    // The head is the same everywhere: state, parameters, experiments.
    assert_eq!(explanation.lines()[3..], *expected);
    assert!(explanation.hint().contains(hint), "{}", explanation.hint());
}

fn shortage(agent: &str, lacks: &str) -> Shortage {
    Shortage { agent: agent.to_owned(), lacks: lacks.to_owned() }
}

#[test]
fn the_head_names_the_trial_its_state_and_who_wants_it() {
    let explanation = Explanation::parse(reply("waiting", "an agent: none is connected")).unwrap();
    let id = command(3).id();
    assert_eq!(
        explanation.lines()[..3],
        [format!("trial {id} is waiting"), "parameters: seed=3".into(), "wanted by: mini-1".into()]
    );
}

#[test]
fn each_reason_of_the_coordinator_is_told_with_what_would_end_it() {
    let a = || AgentId::new("a").unwrap();
    for (waits, expected, hint) in [
        (Waits::NoAgent, "an agent connects that can run it", "brine-agent"),
        (Waits::Unwanted, "its recipe is submitted again", "brine submit"),
        (Waits::Limit("trials: 3".into()), "other trials end", "brine submit"),
        (Waits::Line(a()), "the trials before it on that agent have ended", "brine top"),
        (Waits::LettingGo(a()), "that agent reports its process gone", "brine top"),
        (Waits::Never(Vec::new()), "an agent connects that has what these lack", "brine status"),
        (
            Waits::Turn { ahead: 0, shortages: Vec::new(), yielding: Vec::new() },
            "its turn comes",
            "brine top",
        ),
    ] {
        let explanation = Explanation::parse(reply("waiting", &waits.to_string())).unwrap();
        let last = explanation.lines().pop().unwrap();
        assert!(last.contains(expected), "{waits:?}: {last}");
        assert!(explanation.hint().contains(hint), "{waits:?}: {}", explanation.hint());
    }
}

#[test]
fn a_trial_in_the_queue_has_a_position_and_sees_what_each_agent_lacks() {
    let waiting = ExplainReply {
        ahead: 4,
        shortages: vec![
            shortage("a", "0 CPU slots free, 2 wanted"),
            shortage("b", "0 fitting GPUs free, 1 wanted"),
        ],
        yielding: vec!["00ff".to_owned()],
        ..reply("waiting", "free devices or memory, behind 4 trials of its experiment")
    };
    let lines = [
        "position: behind 4 trials of its experiment",
        "it waits for: room on an agent",
        "  a: 0 CPU slots free, 2 wanted",
        "  b: 0 fitting GPUs free, 1 wanted",
        "asked to give way to it: 00ff",
        "it starts when one of these agents has what it lacks and it is its turn",
    ];
    check(waiting, &lines, "brine top");
}

#[test]
fn a_pause_tells_how_long_and_what_failed_before() {
    let outcome = Outcome::failed(FailureClass::Trial, "exit code 7\nmore");
    let failed = FailedAttempt {
        attempt: 1,
        at_ms: u64::MAX,
        agent: "a".to_owned(),
        outcome_json: serde_json::to_string(&outcome).unwrap(),
    };
    let paused = ExplainReply {
        wait_ms: 2_500,
        failed: vec![failed],
        ..reply("backoff", "a pause of 2500 ms before its next attempt")
    };
    let lines = [
        "it waits for: a pause of 2500 ms before its next attempt",
        "it starts when the pause of 2.5s is over and an agent has room",
        "attempts that did not end it, oldest first:",
        "  attempt  when  agent  what",
        "        1  ?     a      failed: exit code 7",
    ];
    check(paused, &lines, "brine logs");
}

#[test]
fn a_gang_that_gives_way_names_its_members_and_for_whom() {
    let member = |rank| AttemptRef { trial: command(3).id().into(), attempt: 2, rank };
    let yielding = ExplainReply {
        running: vec![member(0), member(1)],
        agents: vec!["a".to_owned(), "b".to_owned()],
        preempted_by: "00ff".to_owned(),
        ..reply("yielding", "")
    };
    let lines = [
        "attempt 2 is on a, rank 0",
        "attempt 2 is on b, rank 1",
        "it was asked to give way to 00ff, and will go on afterwards",
    ];
    check(yielding, &lines, "brine logs --follow");
}

#[test]
fn an_ended_trial_says_how() {
    let pruned = Outcome::failed(FailureClass::Pruned, "the median at step 10 was better");
    let mut ended = reply("pruned", "");
    ended.trial.as_mut().unwrap().outcome_json = serde_json::to_string(&pruned).unwrap();
    check(ended, &["it ended: pruned: the median at step 10 was better"], "brine logs");
}

#[test]
fn a_malformed_answer_is_an_error() {
    assert!(Explanation::parse(ExplainReply::default()).is_err());
    let broken = ExplainReply { checkpoint_json: "{".to_owned(), ..reply("waiting", "") };
    let error = Explanation::parse(broken).unwrap_err();
    assert!(error.to_string().contains("malformed checkpoint"), "{error}");
}

#[test]
fn a_completed_trial_without_its_metric_says_what_it_reported() {
    #[track_caller]
    fn check(names: &[&str], expected: Option<&str>) {
        let metrics = names.iter().map(|name| ((*name).to_owned(), 0.5)).collect();
        let outcome = Outcome::Completed { metrics, checkpoint: None };
        let mut ended = reply("completed", "");
        ended.trial.as_mut().unwrap().outcome_json = serde_json::to_string(&outcome).unwrap();
        let explanation = Explanation::parse(ended).unwrap();
        assert_eq!(explanation.lacks_metric("mini-1", "loss").as_deref(), expected);
    }
    check(&["loss", "x"], None);
    check(
        &["val_loss", "x"],
        Some("`loss` is missing, so it gave mini-1 no result; it reported `val_loss`, `x`"),
    );
    check(&[], Some("`loss` is missing, so it gave mini-1 no result; it reported no metric"));
    let open = Explanation::parse(reply("running", "")).unwrap();
    assert_eq!(open.lacks_metric("mini-1", "loss"), None);
}
