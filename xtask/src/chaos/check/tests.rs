use super::super::records::{parse_ledger, parse_records};
use super::*;

/// Events in short: `grant 1`, `fail 1 infrastructure`, `end 1 completed`, `start 1`, `over`,
/// `resume`. All are of the trial `t` of one experiment.
fn records(events: &[&str]) -> Vec<Record> {
    let line = |(place, event): (usize, &&str)| {
        let words: Vec<&str> = event.split(' ').collect();
        let attempt = |kind: &str, more: &str| {
            format!(r#"{{"event":"{kind}","trial":"t","attempt":{}{more}}}"#, words[1])
        };
        let outcome = || match words[2] {
            "completed" => {
                r#","outcome":{"state":"completed","metrics":{"steps":10.0}}"#.to_owned()
            }
            class => {
                format!(r#","outcome":{{"state":"failed","class":"{class}","message":"because"}}"#)
            }
        };
        let event = match words[0] {
            "grant" => attempt("lease_granted", ""),
            "start" => attempt("attempt_started", ""),
            "fail" => attempt("attempt_failed", &outcome()),
            "end" => attempt("trial_ended", &outcome()),
            "resume" => r#"{"event":"experiment_resumed"}"#.to_owned(),
            _ => r#"{"event":"experiment_ended"}"#.to_owned(),
        };
        format!(r#"{{"sequence":{place},"event":{event}}}"#)
    };
    parse_records(&events.iter().enumerate().map(line).collect::<Vec<_>>()).unwrap()
}

fn found(kind: Kind, events: &[&str], ledger: &str) -> Findings {
    let sweep = Sweep { number: 1, kind, trials: 1 };
    let experiment = Experiment { sweep, records: records(events) };
    check(&BTreeMap::from([("e".to_owned(), experiment)]), &parse_ledger(ledger).unwrap())
}

const CALM: [&str; 4] = ["grant 1", "start 1", "end 1 completed", "over"];
const TWICE: [&str; 6] =
    ["grant 1", "start 1", "fail 1 infrastructure", "grant 2", "end 2 completed", "over"];

#[test]
fn histories_without_a_contradiction() {
    for (kind, events, ledger) in [
        (Kind::Short, &CALM[..], "start t 1 0 0\ndone t 1 0 1\n"),
        (Kind::Noop, &CALM, ""),
        (Kind::Fail, &["grant 1", "end 1 trial", "over"], "start t 1 0 0\n"),
        (Kind::Gang, &CALM, "start t 1 1 0\nstart t 1 0 0\ndone t 1 1 2\ndone t 1 0 2\n"),
        // The first attempt did its work and was lost before that was heard.
        (Kind::Short, &TWICE, "start t 1 0 0\ndone t 1 0 1\nstart t 2 0 0\ndone t 2 0 1\n"),
        // Submitted once more after its end.
        (Kind::Noop, &["grant 1", "end 1 completed", "over", "resume", "over"], ""),
    ] {
        let findings = found(kind, events, ledger);
        assert_eq!(findings.contradictions, [""; 0], "{events:?} {ledger}");
        assert_eq!(findings.trials, 1);
    }
}

#[test]
fn a_resume_goes_on_from_the_newest_checkpoint_or_the_one_that_was_not_noted_any_more() {
    let ledger = |from: u64| {
        format!("start t 1 0 0\nsaved t 1 0 1\nsaved t 1 0 2\nstart t 2 0 {from}\ndone t 2 0 10\n")
    };
    for from in [2, 3] {
        let findings = found(Kind::Count, &TWICE, &ledger(from));
        assert_eq!(findings.contradictions, [""; 0]);
        assert_eq!((findings.resumes, findings.attempts), (1, 2));
    }
    for from in [0, 1, 4] {
        let findings = found(Kind::Count, &TWICE, &ledger(from));
        assert!(findings.contradictions[0].contains("began at step"), "{findings:?}");
    }
}

// Without room on the disk a program goes on, and what it saves next is not the next step.
#[test]
fn a_resume_may_leave_out_the_steps_that_found_no_room() {
    let ledger = |from: u64| {
        format!(
            "start t 1 0 0\nsaved t 1 0 1\nmissed t 1 0 2\nmissed t 1 0 3\nstart t 2 0 {from}\n\
             done t 2 0 10\n"
        )
    };
    for from in [1, 3, 4] {
        let findings = found(Kind::Count, &TWICE, &ledger(from));
        assert_eq!(findings.contradictions, [""; 0]);
    }
    for from in [0, 2, 5] {
        let findings = found(Kind::Count, &TWICE, &ledger(from));
        assert!(findings.contradictions[0].contains("began at step"), "{findings:?}");
    }
}

/// Kind of program, events, ledger, and words of a contradiction that must be found.
type Case<'a> = (Kind, &'a [&'a str], &'a str, &'a str);

#[track_caller]
fn expect_all(cases: &[Case]) {
    for (kind, events, ledger, expected) in cases {
        let contradictions = found(*kind, events, ledger).contradictions;
        let said = contradictions.iter().any(|words| words.contains(expected));
        assert!(said, "{expected}: {contradictions:?} of {events:?}, {ledger}");
    }
}

#[test]
fn records_that_contradict_each_other_are_found() {
    let done = "start t 1 0 0\ndone t 1 0 1\n";
    expect_all(&[
        (Kind::Short, &["grant 1", "over"][..], done, "wanted 1 trials, and 0 ended"),
        (Kind::Short, &CALM[..3], done, "has no record of its end"),
        (
            Kind::Short,
            &["grant 1", "end 1 completed", "end 1 completed", "over"],
            done,
            "ended its trial after attempt 1 had ended the trial as completed",
        ),
        (
            Kind::Short,
            &["grant 1", "end 1 completed", "grant 2", "over"],
            done,
            "attempt 2: leased after attempt 1 had ended the trial",
        ),
        (
            Kind::Short,
            &["grant 1", "grant 2", "end 2 completed", "over"],
            "done t 2 0 1\n",
            "leased while attempt 1 was not over",
        ),
        (
            Kind::Short,
            &["grant 1", "fail 1 infrastructure", "grant 3", "end 3 completed", "over"],
            "done t 3 0 1\n",
            "leased after attempt 1",
        ),
        (
            Kind::Short,
            &["grant 1", "fail 1 infrastructure", "grant 2", "end 1 completed", "over"],
            done,
            "ended its trial, but the newest lease is that of attempt 2",
        ),
        (
            Kind::Short,
            &["grant 1", "fail 1 infrastructure", "end 1 completed", "over"],
            done,
            "ended its trial after it had failed",
        ),
        (
            Kind::Short,
            &["grant 1", "fail 1 infrastructure", "fail 1 infrastructure", "over"],
            done,
            "failed twice",
        ),
        (Kind::Noop, &["end 0 cancelled", "over"], "", "a noop trial ended as cancelled"),
        (
            Kind::Short,
            &["grant 1", "end 1 trial", "over"],
            done,
            "a short trial ended as trial, not as completed: because",
        ),
        (Kind::Fail, &CALM, "start t 1 0 0\n", "a fail trial ended as completed"),
    ]);
}

#[test]
fn a_ledger_that_contradicts_the_records_is_found() {
    expect_all(&[
        (Kind::Gang, &CALM, "done t 1 0 2\n", "completed, but rank 1 did not do its work"),
        (Kind::Short, &CALM, "start t 1 0 0\n", "completed, but rank 0 did not do its work"),
        (Kind::Short, &CALM, "done t 1 0 1\ndone t 1 0 1\n", "Done twice by rank 0"),
        (Kind::Short, &CALM, "start t 1 0 0\nstart t 1 0 1\ndone t 1 0 1\n", "Start twice"),
        (Kind::Short, &CALM, "done t 1 0 1\nstart t 2 0 0\n", "its program ran without a lease"),
        (Kind::Short, &CALM, "done t 1 0 1\nstart u 1 0 0\n", "trial u, attempt 1: a program ran"),
        (Kind::Short, &TWICE, "start t 2 0 0\ndone t 1 0 1\ndone t 2 0 1\n", "its program still"),
        (Kind::Short, &CALM, "done t 1 0 9\n", "done after 9 steps"),
        (
            Kind::Short,
            &["grant 1", "fail 1 trial", "grant 2", "end 2 completed", "over"],
            "done t 1 0 1\ndone t 2 0 1\n",
            "its program did all its work, and it failed: trial: because",
        ),
    ]);
}

#[test]
fn records_out_of_order_are_found() {
    let mut records = records(&CALM);
    records.swap(0, 1);
    let sweep = Sweep { number: 1, kind: Kind::Noop, trials: 1 };
    let experiments = BTreeMap::from([("e".to_owned(), Experiment { sweep, records })]);
    assert!(check(&experiments, &[]).contradictions[0].contains("not in order"));
}

#[test]
fn steps_of_a_count_are_those_of_its_program() {
    let events = ["grant 1", "end 1 completed", "over"];
    assert!(found(Kind::Count, &events, "done t 1 0 10\n").contradictions.is_empty());
    let sweep = Sweep { number: 1, kind: Kind::Count, trials: 1 };
    let mut records = records(&events);
    if let Fact::Ended(_, outcome) = &mut records[1].fact {
        outcome.steps = Some(7.0);
    }
    let experiments = BTreeMap::from([("e".to_owned(), Experiment { sweep, records })]);
    let ledger = parse_ledger("done t 1 0 10\n").unwrap();
    let contradictions = check(&experiments, &ledger).contradictions;
    assert!(contradictions[0].contains("completed with 7 steps, not 10"), "{contradictions:?}");
}
