//! Who runs what. Plain data and functions: no I/O, no clock, no randomness, no iteration over a
//! hash map, so that it can be simulated under every fault.
//!
//! The driver calls, for every input: [`Core::decide`] (what happened?), then [`Core::apply`] for
//! each event; then [`Core::settle`] until it is silent (what follows?). Events are journaled
//! before anything of them is acknowledged. [`Core::hear`] takes in what agents say about
//! themselves, which is not journaled because they say it again.

mod decide;
mod hear;
mod invariants;
mod schedule;
mod settle;
pub mod state;
#[cfg(test)]
mod tests;
mod view;

pub use decide::{Input, Rejection, Report, Settled};
pub use hear::Heard;
pub use view::{Counts, LeaseView};

use proto::{
    AgentId, Event, ExperimentId, ExperimentState, FailureClass, Outcome, Timestamp, TrialId,
    TrialSpec,
};
use state::{Agent, Experiment, Lease, Releasing, Trial, TrialState};
use std::collections::{BTreeMap, BTreeSet};
use studies::recipe::Recipe;

/// Most experiments one coordinator keeps; each is a few KB of memory.
pub const EXPERIMENTS_MAX: usize = 10_000;
/// Most trials over all experiments; each is about 1 KB of memory.
pub const TRIALS_MAX: usize = 1_000_000;
/// Most agents known at once; each costs a stream and a buffer.
pub const AGENTS_MAX: usize = 10_000;
/// Pause before the first retry of a trial; doubles with every further failure.
pub const BACKOFF_FIRST_MS: u64 = 500;
/// Longest pause before a retry.
pub const BACKOFF_MAX_MS: u64 = 60_000;

/// The state of the control plane.
pub struct Core {
    /// How long a lease lives after its agent was last heard, in milliseconds.
    pub lease_ttl_ms: u64,
    pub(crate) experiments: BTreeMap<ExperimentId, Experiment>,
    pub(crate) trials: BTreeMap<TrialId, Trial>,
    pub(crate) agents: BTreeMap<AgentId, Agent>,
    /// Trials without a lease that a running experiment wants, in planning order.
    queue: BTreeSet<(u64, TrialId)>,
    /// Leases by their deadline.
    expiries: BTreeSet<(Timestamp, TrialId)>,
    /// Waiting trials whose pause has not ended, by its end.
    pauses: BTreeSet<(Timestamp, TrialId)>,
    /// Experiments whose study may have something to say.
    stale: BTreeSet<ExperimentId>,
    planned: u64,
    /// Assignments that changed since the driver last asked.
    changed: BTreeSet<AgentId>,
}

impl Core {
    /// An empty control plane.
    pub fn new(lease_ttl_ms: u64) -> Self {
        Self {
            lease_ttl_ms,
            experiments: BTreeMap::new(),
            trials: BTreeMap::new(),
            agents: BTreeMap::new(),
            queue: BTreeSet::new(),
            expiries: BTreeSet::new(),
            pauses: BTreeSet::new(),
            stale: BTreeSet::new(),
            planned: 0,
            changed: BTreeSet::new(),
        }
    }

