//! What must be true after every step, recomputed from scratch.

use super::Core;
use super::agent::Agent;
use super::state::{Experiment, Trial, TrialState};
use proto::{AgentId, AttemptKey, Devices, ExperimentState, Timestamp, TrialId};
use std::collections::{BTreeMap, BTreeSet};

impl Core {
    /// Recomputes everything that is kept twice and compares, and checks what must never be.
    ///
    /// # Errors
    /// The first contradiction, in words.
    pub fn check_invariants(&self, now: Timestamp) -> Result<(), String> {
        self.check_queues()?;
        self.check_leases()?;
        self.check_devices()?;
        self.check_counts()?;
        self.check_quiet()?;
        self.check_reasons(now)
    }

    /// A round that is left out because nothing changed would indeed have found nothing.
    fn check_quiet(&self) -> Result<(), String> {
        let Some(since) = self.quiet_since else { return Ok(()) };
        match super::schedule::place(self, since).first() {
            Some(event) => Err(format!("since a round that found nothing, this came: {event:?}")),
            None => Ok(()),
        }
    }

    fn check_queues(&self) -> Result<(), String> {
        for (id, experiment) in &self.experiments {
            let waits = |trial: &Trial| matches!(trial.state, TrialState::Waiting { .. });
            let own = experiment.trials.iter().filter_map(|id| self.trials.get_key_value(id));
            let waiting = own
                .filter(|(_, trial)| experiment.state == ExperimentState::Running && waits(trial));
            let expected: BTreeSet<_> =
                waiting.map(|(id, trial)| (trial.order, id.clone())).collect();
            if expected != experiment.queue {
                let queue = &experiment.queue;
                return Err(format!("the queue of {id} is {queue:?} and should be {expected:?}"));
            }
        }
        Ok(())
    }

    fn check_leases(&self) -> Result<(), String> {
        let mut by_agent: BTreeMap<&AgentId, BTreeSet<AttemptKey>> = BTreeMap::new();
        let mut expiries = BTreeSet::new();
        let (mut yielding, mut ahead) = (BTreeSet::new(), BTreeSet::new());
        for (id, trial) in &self.trials {
            let Some(lease) = trial.lease() else { continue };
            if lease.attempt != trial.attempt {
                return Err(format!("trial {id} is leased as an attempt that is not its newest"));
            }
            let members = trial.spec.placement.members as usize;
            if lease.members.len() != members {
                let found = lease.members.len();
                return Err(format!("trial {id} has {found} of the {members} members of its gang"));
            }
            for (key, member) in lease.live(id) {
                expiries.insert((member.deadline, key.clone()));
                by_agent.entry(&member.agent).or_default().insert(key);
            }
            ahead.extend(lease.ahead.then(|| (lease.granted_at, id.clone())));
            yielding.extend(lease.preempted.iter().map(|(_, at)| (*at, id.clone())));
        }
        if expiries != self.expiries {
            return Err("the deadlines of the leases differ from the leases".to_owned());
        }
        if ahead != self.ahead {
            return Err("the trials that were granted ahead differ from the leases".to_owned());
        }
        if yielding != self.yielding {
            return Err("the attempts that give way differ from the leases".to_owned());
        }
        for (id, agent) in self.agents.all() {
            let expected = by_agent.remove(id).unwrap_or_default();
            let found: BTreeSet<AttemptKey> = agent.leases.keys().cloned().collect();
            if found != expected {
                return Err(format!("agent {id} lists leases {found:?}, not {expected:?}"));
            }
        }
        Ok(())
    }

    /// No device is promised beyond what it has, whether by a lease or by what still lets go.
    fn check_devices(&self) -> Result<(), String> {
        for (id, agent) in self.agents.all() {
            let counted = agent.count_free(&self.trials);
            if agent.free.as_ref().is_some_and(|free| *free != counted) {
                return Err(format!("agent {id} counts {:?} free, not {counted:?}", agent.free));
            }
            let leased = agent.leases.keys().filter_map(|key| {
                let lease = self.trials.get(&key.trial)?.lease().filter(|l| !l.follows)?;
                Some(&lease.members.get(key.rank as usize)?.devices)
            });
            let releasing = agent.releasing.values().filter_map(|r| r.held.as_ref());
            let releasing = releasing.map(|held| &held.devices);
            if let Some(what) = promised_twice(leased.chain(releasing)) {
                return Err(format!("{what} of agent {id} is promised twice"));
            }
            self.check_lines(id, agent)?;
        }
        Ok(())
    }

