//! All agents, and which of them a turn must look at: on a cluster of thousands most say nothing
//! new in any one turn.

use super::agent::{Agent, Releasing};
use super::state::Trial;
use proto::{AgentId, AttemptKey, Timestamp, TrialId};
use std::collections::{BTreeMap, BTreeSet};

/// Agents by name.
#[derive(Default)]
pub(super) struct Agents {
    all: BTreeMap<AgentId, Agent>,
    /// Those that were changed since the last rest, or that time alone may change: they are away,
    /// or something of theirs is on its way back.
    restless: BTreeSet<AgentId>,
    /// No assignment of an agent that is forgotten was newer.
    forgotten_version: u64,
}

impl Agents {
    /// All of them.
    pub(super) fn all(&self) -> &BTreeMap<AgentId, Agent> {
        &self.all
    }

    pub(super) fn get(&self, id: &AgentId) -> Option<&Agent> {
        self.all.get(id)
    }

    /// The only way to change one, so that the next turn looks at it.
    pub(super) fn get_mut(&mut self, id: &AgentId) -> Option<&mut Agent> {
        let agent = self.all.get_mut(id)?;
        if !self.restless.contains(id) {
            self.restless.insert(id.clone());
        }
        Some(agent)
    }

    pub(super) fn insert(&mut self, id: AgentId, agent: Agent) {
        self.restless.insert(id.clone());
        self.all.insert(id, agent);
    }

    pub(super) fn remove(&mut self, id: &AgentId) -> Option<Agent> {
        self.restless.remove(id);
        self.all.remove(id)
    }

    /// The version of an assignment that is newer than all that an agent may have seen, also one
    /// that was forgotten and of which a hello comes late or twice.
    pub(super) fn next_version(&self, before: Option<&Agent>) -> u64 {
        self.forgotten_version.max(before.map_or(0, |agent| agent.version)) + 1
    }

    /// Attempts that some agent may still be stopping.
    pub(super) fn releasing(&self) -> impl Iterator<Item = (&AttemptKey, &Releasing)> {
        let restless = self.restless.iter().filter_map(|id| self.all.get(id));
        restless.flat_map(|agent| &agent.releasing)
    }

    /// Forgets devices whose last holder must be gone at `now`, and agents that left and hold
    /// nothing. Whether there was one: what it held up may go on elsewhere.
    pub(super) fn pass_time(&mut self, now: Timestamp) -> bool {
        let before = self.all.len();
        self.restless.retain(|id| {
            let Some(agent) = self.all.get_mut(id) else { return false };
            agent.forget_releasing(|_, releasing| releasing.deadline <= now);
            if agent.connected || !agent.leases.is_empty() || !agent.releasing.is_empty() {
                return true;
            }
            self.forgotten_version = self.forgotten_version.max(agent.version);
            self.all.remove(id);
            false
        });
        self.all.len() < before
    }

    /// Counts anew what is free where something came back; whether it did anywhere. What is at rest
    /// after that is not looked at before it changes.
    pub(super) fn count_free(&mut self, trials: &BTreeMap<TrialId, Trial>) -> bool {
        let mut counted = false;
        self.restless.retain(|id| {
            let Some(agent) = self.all.get_mut(id) else { return false };
            if agent.free.is_none() {
                agent.free = Some(agent.count_free(trials));
                counted = true;
            }
            !agent.connected || !agent.releasing.is_empty()
        });
        counted
    }
}
