//! What must be true after every step, recomputed from scratch.

use super::Core;
use super::state::{Trial, TrialState};
use proto::{AgentId, ExperimentState, TrialId};
use std::collections::{BTreeMap, BTreeSet};

impl Core {
    /// Recomputes everything that is kept twice and compares.
    ///
    /// # Errors
    /// The first contradiction, in words.
    pub fn check_invariants(&self) -> Result<(), String> {
        self.check_queue()?;
        self.check_leases()?;
        self.check_counts()
    }

    fn check_queue(&self) -> Result<(), String> {
        let waiting = |(id, trial): (&TrialId, &Trial)| {
            let waits = matches!(trial.state, TrialState::Waiting { .. });
            (waits && self.is_wanted(trial)).then(|| (trial.order, id.clone()))
        };
        let expected: BTreeSet<_> = self.trials.iter().filter_map(waiting).collect();
        if expected != self.queue {
            return Err(format!("the queue is {:?} and should be {expected:?}", self.queue));
        }
        Ok(())
    }

    fn check_leases(&self) -> Result<(), String> {
        let mut by_agent: BTreeMap<&AgentId, BTreeSet<TrialId>> = BTreeMap::new();
        let mut expiries = BTreeSet::new();
        let mut promised = BTreeSet::new();
        for (id, trial) in &self.trials {
            let Some(lease) = trial.lease() else { continue };
            if lease.attempt != trial.attempt {
                return Err(format!("trial {id} is leased as an attempt that is not its newest"));
            }
            expiries.insert((lease.deadline, id.clone()));
            by_agent.entry(&lease.agent).or_default().insert(id.clone());
            let cpus = lease.devices.cpus.iter().map(|index| ("CPU slot", *index));
            let gpus = lease.devices.gpus.iter().map(|index| ("GPU", *index));
            for (kind, index) in cpus.chain(gpus) {
                if !promised.insert((&lease.agent, kind, index)) {
                    return Err(format!(
                        "{kind} {index} of agent {} is promised twice",
                        lease.agent
                    ));
                }
            }
        }
        if expiries != self.expiries {
            return Err("the deadlines of the leases differ from the leases".to_owned());
        }
        for (id, agent) in &self.agents {
            let expected = by_agent.remove(id).unwrap_or_default();
            if agent.leases != expected {
                return Err(format!(
                    "agent {id} lists leases {:?}, not {expected:?}",
                    agent.leases
                ));
            }
        }
        Ok(())
    }

    fn check_counts(&self) -> Result<(), String> {
        for (id, experiment) in &self.experiments {
            let open = |id: &&TrialId| self.trials.get(*id).is_some_and(|t| t.outcome().is_none());
            let expected = experiment.trials.iter().filter(open).count();
            if experiment.open != expected {
                return Err(format!("{id} counts {} open trials, not {expected}", experiment.open));
            }
            if experiment.state == ExperimentState::Complete && experiment.open > 0 {
                return Err(format!("{id} is complete with {} open trials", experiment.open));
            }
        }
        Ok(())
    }
}
