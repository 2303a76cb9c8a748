//! One attempt that the agent holds.

use crate::attempt::TrialEnd;
use crate::clock::Moment;
use crate::messages::{Effect, Lease};
use crate::pulse::Pulse;
use crate::xid::{self, HEARD_LATE_MS, Heard, Scene};
use proto::{AttemptKey, Checkpoint, Devices, FailureClass, Notice, Outcome};

#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) devices: Devices,
    pub(crate) lease_until: Moment,
    pub(crate) started: bool,
    pub(crate) state: State,
    /// First report of the session that listed the attempt.
    pub(crate) listed_since: Option<u64>,
    pub(crate) checkpoint: Option<Unsettled<Checkpoint>>,
    /// From the start of its process on.
    pub(crate) pulse: Option<Pulse>,
    pub(crate) notices: Vec<Unsettled<Notice>>,
    /// When its process was started.
    pub(crate) began: Moment,
}

/// Something that is reported until a reply settles it.
#[derive(Debug)]
pub(crate) struct Unsettled<T> {
    pub(crate) fact: T,
    /// First report of the session that said it.
    pub(crate) said_since: Option<u64>,
}

#[derive(Debug)]
pub(crate) enum State {
    /// Leased, but an earlier attempt still holds the trial or one of the devices.
    Waiting(Box<Lease>),
    /// The process was started, or works.
    Active,
    /// The process was asked to end and is killed at `kill_at`.
    Stopping { reason: StopReason, kill_at: Moment },
    /// The process was killed; its exit is awaited.
    Killed { reason: StopReason },
    /// The process is gone and failed on a GPU, of which a late word may still explain it.
    Listening { outcome: Outcome, scene: Scene, ended: Moment },
    /// The process is gone, and all that is known of its end is told.
    Ended(Unsettled<Outcome>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// The coordinator does not want the attempt here any more, so nobody awaits its outcome.
    Unwanted,
    /// The lease passed without a word from the coordinator.
    LeaseExpired,
    /// A trial of higher priority needs the devices.
    Preempted,
    /// It makes no step any more.
    Hung,
    /// The agent itself ends.
    Shutdown,
}

impl Held {
    pub(crate) fn new(devices: Devices, lease_until: Moment, state: State) -> Self {
        Self {
            devices,
            lease_until,
            started: false,
            state,
            listed_since: None,
            checkpoint: None,
            pulse: None,
            notices: Vec::new(),
            began: Moment::default(),
        }
    }

    /// Something to tell about it.
    pub(crate) fn notice(&mut self, notices: impl IntoIterator<Item = Notice>) {
        let unsettled = |fact| Unsettled { fact, said_since: None };
        self.notices.extend(notices.into_iter().map(unsettled));
    }

    /// Its process is gone.
    pub(crate) fn exited(&mut self, now: Moment, end: Option<TrialEnd>, how: &str) {
        let (reason, killed) = match &self.state {
            State::Stopping { reason, .. } => (Some(*reason), false),
            State::Killed { reason } => (Some(*reason), true),
            State::Waiting(_) | State::Active | State::Listening { .. } | State::Ended(_) => {
                (None, false)
            }
        };
        let is_shared = self.devices.gpu_share_milli > 0;
        let scene = Scene { is_silent: end.is_none(), is_shared };
        let outcome = match end {
            // A failure that was seen while everything was being killed is not the trial's own.
            Some(TrialEnd::Outcome(Outcome::Failed { .. })) if killed => interrupted(reason, how),
            Some(TrialEnd::Outcome(outcome)) => outcome,
            Some(TrialEnd::Stopped) | None => interrupted(reason, how),
        };
        let has_gpus = !self.devices.gpus.is_empty();
        self.state = if has_gpus && reason.is_none() && xid::is_open(&outcome, scene) {
            State::Listening { outcome, scene, ended: now }
        } else {
            State::Ended(Unsettled { fact: outcome, said_since: None })
        };
    }

    /// What its GPUs said about its failure, when they had the time to say it.
    pub(crate) fn explain(&mut self, now: Moment, heard: &Heard) {
        if let State::Listening { outcome, scene, ended } = &self.state
            && ended.plus_ms(HEARD_LATE_MS) <= now
        {
            let xids = heard.about(&self.devices.gpus, self.began, *ended);
            let fact = xid::classed(outcome.clone(), *scene, &xids);
            self.state = State::Ended(Unsettled { fact, said_since: None });
        }
    }

    pub(crate) fn has_process(&self) -> bool {
        match self.state {
            State::Active | State::Stopping { .. } | State::Killed { .. } => true,
            State::Waiting(_) | State::Listening { .. } | State::Ended(_) => false,
        }
    }

    /// Whether no other attempt may have its devices: it has a process, or what one of its GPUs
    /// says now must not be taken for the word about another's.
    pub(crate) fn has_devices(&self) -> bool {
        self.has_process() || matches!(self.state, State::Listening { .. })
    }

    /// When something must happen to it, unless it is renewed.
    pub(crate) fn deadline(&self) -> Option<Moment> {
        match &self.state {
            State::Active => {
                let hangs_at = self.pulse.as_ref().and_then(Pulse::hangs_at);
                Some(hangs_at.map_or(self.lease_until, |at| at.min(self.lease_until)))
            }
            State::Stopping { kill_at, .. } => Some(self.lease_until.min(*kill_at)),
            State::Listening { ended, .. } => Some(ended.plus_ms(HEARD_LATE_MS)),
            State::Waiting(_) | State::Killed { .. } | State::Ended(_) => None,
        }
    }

    /// Applies the reply to report `sequence`, which extends the lease to `renewed` unless it
    /// refused the attempt. Answers the key when the attempt is settled and may be forgotten.
    pub(crate) fn settle(
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
        self.notices.retain(|notice| !said(notice.said_since));
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
fn interrupted(reason: Option<StopReason>, how: &str) -> Outcome {
    use FailureClass::{Cancelled, Infrastructure};
    match reason {
        Some(StopReason::LeaseExpired) => {
            // Where the coordinator lives, it has ended the lease by itself and this comes too late
            // to count; where it was away, no trial is to pay for that.
            let message = "the agent lost contact with the coordinator and stopped the trial at \
                           its lease's end; the trial is tried again";
            Outcome::failed(Cancelled, message)
        }
        Some(StopReason::Shutdown) => {
            let message = "the agent was asked to end; the trial is tried again";
            Outcome::failed(Cancelled, message)
        }
        Some(StopReason::Preempted) => {
            let message = "a trial of higher priority needs its place; the trial is tried again";
            Outcome::failed(Cancelled, message)
        }
        Some(StopReason::Hung) => {
            let message = "it made no step for far longer than usual, so the agent ended it; \
                           `brine explain` shows how long";
            Outcome::failed(Infrastructure, message)
        }
        Some(StopReason::Unwanted) | None => {
            let message = format!("the trial's process ended without an outcome: it {how}");
            Outcome::failed(Infrastructure, message)
        }
    }
}
