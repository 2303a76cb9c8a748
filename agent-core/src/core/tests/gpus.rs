//! What the GPUs' drivers report, and whose failure it is.

use super::*;
use crate::xid::HEARD_LATE_MS;
use FailureClass::{Infrastructure, Trial};

fn on_gpu(trial: &str, attempt: u32, cpu: u32, gpu: u32) -> Lease {
    let mut lease = lease(trial, attempt, cpu);
    lease.devices.gpus = vec![gpu];
    lease
}

fn failed() -> Outcome {
    Outcome::failed(FailureClass::Trial, "x")
}

fn classes(report: &Report) -> Vec<FailureClass> {
    let class = |(_, outcome): &(AttemptKey, Outcome)| match outcome {
        Outcome::Failed { class, .. } => *class,
        Outcome::Completed { .. } | Outcome::Diverged { .. } => panic!("{outcome:?}"),
    };
    report.ended.iter().map(class).collect()
}

#[test]
fn an_error_of_a_gpu_is_that_of_the_attempts_that_run_on_it() {
    let mut lab = Lab::connected();
    lab.put(Input::Xid { gpu: 0, number: 48 });
    let leases = [on_gpu("a", 1, 0, 0), on_gpu("b", 1, 1, 1), on_gpu("c", 1, 2, 2)];
    lab.at(1).assign(1, &leases);
    lab.at(6).put(Input::Xid { gpu: 1, number: 48 });
    for trial in ["a", "b", "c"] {
        lab.exit(trial, 1, failed());
    }
    // The word about the third comes after its end.
    lab.at(6 + HEARD_LATE_MS - 1).put(Input::Xid { gpu: 2, number: 94 });
    assert_eq!(lab.report().ended, []);
    lab.at(6 + HEARD_LATE_MS).put(Input::Tick);
    assert!(lab.core.report_is_due());
    assert_eq!(classes(&lab.report()), [Trial, Infrastructure, Infrastructure]);
}

#[test]
fn what_fails_on_a_gpu_keeps_it_until_its_driver_had_time_to_speak() {
    let mut lab = Lab::connected();
    let (a, b) = (on_gpu("a", 1, 0, 0), on_gpu("b", 1, 1, 0));
    let started = |lease: &Lease| {
        let (lease, lease_until) = (Box::new(lease.clone()), Moment(TTL_MS));
        Effect::Start { lease, lease_until }
    };
    lab.assign(1, &[a.clone(), b.clone()]).expect(&[started(&a)]);
    lab.at(100).exit("a", 1, failed()).expect(&[]);
    assert_eq!(lab.core.next_deadline(), Some(Moment(100 + HEARD_LATE_MS)));
    // As running, so that nobody gives its place away.
    assert_eq!(lab.report().running, [(key("a", 1), false), (key("b", 1), false)]);
    lab.at(100 + HEARD_LATE_MS).put(Input::Tick).expect(&[started(&b)]);
    // An error of the first one's program that is heard even later is not the second one's.
    lab.put(Input::Xid { gpu: 0, number: 31 });
    lab.at(9_000).put(exited("b", 1, None));
    lab.at(9_000 + HEARD_LATE_MS).put(Input::Tick);
    assert_eq!(classes(&lab.report()), [Trial, Infrastructure]);
}

#[test]
fn only_what_an_error_may_explain_is_told_late() {
    let end = |outcome| Some(TrialEnd::Outcome(outcome));
    for (end, gpus, expected) in [
        (end(failed()), vec![0], false),
        (None, vec![0], false),
        (end(failed()), vec![], true),
        (end(completed()), vec![0], true),
        (end(Outcome::failed(Infrastructure, "no room on the disk")), vec![0], true),
    ] {
        let mut lab = Lab::connected();
        let mut lease = lease("a", 1, 0);
        lease.devices.gpus = gpus;
        lab.assign(1, &[lease]).put(exited("a", 1, end.clone()));
        assert_eq!(lab.report().ended.len() == 1, expected, "{end:?}");
    }
}

#[test]
fn an_attempt_that_is_listened_for_can_be_taken_back() {
    let mut lab = Lab::connected();
    lab.assign(1, &[on_gpu("a", 1, 0, 0)]).exit("a", 1, failed());
    lab.assign(2, &[on_gpu("b", 1, 1, 0)]);
    assert_eq!(lab.processes.keys().collect::<Vec<_>>(), [&key("b", 1)]);
    assert_eq!(lab.report().running, [(key("b", 1), false)]);
    lab.assign(3, &[on_gpu("a", 1, 0, 1)]).expect(&[Effect::Stop(key("b", 1))]);
}

