//! One attempt that the agent holds.

use super::messages::{Effect, Lease};
use crate::clock::Moment;
use crate::order::AttemptKey;
use proto::{Checkpoint, Devices, FailureClass, Outcome};

#[derive(Debug)]
pub(super) struct Held {
    pub(super) devices: Devices,
    pub(super) lease_until: Moment,
    pub(super) started: bool,
    pub(super) state: State,
    /// First report of the session that listed the attempt.
    pub(super) listed_since: Option<u64>,
    pub(super) checkpoint: Option<Unsettled<Checkpoint>>,
}

/// Something that is reported until a reply settles it.
#[derive(Debug)]
pub(super) struct Unsettled<T> {
    pub(super) fact: T,
    /// First report of the session that said it.
    pub(super) said_since: Option<u64>,
}

#[derive(Debug)]
pub(super) enum State {
    /// Leased, but an earlier attempt still holds the trial or one of the devices.
    Waiting(Box<Lease>),
    /// The process was started, or works.
    Active,
    /// The process was asked to end and is killed at `kill_at`.
    Stopping { reason: StopReason, kill_at: Moment },
    /// The process was killed; its exit is awaited.
    Killed { reason: StopReason },
    /// The process is gone.
    Ended(Unsettled<Outcome>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StopReason {
    /// The coordinator does not want the attempt here any more, so nobody awaits its outcome.
    Unwanted,
    /// The lease passed without a word from the coordinator.
    LeaseExpired,
    /// The agent itself ends.
    Shutdown,
}

pub(super) fn overlap(a: &Devices, b: &Devices) -> bool {
    a.cpus.iter().any(|cpu| b.cpus.contains(cpu)) || a.gpus.iter().any(|gpu| b.gpus.contains(gpu))
}

impl Held {
    pub(super) fn new(devices: Devices, lease_until: Moment, state: State) -> Self {
        Self { devices, lease_until, started: false, state, listed_since: None, checkpoint: None }
    }

    pub(super) fn has_process(&self) -> bool {
        match self.state {
            State::Active | State::Stopping { .. } | State::Killed { .. } => true,
            State::Waiting(_) | State::Ended(_) => false,
        }
    }

    /// Applies the reply to report `sequence`, which extends the lease to `renewed` unless it
    /// refused the attempt. Answers the key when the attempt is settled and may be forgotten.
    pub(super) fn settle(
        &mut self,
        key: &AttemptKey,
        sequence: u64,
        renewed: Option<Moment>,
        effects: &mut Vec<Effect>,
    ) -> Option<AttemptKey> {
        let lease_until = renewed?;
        let said = |since: Option<u64>| since.is_some_and(|since| since <= sequence);
        if self.checkpoint.as_ref().is_some_and(|checkpoint| said(checkpoint.said_since)) {
            self.checkpoint = None;
        }
        if let State::Ended(outcome) = &self.state {
            if !said(outcome.said_since) {
                return None;
            }
            effects.push(Effect::Settled { key: key.clone(), outcome: outcome.fact.clone() });
            return Some(key.clone());
        }
        if said(self.listed_since) && lease_until > self.lease_until {
            self.lease_until = lease_until;
            if self.has_process() {
                effects.push(Effect::Renew { key: key.clone(), lease_until });
            }
        }
        None
    }
}

/// The outcome of a process that ended before its trial did. An attempt that is given back because
/// the agent was asked to end is nobody's failure and costs none of the recipe's retries.
pub(super) fn interrupted(reason: Option<StopReason>, how: &str) -> Outcome {
    use FailureClass::{Cancelled, Infrastructure};
    match reason {
        Some(StopReason::LeaseExpired) => {
            let message = "the agent lost contact with the coordinator and stopped the trial at \
                           its lease's end";
            Outcome::failed(Infrastructure, message)
        }
        Some(StopReason::Shutdown) => {
            let message = "the agent was asked to end; the trial goes on from its last checkpoint";
            Outcome::failed(Cancelled, message)
        }
        Some(StopReason::Unwanted) | None => {
            let message = format!("the trial's process ended without an outcome: it {how}");
            Outcome::failed(Infrastructure, message)
        }
    }
}
