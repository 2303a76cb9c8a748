//! One thing that happened, in one line.

use crate::number;
use crate::words;
use proto::{AgentId, Attempt, ExperimentState, Notice, Outcome, TrialId};
use std::fmt;

/// What a person should hear about a record.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Note {
    /// The study asked for trials.
    Planned {
        /// How many.
        count: usize,
        /// Why.
        reason: String,
    },
    /// An experiment that had ended goes on.
    Resumed,
    /// A process runs.
    Started {
        /// Whose.
        trial: TrialName,
        /// Which try.
        attempt: Attempt,
        /// Where.
        agent: AgentId,
    },
    /// A try failed and there will be another.
    AttemptFailed {
        /// Whose.
        trial: TrialName,
        /// Which try.
        attempt: Attempt,
        /// How.
        outcome: Outcome,
        /// Not before this time has passed.
        pause_ms: u64,
    },
    /// An agent noticed something about a training.
    Noticed {
        /// Whose.
        trial: TrialName,
        /// What.
        notice: Notice,
    },
    /// A trial is over.
    Ended {
        /// Which.
        trial: TrialName,
        /// How.
        outcome: Outcome,
    },
    /// The experiment is over.
    ExperimentEnded(ExperimentState),
}

/// How a line names a trial.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TrialName {
    /// Place in the plan, from 1.
    pub(crate) number: usize,
    /// Trials in the plan so far.
    pub(crate) planned: usize,
    /// Its id.
    pub(crate) id: TrialId,
    /// Its parameters in a few words.
    pub(crate) label: String,
}

impl Note {
    /// Whether somebody may have to act on it.
    pub(crate) fn is_bad(&self) -> bool {
        match self {
            Self::AttemptFailed { .. } | Self::Noticed { .. } => true,
            Self::Ended { outcome, .. } => !matches!(outcome, Outcome::Completed { .. }),
            Self::ExperimentEnded(state) => *state == ExperimentState::Failed,
            Self::Planned { .. } | Self::Resumed | Self::Started { .. } => false,
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Planned { count, reason } => {
                write!(f, "planned {}: {reason}", number::plural(*count, "trial"))
            }
            Self::Noticed { trial, notice } => {
                write!(f, "{trial} {}: {}", notice.kind.word(), notice.text)
            }
            Self::Resumed => f.write_str("the experiment goes on"),
            Self::Started { trial, attempt, agent } => {
                write!(f, "{trial} started on {agent}, attempt {attempt}")
            }
            Self::AttemptFailed { trial, attempt, outcome, pause_ms } => {
                write!(f, "{trial} attempt {attempt} {}", words::of_attempt(outcome))?;
                let pause = number::duration_s(*pause_ms as f64 / 1e3);
                write!(f, "; tries again in {pause}")
            }
            Self::Ended { trial, outcome } => {
                write!(f, "{trial} {}", words::of_trial(outcome))
            }
            Self::ExperimentEnded(state) => write!(f, "the experiment is {}", state.word()),
        }
    }
}

impl fmt::Display for TrialName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, planned, id, label } = self;
        write!(f, "trial {number}/{planned} {id}")?;
        if label.is_empty() {
            return Ok(());
        }
        write!(f, " ({label})")
    }
}
