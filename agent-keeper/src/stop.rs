//! Why an attempt has to end early.

use agent_core::TrialEnd;
use proto::{FailureClass, Outcome};

/// Why the work has to end early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopCause {
    /// The agent asked.
    Asked,
    /// The attempt's time limit passed.
    TimeOut,
}

impl StopCause {
    /// How an attempt ended that obeyed, or was killed because it did not. `time_limit_ms` is the
    /// limit of the attempt.
    pub fn end(self, time_limit_ms: Option<u64>) -> TrialEnd {
        match self {
            Self::Asked => TrialEnd::Stopped,
            Self::TimeOut => {
                let seconds = time_limit_ms.unwrap_or(0) as f64 / 1_000.0;
                let message = format!("the attempt took longer than its limit of {seconds} s");
                TrialEnd::Outcome(Outcome::failed(FailureClass::Timeout, message))
            }
        }
    }
}
