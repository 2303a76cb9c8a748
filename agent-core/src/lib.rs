//! What an agent decides. Plain data: nothing here can block, fail on disk or look at a clock, so
//! that production and simulation run the same code.
//!
//! * [`Core`]: which attempts the agent holds and what follows from what it hears.
//! * [`Input`], [`Effect`], [`Report`]: what goes in and what comes out.
//! * [`TrialEnd`]: how the process of an attempt ended.

mod attempt;
mod busy;
mod clock;
mod core;
mod held;
mod messages;
mod pulse;
mod session;
mod xid;

pub use attempt::{STOP_GRACE_MS, TrialEnd};
pub use clock::Moment;
pub use core::{Core, KILL_AFTER_MS};
pub use messages::{Assignment, Effect, Gang, Input, Lease, Report};
