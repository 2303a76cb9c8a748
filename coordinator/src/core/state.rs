//! What the core knows of experiments and trials. Plain data, folded from events; only the
//! deadlines of leases follow from what agents say.

use proto::{
    AgentId, Attempt, AttemptKey, Checkpoint, Devices, ExperimentId, ExperimentState, FailureClass,
    Inputs, Notice, Outcome, Timestamp, TrialId, TrialSpec,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use studies::recipe::Policy;
use studies::study::{Measured, Study};

/// A submitted recipe and what became of it.
pub struct Experiment {
    /// The recipe's text as it was given.
    pub recipe: String,
    /// The files it names.
    pub inputs: Inputs,
    /// Who submitted it; empty when nobody said.
    pub user: String,
    /// How it stands among others and what it may use.
    pub policy: Policy,
    /// Its science; an error when this version of Brine cannot read the stored recipe, or would
    /// plan other trials from it.
    pub study: Result<Box<dyn Study>, String>,
    /// Its trials in the order in which they were planned or drawn, each once.
    pub trials: Vec<TrialId>,
    /// How many of them have not ended.
    pub open: usize,
    /// How many of them have a lease and the devices for it.
    pub(super) running: usize,
    /// Trials of planned ranges that are not drawn yet.
    pub undrawn: u64,
    /// Index of the next one in the study's enumeration.
    pub(super) next_index: u64,
    /// How it stands.
    pub state: ExperimentState,
    /// When it was first submitted.
    pub submitted_at: Timestamp,
    /// Place in the order of submission.
    pub(super) order: u64,
    /// The study's words at each planning.
    pub reasons: Vec<String>,
    /// Whether all its trials find a place exactly alike.
    pub(super) is_uniform: bool,
    /// Mean time for which one of its attempts holds its devices, in milliseconds; `None` before
    /// the first has ended.
    pub(super) pace_ms: Option<f64>,
    /// Its trials without a lease, in planning order. Empty unless it is running.
    pub(super) queue: BTreeSet<(u64, TrialId)>,
    /// What its leases have used.
    pub used: Usage,
    /// Leases that it pays for now.
    pub(super) leased: u32,
    /// What they hold, in [`units`].
    pub(super) held: u64,
}

impl Experiment {
    /// Trials that have not ended, drawn or not.
    pub fn unfinished(&self) -> u64 {
        self.open as u64 + self.undrawn
    }

    /// All trials that were planned.
    pub fn planned(&self) -> u64 {
        self.trials.len() as u64 + self.undrawn
    }
}

/// What an experiment has used of what its recipe allows.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Usage {
    /// Trials that were started.
    pub trials: u64,
    /// GPU time over all attempts that are over, in milliseconds of a whole GPU.
    pub gpu_ms: u64,
    /// Counted training FLOPs of the started trials.
    pub flops: f64,
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
    /// Whether that ended with a failure of the infrastructure.
    pub(super) last_agent_failed: bool,
    /// Version of that agent's code; empty before the first attempt.
    pub code_version: String,
    /// What the study watches, by ascending rung.
    pub measured: Vec<Measured>,
    /// Its last failed attempts, oldest first; at most 8, all are in the journal.
    pub failed: Vec<FailedAttempt>,
    /// What was noticed about it, oldest first; at most [`proto::notice::NOTICES_MAX`].
    pub noticed: Vec<Noticed>,
}

/// What an agent noticed about an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noticed {
    /// Which.
    pub attempt: Attempt,
    /// When it was recorded.
    pub at: Timestamp,
    /// What.
    pub notice: Notice,
}

/// Failed attempts that are remembered of each trial; all are in the journal.
pub(super) const FAILED_MAX: usize = 8;

/// An attempt that did not end its trial.
#[derive(Debug, Clone, PartialEq)]
pub struct FailedAttempt {
    /// Which.
    pub attempt: Attempt,
    /// When.
    pub at: Timestamp,
    /// The agent of rank 0.
    pub agent: Option<AgentId>,
    /// How.
    pub outcome: Outcome,
}

/// How a trial stands.
#[derive(Debug, Clone, PartialEq)]
pub enum TrialState {
    /// It has no lease. After a failed attempt it gets none before `not_before`, so that a broken
    /// machine does not eat all attempts.
    Waiting {
        /// Since when, for the order of reservations.
        since: Timestamp,
        /// Earliest moment of the next lease.
        not_before: Timestamp,
    },
    /// Granted and recorded. The devices are taken, whether or not the agents have confirmed.
    Leased(Box<Lease>),
    /// Over for good.
    Ended {
        /// The attempt that decided it.
        attempt: Attempt,
        /// How.
        outcome: Outcome,
    },
}

