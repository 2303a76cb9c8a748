//! Tables of facts about the core. The invariants run in the fixture after every step.

mod lab;
mod line;
mod placement;

use super::*;
use lab::{Lab, TTL, at_step, completed, failed, key, spec};
use proto::FailureClass::{Cancelled, Infrastructure, Invalid, Timeout, Trial as TrialClass};

#[test]
fn trials_go_to_free_cpus_in_planning_order() {
    let mut lab = Lab::new().agent("a", 2).plan([spec(1), spec(2), spec(3)]);
    lab.expect(["lease 1/1 a[0]", "lease 2/1 a[1]"]);
    lab.ended("a", 1, 1, completed());
    lab.expect(["ended 1/1 completed", "lease 3/1 a[0]"]);
}

#[test]
fn placing_again_without_a_change_places_nothing() {
    let mut lab = Lab::new().agent("a", 1).plan([spec(1), spec(2)]);
    lab.expect(["lease 1/1 a[0]"]);
    lab.expect([]);
}

#[test]
fn a_trial_that_two_experiments_want_runs_once() {
    let mut lab = Lab::new().agent("a", 4).plan([spec(1)]).plan_for("f", [spec(1), spec(2)]);
    lab.expect(["lease 1/1 a[0]", "lease 2/1 a[1]"]);
    lab.ended("a", 1, 1, completed());
    lab.expect(["ended 1/1 completed"]);
}

#[test]
fn a_late_report_of_an_expired_lease_is_refused() {
    let mut lab = Lab::new().agent("a", 1).agent("b", 1).plan([spec(1)]);
    lab.expect(["lease 1/1 a[0]"]);
    lab.pass(TTL - 1);
    lab.heartbeat("b");
    lab.expect([]);
    lab.pass(1);
    lab.expect(["failed 1/1 infrastructure"]);
    lab.pass(BACKOFF_FIRST_MS);
    lab.heartbeat("b");
    // Agent a is connected and has a free CPU slot, but nobody has heard it for a lease's term.
    lab.expect(["lease 1/2 b[0]"]);
    lab.ended("a", 1, 1, completed()).refused(1, 1);
    lab.expect([]);
    lab.ended("b", 1, 2, completed());
    lab.expect(["ended 1/2 completed"]);
}

#[test]
fn a_report_renews_its_leases() {
    let mut lab = Lab::new().agent("a", 1).plan([spec(1)]);
    lab.expect(["lease 1/1 a[0]"]);
    for _ in 0..5 {
        lab.pass(TTL - 1);
        lab.running("a", 1, 1);
    }
    lab.expect(["started 1/1"]);
}

#[test]
fn the_same_end_reported_twice_counts_once() {
    let mut lab = Lab::new().agent("a", 1).plan([spec(1)]);
    lab.expect(["lease 1/1 a[0]"]);
    lab.ended("a", 1, 1, completed());
    lab.ended("a", 1, 1, failed(TrialClass)).refused(1, 1);
    lab.expect(["ended 1/1 completed"]);
}

#[test]
fn an_end_that_another_agent_claims_is_refused() {
    let mut lab = Lab::new().agent("a", 1).agent("b", 1).plan([spec(1)]);
    lab.expect(["lease 1/1 a[0]"]);
    lab.ended("b", 1, 1, completed()).refused(1, 1);
    lab.expect([]);
}

#[test]
fn reports_of_a_replaced_session_are_rejected() {
    let mut lab = Lab::new().agent("a", 1).plan([spec(1)]);
    lab.expect(["lease 1/1 a[0]"]);
    lab.join_holding("a", 1, &[(1, 1)]);
    lab.expect([]);
    let old = lab.report_of_session("a", 1);
    assert!(matches!(old, Err(Rejection::StaleSession(_))), "{old:?}");
}

#[test]
fn an_agent_that_comes_back_without_its_attempt_frees_the_trial() {
    let mut lab = Lab::new().agent("a", 1).plan([spec(1)]);
    lab.expect(["lease 1/1 a[0]"]);
    lab.join_holding("a", 1, &[]);
    lab.expect(["failed 1/1 infrastructure"]);
    lab.pass(BACKOFF_FIRST_MS);
    lab.expect(["lease 1/2 a[0]"]);
}

