//! What others may see of the core.

use super::Core;
use super::agent::{Agent, Free};
use super::schedule::master_port;
use super::state::{Experiment, Lease, Trial, TrialState};
use proto::{
    AgentId, AttemptKey, Checkpoint, Devices, Event, ExperimentId, ExperimentState, Outcome,
    Timestamp, TrialId, TrialSpec,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Attempts that left an assignment and that one message names at most; with more the complete set
/// is shorter.
const DROPPED_MAX: usize = 4_096;

/// What an agent shall hold.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Rises with every change.
    pub version: u64,
    /// The version that this one changes; 0 for the complete set.
    pub base: u64,
    /// Leases granted or changed since the base.
    pub leases: Vec<LeaseView>,
    /// Attempts taken back since the base.
    pub dropped: Vec<AttemptKey>,
}

/// A lease as its agent is told.
#[derive(Debug, Clone)]
pub struct LeaseView {
    /// Which attempt.
    pub key: AttemptKey,
    /// What to run.
    pub spec: Arc<TrialSpec>,
    /// On what.
    pub devices: Devices,
    /// The newest saved state anywhere.
    pub checkpoint: Option<Checkpoint>,
    /// It shall give way.
    pub preempted: bool,
    /// It shall come back if it has not begun.
    pub recalled: bool,
    /// Members, host and port of the leader; `None` for a trial of one process.
    pub gang: Option<(u32, String, u16)>,
    /// Mean time to a failure of the infrastructure that ends the attempt, as known now.
    pub mtbf_ms: u64,
}

/// How many trials of an experiment are in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// All that were planned.
    pub trials: u64,
    /// Over for good.
    pub ended: u64,
    /// Leased, with their devices.
    pub running: u64,
}

impl Core {
    /// What `agent` shall hold, as a change of the version that it last named.
    pub fn wanted(&self, agent: &AgentId) -> Option<Wanted> {
        let agent = self.agents.get(agent)?;
        let whole = agent.acknowledged == 0 || agent.dropped.len() > DROPPED_MAX;
        let base = if whole { 0 } else { agent.acknowledged };
        let changed = agent.leases.iter().filter(|(_, version)| **version > base);
        let leases = changed.filter_map(|(key, _)| self.lease_view(key)).collect();
        let dropped = if whole { Vec::new() } else { agent.dropped.values().cloned().collect() };
        Some(Wanted { version: agent.version, base, leases, dropped })
    }

    fn lease_view(&self, key: &AttemptKey) -> Option<LeaseView> {
        let trial = self.trials.get(&key.trial)?;
        let lease = trial.lease()?;
        Some(LeaseView {
            key: key.clone(),
            spec: Arc::clone(&trial.spec),
            devices: lease.members.get(key.rank as usize)?.devices.clone(),
            checkpoint: trial.checkpoint.clone(),
            preempted: lease.preempted.is_some(),
            recalled: lease.recalled,
            gang: self.gang(&key.trial, lease),
            mtbf_ms: self.reliability.mtbf_ms(lease.members.len()),
        })
    }

    fn gang(&self, trial: &TrialId, lease: &Lease) -> Option<(u32, String, u16)> {
        let members = u32::try_from(lease.members.len()).ok().filter(|members| *members > 1)?;
        let host = self.agents.get(&lease.leader().agent).map(|agent| &agent.capacity.host);
        // Without a host rank 0 is not heard; its member never starts and the lease ends.
        let host = host.cloned().unwrap_or_default();
        Some((members, host, master_port(trial, lease.attempt)))
    }

    /// All experiments by id.
    pub fn experiments(&self) -> &BTreeMap<ExperimentId, Experiment> {
        &self.experiments
    }

    /// A trial.
    pub fn trial(&self, id: &TrialId) -> Option<&Trial> {
        self.trials.get(id)
    }

    /// The trials whose id begins so, at most two: enough to see whether it is one.
    pub fn trials_with_prefix<'a>(&'a self, prefix: &'a str) -> Vec<&'a TrialId> {
        let ids = self.trials.keys().skip_while(move |id| id.as_str() < prefix);
        ids.take_while(move |id| id.as_str().starts_with(prefix)).take(2).collect()
    }

    /// The experiments that want a trial, or wanted it.
    pub fn owners(&self, trial: &Trial) -> Vec<ExperimentId> {
        trial.owners.iter().cloned().collect()
    }