#[test]
fn a_lost_gpu_explains_every_failure_of_what_ran_there() {
    let mut lab = Lab::connected();
    lab.assign(1, &[on_gpu("a", 1, 0, 0), on_gpu("b", 1, 1, 1)]);
    lab.put(Input::Xid { gpu: 0, number: 79 });
    let heartbeat_ms = TTL_MS / 2;
    let end = 20 * 60_000;
    for at in (heartbeat_ms..=end).step_by(heartbeat_ms as usize) {
        lab.at(at);
        let sequence = lab.report().sequence;
        lab.reply(sequence, &[]);
    }
    lab.exit("a", 1, failed()).exit("b", 1, failed());
    lab.at(end + HEARD_LATE_MS).put(Input::Tick);
    assert_eq!(classes(&lab.report()), [Infrastructure, Trial]);
}

#[test]
fn a_gpu_that_is_lost_is_withdrawn_once_and_said_in_every_report() {
    let mut lab = Lab::connected();
    assert_eq!(lab.report().withdrawn, BTreeMap::new());
    lab.put(Input::Xid { gpu: 0, number: 48 }).expect(&[]);
    lab.put(Input::Xid { gpu: 1, number: 79 });
    let [Effect::Withdrawn { gpu: 1, reason }] = &lab.effects[..] else {
        panic!("{:?}", lab.effects)
    };
    let expected = BTreeMap::from([(1, reason.clone())]);
    assert!(reason.starts_with("GPU 1 reported Xid 79 ("), "{reason}");
    assert!(lab.core.report_is_due());
    lab.put(Input::Xid { gpu: 1, number: 62 }).expect(&[]);
    lab.put(Input::Xid { gpu: 1, number: 79 }).expect(&[]);
    assert_eq!(lab.report().withdrawn, expected);
    lab.put(Input::Disconnected);
    assert_eq!(*lab.core.withdrawn(), expected, "the next hello says it");
    lab.connect();
    assert_eq!(lab.report().withdrawn, expected);
}

#[test]
fn what_is_on_its_way_to_a_lost_gpu_is_given_back_and_the_rest_goes_on() {
    let mut lab = Lab::connected();
    let mut both = on_gpu("d", 1, 3, 1);
    both.devices.gpus.push(0);
    // The second one waits for the first one's GPU.
    lab.assign(1, &[on_gpu("a", 1, 0, 0), on_gpu("b", 1, 1, 0), on_gpu("c", 1, 2, 2)]);
    let held = |report: Report| report.running.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    assert_eq!(held(lab.report()), [key("a", 1), key("b", 1), key("c", 1)]);
    lab.put(Input::Xid { gpu: 0, number: 79 });
    assert_eq!(held(lab.report()), [key("a", 1), key("c", 1)]);
    let all = [on_gpu("a", 1, 0, 0), on_gpu("c", 1, 2, 2), both, on_gpu("e", 1, 4, 0)];
    lab.assign(2, &all).expect(&[]);
    assert!(lab.core.report_is_due());
    assert_eq!(held(lab.report()), [key("a", 1), key("c", 1)]);
    // What a report has left out never begins, and what runs is not disturbed.
    lab.assign(3, &all).expect(&[]);
    lab.assign(4, &[on_gpu("a", 1, 0, 0), on_gpu("c", 1, 2, 2), on_gpu("f", 1, 5, 1)]);
    assert_eq!(held(lab.report()), [key("a", 1), key("c", 1), key("f", 1)]);
}

#[test]
fn what_was_given_back_without_a_session_is_not_in_the_next_hello() {
    let mut lab = Lab::connected();
    lab.assign(1, &[on_gpu("a", 1, 0, 0), on_gpu("b", 1, 1, 0)]).put(Input::Disconnected);
    lab.put(Input::Xid { gpu: 0, number: 62 });
    assert_eq!(lab.core.held(), [(key("a", 1), false)]);
    // The coordinator heard a hello that was said before.
    lab.connect().assign(2, &[on_gpu("a", 1, 0, 0), on_gpu("b", 1, 1, 0)]);
    assert_eq!(lab.report().running, [(key("a", 1), false)]);
}

#[test]
fn a_coordinator_that_does_not_know_of_withdrawn_gpus_is_served_as_before() {
    let mut lab = Lab::connected();
    lab.heeds_withdrawn = false;
    lab.connect().put(Input::Xid { gpu: 0, number: 79 });
    lab.assign(1, &[on_gpu("a", 1, 0, 0)]);
    assert_eq!(lab.processes.keys().collect::<Vec<_>>(), [&key("a", 1)]);
    lab.exit("a", 1, failed()).at(HEARD_LATE_MS).put(Input::Tick);
    assert_eq!(classes(&lab.report()), [Infrastructure]);
}
