//! What the core knows. Plain data; every field is either folded from events or said again by the
//! agents themselves after a restart.

use proto::{
    AgentId, Attempt, Checkpoint, Devices, ExperimentId, ExperimentState, FailureClass, Inputs,
    Outcome, Timestamp, TrialId, TrialSpec,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use studies::study::Study;

/// A submitted recipe and what became of it.
pub struct Experiment {
    /// The recipe's text as it was given.
    pub recipe: String,
    /// The files it names.
    pub inputs: Inputs,
    /// Its science; an error when this version of Brine cannot read the stored recipe.
    pub study: Result<Box<dyn Study>, String>,
    /// Its trials in planning order, each once.
    pub trials: Vec<TrialId>,
    /// How many of them have not ended.
    pub open: usize,
    /// How it stands.
    pub state: ExperimentState,
    /// When it was first submitted.
    pub submitted_at: Timestamp,
    /// The study's words at each planning.
    pub reasons: Vec<String>,
}

/// A trial and what became of it.
pub struct Trial {
    /// What it is.
    pub spec: Arc<TrialSpec>,
    /// Place in the order of planning, over all experiments.
    pub(super) order: u64,
    /// The experiments that want its result.
    pub(super) owners: BTreeSet<ExperimentId>,
    /// How it stands.
    pub state: TrialState,
    /// The newest attempt that was granted; 0 before the first.
    pub attempt: Attempt,
    /// Failed attempts that count against the recipe's retries.
    pub(super) failures: BTreeMap<FailureClass, u32>,
    /// The newest saved state.
    pub checkpoint: Option<Checkpoint>,
    /// Who ran it last.
    pub last_agent: Option<AgentId>,
    /// Version of that agent's code; empty before the first attempt.
    pub code_version: String,
}

/// How a trial stands.
#[derive(Debug, Clone, PartialEq)]
pub enum TrialState {
    /// It has no lease. After a failed attempt it gets none before `not_before`, so that a broken
    /// machine does not eat all attempts.
    Waiting {
        /// Earliest moment of the next lease.
        not_before: Timestamp,
    },
    /// Granted and recorded. The devices are taken, whether or not the agent has confirmed.
    Leased {
        /// Who and where.
        lease: Lease,
        /// The agent confirmed that the process runs.
        started: bool,
    },
    /// Over for good.
    Ended {
        /// The attempt that decided it.
        attempt: Attempt,
        /// How.
        outcome: Outcome,
    },
}

/// An agent's right to run one attempt of a trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Which try; the fencing token.
    pub attempt: Attempt,
    /// Who.
    pub agent: AgentId,
    /// On which devices.
    pub devices: Devices,
    /// It ends here unless the agent is heard before.
    pub deadline: Timestamp,
}

/// What an agent said it has. Not journaled: it says so again when it comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capacity {
    /// Name of its machine.
    pub host: String,
    /// CPU slots, numbered from 0.
    pub cpus: u32,
    /// GPUs.
    pub gpus: Vec<Gpu>,
    /// Main memory in bytes.
    pub memory_bytes: u64,
    /// Version of its code.
    pub code_version: String,
}

/// One GPU of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Number on its machine.
    pub index: u32,
    /// Model name.
    pub name: String,
    /// Memory in bytes.
    pub memory_bytes: u64,
}

/// An agent as the core sees it.
#[derive(Debug, Clone)]
pub struct Agent {
    /// What it has.
    pub capacity: Capacity,
    /// Its newest session.
    pub(super) session: u64,
    /// When it last said anything.
    pub(super) heard_at: Timestamp,
    /// Whether its session is up; leases are granted only then.
    pub connected: bool,
    /// It said that it stops; it gets no further leases in this session.
    pub leaving: bool,
    /// Trials leased to it.
    pub leases: BTreeSet<TrialId>,
    /// Attempts taken back that the agent may still be stopping; their devices are not free.
    pub(super) releasing: BTreeMap<(TrialId, Attempt), Releasing>,
    /// Rises with every change of its leases.
    pub version: u64,
}

/// Devices on their way back.
#[derive(Debug, Clone)]
pub(super) struct Releasing {
    pub(super) devices: Devices,
    pub(super) memory_bytes: u64,
    /// First assignment without the attempt; a report that knows it and does not list the attempt
    /// proves that the process is gone.
    pub(super) version: u64,
    /// The agent's own watchdog has ended the attempt by then.
    pub(super) deadline: Timestamp,
}

impl Trial {
    pub(super) fn new(spec: TrialSpec, order: u64) -> Self {
        Self {
            spec: Arc::new(spec),
            order,
            owners: BTreeSet::new(),
            state: TrialState::Waiting { not_before: Timestamp(0) },
            attempt: Attempt(0),
            failures: BTreeMap::new(),
            checkpoint: None,
            last_agent: None,
            code_version: String::new(),
        }
    }

    /// The live lease, if any.
    pub fn lease(&self) -> Option<&Lease> {
        match &self.state {
            TrialState::Leased { lease, .. } => Some(lease),
            TrialState::Waiting { .. } | TrialState::Ended { .. } => None,
        }
    }

    /// How it ended, if it did.
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.state {
            TrialState::Ended { outcome, .. } => Some(outcome),
            TrialState::Waiting { .. } | TrialState::Leased { .. } => None,
        }
    }
}

/// What nothing holds on an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Free {
    /// CPU slots and GPUs, lowest index first.
    pub devices: Devices,
    /// Main memory in bytes that no trial has asked for.
    pub memory_bytes: u64,
}

impl Free {
    /// Takes devices and memory away.
    pub(super) fn take(&mut self, devices: &Devices, memory_bytes: u64) {
        self.devices.cpus.retain(|cpu| !devices.cpus.contains(cpu));
        self.devices.gpus.retain(|gpu| !devices.gpus.contains(gpu));
        self.memory_bytes = self.memory_bytes.saturating_sub(memory_bytes);
    }
}

impl Agent {
    /// Everything it has.
    pub(super) fn whole(&self) -> Free {
        let gpus = self.capacity.gpus.iter().map(|gpu| gpu.index).collect();
        let devices = Devices { cpus: (0..self.capacity.cpus).collect(), gpus };
        Free { devices, memory_bytes: self.capacity.memory_bytes }
    }

    /// What no lease and no stopping attempt holds.
    pub(super) fn free(&self, trials: &BTreeMap<TrialId, Trial>) -> Free {
        let mut free = self.whole();
        for trial in self.leases.iter().filter_map(|id| trials.get(id)) {
            if let Some(lease) = trial.lease() {
                free.take(&lease.devices, trial.spec.resources.memory_bytes);
            }
        }
        for releasing in self.releasing.values() {
            free.take(&releasing.devices, releasing.memory_bytes);
        }
        free
    }

    /// Whether it may get a lease at `now`: its session is up and it was heard within a lease's
    /// term. A connection alone proves nothing; the machine behind it may be frozen.
    pub(super) fn is_available(&self, now: Timestamp, lease_ttl_ms: u64) -> bool {
        self.connected && !self.leaving && now.since_ms(self.heard_at) < lease_ttl_ms
    }
}
