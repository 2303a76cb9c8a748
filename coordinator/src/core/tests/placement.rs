//! Who gets which trial, beyond free CPU slots: gangs, shares, alternatives, labels, priorities,
//! fair shares, limits, reservations, and agents that keep failing.

use super::lab::{Lab, TTL, capacity, completed, failed, spec, withdrawn};
use super::*;
use proto::FailureClass::{Cancelled, Infrastructure};
use proto::train::NUMERICS_LABEL;
use proto::{Devices, Placement, Resources, Retries, Runner, TrialSpec};
use studies::recipe::Policy;

fn wanting(seed: u64, resources: Resources) -> TrialSpec {
    TrialSpec { resources, ..spec(seed) }
}

fn gang(seed: u64, members: u32) -> TrialSpec {
    TrialSpec { placement: Placement { members, ..Placement::default() }, ..spec(seed) }
}

/// A trial on whole GPUs that may not fail even once.
fn on_gpus(seed: u64, gpus: u32) -> TrialSpec {
    let retries = Retries { infrastructure: 0, trial: 0 };
    TrialSpec { retries, ..wanting(seed, Resources { gpus, ..Resources::default() }) }
}

fn with_gpus(cpus: u32, gpus: u32) -> Capacity {
    let gpu = |index| Gpu { index, name: "g".into(), memory_bytes: 80 << 30 };
    Capacity { cpus, gpus: (0..gpus).map(gpu).collect(), ..capacity() }
}

#[test]
fn a_gang_gets_all_its_members_or_none() {
    let mut lab = Lab::new().agent("a", 2).plan([gang(1, 3)]);
    lab.expect([]);
    let mut lab = lab.agent("b", 1);
    lab.expect(["lease 1/1 a[0] a[1] b[0]"]);
}

#[test]
fn a_gang_ends_when_all_its_members_have_and_rank_0_speaks_for_it() {
    let mut lab = Lab::new().agent("a", 1).agent("b", 1).plan([gang(1, 2)]);
    lab.expect(["lease 1/1 a[0] b[0]"]);
    let second = AttemptKey { rank: 1, ..lab.key_of(1, 1) };
    lab.ended_key("b", &second, completed());
    lab.expect(["member 1 ended 1/1"]);
    lab.ended("a", 1, 1, completed());
    lab.expect(["ended 1/1 completed"]);
}

#[test]
fn a_gang_fails_with_its_first_member_and_the_others_let_go_before_it_begins_again() {
    let mut lab = Lab::new().agent("a", 1).agent("b", 1).plan([gang(1, 2)]);
    lab.expect(["lease 1/1 a[0] b[0]"]);
    let second = AttemptKey { rank: 1, ..lab.key_of(1, 1) };
    lab.ended_key("b", &second, failed(Infrastructure));
    lab.expect(["failed 1/1 infrastructure"]);
    lab.pass(BACKOFF_FIRST_MS);
    lab.heartbeat_knowing("a", 0);
    lab.heartbeat("b");
    lab.expect([]);
    lab.heartbeat("a");
    // Rank 0 goes elsewhere, as a trial alone would after a failure.
    lab.expect(["lease 1/2 b[0] a[0]"]);
}

// What is not refused is renewed by its agent; the lease of an attempt that is over is not.
#[test]
fn the_rest_of_a_gang_that_failed_is_refused_with_the_same_report() {
    let mut lab = Lab::new().agent("a", 2).plan([gang(1, 2)]);
    lab.expect(["lease 1/1 a[0] a[1]"]);
    let first = lab.key_of(1, 1);
    let second = AttemptKey { rank: 1, ..first.clone() };
    let lab = lab.ended_key("a", &first, failed(Infrastructure));
    assert_eq!(lab.refused, [second]);
}

#[test]
fn a_trial_starts_when_the_agent_of_its_last_attempt_is_forgotten() {
    let mut lab = Lab::new().agent("a", 1).plan([spec(1)]);
    lab.expect(["lease 1/1 a[0]"]);
    lab.cancel("e");
    assert_eq!(lab.leased(), 0);
    lab.leave("a");
    let mut lab = lab.plan_for("f", [spec(1)]).agent("b", 1);
    lab.pass(TTL - 1);
    lab.heartbeat("b");
    assert_eq!(lab.leased(), 0, "its process may still run");
    lab.pass(1);
    assert_eq!(lab.leased(), 1);
}

