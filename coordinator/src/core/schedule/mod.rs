//! Who gets which trial. Pure and stable: placing again without a change places nothing.
//!
//! A round takes the experiments in turns: higher priority first, then the user, then the
//! experiment that holds least for its weight. Each turn places the experiment's first waiting
//! trial that fits. A trial that fits nowhere may be overtaken by smaller ones, but not for ever:
//! after [`RESERVE_AFTER_MS`] the machine where it could start first is kept for it. A trial of
//! higher priority asks lower ones to give way. Short trials are granted ahead, to follow each
//! other on the same devices without a word of the coordinator in between.

mod ahead;
mod fit;
mod order;
mod preempt;
mod reserve;
mod round;

pub(super) use ahead::Rivals;
pub(super) use fit::{Misfit, misfit, room};
pub(super) use order::limit_reached;

use super::state::Trial;
use super::{Core, YIELD_MS};
use proto::{AgentId, Devices, Event, Timestamp, TrialId, TrialSpec};
use round::Round;

/// Waiting trials of one experiment that a round looks at. A round's cost stays bounded however
/// long the queue is.
pub(super) const SCAN_MAX: usize = 1_024;
/// How long a trial that fits nowhere may be overtaken.
pub(super) const RESERVE_AFTER_MS: u64 = 30_000;
/// How long agents are kept for a trial for which others gave way: the time they may take, and as
/// much again.
const KEEP_MS: u64 = 2 * YIELD_MS;
/// First port of the range from which a gang's port is taken; 29500 is torchrun's own default.
const PORT_FIRST: u16 = 29_500;
/// Ports in that range. Gangs whose leaders share a machine rarely meet in it, and an attempt that
/// does fails to bind and is repeated with the next one.
const PORTS: u64 = 2_000;

/// A place for every member of a trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) choice: u32,
    /// By rank; never empty.
    pub(super) members: Vec<(AgentId, Devices)>,
}

/// The leases that can be granted at `now`, and the attempts that shall give way.
pub(super) fn place(core: &Core, now: Timestamp) -> Vec<Event> {
    if core.experiments.values().all(|experiment| experiment.queue.is_empty()) {
        return Vec::new();
    }
    let placed = Round::new(core, now).run();
    // Only what no free device can hold is granted ahead.
    if placed.is_empty() { ahead::grant(core, now) } else { placed }
}

/// The port on which a gang's leader listens.
pub(super) fn master_port(trial: &TrialId, attempt: proto::Attempt) -> u16 {
    let digits = u64::from_str_radix(trial.as_str(), 16).unwrap_or(0);
    let offset = digits.wrapping_add(u64::from(attempt.0)) % PORTS;
    PORT_FIRST + u16::try_from(offset).unwrap_or(0)
}

/// Whether two trials find a place exactly alike.
pub(super) fn is_same_shape(a: &TrialSpec, b: &TrialSpec) -> bool {
    a.resources == b.resources
        && a.placement == b.placement
        && a.time_limit_ms == b.time_limit_ms
        && a.runner.numerics() == b.runner.numerics()
}

/// Whether agents are kept for a trial since lower ones were asked to give way.
fn is_kept_for(core: &Core, now: Timestamp, trial: &TrialId) -> bool {
    let kept = core.reservations.get(trial);
    kept.is_some_and(|(since, _)| since.plus_ms(KEEP_MS) > now)
}

/// Whether a trial may get a lease at `now`, as far as it alone decides.
fn is_due(trial: &Trial, now: Timestamp) -> bool {
    match trial.state {
        super::state::TrialState::Waiting { not_before, .. } => not_before <= now,
        super::state::TrialState::Leased(_) | super::state::TrialState::Ended { .. } => false,
    }
}

/// Since when a waiting trial could have run.
fn due_since(trial: &Trial) -> Option<Timestamp> {
    match trial.state {
        super::state::TrialState::Waiting { since, not_before } => Some(since.max(not_before)),
        super::state::TrialState::Leased(_) | super::state::TrialState::Ended { .. } => None,
    }
}