/// The right to run one attempt of a trial, of one agent or, for a gang, of several.
#[derive(Debug, Clone, PartialEq)]
pub struct Lease {
    /// Which try; the fencing token.
    pub attempt: Attempt,
    /// Which of the trial's choices every member fills.
    pub choice: u32,
    /// When it was granted.
    pub granted_at: Timestamp,
    /// Which experiment's limits it counts against.
    pub(super) payer: Option<ExperimentId>,
    /// Who and where, by rank.
    pub members: Vec<Member>,
    /// It was asked to give way to this trial at this moment.
    pub preempted: Option<(TrialId, Timestamp)>,
    /// It was granted while another attempt had the devices.
    pub(super) ahead: bool,
    /// Another attempt still has them, as far as is known, and this one is in line for them.
    pub(super) follows: bool,
    /// Since when it has them.
    pub(super) holds_since: Timestamp,
    /// The agent was told to give it back unless it has begun. Said anew after a restart.
    pub(super) recalled: bool,
}

/// One process of a leased attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Who.
    pub agent: AgentId,
    /// On which devices.
    pub devices: Devices,
    /// It ends here unless the agent is heard before.
    pub deadline: Timestamp,
    /// The agent confirmed that the process runs.
    pub started: bool,
    /// How it ended, while others still run.
    pub outcome: Option<Outcome>,
}

impl Lease {
    /// The member of rank 0, which every lease has.
    pub fn leader(&self) -> &Member {
        &self.members[0]
    }

    /// Whether every process runs.
    pub fn started(&self) -> bool {
        self.members.iter().all(|member| member.started)
    }

    /// For how long it has had its devices at `now`, in milliseconds.
    pub(super) fn held_ms(&self, now: Timestamp) -> u64 {
        if self.follows { 0 } else { now.since_ms(self.holds_since) }
    }

    /// Whether it waits on its agent for another attempt to end.
    pub(super) fn is_in_line(&self) -> bool {
        self.ahead && !self.started()
    }

    /// The members whose process has not ended, with their keys.
    pub(super) fn live(&self, trial: &TrialId) -> impl Iterator<Item = (AttemptKey, &Member)> {
        let keyed = (0..).zip(&self.members).map(|(rank, member)| {
            (AttemptKey { trial: trial.clone(), attempt: self.attempt, rank }, member)
        });
        keyed.filter(|(_, member)| member.outcome.is_none())
    }

    /// What all members hold, in [`units`].
    pub(super) fn units(&self) -> u64 {
        self.members.iter().map(|member| units(&member.devices)).sum()
    }

    /// Thousandths of GPUs that all members hold.
    pub(super) fn gpu_milli(&self) -> u64 {
        self.members.iter().map(|member| gpu_milli(&member.devices)).sum()
    }
}

fn gpu_milli(devices: &Devices) -> u64 {
    devices.gpus.len() as u64 * u64::from(devices.gpu_milli())
}

/// CPU slots that a GPU counts for in a fair share: what machines with GPUs have beside each.
const CPUS_PER_GPU: u64 = 16;

/// What devices count for in a fair share, in thousandths of a CPU slot; at least 1, so that trials
/// that occupy nothing take turns too.
pub(super) fn units(devices: &Devices) -> u64 {
    let units = devices.cpus.len() as u64 * 1_000 + gpu_milli(devices) * CPUS_PER_GPU;
    units.max(1)
}

impl Trial {
    pub(super) fn new(spec: TrialSpec, order: u64, since: Timestamp) -> Self {
        Self {
            spec: Arc::new(spec),
            order,
            owners: BTreeSet::new(),
            state: TrialState::Waiting { since, not_before: Timestamp(0) },
            attempt: Attempt(0),
            failures: BTreeMap::new(),
            checkpoint: None,
            last_agent: None,
            last_agent_failed: false,
            code_version: String::new(),
            measured: Vec::new(),
            failed: Vec::new(),
            noticed: Vec::new(),
        }
    }

    /// The live lease, if any.
    pub fn lease(&self) -> Option<&Lease> {
        match &self.state {
            TrialState::Leased(lease) => Some(lease),
            TrialState::Waiting { .. } | TrialState::Ended { .. } => None,
        }
    }

    /// Whether it has a lease and the devices for it.
    pub(super) fn runs(&self) -> bool {
        self.lease().is_some_and(|lease| !lease.follows)
    }

    /// The live lease's member that `agent` may run as `key`.
    pub(super) fn member(&self, agent: &AgentId, key: &AttemptKey) -> Option<&Member> {
        let lease = self.lease().filter(|lease| lease.attempt == key.attempt)?;
        let member = lease.members.get(key.rank as usize)?;
        (member.agent == *agent && member.outcome.is_none()).then_some(member)
    }

    /// How it ended, if it did.
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.state {
            TrialState::Ended { outcome, .. } => Some(outcome),
            TrialState::Waiting { .. } | TrialState::Leased(_) => None,
        }
    }
}