    /// All trials that exist by themselves, by id.
    pub fn trials(&self) -> &BTreeMap<TrialId, Trial> {
        &self.trials
    }

    /// All agents that are connected or still hold something.
    pub fn agents(&self) -> &BTreeMap<AgentId, Agent> {
        self.agents.all()
    }

    /// The attempts that have devices of an agent, or wait for nothing there.
    pub fn running_on<'a>(&'a self, agent: &'a Agent) -> impl Iterator<Item = &'a AttemptKey> {
        let runs = |key: &&AttemptKey| self.trials.get(&key.trial).is_some_and(Trial::runs);
        agent.leases.keys().filter(runs)
    }

    /// What nothing holds on an agent.
    pub fn free(&self, agent: &Agent) -> Free {
        agent.count_free(&self.trials)
    }

    /// The metrics that studies of running experiments watch, with their rungs.
    pub fn watched(&self) -> BTreeMap<String, BTreeSet<u64>> {
        let mut watched: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
        let running =
            self.experiments.values().filter(|known| known.state == ExperimentState::Running);
        for watch in running.filter_map(|known| known.study.as_ref().ok()?.watch()) {
            watched.entry(watch.metric.to_owned()).or_default().extend(watch.rungs);
        }
        watched
    }

    /// Whether `experiment` wants the trial's result, or wanted it once.
    pub fn wants(&self, experiment: &ExperimentId, trial: &TrialId) -> bool {
        self.trials.get(trial).is_some_and(|trial| trial.owners.contains(experiment))
    }

    /// The experiments that an event is about.
    pub fn concerned<'a>(&'a self, event: &'a Event) -> Vec<&'a ExperimentId> {
        match event {
            Event::ExperimentSubmitted { experiment, .. }
            | Event::RecipeChanged { experiment, .. }
            | Event::TrialsPlanned { experiment, .. }
            | Event::RangePlanned { experiment, .. }
            | Event::TrialsDrawn { experiment, .. }
            | Event::ExperimentResumed { experiment, .. }
            | Event::ExperimentEnded { experiment, .. } => vec![experiment],
            Event::LeaseGranted { trial, .. }
            | Event::AttemptPreempted { trial, .. }
            | Event::AttemptStarted { trial, .. }
            | Event::MemberEnded { trial, .. }
            | Event::Measured { trial, .. }
            | Event::Noticed { trial, .. }
            | Event::CheckpointSaved { trial, .. }
            | Event::AttemptFailed { trial, .. }
            | Event::TrialEnded { trial, .. } => {
                let owners = self.trials.get(trial).map(|trial| trial.owners.iter());
                owners.into_iter().flatten().collect()
            }
        }
    }

    /// How many trials of `experiment` are in which state.
    pub fn counts(experiment: &Experiment) -> Counts {
        Counts {
            trials: experiment.planned(),
            ended: experiment.planned() - experiment.unfinished(),
            running: experiment.running as u64,
        }
    }

    /// The newest attempt of a trial that may still write.
    pub fn current_lease(&self, id: &TrialId) -> Option<&Lease> {
        self.trials.get(id).and_then(Trial::lease)
    }

    /// Whether all that wanted the trial have ended, one of them because somebody asked for it.
    fn is_cancelled(&self, trial: &Trial) -> bool {
        let cancelled = |id| {
            let owner: Option<&Experiment> = self.experiments.get(id);
            owner.is_some_and(|owner| owner.state == ExperimentState::Cancelled)
        };
        !self.is_wanted(trial) && trial.owners.iter().any(cancelled)
    }

    /// One word for a trial's state.
    pub fn trial_word(&self, trial: &Trial, now: Timestamp) -> &'static str {
        match &trial.state {
            TrialState::Waiting { .. } if self.is_cancelled(trial) => "cancelled",
            TrialState::Waiting { not_before, .. } if *not_before > now => "backoff",
            TrialState::Waiting { .. } => "waiting",
            TrialState::Leased(lease) if lease.is_in_line() => "waiting",
            TrialState::Leased(lease) if lease.preempted.is_some() => "yielding",
            TrialState::Leased(lease) if lease.started() => "running",
            TrialState::Leased(_) => "starting",
            TrialState::Ended { outcome, .. } => Outcome::word(outcome),
        }
    }
}
