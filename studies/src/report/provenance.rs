//! Where the numbers of a report come from.

use super::chart::Axis;
use proto::{AgentId, BlobId, Checkpoint, ExperimentId, ExperimentState, TrialId, Value};
use serde::Serialize;
use std::collections::BTreeMap;

/// Everything that leads from a number back to what made it. Filled by whoever has the journal.
#[derive(Debug, Clone, PartialEq)]
pub struct Provenance {
    /// Which experiment.
    pub experiment: ExperimentId,
    /// Its state when the report was made.
    pub state: ExperimentState,
    /// It would go on, but no coordinator ran when the report was made.
    pub interrupted: bool,
    /// The recipe's text as it was submitted.
    pub recipe: String,
    /// Brine's version and git commit.
    pub code_version: String,
    /// The training data by content, when the experiment has some.
    pub data_hash: Option<BlobId>,
    /// When the report was made, with its time zone.
    pub created_at: String,
    /// More facts for the page's end, such as the coordinator's address and start, by name.
    pub facts: Vec<(String, String)>,
    /// Every planned trial, in planning order.
    pub trials: Vec<TrialRow>,
    /// How the trials learned, one picture for each of [`Report::courses`](super::Report::courses)
    /// of which there are points.
    pub curves: Vec<LearningCurves>,
}

impl Provenance {
    /// One word for the experiment's state.
    pub fn word(&self) -> &'static str {
        if self.interrupted { "interrupted" } else { self.state.word() }
    }
}

/// What is known about one trial.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrialRow {
    /// Its id.
    pub id: TrialId,
    /// Attempts started.
    pub attempts: u32,
    /// One word: `completed`, `running`, `diverged`, ...
    pub state: String,
    /// What the study varied.
    pub parameters: BTreeMap<String, Value>,
    /// Final metrics; empty until it completed.
    pub metrics: BTreeMap<String, f64>,
    /// What everything random in it was seeded with.
    pub seed: u64,
    /// Who ran its last attempt.
    pub agent: Option<AgentId>,
    /// Its last checkpoint; the page shows the hash of every file.
    pub checkpoint: Option<Checkpoint>,
    /// Its training data by content.
    pub data_hash: Option<BlobId>,
    /// Version and git commit of the program that ran it.
    pub code_version: String,
    /// Why it failed, when it did.
    pub message: Option<String>,
}

/// One metric of every trial over the course of its training.
#[derive(Debug, Clone, PartialEq)]
pub struct LearningCurves {
    /// What passes, for example tokens.
    pub x: Axis,
    /// What is learned, for example the loss.
    pub y: Axis,
    /// One per trial.
    pub curves: Vec<Curve>,
}

/// How one trial learned.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// Which trial.
    pub trial: TrialId,
    /// Points `[x, y]`, in order of x.
    pub points: Vec<[f64; 2]>,
}

/// The trials that have an entry on the page, so that links to them lead somewhere.
#[derive(Debug, Clone, Default)]
pub(super) struct Entries<'a>(BTreeMap<&'a TrialId, &'a TrialRow>);

impl<'a> Entries<'a> {
    /// Entries for these trials.
    pub(super) fn of(trials: impl IntoIterator<Item = &'a TrialRow>) -> Self {
        Self(trials.into_iter().map(|row| (&row.id, row)).collect())
    }

    /// The trial's entry.
    pub(super) fn get(&self, trial: &TrialId) -> Option<&'a TrialRow> {
        self.0.get(trial).copied()
    }
}

/// The name of a trial's entry on the page.
pub(super) fn anchor(trial: &TrialId) -> String {
    format!("trial-{trial}")
}
