//! How the process of an attempt ended.

use proto::Outcome;
use serde::{Deserialize, Serialize};

/// A trial that was asked to stop, or ran out of time, is killed this much later. A program needs
/// it to save its state; a stop of a whole agent takes not much longer.
pub const STOP_GRACE_MS: u64 = 10_000;

/// How the process ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TrialEnd {
    /// By itself.
    Outcome(Outcome),
    /// It was asked to stop and did; only the agent knows why it asked.
    Stopped,
}
