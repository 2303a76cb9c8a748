//! Short trials that are granted ahead, in lines.

use super::lab::{Lab, TTL, completed, failed, key, spec};
use super::*;
use proto::FailureClass::Infrastructure;
use proto::{Resources, TrialSpec};
use studies::recipe::Policy;

/// Trials that take this long, of which the first has ended.
fn after_one(lab: Lab, ms: u64) -> Lab {
    let mut lab = lab.agent("a", 1);
    lab.expect(["lease 1/1 a[0]"]);
    lab.pass(ms);
    lab.ended("a", 1, 1, completed());
    lab
}

/// Trial 2 has the device and 3 is in line for it.
fn with_a_line() -> Lab {
    let mut lab = after_one(Lab::new().plan([spec(1), spec(2), spec(3)]), 5);
    lab.expect(["ended 1/1 completed", "lease 2/1 a[0]", "next 3/1 a[0]"]);
    lab
}

/// It was recalled, and begins anew when the device is free.
#[track_caller]
fn trial_3_is_given_back(lab: &mut Lab) {
    assert_eq!(lab.recalled("a"), [key(3, 1)]);
    lab.holds_only("a", &[(2, 1)]);
    lab.expect(["failed 3/1 cancelled"]);
    lab.ended("a", 2, 1, completed());
    lab.expect(["ended 2/1 completed", "lease 3/2 a[0]"]);
}

#[test]
fn short_trials_follow_each_other_in_whatever_order() {
    let mut lab = with_a_line();
    assert_eq!(lab.running_of_e(), 1, "one that is in line does not run");
    assert_eq!(lab.why(3), "its turn on agent a, after another trial of its experiment");
    lab.ended("a", 3, 1, completed());
    lab.expect(["ended 3/1 completed"]);
    assert_eq!(lab.running_of_e(), 1);
    lab.ended("a", 2, 1, completed());
    lab.expect(["ended 2/1 completed"]);
    let mut lab = lab.plan_for("f", [spec(4)]);
    lab.expect(["lease 4/1 a[0]"]);
}

#[test]
fn the_next_one_has_the_devices_when_the_first_is_gone() {
    let mut lab = with_a_line();
    lab.ended("a", 2, 1, completed());
    lab.expect(["ended 2/1 completed"]);
    assert_eq!(lab.running_of_e(), 1);
    let mut lab = lab.plan_for("f", [spec(4)]);
    lab.expect([]);
    lab.running("a", 3, 1);
    lab.ended("a", 3, 1, completed());
    lab.expect(["started 3/1", "ended 3/1 completed", "lease 4/1 a[0]"]);
}

#[test]
fn a_line_is_for_short_trials_that_take_nothing_but_cpu_slots() {
    let memory = |seed| TrialSpec {
        resources: Resources { memory_bytes: 1, ..Resources::default() },
        ..spec(seed)
    };
    for (trials, ms) in [
        ([spec(1), spec(2), spec(3)], 51),
        ([memory(1), memory(2), memory(3)], 5),
        // Of other shapes, so what one leaves is not what the next one takes.
        ([spec(1), spec(2), memory(3)], 5),
    ] {
        let mut lab = after_one(Lab::new().plan(trials), ms);
        lab.expect(["ended 1/1 completed", "lease 2/1 a[0]"]);
    }
}

#[test]
fn what_is_in_line_counts_against_the_limits() {
    let mut lab = Lab::new().plan([spec(1), spec(2), spec(3)]);
    lab.set_policy("e", Policy { at_once: Some(1), ..Policy::default() });
    let mut lab = after_one(lab, 5);
    lab.expect(["ended 1/1 completed", "lease 2/1 a[0]"]);
}

#[test]
fn nobody_is_in_line_while_another_experiment_waits() {
    let lab = with_a_line();
    assert_eq!(lab.recalled("a"), []);
    let mut lab = lab.plan_for("f", [spec(4)]);
    lab.expect([]);
    trial_3_is_given_back(&mut lab);
}

#[test]
fn one_that_has_begun_is_not_recalled() {
    let mut lab = with_a_line();
    lab.running("a", 3, 1);
    lab.expect(["started 3/1"]);
    let mut lab = lab.plan_for("f", [spec(4)]);
    lab.expect([]);
    assert_eq!(lab.recalled("a"), []);
}

#[test]
fn one_that_is_in_line_for_long_comes_back_and_proves_that_its_experiment_is_not_short() {
    let mut lab = with_a_line();
    lab.pass(999);
    lab.expect([]);
    assert_eq!(lab.recalled("a"), []);
    lab.pass(1);
    lab.expect([]);
    trial_3_is_given_back(&mut lab);
}

#[test]
fn a_line_outlives_the_coordinator() {
    let mut lab = with_a_line().restarted();
    lab.join_holding("a", 1, &[(2, 1), (3, 1)]);
    lab.expect([]);
    assert_eq!(lab.running_of_e(), 1);
    lab.ended("a", 2, 1, completed());
    lab.expect(["ended 2/1 completed"]);
    assert_eq!(lab.running_of_e(), 1);

    let mut lab = with_a_line().restarted();
    lab.join_holding("a", 1, &[(3, 1)]);
    lab.expect(["failed 2/1 infrastructure"]);
    assert_eq!(lab.running_of_e(), 1, "the next one has the device");
}

#[test]
fn a_line_of_an_agent_that_falls_silent_is_over() {
    let mut lab = with_a_line();
    lab.pass(TTL);
    lab.settle();
    assert_eq!((lab.running_of_e(), lab.leased()), (0, 0));
}

#[test]
fn an_attempt_that_fails_leaves_its_place_to_the_next() {
    let mut lab = with_a_line();
    lab.ended("a", 2, 1, failed(Infrastructure));
    lab.expect(["failed 2/1 infrastructure"]);
    assert_eq!(lab.running_of_e(), 1);
}

#[test]
fn what_was_in_line_on_an_agent_that_is_lost_has_not_failed() {
    let mut lab = with_a_line();
    lab.pass(TTL);
    lab.expect(["failed 2/1 infrastructure", "failed 3/1 cancelled"]);

    let mut lab = with_a_line();
    lab.join_holding("a", 1, &[(2, 1)]);
    lab.expect(["failed 3/1 cancelled"]);
}

#[test]
fn a_trial_that_is_tried_again_is_not_kept_waiting_by_lines() {
    let mut lab = after_one(Lab::new().plan([spec(1), spec(2), spec(3), spec(4)]), 5);
    lab.set_policy("e", Policy { at_once: Some(2), ..Policy::default() });
    lab.expect(["ended 1/1 completed", "lease 2/1 a[0]", "next 3/1 a[0]"]);
    lab.ended("a", 2, 1, failed(Infrastructure));
    lab.expect(["failed 2/1 infrastructure", "next 4/1 a[0]"]);
    lab.pass(BACKOFF_FIRST_MS);
    lab.ended("a", 3, 1, completed());
    lab.expect(["ended 3/1 completed"]);
    lab.ended("a", 4, 1, completed());
    lab.expect(["ended 4/1 completed", "lease 2/2 a[0]"]);
}