#[test]
fn shares_fill_one_gpu_before_they_open_another() {
    let share =
        |seed, milli| wanting(seed, Resources { gpu_share_milli: milli, ..Resources::default() });
    let mut lab = Lab::new().plan([share(1, 500), share(2, 600), share(3, 400)]);
    lab.join("a", with_gpus(4, 2), &[]).unwrap();
    lab.expect(["lease 1/1 a[0,gpu0]", "lease 2/1 a[1,gpu1]", "lease 3/1 a[2,gpu1]"]);
}

#[test]
fn a_whole_gpu_is_not_one_of_which_a_share_is_held() {
    let share = wanting(1, Resources { gpu_share_milli: 1, ..Resources::default() });
    let whole = wanting(2, Resources { gpus: 1, ..Resources::default() });
    let mut lab = Lab::new().plan([share, whole]);
    lab.join("a", with_gpus(4, 1), &[]).unwrap();
    lab.expect(["lease 1/1 a[0,gpu0]"]);
}

#[test]
fn a_withdrawn_gpu_gets_nothing_and_the_others_go_on() {
    let share = wanting(4, Resources { gpu_share_milli: 500, ..Resources::default() });
    let mut lab = Lab::new().plan([on_gpus(1, 1), on_gpus(2, 1)]);
    lab.join("a", with_gpus(4, 2), &[]).unwrap();
    lab.expect(["lease 1/1 a[0,gpu0]", "lease 2/1 a[1,gpu1]"]);
    lab.withdrawn = withdrawn(&[0]);
    lab.heartbeat("a");
    lab.expect([]);
    lab.ended("a", 1, 1, failed(Infrastructure));
    lab.expect(["ended 1/1 infrastructure"]);
    let mut lab = lab.plan_for("f", [on_gpus(3, 1), share]);
    lab.expect([]);
    lab.ended("a", 2, 1, completed());
    lab.expect(["ended 2/1 completed", "lease 3/1 a[0,gpu1]"]);
}

#[test]
fn a_trial_waits_for_a_withdrawn_gpu_as_for_one_that_is_not_there() {
    let reason = |offered: Capacity, lost: &[u32]| {
        let mut lab = Lab::new().plan([on_gpus(1, 2)]);
        lab.join("a", Capacity { withdrawn: withdrawn(lost), ..offered }, &[]).unwrap();
        lab.expect([]);
        lab.why(1)
    };
    let there = reason(with_gpus(4, 1), &[]);
    assert!(
        there.contains("none that is connected could (a: 1 fitting GPUs free, 2 wanted)"),
        "{there}"
    );
    assert_eq!(reason(with_gpus(4, 2), &[0]), there);
    assert_eq!(reason(with_gpus(4, 3), &[1, 2]), there);
}

#[test]
fn a_lease_on_its_way_to_a_withdrawn_gpu_costs_no_retry_and_goes_elsewhere_at_once() {
    let mut lab = Lab::new().plan([on_gpus(1, 1)]);
    lab.join("a", with_gpus(4, 2), &[]).unwrap();
    lab.expect(["lease 1/1 a[0,gpu0]"]);
    lab.withdrawn = withdrawn(&[0]);
    lab.says_nothing_of_its_leases("a");
    lab.expect(["failed 1/1 cancelled", "lease 1/2 a[0,gpu1]"]);
    // As a hello says it.
    lab.withdrawn = withdrawn(&[0, 1]);
    let capacity = Capacity { withdrawn: lab.withdrawn.clone(), ..with_gpus(4, 3) };
    lab.join("a", capacity, &[]).unwrap();
    lab.expect(["failed 1/2 cancelled", "lease 1/3 a[0,gpu2]"]);
    // What began and is gone has failed.
    lab.running("a", 1, 3);
    lab.withdrawn = withdrawn(&[2]);
    lab.says_nothing_of_its_leases("a");
    lab.expect(["started 1/3", "ended 1/3 infrastructure"]);
}

#[test]
fn the_newest_report_alone_says_what_is_withdrawn() {
    let mut lab = Lab::new().plan([on_gpus(1, 1)]);
    let capacity = Capacity { withdrawn: withdrawn(&[0]), ..with_gpus(1, 1) };
    lab.join("a", capacity, &[]).unwrap();
    let old = lab.empty_report("a");
    lab.withdrawn = withdrawn(&[0]);
    lab.heartbeat("a");
    lab.heartbeat("a");
    assert!(matches!(lab.report(old), Err(Rejection::StaleReport(_))));
    lab.expect([]);
    // It begins anew, and its driver lists the GPU.
    lab.join("a", with_gpus(1, 1), &[]).unwrap();
    lab.expect(["lease 1/1 a[0,gpu0]"]);
}

