//! Why a trial waits, and what would let it start.

use super::Core;
use super::agent::{Agent, Free};
use super::schedule::{Misfit, limit_reached, misfit, room};
use super::state::{Experiment, Trial, TrialState};
use proto::{AgentId, ExperimentState, Timestamp, TrialId};
use std::fmt;

/// Agents that an explanation names at most; more would not be read.
const NAMED_MAX: usize = 8;

/// Why a trial has no lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waits {
    /// No experiment that wants it is running.
    Unwanted,
    /// A pause after a failed attempt, in milliseconds from now.
    Pause(u64),
    /// A limit of its recipe.
    Limit(String),
    /// Its last attempt was taken back and this agent may still be stopping it.
    LettingGo(AgentId),
    /// It was granted ahead: an attempt on this agent ends before it begins.
    Line(AgentId),
    /// No agent is connected.
    NoAgent,
    /// No connected agent could run it even when empty.
    Never(Vec<Shortage>),
    /// Agents that could run it are full, or others have their turn before.
    Turn {
        /// Trials of its experiment that wait before it.
        ahead: u64,
        /// What each agent that could run it lacks now.
        shortages: Vec<Shortage>,
        /// Attempts that were asked to give way to it.
        yielding: Vec<TrialId>,
    },
}

/// What an agent lacks for a trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// Which agent.
    pub agent: AgentId,
    /// What, in words.
    pub lacks: String,
}

/// What it waits for, as it stands after these words.
impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unwanted => f.write_str("its experiment to be submitted again"),
            Self::Pause(ms) => write!(f, "a pause of {ms} ms before its next attempt"),
            Self::Limit(words) => write!(f, "room below a limit of its recipe: {words}"),
            Self::LettingGo(agent) => {
                write!(f, "agent {agent} to have stopped its last attempt")
            }
            Self::Line(agent) => {
                write!(f, "its turn on agent {agent}, after another trial of its experiment")
            }
            Self::NoAgent => f.write_str("an agent: none is connected"),
            Self::Never(shortages) => {
                f.write_str("an agent that can run it: none that is connected could")?;
                list(f, shortages)
            }
            Self::Turn { ahead, shortages, yielding } => {
                f.write_str("free devices or memory")?;
                if *ahead > 0 {
                    let trials = if *ahead == 1 { "trial" } else { "trials" };
                    write!(f, ", behind {ahead} {trials} of its experiment")?;
                }
                if !yielding.is_empty() {
                    let count = yielding.len();
                    let were = if count == 1 { "attempt was" } else { "attempts were" };
                    write!(f, ", which {count} {were} asked to give back")?;
                }
                list(f, shortages)
            }
        }
    }
}

fn list(f: &mut fmt::Formatter<'_>, shortages: &[Shortage]) -> fmt::Result {
    for (place, Shortage { agent, lacks }) in shortages.iter().enumerate() {
        let joint = if place == 0 { " (" } else { "; " };
        write!(f, "{joint}{agent}: {lacks}")?;
    }
    if shortages.is_empty() { Ok(()) } else { f.write_str(")") }
}

impl Core {
    /// Why a trial does not run; `None` when it does not wait.
    pub fn waits(&self, id: &TrialId, now: Timestamp) -> Option<Waits> {
        let trial = self.trials.get(id)?;
        let not_before = match &trial.state {
            TrialState::Waiting { not_before, .. } => *not_before,
            TrialState::Leased(lease) if lease.is_in_line() => {
                return Some(Waits::Line(lease.leader().agent.clone()));
            }
            TrialState::Leased(_) | TrialState::Ended { .. } => return None,
        };
        if !self.is_wanted(trial) {
            return Some(Waits::Unwanted);
        }
        if not_before > now {
            return Some(Waits::Pause(not_before.since_ms(now)));
        }
        if let Some(words) = self.limited(trial) {
            return Some(Waits::Limit(words));
        }
        let letting_go =
            |(_, agent): &(&AgentId, &Agent)| agent.releasing.keys().any(|key| key.trial == *id);
        let known = self.agents.all().iter().find(letting_go).map(|(agent, _)| agent);
        let unheard = || self.lingering.get(id).map(|(agent, _)| agent);
        if let Some(agent) = known.or_else(unheard) {
            return Some(Waits::LettingGo(agent.clone()));
        }
        Some(self.place_wait(id, trial))
    }

    /// The limit that keeps every experiment that wants it from starting the trial.
    fn limited(&self, trial: &Trial) -> Option<String> {
        let mut first = None;
        for owner in self.running_owners(trial) {
            first = Some(limit_reached(&owner.policy, &owner.used, owner.leased, trial)?);
        }
        first
    }

    fn running_owners<'a>(&'a self, trial: &'a Trial) -> impl Iterator<Item = &'a Experiment> {
        let owners = trial.owners.iter().filter_map(|id| self.experiments.get(id));
        owners.filter(|owner| owner.state == ExperimentState::Running)
    }

    fn place_wait(&self, id: &TrialId, trial: &Trial) -> Waits {
        let connected: Vec<(&AgentId, &Agent)> = self
            .agents
            .all()
            .iter()
            .filter(|(_, agent)| agent.connected && !agent.leaving)
            .collect();
        if connected.is_empty() {
            return Waits::NoAgent;
        }
        let empty =
            |agent: &Agent| misfit(&agent.capacity, &Free::whole(&agent.capacity), &trial.spec);
        let could: Vec<_> =
            connected.iter().filter(|(_, agent)| empty(agent).is_none()).copied().collect();
        if could.is_empty() {
            return Waits::Never(shortages(&connected, |agent| empty(agent)));
        }
        let wanted = trial.spec.placement.members;
        let rooms =
            |agent: &Agent| room(&agent.capacity, &Free::whole(&agent.capacity), &trial.spec);
        if could.iter().map(|(_, agent)| rooms(agent)).sum::<u32>() < wanted {
            let lacks = |agent: &Agent| Some(Misfit::Members { room: rooms(agent), wanted });
            return Waits::Never(shortages(&could, lacks));
        }
        let now = |agent: &Agent| {
            let free = agent.count_free(&self.trials);
            let few = || {
                let room = room(&agent.capacity, &free, &trial.spec);
                (room < wanted).then_some(Misfit::Members { room, wanted })
            };
            misfit(&agent.capacity, &free, &trial.spec).or_else(few)
        };
        let queues = self.running_owners(trial).map(|owner| &owner.queue);
        let ahead = queues.map(|queue| queue.range(..(trial.order, id.clone())).count());
        let yielding = self.yielding.iter().filter(|(_, victim)| {
            let asked = self.trials.get(victim).and_then(Trial::lease);
            asked.and_then(|lease| lease.preempted.as_ref()).is_some_and(|(by, _)| by == id)
        });
        Waits::Turn {
            ahead: ahead.min().unwrap_or(0) as u64,
            shortages: shortages(&could, now),
            yielding: yielding.map(|(_, victim)| victim.clone()).collect(),
        }
    }
}

fn shortages(
    agents: &[(&AgentId, &Agent)],
    lacks: impl Fn(&Agent) -> Option<Misfit>,
) -> Vec<Shortage> {
    let named = agents.iter().filter_map(|(id, agent)| {
        let lacks = lacks(agent)?.to_string();
        Some(Shortage { agent: (*id).clone(), lacks })
    });
    named.take(NAMED_MAX).collect()
}
