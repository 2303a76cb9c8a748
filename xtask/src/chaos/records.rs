//! The records of one experiment, as `brine watch --output json` prints them, and the ledger that
//! the trials' programs write.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// A record that says something about trials or the experiment's state.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Record {
    /// Its place in the journal.
    pub(crate) sequence: u64,
    /// What it says.
    pub(crate) fact: Fact,
}

/// What the checker looks at of an event.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fact {
    /// An attempt was leased.
    Granted(Attempt),
    /// An attempt failed, and the trial goes on.
    Failed(Attempt, Outcome),
    /// A trial ended for good.
    Ended(Attempt, Outcome),
    /// Something happened to an attempt that leaves it alive.
    Lives(Attempt),
    /// The experiment ended.
    ExperimentEnded,
    /// The experiment goes on after its end.
    ExperimentResumed,
    /// Anything else that is known to happen.
    Other,
}

/// One try of a trial.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Attempt {
    /// The trial's id.
    pub(crate) trial: String,
    /// From 1; 0 for a trial that ended without one.
    pub(crate) number: u64,
}

/// How an attempt or a trial ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outcome {
    /// `completed`, `diverged` or the class of the failure.
    pub(crate) word: String,
    /// The failure's message; empty when there is none.
    pub(crate) message: String,
    /// Final value of the metric `steps`, where the program reported it.
    pub(crate) steps: Option<f64>,
}

/// Reads the lines of `brine watch --output json`.
///
/// # Errors
/// A line is no record, or an event that this checker does not know: it would not be checked.
pub(crate) fn parse_records(lines: &[String]) -> Result<Vec<Record>> {
    let parse = |line: &String| parse_record(line).with_context(|| format!("the record {line}"));
    lines.iter().map(parse).collect()
}

fn parse_record(line: &str) -> Result<Record> {
    let json: Value = serde_json::from_str(line).context("is not JSON")?;
    let sequence = json["sequence"].as_u64().context("has no sequence")?;
    let event = &json["event"];
    let attempt = || -> Result<Attempt> {
        let trial = event["trial"].as_str().context("names no trial")?.to_owned();
        Ok(Attempt { trial, number: event["attempt"].as_u64().context("names no attempt")? })
    };
    let fact = match event["event"].as_str().context("has no event")? {
        "lease_granted" => Fact::Granted(attempt()?),
        "attempt_failed" => Fact::Failed(attempt()?, parse_outcome(&event["outcome"])?),
        "trial_ended" => Fact::Ended(attempt()?, parse_outcome(&event["outcome"])?),
        "attempt_started" | "attempt_preempted" | "member_ended" | "measured" | "noticed" => {
            Fact::Lives(attempt()?)
        }
        "experiment_ended" => Fact::ExperimentEnded,
        "experiment_resumed" => Fact::ExperimentResumed,
        "experiment_submitted"
        | "recipe_changed"
        | "trials_planned"
        | "range_planned"
        | "trials_drawn"
        | "checkpoint_saved" => Fact::Other,
        other => bail!("is of the unknown kind {other}"),
    };
    Ok(Record { sequence, fact })
}

fn parse_outcome(json: &Value) -> Result<Outcome> {
    let state = json["state"].as_str().context("has an outcome without a state")?;
    let word = match state {
        "failed" => json["class"].as_str().context("has a failure without a class")?,
        state => state,
    };
    Ok(Outcome {
        word: word.to_owned(),
        message: json["message"].as_str().unwrap_or_default().to_owned(),
        steps: json["metrics"]["steps"].as_f64(),
    })
}

/// One line of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// What the program did.
    pub(crate) deed: Deed,
    /// In which attempt.
    pub(crate) attempt: Attempt,
    /// As which member of a gang; 0 otherwise.
    pub(crate) rank: u32,
    /// Steps done then.
    pub(crate) steps: u64,
}

