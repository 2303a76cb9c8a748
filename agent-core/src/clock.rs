//! The time that an agent and its trials share.

use serde::{Deserialize, Serialize};

/// Milliseconds since the machine started, suspension included (`CLOCK_BOOTTIME`). All processes
/// of a machine read the same value, so an agent can give its trials a deadline that stays right
/// even when the message that carries it is read late.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Moment(pub u64);

impl Moment {
    /// This moment plus `milliseconds`; stops at the end of time instead of wrapping.
    pub fn plus_ms(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_add(milliseconds))
    }

    /// Milliseconds from `earlier` to this moment; zero when `earlier` is later.
    pub fn since_ms(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