#[test]
fn failures_are_repeated_by_class_and_up_to_their_cap() {
    for (class, attempts) in [(Infrastructure, 3), (TrialClass, 2), (Invalid, 1), (Timeout, 1)] {
        let retries = proto::Retries { infrastructure: 2, trial: 1 };
        let mut lab = Lab::new().agent("a", 1).plan([proto::TrialSpec { retries, ..spec(1) }]);
        for attempt in 1..=attempts {
            lab.expect([&*format!("lease 1/{attempt} a[0]")]);
            lab.ended("a", 1, attempt, failed(class));
            let word = if attempt < attempts { "failed" } else { "ended" };
            lab.expect([&*format!("{word} 1/{attempt} {}", class.word())]);
            lab.pass(BACKOFF_MAX_MS);
            lab.heartbeat("a");
        }
        lab.expect([]);
    }
}

#[test]
fn an_attempt_that_was_given_back_does_not_count_as_a_failure() {
    let mut lab = Lab::new().agent("a", 1).plan([spec(1)]);
    for attempt in 1..=20 {
        lab.expect([&*format!("lease 1/{attempt} a[0]")]);
        lab.ended("a", 1, attempt, failed(Cancelled));
        let expected = format!("failed 1/{attempt} cancelled");
        lab.expect_first(&expected);
    }
}

#[test]
fn an_agent_that_leaves_gets_no_further_leases() {
    let mut lab = Lab::new().agent("a", 1).agent("b", 1).plan([spec(1)]);
    lab.expect(["lease 1/1 a[0]"]);
    lab.leaving = true;
    lab.ended("a", 1, 1, failed(Cancelled));
    lab.expect(["failed 1/1 cancelled", "lease 1/2 b[0]"]);
}

#[test]
fn a_trial_that_makes_progress_survives_any_number_of_lost_machines() {
    let mut lab = Lab::new().agent("a", 1).plan([spec(1)]);
    for attempt in 1..=20 {
        lab.expect([&*format!("lease 1/{attempt} a[0]")]);
        lab.checkpoint("a", 1, attempt, at_step(attempt.into()));
        lab.join_holding("a", 1, &[]);
        let checkpoint = format!("checkpoint 1/{attempt} step {attempt}");
        lab.expect([&*checkpoint, &*format!("failed 1/{attempt} infrastructure")]);
        lab.pass(BACKOFF_FIRST_MS);
    }
}

#[test]
fn memory_is_promised_once() {
    let resources = proto::Resources { memory_bytes: 10 << 30, ..proto::Resources::default() };
    let big = |seed| proto::TrialSpec { resources: resources.clone(), ..spec(seed) };
    // The agent has 16 GiB.
    let mut lab = Lab::new().agent("a", 4).plan([big(1), big(2)]);
    assert_eq!(lab.leased(), 1);
    lab = lab.agent("b", 4);
    assert_eq!(lab.leased(), 2);
}

#[test]
fn a_resumed_trial_waits_until_its_old_attempt_has_let_go() {
    let mut lab = Lab::new().agent("a", 1).submit_sweep();
    assert_eq!(lab.leased(), 1);
    lab = lab.agent("b", 1);
    lab.cancel("s");
    lab.settle();
    lab.submit_again(false);
    assert_eq!(lab.leased(), 0, "agent a may still run it");
    lab.heartbeat("a");
    assert_eq!(lab.leased(), 1);
}

#[test]
fn a_pause_from_a_clock_that_was_ahead_does_not_last() {
    let mut lab = Lab::new().agent("a", 1).plan([spec(1)]);
    lab.expect(["lease 1/1 a[0]"]);
    lab.ended("a", 1, 1, failed(Infrastructure));
    lab.expect(["failed 1/1 infrastructure"]);
    let mut lab = lab.restarted_at(Timestamp(0));
    lab.pass(BACKOFF_MAX_MS);
    lab.join_holding("a", 1, &[]);
    lab.expect(["lease 1/2 a[0]"]);
}

#[test]
fn a_pause_doubles_up_to_its_limit() {
    let retries = proto::Retries { infrastructure: 99, trial: 0 };
    let mut lab = Lab::new().agent("a", 1).plan([proto::TrialSpec { retries, ..spec(1) }]);
    let mut pauses = Vec::new();
    for attempt in 1..=10 {
        lab.settle();
        lab.ended("a", 1, attempt, failed(Infrastructure));
        pauses.push(lab.last_pause_ms());
        lab.pass(BACKOFF_MAX_MS);
        lab.heartbeat("a");
    }
    let expected = [500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000];
    assert_eq!(pauses, expected);
}

