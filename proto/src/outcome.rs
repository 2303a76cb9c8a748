//! How a trial ended, and what it left.

use crate::ids::{AgentId, Attempt, BlobId, TrialId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How a trial, or one attempt of it, ended. A missing or undefined number is a state of its own,
/// never a magic value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case", deny_unknown_fields)]
pub enum Outcome {
    /// It ran to its end.
    Completed {
        /// Final value of every metric; all finite.
        metrics: BTreeMap<String, f64>,
        /// The last checkpoint, when the runner keeps one.
        checkpoint: Option<Checkpoint>,
    },
    /// A metric stopped being a number. Final: the same seed would diverge again.
    Diverged {
        /// Which metric.
        metric: String,
        /// At which step.
        step: u64,
    },
    /// It did not run to its end.
    Failed {
        /// Who has to act, and whether trying again can help.
        class: FailureClass,
        /// What happened, for people; at most [`MESSAGE_BYTES_MAX`] bytes.
        message: String,
    },
}

/// Longest failure message that is stored; the full text is in the trial's log.
pub const MESSAGE_BYTES_MAX: usize = 2_000;

impl Outcome {
    /// A failure, its message cut to [`MESSAGE_BYTES_MAX`].
    pub fn failed(class: FailureClass, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MESSAGE_BYTES_MAX {
            let end = (0..=MESSAGE_BYTES_MAX).rev().find(|&end| message.is_char_boundary(end));
            message.truncate(end.unwrap_or(0));
        }
        Self::Failed { class, message }
    }

    /// One word for tables.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Completed { .. } => "completed",
            Self::Diverged { .. } => "diverged",
            Self::Failed { class, .. } => class.word(),
        }
    }
}

/// Why an attempt failed, which decides whether it is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// The machine, the network or the disk; repeated by itself, up to a cap, after a pause.
    Infrastructure,
    /// The program failed; repeated only if the recipe says so.
    Trial,
    /// The specification is wrong; never repeated.
    Invalid,
    /// The attempt took longer than its limit.
    Timeout,
    /// Somebody asked for the end.
    Cancelled,
    /// The study ended it early.
    Pruned,
    /// The program broke the rules of its evaluation.
    Cheated,
}

impl FailureClass {
    /// One word for tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Infrastructure => "infrastructure",
            Self::Trial => "failed",
            Self::Invalid => "invalid",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Pruned => "pruned",
            Self::Cheated => "cheated",
        }
    }
}

/// A state from which a trial can go on, complete on disk. Its files are never written twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Steps done.
    pub step: u64,
    /// The attempt that wrote it.
    pub attempt: Attempt,
    /// The agent that wrote it.
    pub agent: AgentId,
    /// Absolute folder that holds the files, on that agent's machine or a shared disk.
    pub folder: String,
    /// The files in it.
    pub files: Vec<CheckpointFile>,
}

/// One file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointFile {
    /// File name inside the folder.
    pub name: String,
    /// blake3 of its content.
    pub hash: BlobId,
    /// Length in bytes.
    pub bytes: u64,
}

/// A number at a step. `value` may be NaN or infinite: that is news, not an error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricPoint {
    /// Which trial.
    pub trial: TrialId,
    /// Which try of it.
    pub attempt: Attempt,
    /// Which member of a gang; 0 for any other trial.
    #[serde(default)]
    pub rank: u32,
    /// Name, for example `loss`.
    pub metric: String,
    /// Step, from 0.
    pub step: u64,
    /// Value.
    pub value: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let Outcome::Failed { message, .. } =
            Outcome::failed(FailureClass::Trial, "ä".repeat(MESSAGE_BYTES_MAX))
        else {
            unreachable!("failed makes a failure")
        };
        assert_eq!(message.len(), MESSAGE_BYTES_MAX);
        assert!(message.chars().all(|c| c == 'ä'));
    }
}