    /// Takes in one recorded fact. Total: replay uses only this.
    pub fn apply(&mut self, at: Timestamp, event: &Event) {
        match event {
            Event::ExperimentSubmitted { experiment, recipe, inputs } => {
                let study = Recipe::parse(recipe)
                    .map_err(|error| error.to_string())
                    .and_then(|recipe| recipe.study(inputs).map_err(|error| error.to_string()));
                let known = Experiment {
                    recipe: recipe.clone(),
                    inputs: inputs.clone(),
                    study,
                    trials: Vec::new(),
                    open: 0,
                    state: ExperimentState::Running,
                    submitted_at: at,
                    reasons: Vec::new(),
                };
                self.experiments.insert(experiment.clone(), known);
                self.stale.insert(experiment.clone());
            }
            Event::TrialsPlanned { experiment, reason, trials } => {
                self.apply_planned(experiment, reason, trials);
            }
            Event::ExperimentResumed { experiment, retried } => {
                self.apply_resumed(experiment, retried);
            }
            Event::ExperimentEnded { experiment, state } => self.apply_ended(experiment, *state),
            Event::LeaseGranted { trial, attempt, agent, devices, code_version } => {
                let deadline = at.plus_ms(self.lease_ttl_ms);
                let (attempt, agent, devices) = (*attempt, agent.clone(), devices.clone());
                let lease = Lease { attempt, agent, devices, deadline };
                self.apply_granted(trial, lease, code_version);
            }
            Event::AttemptStarted { trial, attempt } => {
                if let Some(TrialState::Leased { lease, started }) =
                    self.trials.get_mut(trial).map(|trial| &mut trial.state)
                    && lease.attempt == *attempt
                {
                    *started = true;
                }
            }
            Event::CheckpointSaved { trial, checkpoint } => {
                if let Some(trial) = self.trials.get_mut(trial) {
                    let known = trial.checkpoint.as_ref().map_or(0, |known| known.step);
                    // Progress shows that the trial is not what kills its machines, however often
                    // they die: only failures without any step in between count together.
                    if checkpoint.step > known {
                        trial.failures.remove(&FailureClass::Infrastructure);
                    }
                    trial.checkpoint = Some(checkpoint.clone());
                }
            }
            Event::AttemptFailed { trial, outcome, retry_at, .. } => {
                if let Outcome::Failed { class, .. } = outcome
                    && *class != FailureClass::Cancelled
                    && let Some(trial) = self.trials.get_mut(trial)
                {
                    *trial.failures.entry(*class).or_default() += 1;
                }
                self.release(trial);
                self.set_state(trial, TrialState::Waiting { not_before: *retry_at });
                self.pauses.insert((*retry_at, trial.clone()));
            }
            Event::TrialEnded { trial, attempt, outcome } => {
                self.release(trial);
                let outcome = outcome.clone();
                self.set_state(trial, TrialState::Ended { attempt: *attempt, outcome });
            }
        }
    }

    fn apply_planned(&mut self, id: &ExperimentId, reason: &str, specs: &[TrialSpec]) {
        let Some(experiment) = self.experiments.get_mut(id) else {
            return;
        };
        experiment.reasons.push(reason.to_owned());
        let mut planned = Vec::with_capacity(specs.len());
        for spec in specs {
            let trial_id = spec.id();
            self.planned += 1;
            let trial = self
                .trials
                .entry(trial_id.clone())
                .or_insert_with(|| Trial::new(spec.clone(), self.planned));
            if trial.owners.insert(id.clone()) {
                experiment.trials.push(trial_id.clone());
                experiment.open += usize::from(trial.outcome().is_none());
            }
            planned.push(trial_id);
        }
        planned.iter().for_each(|trial_id| self.requeue(trial_id));
        self.mark_stale(id);
    }

    fn apply_resumed(&mut self, id: &ExperimentId, retried: &[TrialId]) {
        for trial_id in retried {
            if let Some(trial) = self.trials.get_mut(trial_id) {
                trial.failures.clear();
            }
            self.set_state(trial_id, TrialState::Waiting { not_before: Timestamp(0) });
        }
        let Some(experiment) = self.experiments.get_mut(id) else {
            return;
        };
        experiment.state = ExperimentState::Running;
        for trial_id in experiment.trials.clone() {
            self.requeue(&trial_id);
        }
        self.mark_stale(id);
    }

    fn apply_ended(&mut self, id: &ExperimentId, state: ExperimentState) {
        let Some(experiment) = self.experiments.get_mut(id) else {
            return;
        };
        experiment.state = state;
        self.stale.remove(id);
        for trial_id in experiment.trials.clone() {
            self.requeue(&trial_id);
        }
    }

    fn apply_granted(&mut self, id: &TrialId, lease: Lease, code_version: &str) {
        let Some(trial) = self.trials.get_mut(id) else {
            return;
        };
        trial.attempt = lease.attempt;
        trial.last_agent = Some(lease.agent.clone());
        code_version.clone_into(&mut trial.code_version);
        self.expiries.insert((lease.deadline, id.clone()));
        if let Some(agent) = self.agents.get_mut(&lease.agent) {
            agent.leases.insert(id.clone());
            agent.version += 1;
            self.changed.insert(lease.agent.clone());
        }
        self.set_state(id, TrialState::Leased { lease, started: false });
    }