#[test]
fn a_gang_whose_member_lacks_its_gpu_lets_go_and_fails_nobody() {
    let placement = Placement { members: 2, ..Placement::default() };
    let mut lab = Lab::new().plan([TrialSpec { placement, ..on_gpus(1, 1) }]);
    lab.join("a", with_gpus(2, 1), &[]).unwrap();
    lab.join("b", with_gpus(2, 2), &[]).unwrap();
    lab.expect(["lease 1/1 a[0,gpu0] b[0,gpu0]"]);
    lab.running("a", 1, 1);
    lab.withdrawn = withdrawn(&[0]);
    lab.says_nothing_of_its_leases("b");
    lab.expect(["failed 1/1 cancelled"]);
    lab.withdrawn.clear();
    lab.heartbeat("a");
    lab.expect(["lease 1/2 a[0,gpu0] b[0,gpu1]"]);
}

#[test]
fn an_alternative_is_taken_when_the_first_choice_is_not_there() {
    let alternatives = vec![Resources { cpus: 2, ..Resources::default() }];
    let placement = Placement { alternatives, ..Placement::default() };
    let resources = Resources { gpus: 1, ..Resources::default() };
    let trial = TrialSpec { resources, placement, ..spec(1) };
    let mut lab = Lab::new().agent("a", 2).plan([trial]);
    lab.expect(["lease 1/1 a[0,1]"]);
}

#[test]
fn labels_and_extras_must_be_there() {
    let labels = BTreeMap::from([("zone".into(), "b".into())]);
    let placement = Placement { labels, ..Placement::default() };
    let extras = BTreeMap::from([("licence".into(), 1)]);
    let licensed =
        |seed| wanting(seed, Resources { extras: extras.clone(), ..Resources::default() });
    let trials = [TrialSpec { placement, ..spec(1) }, licensed(2), licensed(3)];
    let mut lab = Lab::new().agent("a", 4).plan(trials);
    lab.expect([]);
    let labels = BTreeMap::from([("zone".into(), "b".into())]);
    let b = Capacity { cpus: 4, labels, extras: extras.clone(), ..capacity() };
    lab.join("b", b, &[]).unwrap();
    lab.expect(["lease 1/1 b[0]", "lease 2/1 b[1]"]);
}

