//! Who runs what. Plain data and functions: no I/O, no clock, no randomness, no iteration over a
//! hash map, so that it can be simulated under every fault.
//!
//! [`Core::turn`] takes the requests of one moment and answers with the steps that must follow, in
//! their order. Inside, every request is decided into events, each event is applied, and what
//! follows from the new state is settled until it is silent. What agents say about themselves is
//! taken in beside the events and not journaled, because they say it again.

/// Whether the simulation has planted this bug. Never, in a program that is shipped.
#[cfg(feature = "planted-bugs")]
macro_rules! planted {
    ($core:expr, $bug:ident) => {
        $core.planted == Some($crate::core::Planted::$bug)
    };
}
#[cfg(not(feature = "planted-bugs"))]
macro_rules! planted {
    ($core:expr, $bug:ident) => {
        false
    };
}

mod agent;
mod agents;
mod apply;
mod decide;
mod explain;
mod invariants;
mod lease;
mod line;
mod observe;
#[cfg(feature = "planted-bugs")]
mod planted;
mod reliability;
mod report;
mod schedule;
mod settle;
pub mod state;
#[cfg(test)]
mod tests;
mod turn;
mod view;

pub use agent::{Agent, Capacity, Free, Gpu};
pub use decide::{Rejection, Submission};
pub use explain::{Shortage, Waits};
#[cfg(feature = "planted-bugs")]
pub use planted::Planted;
pub use report::{Join, Point, Report, Settled};
pub use turn::{Answer, Request, Step, Submitted, Ticket};
pub use view::{Counts, LeaseView, Wanted};

use agent::Strikes;
use agents::Agents;
use proto::{AgentId, AttemptKey, ExperimentId, Timestamp, TrialId};
use reliability::Reliability;
use state::{Experiment, Trial, TrialState};
use std::collections::{BTreeMap, BTreeSet};

/// Most experiments one coordinator keeps; each is a few KB of memory.
pub const EXPERIMENTS_MAX: usize = 10_000;
/// Most trials over all experiments, drawn or not. A drawn one is about 1 KB of memory.
pub const TRIALS_MAX: u64 = 10_000_000;
/// Most agents known at once; each costs a stream and a buffer.
pub const AGENTS_MAX: usize = 10_000;
/// Pause before the first retry of a trial; doubles with every further failure.
pub const BACKOFF_FIRST_MS: u64 = 500;
/// Longest pause before a retry.
pub const BACKOFF_MAX_MS: u64 = 60_000;
/// How long an attempt that was asked to give way may take to save its state. Longer than an
/// agent's own patience, so that this ends only what no agent answers for.
pub const YIELD_MS: u64 = 30_000;

/// The state of the control plane.
pub struct Core {
    /// How long a lease lives after its agent was last heard, in milliseconds.
    pub lease_ttl_ms: u64,
    experiments: BTreeMap<ExperimentId, Experiment>,
    trials: BTreeMap<TrialId, Trial>,
    agents: Agents,
    /// Live processes of leases by their deadline.
    expiries: BTreeSet<(Timestamp, AttemptKey)>,
    /// Leases of agents that have not been heard since the restart.
    unheard: BTreeMap<AgentId, Vec<AttemptKey>>,
    /// Waiting trials whose pause has not ended, by its end.
    pauses: BTreeSet<(Timestamp, TrialId)>,
    /// Leased trials that were asked to give way, by the moment.
    yielding: BTreeSet<(Timestamp, TrialId)>,
    /// Trials that were granted ahead and are leased, by when.
    ahead: BTreeSet<(Timestamp, TrialId)>,
    /// Trials whose lease was taken back from an agent that has not been heard in this process: by
    /// then its watchdog has ended the attempt.
    lingering: BTreeMap<TrialId, (AgentId, Timestamp)>,
    /// Agents that are kept for a trial for which attempts there were asked to give way, and since
    /// when.
    reservations: BTreeMap<TrialId, (Timestamp, BTreeSet<AgentId>)>,
    /// Leased trials that perhaps no running experiment wants any longer.
    doubtful: BTreeSet<TrialId>,
    /// Experiments whose study may have something to say.
    stale: BTreeSet<ExperimentId>,
    /// Agents whose attempts failed lately.
    strikes: BTreeMap<AgentId, Strikes>,
    /// How attempts have fared so far.
    reliability: Reliability,
    /// Trials that were planned or drawn.
    planned: u64,
    /// Measurements that were recorded.
    measured: u64,
    /// Agents whose assignment changed since the last turn.
    changed: BTreeSet<AgentId>,
    /// When the last round found nothing to place; `None` after something changed.
    quiet_since: Option<Timestamp>,
    #[cfg(feature = "planted-bugs")]
    planted: Option<Planted>,
}

