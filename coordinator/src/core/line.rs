//! Lines of short trials: attempts that were granted ahead and follow each other on the same
//! devices.
//!
//! The agent begins an attempt of a line as soon as the one before is gone, so neither a journal
//! nor a network stands between two short programs. The coordinator holds one attempt of each line
//! for the one that has the devices; which one really has them only the agent knows. All are leases
//! like others: fenced, renewed, and over when the agent is silent.
//!
//! Whoever is in line must not wait there for long, nor keep others from the devices. Both is asked
//! of the agent: it gives back what has not begun.

use super::Core;
use super::agent::Agent;
use super::schedule::Rivals;
use super::state::{Experiment, Lease, Member, Trial, TrialState};
use proto::{AgentId, AttemptKey, Devices, Timestamp, TrialId};
use std::collections::BTreeSet;

/// How long an attempt may be in line before it is recalled: far longer than a line of short trials
/// takes.
const RECALL_AFTER_MS: u64 = 1_000;
/// Weight of the newest attempt in an experiment's pace.
const PACE_WEIGHT: f64 = 0.125;

impl Agent {
    pub(super) fn join_line(&mut self, devices: &Devices, key: AttemptKey) {
        self.lines.entry(devices.cpus.clone()).or_default().insert(key);
    }

    pub(super) fn leave_line(&mut self, devices: &Devices, key: &AttemptKey) {
        if let Some(line) = self.lines.get_mut(&devices.cpus) {
            line.remove(key);
            if line.is_empty() {
                self.lines.remove(&devices.cpus);
            }
        }
    }

    /// Attempts in line for these devices.
    pub(super) fn line_length(&self, devices: &Devices) -> usize {
        self.lines.get(&devices.cpus).map_or(0, BTreeSet::len)
    }
}

impl Experiment {
    /// Takes in how long an attempt that ends now had its devices.
    pub(super) fn learn_pace(&mut self, now: Timestamp, lease: &Lease) {
        let held_ms = lease.held_ms(now) as f64;
        let known = self.pace_ms.unwrap_or(held_ms);
        let mean = known + PACE_WEIGHT * (held_ms - known);
        // One that waited in vain proves that the attempt before it is not short.
        let waited_ms = if lease.is_in_line() { now.since_ms(lease.granted_at) } else { 0 };
        let in_vain = waited_ms >= RECALL_AFTER_MS;
        self.pace_ms = Some(if in_vain { mean.max(waited_ms as f64) } else { mean });
    }
}

impl Core {
    /// The next in line has the devices that a member leaves; whether there is one.
    pub(super) fn hand_on(&mut self, now: Timestamp, member: &Member) -> bool {
        let line = self.agents.get(&member.agent).and_then(|a| a.lines.get(&member.devices.cpus));
        let Some(next) = line.and_then(|line| line.first()).cloned() else {
            return false;
        };
        if planted!(self, LineForgotten) {
            return false;
        }
        if let Some(agent) = self.agents.get_mut(&member.agent) {
            agent.leave_line(&member.devices, &next);
        }
        self.begin_to_hold(now, &next.trial);
        true
    }

    fn begin_to_hold(&mut self, now: Timestamp, id: &TrialId) {
        let Some(trial) = self.trials.get_mut(id) else {
            return;
        };
        if let TrialState::Leased(lease) = &mut trial.state {
            (lease.follows, lease.holds_since) = (false, now);
        }
        for owner in &trial.owners {
            if let Some(experiment) = self.experiments.get_mut(owner) {
                experiment.running += 1;
            }
        }
    }

    /// Sorts the leases of an agent that joins into those that have devices and those in line.
    pub(super) fn form_lines(&mut self, now: Timestamp, id: &AgentId) {
        let Some(agent) = self.agents.get(id) else {
            return;
        };
        let lease = |key: &AttemptKey| self.trials.get(&key.trial).and_then(Trial::lease);
        let keyed = agent.leases.keys().filter_map(|key| Some((key.clone(), lease(key)?.clone())));
        let (following, holding): (Vec<_>, Vec<_>) = keyed.partition(|(_, lease)| lease.follows);
        let mut held: BTreeSet<Vec<u32>> = holding
            .iter()
            .filter_map(|(key, lease)| lease.members.get(key.rank as usize))
            .map(|member| member.devices.cpus.clone())
            .collect();
        for (key, lease) in following {
            let devices = &lease.leader().devices;
            if held.insert(devices.cpus.clone()) {
                self.begin_to_hold(now, &key.trial);
            } else if let Some(agent) = self.agents.get_mut(id) {
                agent.join_line(devices, key);
            }
        }
    }

    /// Asks agents for attempts that have been in line for too long, or for whose devices others
    /// wait.
    pub(super) fn recall(&mut self, now: Timestamp) {
        let Some((_, newest)) = self.ahead.last() else {
            return;
        };
        let rivals = Rivals::new(self, now);
        let payer = self.trials.get(newest).and_then(|t| t.lease()?.payer.as_ref());
        // Most turns have none; then only those that are late need a look.
        let is_contested = payer.is_some_and(|payer| rivals.any(payer));
        let is_late = |granted_at: Timestamp| granted_at.plus_ms(RECALL_AFTER_MS) <= now;
        let looked_at = self.ahead.iter().take_while(|(at, _)| is_contested || is_late(*at));
        let recalled = looked_at.filter_map(|(granted_at, id)| {
            let lease = self.trials.get(id)?.lease()?;
            if !lease.is_in_line() || lease.recalled {
                return None;
            }
            let (member, payer) = (lease.leader(), lease.payer.as_ref()?);
            let is_wanted =
                || self.agents.get(&member.agent).is_some_and(|agent| rivals.want(agent, payer));
            let asked = is_late(*granted_at) || is_wanted();
            asked.then(|| (id.clone(), lease.attempt, member.agent.clone()))
        });
        let recalled: Vec<_> = recalled.collect();
        for (trial, attempt, agent_id) in recalled {
            self.change_lease(&trial, attempt, |lease| lease.recalled = true);
            self.assign(&agent_id, AttemptKey { trial, attempt, rank: 0 });
        }
    }
}
