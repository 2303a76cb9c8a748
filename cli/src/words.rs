//! How trials and attempts ended, in words that stand in a sentence.

use crate::number;
use proto::{FailureClass, Outcome};

/// Final metrics that a line names; the table at the end has them all.
const METRICS_IN_LINE_MAX: usize = 3;
/// Longest piece of a failure message in a line; `brine logs` has it all.
const MESSAGE_CHARS_MAX: usize = 200;

/// How a trial ended, in one line.
pub(crate) fn of_trial(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Completed { metrics, .. } => {
            let value = |(name, x): (&String, &f64)| format!(" {name}={}", number::short(*x));
            // Of a training only this is a result; of a program any metric may be.
            let loss = metrics.get_key_value("validation_loss").map(value);
            let some = || metrics.iter().take(METRICS_IN_LINE_MAX).map(value).collect();
            format!("completed{}", loss.unwrap_or_else(some))
        }
        Outcome::Diverged { metric, step } => {
            format!("diverged: {metric} is not a number at step {step}")
        }
        Outcome::Failed { class, message } => {
            let line = message.lines().next().unwrap_or_default();
            let cut: String = line.chars().take(MESSAGE_CHARS_MAX).collect();
            let colon = if cut.is_empty() { "" } else { ": " };
            format!("{}{colon}{cut}", failed(*class))
        }
    }
}

/// How an attempt ended that did not end its trial, in one line.
pub(crate) fn of_attempt(outcome: &Outcome) -> String {
    match outcome {
        // Nobody's fault: it was asked for.
        Outcome::Failed { class: FailureClass::Cancelled, message } => {
            let line = message.lines().next().unwrap_or_default();
            let cut: String = line.chars().take(MESSAGE_CHARS_MAX).collect();
            format!("given back: {cut}")
        }
        Outcome::Completed { .. } | Outcome::Diverged { .. } | Outcome::Failed { .. } => {
            of_trial(outcome)
        }
    }
}

/// Where a trial is, by the one word of its state: `is running`, `timed out`.
pub(crate) fn of_state(word: &str) -> String {
    match word {
        "timeout" => "timed out".to_owned(),
        "infrastructure" => "failed (infrastructure)".to_owned(),
        "failed" | "diverged" | "cheated" => word.to_owned(),
        word => format!("is {word}"),
    }
}

fn failed(class: FailureClass) -> &'static str {
    match class {
        FailureClass::Infrastructure => "failed (infrastructure)",
        FailureClass::Timeout => "timed out",
        FailureClass::Trial
        | FailureClass::Invalid
        | FailureClass::Cancelled
        | FailureClass::Pruned
        | FailureClass::Cheated => class.word(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn ends_stand_in_a_sentence() {
        let failed = |class, message: &str| Outcome::failed(class, message);
        let metrics = BTreeMap::from([("a".to_owned(), 0.5), ("validation_loss".to_owned(), 2.5)]);
        let program = BTreeMap::from([("a".to_owned(), 0.5), ("b".to_owned(), 1.0)]);
        let completed = |metrics| Outcome::Completed { metrics, checkpoint: None };
        for (outcome, trial, attempt) in [
            (failed(FailureClass::Trial, "exit 7\nmore"), "failed: exit 7", "failed: exit 7"),
            (
                failed(FailureClass::Timeout, "after 3 s"),
                "timed out: after 3 s",
                "timed out: after 3 s",
            ),
            (
                failed(FailureClass::Infrastructure, "gone"),
                "failed (infrastructure): gone",
                "failed (infrastructure): gone",
            ),
            (failed(FailureClass::Cancelled, "asked"), "cancelled: asked", "given back: asked"),
            (failed(FailureClass::Pruned, ""), "pruned", "pruned"),
            (
                completed(metrics),
                "completed validation_loss=2.500",
                "completed validation_loss=2.500",
            ),
            (completed(program), "completed a=0.5000 b=1.000", "completed a=0.5000 b=1.000"),
            (completed(BTreeMap::new()), "completed", "completed"),
        ] {
            assert_eq!(
                (of_trial(&outcome).as_str(), of_attempt(&outcome).as_str()),
                (trial, attempt)
            );
        }
        for (word, expected) in [
            ("running", "is running"),
            ("completed", "is completed"),
            ("timeout", "timed out"),
            ("infrastructure", "failed (infrastructure)"),
            ("failed", "failed"),
        ] {
            assert_eq!(of_state(word), expected);
        }
    }
}