    /// Every attempt in line follows one that has exactly the devices that it waits for.
    fn check_lines(&self, id: &AgentId, agent: &Agent) -> Result<(), String> {
        let mut lines: BTreeMap<Vec<u32>, BTreeSet<AttemptKey>> = BTreeMap::new();
        let mut held = BTreeSet::new();
        for key in agent.leases.keys() {
            let lease = self.trials.get(&key.trial).and_then(Trial::lease);
            let Some(lease) = lease else { continue };
            let Some(member) = lease.members.get(key.rank as usize) else { continue };
            if lease.follows {
                lines.entry(member.devices.cpus.clone()).or_default().insert(key.clone());
            } else {
                held.insert(&member.devices.cpus);
            }
        }
        if lines != agent.lines {
            return Err(format!("agent {id} has lines {:?}, not {lines:?}", agent.lines));
        }
        match lines.keys().find(|cpus| !held.contains(cpus)) {
            Some(cpus) => Err(format!("agent {id} has a line for {cpus:?}, which nothing holds")),
            None => Ok(()),
        }
    }

    fn check_counts(&self) -> Result<(), String> {
        for (id, experiment) in &self.experiments {
            let open = |id: &&TrialId| self.trials.get(*id).is_some_and(|t| t.outcome().is_none());
            let expected = experiment.trials.iter().filter(open).count();
            if experiment.open != expected {
                return Err(format!("{id} counts {} open trials, not {expected}", experiment.open));
            }
            let runs = |id: &&TrialId| self.trials.get(*id).is_some_and(Trial::runs);
            let running = experiment.trials.iter().filter(runs).count();
            if experiment.running != running {
                return Err(format!("{id} counts {} that run, not {running}", experiment.running));
            }
            // A trial that another experiment tries again is open in both.
            let own = |id: &&TrialId| {
                open(id) && self.trials.get(*id).is_some_and(|trial| trial.owners.len() == 1)
            };
            let unfinished = experiment.trials.iter().filter(own).count();
            if experiment.state == ExperimentState::Complete
                && (unfinished > 0 || experiment.undrawn > 0)
            {
                return Err(format!("{id} is complete with {unfinished} open trials"));
            }
            self.check_budget(id.as_str(), experiment)?;
        }
        Ok(())
    }

    /// What cannot be known before is exceeded by no more than what is in flight; what can be
    /// known is not exceeded at all.
    fn check_budget(&self, id: &str, experiment: &Experiment) -> Result<(), String> {
        let leases = self.trials.values().filter_map(Trial::lease);
        let paid = leases.filter(|lease| lease.payer.as_ref().is_some_and(|p| p.as_str() == id));
        let leased = paid.count();
        if experiment.leased as usize != leased {
            return Err(format!("{id} counts {} leases, not {leased}", experiment.leased));
        }
        let (policy, used) = (&experiment.policy, &experiment.used);
        if policy.trials.is_some_and(|most| used.trials > most) {
            return Err(format!("{id} started {} trials, more than it may", used.trials));
        }
        if policy.flops.is_some_and(|most| used.flops > most) {
            return Err(format!("{id} started {} FLOPs, more than it may", used.flops));
        }
        if policy.at_once.is_some_and(|most| experiment.leased > most) {
            return Err(format!("{id} holds {} leases, more than it may", experiment.leased));
        }
        Ok(())
    }

    /// Every waiting trial can say why.
    fn check_reasons(&self, now: Timestamp) -> Result<(), String> {
        for (id, trial) in &self.trials {
            let in_line = trial.lease().is_some_and(super::state::Lease::is_in_line);
            let waits = matches!(trial.state, TrialState::Waiting { .. }) || in_line;
            if waits != self.waits(id, now).is_some() {
                return Err(format!(
                    "trial {id} waits without a reason, or has one without waiting"
                ));
            }
        }
        Ok(())
    }
}

fn promised_twice<'a>(all: impl Iterator<Item = &'a Devices>) -> Option<String> {
    let mut cpus = BTreeSet::new();
    let mut gpus: BTreeMap<u32, u32> = BTreeMap::new();
    for devices in all {
        if let Some(cpu) = devices.cpus.iter().find(|cpu| !cpus.insert(**cpu)) {
            return Some(format!("CPU slot {cpu}"));
        }
        for gpu in &devices.gpus {
            let promised = gpus.entry(*gpu).or_default();
            *promised += devices.gpu_milli();
            if *promised > Devices::WHOLE_MILLI {
                return Some(format!("GPU {gpu}"));
            }
        }
    }
    None
}