#[test]
fn a_cancelled_experiment_gives_its_devices_back_once_the_agent_let_go() {
    let mut lab = Lab::new().agent("a", 1).plan([spec(1)]).plan_for("f", [spec(2)]);
    lab.expect(["lease 1/1 a[0]"]);
    lab.running("a", 1, 1);
    lab.cancel("e");
    lab.expect(["started 1/1", "experiment e cancelled", "failed 1/1 cancelled"]);
    // The agent does not know yet: the CPU slot is not free.
    lab.heartbeat_knowing("a", 0);
    lab.expect([]);
    lab.heartbeat("a");
    lab.expect(["lease 2/1 a[0]"]);
}

#[test]
fn a_cancelled_trial_that_another_experiment_wants_goes_on() {
    let mut lab = Lab::new().agent("a", 1).plan([spec(1)]).plan_for("f", [spec(1)]);
    lab.expect(["lease 1/1 a[0]"]);
    lab.cancel("e");
    lab.expect(["experiment e cancelled"]);
    lab.ended("a", 1, 1, completed());
    lab.expect(["ended 1/1 completed"]);
}

#[test]
fn the_agent_with_the_checkpoint_is_preferred() {
    let mut lab = Lab::new().agent("a", 1).agent("b", 9).plan([spec(1)]);
    lab.expect(["lease 1/1 b[0]"]);
    lab.leave("b");
    lab.pass(TTL);
    lab.expect(["failed 1/1 infrastructure"]);
    lab.join_holding("b", 9, &[]);
    lab.pass(BACKOFF_FIRST_MS);
    lab.expect(["lease 1/2 b[0]"]);
    lab.checkpoint("b", 1, 2, at_step(5));
    lab.join_holding("b", 1, &[]);
    lab.expect(["checkpoint 1/2 step 5", "failed 1/2 infrastructure"]);
    lab.pass(2 * BACKOFF_FIRST_MS);
    lab.expect(["lease 1/3 b[0]"]);
}

#[test]
fn checkpoints_of_an_old_attempt_are_ignored() {
    let mut lab = Lab::new().agent("a", 1).plan([spec(1)]);
    lab.expect(["lease 1/1 a[0]"]);
    lab.join_holding("a", 1, &[]);
    lab.pass(BACKOFF_FIRST_MS);
    lab.expect(["failed 1/1 infrastructure", "lease 1/2 a[0]"]);
    lab.checkpoint("a", 1, 1, at_step(9));
    lab.expect([]);
}

#[test]
fn after_a_restart_a_running_attempt_goes_on() {
    let mut lab = Lab::new().agent("a", 1).plan([spec(1)]);
    lab.expect(["lease 1/1 a[0]"]);
    lab.pass(10 * TTL);
    let mut lab = lab.restarted();
    lab.expect([]);
    lab.join_holding("a", 1, &[(1, 1)]);
    lab.running("a", 1, 1);
    lab.expect(["started 1/1"]);
    lab.ended("a", 1, 1, completed());
    lab.expect(["ended 1/1 completed"]);
}

#[test]
fn after_a_restart_an_agent_that_stays_away_loses_its_attempt() {
    let mut lab = Lab::new().agent("a", 1).plan([spec(1)]);
    lab.expect(["lease 1/1 a[0]"]);
    let mut lab = lab.restarted();
    lab.pass(TTL);
    lab.expect(["failed 1/1 infrastructure"]);
}

#[test]
fn a_trial_that_fits_nowhere_says_what_it_needs() {
    let resources = proto::Resources { gpus: 1, ..proto::Resources::default() };
    let mut lab = Lab::new().plan([proto::TrialSpec { resources, ..spec(1) }]);
    assert_eq!(lab.waiting_for(), "an agent: none is connected");
    lab = lab.agent("a", 4);
    lab.expect([]);
    assert_eq!(
        lab.waiting_for(),
        "an agent that can run it: none that is connected could (a: 0 fitting GPUs free, 1 wanted)"
    );
}

#[test]
fn a_failed_trial_runs_again_only_when_somebody_asks() {
    let mut lab = Lab::new().agent("a", 1).submit_sweep();
    let id = lab.only_trial();
    lab.settle();
    lab.ended_key("a", &AttemptKey { trial: id.clone(), ..key(1, 1) }, failed(TrialClass));
    lab.expect(["ended ?/1 failed", "experiment s failed"]);
    lab.submit_again(false);
    lab.expect([]);
    lab.submit_again(true);
    lab.expect(["experiment s resumed", "lease ?/2 a[0]"]);
    lab.ended_key("a", &AttemptKey { trial: id, ..key(1, 2) }, completed());
    lab.expect(["ended ?/2 completed", "experiment s complete"]);
}
