//! Keeps a machine for a trial that others have overtaken for long enough.

use super::super::Core;
use super::super::agent::{Agent, Free, Held};
use super::super::state::Trial;
use super::fit::{misfit, pick};
use super::round::Round;
use proto::{AgentId, Timestamp, TrialId};
use std::cmp::Reverse;

/// Keeps the agent on which the trial could start first; for a gang the largest agents that
/// together would hold it. Nothing is kept when no agent is large enough.
pub(super) fn keep<'a>(round: &mut Round<'a>, id: &'a TrialId, trial: &'a Trial) {
    let fits_when_empty = |agent: &Agent| {
        misfit(&agent.capacity, &Free::whole(&agent.capacity), &trial.spec).is_none()
    };
    let all = round.agents.free.iter().map(|(id, (agent, _))| (*id, *agent));
    let full = round.core.agents.all().iter().filter(|(id, agent)| {
        agent.is_available(round.now, round.core.lease_ttl_ms)
            && !round.agents.free.contains_key(id)
    });
    let candidates: Vec<(&AgentId, &Agent)> = all
        .chain(full)
        .filter(|(agent, _)| !round.reserved.contains_key(agent))
        .filter(|(_, agent)| fits_when_empty(agent))
        .collect();
    if trial.spec.placement.members > 1 {
        keep_gang(round, id, trial, candidates);
        return;
    }
    let best = candidates.into_iter().min_by_key(|(agent_id, agent)| {
        let start = start_at(round.core, agent, trial);
        (start.is_none(), start, Reverse(agent.capacity.cpus), (*agent_id).clone())
    });
    if let Some((agent_id, agent)) = best {
        // A start that nobody can tell is a start that nothing may delay.
        let start = start_at(round.core, agent, trial).or(Some(Timestamp(0)));
        round.reserved.insert(agent_id, (id, start));
    }
}

fn keep_gang<'a>(
    round: &mut Round<'a>,
    id: &'a TrialId,
    trial: &Trial,
    mut candidates: Vec<(&'a AgentId, &'a Agent)>,
) {
    candidates.sort_by_key(|(id, agent)| (Reverse(agent.capacity.cpus), (*id).clone()));
    let mut kept = Vec::new();
    let mut found = 0;
    for (agent_id, agent) in candidates {
        let mut free = Free::whole(&agent.capacity);
        while found < trial.spec.placement.members
            && let Ok(devices) = pick(&agent.capacity, &free, &trial.spec.resources)
        {
            free.take(&Held::new(devices, &trial.spec.resources));
            found += 1;
        }
        kept.push(agent_id);
        if found == trial.spec.placement.members {
            let start = Some(Timestamp(0));
            round.reserved.extend(kept.into_iter().map(|agent_id| (agent_id, (id, start))));
            return;
        }
    }
}

/// When the trial would fit on the agent at the latest, if every attempt there ran to its time
/// limit; `None` when one of those that must end has none.
fn start_at(core: &Core, agent: &Agent, trial: &Trial) -> Option<Timestamp> {
    let ends = agent.leases.keys().filter_map(|key| {
        let held = core.trials.get(&key.trial)?;
        let granted_at = held.lease()?.granted_at;
        let end = held.spec.time_limit_ms.map(|limit_ms| granted_at.plus_ms(limit_ms));
        Some((end.is_none(), end, key))
    });
    let mut ends: Vec<_> = ends.collect();
    ends.sort();
    let mut left = agent.clone();
    for (_, end, key) in ends {
        left.leases.remove(key);
        left.releasing.clear();
        if misfit(&agent.capacity, &left.count_free(&core.trials), &trial.spec).is_none() {
            return end;
        }
    }
    None
}
