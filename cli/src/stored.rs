//! What a data folder says that no coordinator holds. Its journal ends in the middle of things, so
//! whatever ran then is named for what it is: interrupted.

use crate::number;
use proto::ExperimentState;
use proto::wire::{ExperimentReply, ExperimentSummary, ExplainReply, TrialView};
use std::path::PathBuf;

/// State of an experiment that would go on, and of a trial that ran, when the coordinator went.
pub(crate) const INTERRUPTED: &str = "interrupted";
/// What open trials wait for.
pub(crate) const WAITS: &str = "a coordinator: none runs";

/// How what was interrupted goes on.
pub(crate) const GO_ON: &str =
    "what was interrupted goes on with `brine run RECIPE`, or with `brine coordinator` and agents";

/// A data folder that no coordinator holds.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    folder: PathBuf,
    /// When the newest record was written, in milliseconds since the epoch; `None` without any.
    changed_ms: Option<u64>,
}

impl Stored {
    /// What `folder` holds, with the time of its newest record.
    pub(crate) fn new(folder: PathBuf, changed_ms: Option<u64>) -> Self {
        Self { folder, changed_ms }
    }

    /// The same for programs.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::json!({ "changed_ms": self.changed_ms })
    }

    /// The line for people.
    pub(crate) fn line(&self) -> String {
        let changed = match self.changed_ms {
            Some(at_ms) => format!(", last changed at {}", number::local_time(at_ms)),
            None => String::new(),
        };
        format!(
            "no coordinator runs for {}; this is what was stored{changed}",
            self.folder.display()
        )
    }
}

/// Corrects the counts of an experiment.
pub(crate) fn settle_summary(summary: &mut ExperimentSummary) {
    if summary.state == ExperimentState::Running.word() {
        INTERRUPTED.clone_into(&mut summary.state);
    }
    summary.running = 0;
}

/// Corrects an experiment and its trials.
pub(crate) fn settle_experiment(reply: &mut ExperimentReply) {
    let Some(summary) = &mut reply.summary else { return };
    settle_summary(summary);
    let is_open = summary.state == INTERRUPTED;
    for trial in reply.trials.iter_mut().filter(|_| is_open) {
        settle_trial(trial);
    }
}

/// Corrects why a trial is where it is.
pub(crate) fn settle_explanation(reply: &mut ExplainReply) {
    reply.trial.iter_mut().for_each(settle_trial);
    // Who ran it then, runs it no longer; what agents lack, nobody knows.
    reply.running.clear();
    reply.agents.clear();
    reply.preempted_by.clear();
    reply.shortages.clear();
    reply.yielding.clear();
    reply.wait_ms = 0;
}

fn settle_trial(trial: &mut TrialView) {
    match trial.state.as_str() {
        "running" | "starting" | "yielding" => INTERRUPTED.clone_into(&mut trial.state),
        "backoff" => "waiting".clone_into(&mut trial.state),
        // Waiting for its turn, unwanted, or over.
        _other => {}
    }
    if trial.state == INTERRUPTED || trial.state == "waiting" {
        WAITS.clone_into(&mut trial.waiting_for);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_runs_in_a_folder_without_a_coordinator() {
        for (state, waiting_for, expected, waits) in [
            ("running", "", INTERRUPTED, WAITS),
            ("starting", "", INTERRUPTED, WAITS),
            ("yielding", "", INTERRUPTED, WAITS),
            ("backoff", "a pause of 4999 ms before its next attempt", "waiting", WAITS),
            ("waiting", "no agent is connected", "waiting", WAITS),
            (
                "cancelled",
                "its experiment to be submitted again",
                "cancelled",
                "its experiment to be submitted again",
            ),
            ("completed", "", "completed", ""),
        ] {
            let trial = TrialView {
                state: state.to_owned(),
                waiting_for: waiting_for.to_owned(),
                ..TrialView::default()
            };
            let summary = ExperimentSummary {
                state: "running".to_owned(),
                running: 2,
                ..ExperimentSummary::default()
            };
            let mut reply = ExperimentReply {
                summary: Some(summary),
                trials: vec![trial],
                ..ExperimentReply::default()
            };
            settle_experiment(&mut reply);
            let (summary, trial) = (reply.summary.unwrap(), &reply.trials[0]);
            assert_eq!((summary.state.as_str(), summary.running), (INTERRUPTED, 0));
            assert_eq!((trial.state.as_str(), trial.waiting_for.as_str()), (expected, waits));
        }
    }

    #[test]
    fn an_experiment_that_is_over_stays_so() {
        let summary = ExperimentSummary { state: "complete".to_owned(), ..Default::default() };
        let mut reply = ExperimentReply { summary: Some(summary), ..Default::default() };
        settle_experiment(&mut reply);
        assert_eq!(reply.summary.unwrap().state, "complete");
    }
}