/// What a program says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Deed {
    /// It began, with the steps of its checkpoint.
    Start,
    /// It wrote a checkpoint.
    Saved,
    /// It could not write one, and went on.
    Missed,
    /// It is about to end with exit code 0.
    Done,
}

/// Reads the ledger.
///
/// # Errors
/// A line is none: then the ledger itself is broken, and the check would be worth nothing.
pub(crate) fn parse_ledger(text: &str) -> Result<Vec<Line>> {
    let parse = |line| parse_line(line).with_context(|| format!("the line {line:?} of the ledger"));
    text.lines().map(parse).collect()
}

fn parse_line(line: &str) -> Result<Line> {
    let words: Vec<&str> = line.split(' ').collect();
    let [deed, trial, attempt, rank, steps] = words[..] else {
        bail!("has {} words", words.len());
    };
    let deed = match deed {
        "start" => Deed::Start,
        "saved" => Deed::Saved,
        "missed" => Deed::Missed,
        "done" => Deed::Done,
        other => bail!("begins with {other}"),
    };
    ensure!(!trial.is_empty(), "names no trial");
    Ok(Line {
        deed,
        attempt: Attempt { trial: trial.to_owned(), number: attempt.parse()? },
        rank: rank.parse()?,
        steps: steps.parse()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_brine_prints_them() {
        let attempt = |number| Attempt { trial: "ab".into(), number };
        let outcome = |word: &str, message: &str, steps| Outcome {
            word: word.into(),
            message: message.into(),
            steps,
        };
        for (event, expected) in [
            (
                r#"{"event":"lease_granted","trial":"ab","attempt":2,"agent":"a"}"#,
                Fact::Granted(attempt(2)),
            ),
            (
                r#"{"event":"attempt_failed","trial":"ab","attempt":1,"outcome":
                   {"state":"failed","class":"infrastructure","message":"gone"},"retry_at":5}"#,
                Fact::Failed(attempt(1), outcome("infrastructure", "gone", None)),
            ),
            (
                r#"{"event":"trial_ended","trial":"ab","attempt":1,"outcome":
                   {"state":"completed","metrics":{"steps":8.0},"checkpoint":null}}"#,
                Fact::Ended(attempt(1), outcome("completed", "", Some(8.0))),
            ),
            (r#"{"event":"attempt_started","trial":"ab","attempt":3}"#, Fact::Lives(attempt(3))),
            (r#"{"event":"experiment_ended","state":"complete"}"#, Fact::ExperimentEnded),
            (r#"{"event":"range_planned","count":3}"#, Fact::Other),
        ] {
            let line = format!(r#"{{"sequence":7,"at":1,"event":{event}}}"#);
            let records = parse_records(&[line]).unwrap();
            assert_eq!(records, [Record { sequence: 7, fact: expected }]);
        }
    }

    #[test]
    fn what_cannot_be_checked_is_an_error() {
        for line in [
            "",
            "{}",
            r#"{"sequence":1,"event":{}}"#,
            r#"{"sequence":1,"event":{"event":"new_kind"}}"#,
            r#"{"sequence":1,"event":{"event":"trial_ended","trial":"a","attempt":1}}"#,
            r#"{"sequence":1,"event":{"event":"lease_granted","trial":"a"}}"#,
        ] {
            assert!(parse_records(&[line.to_owned()]).is_err(), "{line}");
        }
        for text in ["start a 1 0", "begin a 1 0 0", "start a x 0 0", "done  1 0 0", "\n"] {
            assert!(parse_ledger(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_ledger_is_read_line_by_line() {
        let lines = parse_ledger("start ab 1 0 0\ndone ab 1 1 8\n").unwrap();
        let attempt = Attempt { trial: "ab".into(), number: 1 };
        assert_eq!(
            lines,
            [
                Line { deed: Deed::Start, attempt: attempt.clone(), rank: 0, steps: 0 },
                Line { deed: Deed::Done, attempt, rank: 1, steps: 8 },
            ]
        );
    }
}
