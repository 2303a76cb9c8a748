//! One clock for an agent and its trials.

use serde::{Deserialize, Serialize};

/// Milliseconds since the machine started, suspension included (`CLOCK_BOOTTIME`). All processes
/// of a machine read the same value, so an agent can give its trials a deadline that stays right
/// even when the message that carries it is read late.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Moment(pub u64);

impl Moment {
    /// Reads the clock. Only drivers and edges call it.
    pub fn now() -> Self {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
        Self(seconds * 1_000 + nanoseconds / 1_000_000)
    }

    /// This moment plus `milliseconds`; stops at the end of time instead of wrapping.
    pub fn plus_ms(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_add(milliseconds))
    }

    /// Milliseconds from `earlier` to this moment; zero when `earlier` is later.
    pub fn since_ms(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