impl Core {
    /// An empty control plane.
    pub fn new(lease_ttl_ms: u64) -> Self {
        Self {
            lease_ttl_ms,
            experiments: BTreeMap::new(),
            trials: BTreeMap::new(),
            agents: Agents::default(),
            expiries: BTreeSet::new(),
            unheard: BTreeMap::new(),
            pauses: BTreeSet::new(),
            yielding: BTreeSet::new(),
            ahead: BTreeSet::new(),
            lingering: BTreeMap::new(),
            reservations: BTreeMap::new(),
            doubtful: BTreeSet::new(),
            stale: BTreeSet::new(),
            strikes: BTreeMap::new(),
            reliability: Reliability::default(),
            planned: 0,
            measured: 0,
            changed: BTreeSet::new(),
            quiet_since: None,
            #[cfg(feature = "planted-bugs")]
            planted: None,
        }
    }

    /// After a replay at `now`: gives every remembered lease a whole term, so that the agents
    /// have time to come back with their running attempts. A trial that was tried before waits as
    /// long, because an attempt of it may still be stopping somewhere. No pause is longer than the
    /// longest one, whatever the clock showed when it was recorded.
    pub fn restart(&mut self, now: Timestamp) {
        let deadline = now.plus_ms(self.lease_ttl_ms);
        self.expiries.clear();
        self.pauses.clear();
        self.yielding.clear();
        self.ahead.clear();
        self.unheard.clear();
        self.lingering.clear();
        // Learnt again: what agents said of their lines is not remembered.
        self.experiments.values_mut().for_each(|experiment| experiment.pace_ms = None);
        for strikes in self.strikes.values_mut() {
            strikes.last = strikes.last.min(now);
        }
        for (since, _) in self.reservations.values_mut() {
            *since = (*since).min(now);
        }
        for (id, trial) in &mut self.trials {
            match &mut trial.state {
                TrialState::Leased(lease) => {
                    lease.granted_at = lease.granted_at.min(now);
                    lease.holds_since = lease.holds_since.min(now);
                    if lease.ahead {
                        self.ahead.insert((lease.granted_at, id.clone()));
                    }
                    for member in &mut lease.members {
                        member.deadline = deadline;
                    }
                    self.expiries.extend(lease.live(id).map(|(key, _)| (deadline, key)));
                    for (key, member) in lease.live(id) {
                        self.unheard.entry(member.agent.clone()).or_default().push(key);
                    }
                    if let Some((_, asked_at)) = &mut lease.preempted {
                        *asked_at = now;
                        self.yielding.insert((now, id.clone()));
                    }
                }
                TrialState::Waiting { since, not_before } => {
                    *since = (*since).min(now);
                    *not_before = (*not_before).min(now.plus_ms(BACKOFF_MAX_MS));
                    // Which attempts were taken back and may still be stopping is not remembered.
                    // By this deadline their agents' watchdogs have ended them.
                    if trial.attempt.0 > 0 {
                        *not_before = (*not_before).max(deadline);
                    }
                    self.pauses.insert((*not_before, id.clone()));
                }
                TrialState::Ended { .. } => {}
            }
        }
    }

    /// The next moment at which time alone changes something, and what.
    pub fn next_deadline(&self) -> Option<(Timestamp, &'static str)> {
        let expiry = self.expiries.first().map(|(at, _)| (*at, "a lease ends"));
        let pause = self.pauses.first().map(|(at, _)| (*at, "a pause before a retry ends"));
        let asked = self.yielding.first().map(|(at, _)| at.plus_ms(YIELD_MS));
        let asked = asked.map(|at| (at, "an attempt that was to give way is taken back"));
        let release = self
            .agents
            .releasing()
            .map(|(_, releasing)| releasing.deadline)
            .chain(self.lingering.values().map(|(_, until)| *until))
            .min()
            .map(|at| (at, "an attempt that was taken back has stopped"));
        [expiry, pause, asked, release].into_iter().flatten().min()
    }

    /// Lets the time be `now`: pauses that have ended and devices whose last holder must be gone
    /// are forgotten, and so are agents that left and hold nothing.
    fn pass_time(&mut self, now: Timestamp) {
        while self.pauses.first().is_some_and(|(at, _)| *at <= now) {
            self.pauses.pop_first();
            self.quiet_since = None;
        }
        let before = self.lingering.len();
        self.lingering.retain(|_, (_, until)| *until > now);
        if self.lingering.len() < before {
            self.quiet_since = None;
        }
        if self.agents.pass_time(now) {
            self.quiet_since = None;
        }
    }
}
