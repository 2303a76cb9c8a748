//! Attempts that wait for their devices or for a renewal.

use super::*;

#[test]
fn a_recalled_attempt_is_given_back_unless_it_has_begun() {
    let mut lab = Lab::connected();
    // Both want CPU 0, so one of them is in line.
    let (first, next) = (lease("a", 1, 0), lease("c", 1, 0));
    lab.assign(1, &[first.clone(), next.clone()]).expect(&[start("a", 1, TTL_MS)]);
    assert!(lab.core.has_next());
    let recalled = |lease: Lease| Lease { recalled: true, ..lease };
    lab.assign(2, &[recalled(first), recalled(next)]).expect(&[]);
    assert!(lab.core.report_is_due() && !lab.core.has_next());
    assert_eq!(lab.report().running, [(key("a", 1), false)]);
    lab.put(exited("a", 1, Some(TrialEnd::Outcome(completed())))).expect(&[]);
    // What the report said must stay true, whatever else is on its way.
    lab.assign(3, &[lease("c", 1, 0)]).expect(&[]);
}

#[test]
fn a_lease_that_comes_after_a_long_silence_is_held_and_begins_when_it_is_renewed() {
    let mut lab = Lab::connected();
    lab.at(TTL_MS + 1).assign(1, &[lease("a", 1, 0)]).expect(&[]);
    let report = lab.report();
    assert_eq!(report.running, [(key("a", 1), false)], "or it would count as lost");
    lab.reply(report.sequence, &[]).expect(&[start("a", 1, 2 * TTL_MS + 1)]);
}

#[test]
fn a_waiting_lease_that_expired_does_not_begin() {
    let mut lab = Lab::connected();
    lab.assign(1, &[lease("a", 1, 0)]);
    lab.assign(2, &[lease("b", 1, 0)]).expect(&[Effect::Stop(key("a", 1))]);
    lab.at(TTL_MS).put(Input::Tick).expect(&[Effect::Kill(key("a", 1))]);
    lab.put(exited("a", 1, None)).expect(&[]);
    assert_eq!(lab.report().running, [(key("b", 1), false)]);
}
