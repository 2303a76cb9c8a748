//! The one clock of an agent and its trials.

use agent_core::Moment;

/// Reads `CLOCK_BOOTTIME`. Only drivers and edges call it.
pub fn now() -> Moment {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
    Moment(seconds * 1_000 + nanoseconds / 1_000_000)
}
