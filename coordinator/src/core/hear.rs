//! What agents say about themselves. Not journaled: after a restart they say it again.

use super::Core;
use super::state::{Agent, Capacity, Trial, TrialState};
use proto::{AgentId, Attempt, Timestamp, TrialId};
use std::collections::{BTreeMap, BTreeSet};

/// What an agent says about itself.
#[derive(Debug, Clone)]
pub enum Heard {
    /// Its session began. Sent once per session by `rpc`, after
    /// [`Input::Joined`](super::Input::Joined) was decided.
    Joined {
        /// Who.
        agent: AgentId,
        /// Number of the session, unique in this process; the newest one speaks for the agent.
        session: u64,
        /// What it has.
        capacity: Capacity,
        /// The attempts it still holds.
        running: Vec<(TrialId, Attempt)>,
    },
    /// Its session ended. Its leases live on until their deadlines.
    Left {
        /// Who.
        agent: AgentId,
        /// Which session; one that was replaced before changes nothing.
        session: u64,
    },
    /// A report arrived: its leases are renewed. Sent after
    /// [`Core::decide_report`].
    Report {
        /// Who.
        agent: AgentId,
        /// The attempts it holds.
        running: Vec<(TrialId, Attempt)>,
        /// The newest assignment it knew.
        assignment_version: u64,
        /// It is stopping and must get no further leases.
        leaving: bool,
    },
}

impl Core {
    /// Takes in what an agent says about itself at `now`.
    pub fn hear(&mut self, now: Timestamp, heard: &Heard) {
        match heard {
            Heard::Joined { agent, session, capacity, running } => {
                self.hear_joined(now, agent, *session, capacity, running);
            }
            Heard::Left { agent, session } => {
                if let Some(agent) = self.agents.get_mut(agent)
                    && agent.session == *session
                {
                    agent.connected = false;
                }
            }
            Heard::Report { agent, running, assignment_version, leaving } => {
                self.hear_report(now, agent, running, *assignment_version);
                if let Some(agent) = self.agents.get_mut(agent) {
                    agent.heard_at = now;
                    agent.leaving |= leaving;
                }
            }
        }
    }

    fn hear_joined(
        &mut self,
        now: Timestamp,
        id: &AgentId,
        session: u64,
        capacity: &Capacity,
        running: &[(TrialId, Attempt)],
    ) {
        let of_agent = |trial: &Trial| trial.lease().is_some_and(|lease| lease.agent == *id);
        let leases: BTreeSet<TrialId> = self
            .trials
            .iter()
            .filter(|(_, trial)| of_agent(trial))
            .map(|(id, _)| id.clone())
            .collect();
        for trial in &leases {
            self.renew(now, trial);
        }
        let before = self.agents.remove(id);
        let version = before.as_ref().map_or(0, |agent| agent.version) + 1;
        let mut releasing = before.map_or_else(BTreeMap::new, |agent| agent.releasing);
        releasing.retain(|key, _| running.contains(key));
        let capacity = capacity.clone();
        let agent = Agent {
            capacity,
            session,
            heard_at: now,
            connected: true,
            leaving: false,
            leases,
            releasing,
            version,
        };
        self.agents.insert(id.clone(), agent);
        self.changed.insert(id.clone());
    }

    fn hear_report(
        &mut self,
        now: Timestamp,
        id: &AgentId,
        running: &[(TrialId, Attempt)],
        assignment_version: u64,
    ) {
        for (trial, attempt) in running {
            let current = self.trials.get(trial).and_then(Trial::lease);
            if current.is_some_and(|lease| lease.attempt == *attempt && lease.agent == *id) {
                self.renew(now, trial);
            }
        }
        if let Some(agent) = self.agents.get_mut(id) {
            agent.releasing.retain(|key, releasing| {
                assignment_version < releasing.version || running.contains(key)
            });
        }
    }

    fn renew(&mut self, now: Timestamp, id: &TrialId) {
        let deadline = now.plus_ms(self.lease_ttl_ms);
        if let Some(TrialState::Leased { lease, .. }) =
            self.trials.get_mut(id).map(|trial| &mut trial.state)
        {
            self.expiries.remove(&(lease.deadline, id.clone()));
            lease.deadline = deadline;
            self.expiries.insert((deadline, id.clone()));
        }
    }
}