// Goal: during an upgrade a training waits for an agent with its own arithmetic; another would
// refuse it for good.
#[test]
fn a_training_goes_to_an_agent_with_its_arithmetic() {
    let text = concat!(
        r#"{"numerics":7,"model":{"vocabulary":256,"sequence":8,"width":8,"layers":1,"heads":2,"#,
        r#""mlp_width":8,"mlp":"gelu","tied":false,"positions":"rotary","norm":"rms_norm"},"#,
        r#""data":{"text":{"blob":""#,
        "0000000000000000000000000000000000000000000000000000000000000000",
        r#"","bytes":7},"format":"bytes","held_out":0.1},"batch":1,"steps":1,"#,
        r#""optimizer":{"learning_rate":0.1,"beta1":0.9,"beta2":0.9,"epsilon":1e-8,"#,
        r#""weight_decay":0.1,"clip":1.0},"schedule":{"warmup":0.1,"decay":0.2},"#,
        r#""validation":{"every_steps":0,"tokens":8}}"#,
    );
    let training = |text: &str| Runner::Train(Box::new(serde_json::from_str(text).unwrap()));
    // The last version that had no label.
    let older = training(&text.replace(r#""numerics":7"#, r#""numerics":2"#));
    let trials = [
        TrialSpec { runner: training(text), ..spec(1) },
        spec(2),
        TrialSpec { runner: older, ..spec(3) },
    ];
    let mut lab = Lab::new().agent("old", 2).plan(trials);
    lab.expect(["lease 2/1 old[0]", "lease 3/1 old[1]"]);
    for (name, label) in [("older", "6"), ("odd", "seven")] {
        let labels = BTreeMap::from([(NUMERICS_LABEL.to_owned(), label.to_owned())]);
        lab.join(name, Capacity { labels, ..capacity() }, &[]).unwrap();
        lab.expect([]);
    }
    let why = lab.why(1);
    assert!(why.contains("arithmetic 6, not 7") && why.contains("unknown version"), "{why}");
    let labels = BTreeMap::from([(NUMERICS_LABEL.to_owned(), "7".to_owned())]);
    lab.join("new", Capacity { labels, ..capacity() }, &[]).unwrap();
    lab.expect(["lease 1/1 new[0]"]);
}

#[test]
fn a_shared_trial_keeps_its_own_shape_and_holds_nobody_up() {
    let labels = BTreeMap::from([("zone".into(), "b".into())]);
    let placement = Placement { labels, ..Placement::default() };
    let labelled = TrialSpec { placement, ..spec(1) };
    let mut lab = Lab::new().agent("a", 2).plan([labelled]);
    lab.expect([]);
    let mut lab = lab.plan_for("f", [spec(1), spec(2)]);
    lab.expect(["lease 2/1 a[0]"]);
}

#[test]
fn a_higher_priority_takes_the_place_of_the_newest_lower_one() {
    let mut lab = Lab::new().agent("a", 2).plan([spec(1)]);
    lab.expect(["lease 1/1 a[0]"]);
    lab.pass(1);
    let mut lab = lab.plan_for("f", [spec(2)]);
    lab.expect(["lease 2/1 a[1]"]);
    let mut lab = lab.plan_for("g", [spec(3)]);
    lab.set_policy("g", Policy { priority: 1, ..Policy::default() });
    lab.expect(["preempted 2/1 by 3"]);
    lab.expect([]);
    lab.ended("a", 2, 1, failed(Cancelled));
    lab.expect(["failed 2/1 cancelled", "lease 3/1 a[1]"]);
}

#[test]
fn what_does_not_give_way_is_taken_back_after_a_while() {
    let mut lab = Lab::new().agent("a", 1).plan([spec(1)]);
    lab.expect(["lease 1/1 a[0]"]);
    let mut lab = lab.plan_for("f", [spec(2)]);
    lab.set_policy("f", Policy { priority: 1, ..Policy::default() });
    lab.expect(["preempted 1/1 by 2"]);
    for _ in 0..YIELD_MS / (TTL - 1) {
        lab.pass(TTL - 1);
        lab.running("a", 1, 1);
    }
    lab.pass(YIELD_MS % (TTL - 1));
    lab.expect(["started 1/1", "failed 1/1 cancelled"]);
    lab.heartbeat("a");
    lab.expect(["lease 2/1 a[0]"]);
}

#[test]
fn equal_experiments_take_turns_and_weights_count() {
    let mut lab = Lab::new().plan([spec(1), spec(2), spec(3)]).plan_for("f", [spec(4), spec(5)]);
    lab.set_policy("f", Policy { weight: 2.0, ..Policy::default() });
    let mut lab = lab.agent("a", 4);
    lab.expect(["lease 1/1 a[0]", "lease 4/1 a[1]", "lease 5/1 a[2]", "lease 2/1 a[3]"]);
}

#[test]
fn a_user_with_many_experiments_gets_no_more_than_one_with_few() {
    let mut lab = Lab::new().plan([spec(1), spec(2)]).plan_for("f", [spec(3), spec(4)]);
    let mut lab2 = lab.plan_for("g", [spec(5), spec(6)]);
    lab2.set_user("e", "ada");
    lab2.set_user("f", "ada");
    lab2.set_user("g", "emmy");
    lab = lab2.agent("a", 4);
    lab.expect(["lease 1/1 a[0]", "lease 5/1 a[1]", "lease 3/1 a[2]", "lease 6/1 a[3]"]);
}

#[test]
fn limits_keep_trials_waiting_and_say_so() {
    let mut lab = Lab::new().agent("a", 4).plan([spec(1), spec(2), spec(3)]);
    lab.set_policy("e", Policy { at_once: Some(1), trials: Some(2), ..Policy::default() });
    lab.expect(["lease 1/1 a[0]"]);
    assert!(lab.why(2).contains("trials_at_once is 1"), "{}", lab.why(2));
    lab.ended("a", 1, 1, completed());
    lab.expect(["ended 1/1 completed", "lease 2/1 a[0]"]);
    lab.ended("a", 2, 1, completed());
    lab.expect(["ended 2/1 completed"]);
    assert!(lab.why(3).contains("the limit trials is 2"), "{}", lab.why(3));
}

#[test]
fn gpu_hours_that_are_used_up_stop_new_leases() {
    let gpu = |seed| wanting(seed, Resources { gpus: 1, ..Resources::default() });
    let mut lab = Lab::new().plan([gpu(1), gpu(2)]);
    lab.join("a", with_gpus(1, 1), &[]).unwrap();
    lab.set_policy("e", Policy { gpu_hours: Some(0.001), ..Policy::default() });
    lab.expect(["lease 1/1 a[0,gpu0]"]);
    lab.pass(3_600);
    lab.ended("a", 1, 1, completed());
    lab.expect(["ended 1/1 completed"]);
    assert!(lab.why(2).contains("gpu_hours"), "{}", lab.why(2));
}

#[test]
fn a_big_trial_is_overtaken_but_not_for_ever() {
    let big = wanting(1, Resources { cpus: 2, ..Resources::default() });
    let mut lab = Lab::new().agent("a", 2).plan([spec(2), spec(3)]);
    lab.expect(["lease 2/1 a[0]", "lease 3/1 a[1]"]);
    let mut lab = lab.plan_for("f", [big, spec(4)]);
    lab.ended("a", 2, 1, completed());
    lab.expect(["ended 2/1 completed", "lease 4/1 a[0]"]);
    for _ in 0..=schedule::RESERVE_AFTER_MS / (TTL - 1) {
        lab.pass(TTL - 1);
        lab.heartbeat("a");
    }
    let mut lab = lab.plan_for("g", [spec(5)]);
    lab.ended("a", 4, 1, completed());
    lab.expect(["ended 4/1 completed"]);
    lab.ended("a", 3, 1, completed());
    lab.expect(["ended 3/1 completed", "lease 1/1 a[0,1]"]);
}

// Goal: what a program keeps for its next attempt lies on its machine; a machine that failed is no
// home.
#[test]
fn a_program_goes_back_to_its_machine() {
    for (class, home) in [(Cancelled, "b"), (Infrastructure, "a")] {
        let mut lab = Lab::new().agent("b", 1).plan([spec(1)]);
        lab.expect(["lease 1/1 b[0]"]);
        let mut lab = lab.agent("a", 9);
        lab.ended("b", 1, 1, failed(class));
        lab.pass(BACKOFF_FIRST_MS);
        lab.heartbeat("b");
        lab.heartbeat("a");
        lab.settle();
        lab.expect_last(&format!("lease 1/2 {home}[0]"));
    }
}

#[test]
fn an_agent_that_keeps_failing_is_avoided() {
    let mut lab = Lab::new().agent("a", 9).agent("b", 1).plan([spec(1), spec(2), spec(3)]);
    lab.set_policy("e", Policy { at_once: Some(1), ..Policy::default() });
    for (seed, next) in [(1, "2/1 a"), (2, "3/1 a")] {
        lab.settle();
        lab.ended("a", seed, 1, failed(Infrastructure));
        lab.expect_last(&format!("lease {next}[0]"));
    }
    lab.ended("a", 3, 1, failed(Infrastructure));
    lab.pass(BACKOFF_FIRST_MS);
    lab.heartbeat("b");
    lab.heartbeat("a");
    lab.settle();
    lab.expect_last("lease 1/2 b[0]");
}

#[test]
fn a_second_agent_of_one_name_is_refused_while_the_first_is_heard() {
    let mut lab = Lab::new().agent("a", 1);
    let second = |lab: &mut Lab, session| {
        let agent = proto::AgentId::new("a").unwrap();
        let capacity = capacity();
        lab.join_as(Join { agent, instance: 2, number: 1, session, capacity, running: vec![] })
    };
    assert!(matches!(second(&mut lab, 90), Err(Rejection::NameTaken(_))));
    lab.pass(TTL);
    assert_eq!(second(&mut lab, 91), Ok(()));
}

#[test]
fn a_hello_that_was_overtaken_by_a_newer_one_is_refused() {
    let mut lab = Lab::new().agent("a", 1).plan([spec(1)]);
    lab.expect(["lease 1/1 a[0]"]);
    let agent = proto::AgentId::new("a").unwrap();
    let old =
        Join { agent, instance: 1, number: 0, session: 99, capacity: capacity(), running: vec![] };
    assert!(matches!(lab.join_as(old), Err(Rejection::StaleSession(_))));
    lab.expect([]);
}

#[test]
fn a_lease_that_a_leaving_agent_did_not_take_up_is_free_at_once() {
    let mut lab = Lab::new().agent("a", 1).agent("b", 1).plan([spec(1)]);
    lab.expect(["lease 1/1 a[0]"]);
    lab.leaving = true;
    lab.says_nothing_of_its_leases("a");
    lab.leaving = false;
    lab.expect(["failed 1/1 cancelled", "lease 1/2 b[0]"]);
}

#[test]
fn what_devices_count_for_in_a_fair_share() {
    let devices = |cpus: u32, gpus: u32, milli| Devices {
        cpus: (0..cpus).collect(),
        gpus: (0..gpus).collect(),
        gpu_share_milli: milli,
    };
    for (held, expected) in [
        (devices(0, 0, 0), 1),
        (devices(2, 0, 0), 2_000),
        (devices(1, 1, 0), 17_000),
        (devices(1, 1, 250), 5_000),
    ] {
        assert_eq!(state::units(&held), expected, "{held:?}");
    }
}
