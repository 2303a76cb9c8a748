//! What a recorded fact changes about leases, and about what agents hold with them.

use super::agent::{Held, Strikes};
use super::state::{Lease, Member, Trial, TrialState};
use super::{AGENTS_MAX, Core};
use proto::{AgentId, AttemptKey, Event, FailureClass, Outcome, Timestamp, TrialId};

impl Core {
    pub(super) fn apply_granted(&mut self, at: Timestamp, event: &Event) {
        let Event::LeaseGranted {
            trial: id,
            attempt,
            agent,
            devices,
            code_version,
            choice,
            members,
            payer,
            ahead,
        } = event
        else {
            return;
        };
        let deadline = at.plus_ms(self.lease_ttl_ms);
        let member = |agent: &AgentId, devices: &proto::Devices| Member {
            agent: agent.clone(),
            devices: devices.clone(),
            deadline,
            started: false,
            outcome: None,
        };
        let leader = std::iter::once(member(agent, devices));
        let others = members.iter().map(|other| member(&other.agent, &other.devices));
        let Some(trial) = self.trials.get_mut(id) else {
            return;
        };
        let is_first = trial.attempt.0 == 0;
        trial.attempt = *attempt;
        trial.last_agent = Some(agent.clone());
        trial.last_agent_failed = false;
        code_version.clone_into(&mut trial.code_version);
        let lease = Lease {
            attempt: *attempt,
            choice: *choice,
            granted_at: at,
            payer: payer.clone(),
            members: leader.chain(others).collect(),
            preempted: None,
            ahead: *ahead,
            follows: *ahead,
            holds_since: at,
            recalled: false,
        };
        if *ahead {
            self.ahead.insert((at, id.clone()));
        }
        for (key, member) in lease.live(id) {
            self.expiries.insert((deadline, key.clone()));
            if let Some(agent) = self.agents.get_mut(&member.agent) {
                if *ahead {
                    agent.join_line(&member.devices, key.clone());
                } else if let Some(free) = &mut agent.free {
                    free.take(&Held::new(member.devices.clone(), trial.spec.choice(*choice)));
                }
            }
        }
        if let Some(payer) = payer.as_ref().and_then(|id| self.experiments.get_mut(id)) {
            payer.leased += 1;
            payer.held += lease.units();
            if is_first {
                payer.used.trials += 1;
                payer.used.flops += trial.spec.flops();
            }
        }
        for (key, member) in lease.live(id) {
            self.assign(&member.agent, key);
        }
        self.set_state(id, TrialState::Leased(Box::new(lease)));
    }

    /// The next assignment of an agent that is known names the attempt, as it is then.
    pub(super) fn assign(&mut self, id: &AgentId, key: AttemptKey) {
        if let Some(agent) = self.agents.get_mut(id) {
            let version = agent.change();
            agent.leases.insert(key, version);
            self.changed.insert(id.clone());
        }
    }

    pub(super) fn apply_preempted(
        &mut self,
        at: Timestamp,
        id: &TrialId,
        attempt: proto::Attempt,
        by: &TrialId,
    ) {
        self.yielding.insert((at, id.clone()));
        self.change_lease(id, attempt, |lease| lease.preempted = Some((by.clone(), at)));
        let Some(lease) = self.trials.get(id).and_then(Trial::lease) else {
            return;
        };
        let live = lease.live(id).map(|(key, member)| (key, member.agent.clone()));
        let live: Vec<_> = live.collect();
        let kept = self.reservations.entry(by.clone()).or_default();
        kept.0 = at;
        kept.1.extend(live.iter().map(|(_, agent)| agent.clone()));
        for (key, agent) in live {
            self.assign(&agent, key);
        }
    }

    pub(super) fn change_lease(
        &mut self,
        id: &TrialId,
        attempt: proto::Attempt,
        change: impl FnOnce(&mut Lease),
    ) {
        if let Some(TrialState::Leased(lease)) = self.trials.get_mut(id).map(|t| &mut t.state)
            && lease.attempt == attempt
        {
            change(lease);
        }
    }

