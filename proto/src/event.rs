//! One recorded fact. The journal stores events, `watch` streams them, a restart replays them and
//! `--output json` prints them: always this type.
//!
//! A change to it must keep the old JSON readable, or raise
//! [`FORMAT_VERSION`](crate::FORMAT_VERSION).

use crate::ids::{AgentId, Attempt, ExperimentId, Timestamp, TrialId};
use crate::notice::Notice;
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
        /// Who submitted it, for fair shares; empty when nobody said.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        user: String,
    },
    /// A recipe was submitted again with another priority, weight or quota, which are not part of
    /// the experiment's identity.
    RecipeChanged {
        /// Of which experiment.
        experiment: ExperimentId,
        /// The new text.
        recipe: String,
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
    /// The study asked for trials that it can enumerate: those at the next `count` indices. They
    /// cost this one record until they are drawn.
    RangePlanned {
        /// For which experiment.
        experiment: ExperimentId,
        /// Why, in the study's words.
        reason: String,
        /// How many.
        count: u64,
        /// Id of the first of them. A replay by a version that enumerates differently notices.
        first: TrialId,
    },
    /// The next trials of an experiment's planned ranges became trials of their own, because
    /// agents will soon have room for them.
    TrialsDrawn {
        /// Of which experiment.
        experiment: ExperimentId,
        /// How many.
        count: u64,
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
        /// Which of the trial's [`choices`](crate::TrialSpec::choices) the devices fill.
        #[serde(default, skip_serializing_if = "is_zero")]
        choice: u32,
        /// The other members of a gang, rank 1 first; `agent` has rank 0.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        members: Vec<Member>,
        /// The experiment against whose limits it counts; absent in the first format.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        payer: Option<ExperimentId>,
        /// Another attempt has the devices now, and this one follows it there.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        ahead: bool,
    },
    /// The agents were asked to save the trial's state and give the attempt back, for a trial of
    /// higher priority.
    AttemptPreempted {
        /// Which trial.
        trial: TrialId,
        /// Which try of it.
        attempt: Attempt,
        /// For which trial.
        by: TrialId,
    },
    /// A member of a gang ended well, and others still run.
    MemberEnded {
        /// Which trial.
        trial: TrialId,
        /// Which try of it.
        attempt: Attempt,
        /// Rank of the member.
        rank: u32,
        /// How.
        outcome: Outcome,
    },
    /// A metric that the study watches passed one of its rungs.
    Measured {
        /// Which trial.
        trial: TrialId,
        /// Which try of it.
        attempt: Attempt,
        /// The rung: a step.
        rung: u64,
        /// First value at or after the rung; a NaN or an infinity travels as a text.
        #[serde(with = "crate::number")]
        value: f64,
    },
    /// The agent confirmed that the attempt's process runs.
    AttemptStarted {
        /// Which trial.
        trial: TrialId,
        /// Which try of it.
        attempt: Attempt,
    },
    /// The agent noticed something about how the attempt trains.
    Noticed {
        /// Which trial.
        trial: TrialId,
        /// Which try of it.
        attempt: Attempt,
        /// What.
        notice: Notice,
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

/// One member of a gang.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Who.
    pub agent: AgentId,
    /// Where.
    pub devices: Devices,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u32) -> bool {
    *number == 0
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
