//! One recorded fact. The journal stores events, `watch` streams them, a restart replays them and
//! `--output json` prints them: always this type.
//!
//! A change to it must keep the old JSON readable, or raise
//! [`FORMAT_VERSION`](crate::FORMAT_VERSION).

use crate::ids::{AgentId, Attempt, ExperimentId, Timestamp, TrialId};
use crate::outcome::{Checkpoint, Outcome};
use crate::spec::{Devices, Inputs, TrialSpec};
use serde::{Deserialize, Serialize};

/// An event with its place in the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Place in the journal, from 1, without gaps.
    pub sequence: u64,
    /// When it was decided.
    pub at: Timestamp,
    /// What happened.
    pub event: Event,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case", deny_unknown_fields)]
pub enum Event {
    /// A recipe was accepted.
    ExperimentSubmitted {
        /// Its id.
        experiment: ExperimentId,
        /// The recipe's text as it was given.
        recipe: String,
        /// The files it names, by content.
        inputs: Inputs,
    },
    /// The study asked for trials.
    TrialsPlanned {
        /// For which experiment.
        experiment: ExperimentId,
        /// Why, in the study's words.
        reason: String,
        /// What; a trial that already exists is shared, not repeated.
        trials: Vec<TrialSpec>,
    },
    /// An experiment that had ended was submitted again and goes on.
    ExperimentResumed {
        /// Which.
        experiment: ExperimentId,
        /// Failed trials that get a new chance because somebody asked for it.
        retried: Vec<TrialId>,
    },
    /// Nothing more will happen in an experiment.
    ExperimentEnded {
        /// Which.
        experiment: ExperimentId,
        /// How.
        state: ExperimentState,
    },
    /// An agent may run one attempt on these devices.
    LeaseGranted {
        /// Which trial.
        trial: TrialId,
        /// Which try of it.
        attempt: Attempt,
        /// Who.
        agent: AgentId,
        /// Where.
        devices: Devices,
        /// Version of the agent's code, for example `0.1.0+5fb768e`.
        code_version: String,
    },
    /// The agent confirmed that the attempt's process runs.
    AttemptStarted {
        /// Which trial.
        trial: TrialId,
        /// Which try of it.
        attempt: Attempt,
    },
    /// A state from which the trial can go on is on disk.
    CheckpointSaved {
        /// Which trial.
        trial: TrialId,
        /// What and where.
        checkpoint: Checkpoint,
    },
    /// An attempt failed and the trial waits for its next one.
    AttemptFailed {
        /// Which trial.
        trial: TrialId,
        /// Which try of it.
        attempt: Attempt,
        /// How.
        outcome: Outcome,
        /// No new attempt before this moment.
        retry_at: Timestamp,
    },
    /// A trial ended for good.
    TrialEnded {
        /// Which trial.
        trial: TrialId,
        /// The attempt that decided it; 0 when it never ran.
        attempt: Attempt,
        /// How.
        outcome: Outcome,
    },
}

/// The state of an experiment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExperimentState {
    /// Trials wait or run.
    Running,
    /// The study has all it wants.
    Complete,
    /// No trial gave a result, so the study has nothing to say.
    Failed,
    /// Somebody asked for the end.
    Cancelled,
}

impl ExperimentState {
    /// One word for tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}
