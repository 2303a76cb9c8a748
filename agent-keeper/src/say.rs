//! What an agent and its keeper say to each other: JSON lines.

use crate::order::{Order, TrialRecord};
use agent_core::{Moment, TrialEnd};
use proto::AttemptKey;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What the agent says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// Start a program. It answers with [`Say::Exited`], sooner or later.
    Start(Box<Order>),
    /// The lease holds until then.
    Lease(AttemptKey, Moment),
    /// Ask the program to end, and kill it after its grace.
    Stop(AttemptKey),
    /// Kill the program and its descendants.
    Kill(AttemptKey),
}

/// What the keeper says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Say {
    /// The program did or reported something.
    Said(AttemptKey, TrialRecord),
    /// The attempt has a log here.
    Logs(AttemptKey, PathBuf),
    /// The program and its descendants are gone.
    Exited {
        /// Which attempt.
        key: AttemptKey,
        /// Its result; none when it was killed.
        end: Option<TrialEnd>,
        /// How it ended, as the end of "it ...".
        how: String,
        /// Its folder, unless nothing was left in it.
        kept: Option<PathBuf>,
    },
}
