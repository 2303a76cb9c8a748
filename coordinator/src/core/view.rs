//! What others may see of the core.

use super::state::{Agent, Experiment, Lease, Trial, TrialState};
use super::{Core, schedule};
use proto::{
    AgentId, Attempt, Checkpoint, Devices, ExperimentId, Outcome, Timestamp, TrialId, TrialSpec,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A lease as its agent is told.
#[derive(Debug, Clone)]
pub struct LeaseView {
    /// Which trial.
    pub trial: TrialId,
    /// Which try of it.
    pub attempt: Attempt,
    /// What to run.
    pub spec: Arc<TrialSpec>,
    /// On what.
    pub devices: Devices,
    /// The newest saved state anywhere.
    pub checkpoint: Option<Checkpoint>,
}

/// How many trials of an experiment are in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// All that were planned.
    pub trials: usize,
    /// Over for good.
    pub ended: usize,
    /// Leased.
    pub running: usize,
}

impl Core {
    /// The complete set of leases that `agent` shall hold, and the version of that set.
    pub fn assignments(&self, agent: &AgentId) -> (u64, Vec<LeaseView>) {
        let Some(agent) = self.agents.get(agent) else {
            return (0, Vec::new());
        };
        let view = |id: &TrialId| {
            let trial = self.trials.get(id)?;
            let lease = trial.lease()?;
            Some(LeaseView {
                trial: id.clone(),
                attempt: lease.attempt,
                spec: Arc::clone(&trial.spec),
                devices: lease.devices.clone(),
                checkpoint: trial.checkpoint.clone(),
            })
        };
        (agent.version, agent.leases.iter().filter_map(view).collect())
    }

    /// All experiments by id.
    pub fn experiments(&self) -> &BTreeMap<ExperimentId, Experiment> {
        &self.experiments
    }

    /// A trial.
    pub fn trial(&self, id: &TrialId) -> Option<&Trial> {
        self.trials.get(id)
    }

    /// All agents that are connected or still hold something.
    pub fn agents(&self) -> &BTreeMap<AgentId, Agent> {
        &self.agents
    }

    /// The devices of an agent that nothing holds.
    pub fn free_devices(&self, agent: &Agent) -> Devices {
        agent.free(&self.trials).devices
    }

    /// How many trials of `experiment` are in which state.
    pub fn counts(&self, experiment: &Experiment) -> Counts {
        let running = |id: &&TrialId| self.trials.get(*id).and_then(Trial::lease).is_some();
        Counts {
            trials: experiment.trials.len(),
            ended: experiment.trials.len() - experiment.open,
            running: experiment.trials.iter().filter(running).count(),
        }
    }

    /// The newest attempt of a trial that may still write.
    pub fn current_lease(&self, id: &TrialId) -> Option<&Lease> {
        self.trials.get(id).and_then(Trial::lease)
    }

    /// One word for a trial's state.
    pub fn trial_word(&self, trial: &Trial, now: Timestamp) -> &'static str {
        match &trial.state {
            TrialState::Waiting { not_before } if *not_before > now => "backoff",
            TrialState::Waiting { .. } => "waiting",
            TrialState::Leased { started: false, .. } => "starting",
            TrialState::Leased { started: true, .. } => "running",
            TrialState::Ended { outcome, .. } => Outcome::word(outcome),
        }
    }

    /// Why a trial has no lease, in words; empty when it does not wait.
    pub fn waiting_for(&self, trial: &Trial, now: Timestamp) -> String {
        let not_before = match &trial.state {
            TrialState::Waiting { not_before } => *not_before,
            TrialState::Leased { .. } | TrialState::Ended { .. } => return String::new(),
        };
        if !self.is_wanted(trial) {
            return "its experiment is not running".to_owned();
        }
        if not_before > now {
            return format!("a pause of {} ms before its next attempt", not_before.since_ms(now));
        }
        let connected = || self.agents.values().filter(|agent| agent.connected && !agent.leaving);
        if connected().next().is_none() {
            return "no agent is connected".to_owned();
        }
        let wants = &trial.spec.resources;
        let could =
            |agent: &Agent| schedule::pick(&agent.capacity, &agent.whole(), wants).is_some();
        if connected().any(could) {
            return "free devices or memory".to_owned();
        }
        format!(
            "an agent with {} CPU slots, {} GPUs of {} bytes and {} bytes of memory; none that is \
             connected has them",
            wants.cpus, wants.gpus, wants.gpu_memory_bytes, wants.memory_bytes
        )
    }
}