    /// Takes the live lease of a trial away; its devices are free once the agent has let go.
    fn release(&mut self, id: &TrialId) {
        let Some(trial) = self.trials.get(id) else {
            return;
        };
        let Some(lease) = trial.lease().cloned() else {
            return;
        };
        let memory_bytes = trial.spec.resources.memory_bytes;
        self.expiries.remove(&(lease.deadline, id.clone()));
        let Some(agent) = self.agents.get_mut(&lease.agent) else {
            return;
        };
        agent.leases.remove(id);
        agent.version += 1;
        let releasing = Releasing {
            devices: lease.devices,
            memory_bytes,
            version: agent.version,
            deadline: lease.deadline,
        };
        agent.releasing.insert((id.clone(), lease.attempt), releasing);
        self.changed.insert(lease.agent);
    }

    /// The only place where a trial's state changes, so that the counts and the queue follow.
    fn set_state(&mut self, id: &TrialId, state: TrialState) {
        let Some(trial) = self.trials.get_mut(id) else {
            return;
        };
        let was_open = trial.outcome().is_none();
        trial.state = state;
        let is_open = trial.outcome().is_none();
        let owners: Vec<ExperimentId> = trial.owners.iter().cloned().collect();
        for owner in owners {
            let Some(experiment) = self.experiments.get_mut(&owner) else {
                continue;
            };
            experiment.open += usize::from(is_open);
            experiment.open -= usize::from(was_open);
            if was_open != is_open {
                self.mark_stale(&owner);
            }
        }
        self.requeue(id);
    }

    fn mark_stale(&mut self, id: &ExperimentId) {
        if self.experiments.get(id).is_some_and(|e| e.state == ExperimentState::Running) {
            self.stale.insert(id.clone());
        }
    }

    /// Puts a trial into the queue, or takes it out, by what it is now.
    fn requeue(&mut self, id: &TrialId) {
        let Some(trial) = self.trials.get(id) else {
            return;
        };
        let key = (trial.order, id.clone());
        if matches!(trial.state, TrialState::Waiting { .. }) && self.is_wanted(trial) {
            self.queue.insert(key);
        } else {
            self.queue.remove(&key);
        }
    }

    /// Whether a running experiment wants the trial's result.
    fn is_wanted(&self, trial: &Trial) -> bool {
        let running = |id: &ExperimentId| {
            self.experiments.get(id).is_some_and(|e| e.state == ExperimentState::Running)
        };
        trial.owners.iter().any(running)
    }

    /// After a replay at `now`: gives every remembered lease a whole term, so that the agents
    /// have time to come back with their running attempts. No pause is longer than the longest
    /// one, whatever the clock showed when it was recorded.
    pub fn restart(&mut self, now: Timestamp) {
        let deadline = now.plus_ms(self.lease_ttl_ms);
        self.expiries.clear();
        self.pauses.clear();
        for (id, trial) in &mut self.trials {
            match &mut trial.state {
                TrialState::Leased { lease, .. } => {
                    lease.deadline = deadline;
                    self.expiries.insert((deadline, id.clone()));
                }
                TrialState::Waiting { not_before } => {
                    *not_before = (*not_before).min(now.plus_ms(BACKOFF_MAX_MS));
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
        let release = self
            .agents
            .values()
            .flat_map(|agent| agent.releasing.values())
            .map(|releasing| (releasing.deadline, "an attempt that was taken back has stopped"))
            .min();
        [expiry, pause, release].into_iter().flatten().min()
    }

    /// Lets the time be `now`: pauses that have ended and devices whose last holder must be gone
    /// are forgotten, and so are agents that left and hold nothing. What follows from that is the
    /// next [`settle`](Self::settle)'s to say.
    pub fn pass_time(&mut self, now: Timestamp) {
        while self.pauses.first().is_some_and(|(at, _)| *at <= now) {
            self.pauses.pop_first();
        }
        for agent in self.agents.values_mut() {
            agent.releasing.retain(|_, releasing| releasing.deadline > now);
        }
        self.agents.retain(|_, agent| {
            agent.connected || !agent.leases.is_empty() || !agent.releasing.is_empty()
        });
    }

    /// The agents whose assignment changed since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<AgentId> {
        std::mem::take(&mut self.changed)
    }
}