    pub(super) fn apply_member_ended(&mut self, key: AttemptKey, outcome: &Outcome) {
        let Some(trial) = self.trials.get_mut(&key.trial) else {
            return;
        };
        let spec = std::sync::Arc::clone(&trial.spec);
        let TrialState::Leased(lease) = &mut trial.state else {
            return;
        };
        let resources = spec.choice(lease.choice);
        if let Some(member) = lease.members.get_mut(key.rank as usize) {
            member.outcome = Some(outcome.clone());
            self.expiries.remove(&(member.deadline, key.clone()));
            if let Some(agent) = self.agents.get_mut(&member.agent) {
                let held = Held::new(member.devices.clone(), resources);
                agent.drop_lease(key, Some(held), member.deadline);
                self.changed.insert(member.agent.clone());
            }
        }
    }

    /// Takes the live lease of a trial away; its devices are free once the agents have let go.
    pub(super) fn release(&mut self, at: Timestamp, id: &TrialId, outcome: Option<&Outcome>) {
        let Some(trial) = self.trials.get(id) else {
            return;
        };
        let Some(lease) = trial.lease().cloned() else {
            return;
        };
        let spec = std::sync::Arc::clone(&trial.spec);
        let resources = spec.choice(lease.choice);
        for (key, member) in lease.live(id) {
            self.expiries.remove(&(member.deadline, key.clone()));
            let is_held = !lease.follows && !self.hand_on(at, member);
            let Some(agent) = self.agents.get_mut(&member.agent) else {
                let until = self.lingering.get(id).map_or(member.deadline, |(_, until)| *until);
                let until = until.max(member.deadline);
                self.lingering.insert(id.clone(), (member.agent.clone(), until));
                continue;
            };
            if planted!(self, LeaseKept) {
                continue;
            }
            if lease.follows {
                agent.leave_line(&member.devices, &key);
            }
            let held = is_held.then(|| Held::new(member.devices.clone(), resources));
            agent.drop_lease(key.clone(), held, member.deadline);
            if planted!(self, FreeAtOnce) {
                agent.forget_releasing(|other, _| *other == key);
            }
            self.changed.insert(member.agent.clone());
        }
        let held_ms = lease.held_ms(at);
        self.reliability.add(held_ms, lease.members.len(), outcome);
        self.doubtful.remove(id);
        if let Some((_, asked_at)) = &lease.preempted {
            self.yielding.remove(&(*asked_at, id.clone()));
        }
        if lease.ahead {
            self.ahead.remove(&(lease.granted_at, id.clone()));
        }
        if let Some(payer) = lease.payer.as_ref().and_then(|id| self.experiments.get_mut(id)) {
            payer.leased = payer.leased.saturating_sub(1);
            payer.held = payer.held.saturating_sub(lease.units());
            let milli_ms = lease.gpu_milli() * held_ms;
            payer.used.gpu_ms += milli_ms / 1_000;
            payer.learn_pace(at, &lease);
        }
        // Whose fault a gang's failure was is not known.
        if let ([member], Some(outcome)) = (&lease.members[..], outcome) {
            self.count_strike(at, &member.agent, outcome);
        }
    }

    fn count_strike(&mut self, at: Timestamp, agent: &AgentId, outcome: &Outcome) {
        match outcome {
            Outcome::Completed { .. } | Outcome::Diverged { .. } => {
                self.strikes.remove(agent);
            }
            Outcome::Failed { class: FailureClass::Infrastructure, .. } => {
                if self.strikes.len() >= AGENTS_MAX && !self.strikes.contains_key(agent) {
                    return;
                }
                let strikes = self.strikes.entry(agent.clone());
                let strikes = strikes.or_insert(Strikes { count: 0, last: at });
                strikes.count = strikes.count.saturating_add(1);
                strikes.last = at;
            }
            Outcome::Failed { .. } => {}
        }
    }
}
