//! Which attempts give way to a trial of higher priority.

use super::super::agent::Agent;
use super::super::state::{Lease, Trial};
use super::is_kept_for;
use super::order::priority_of;
use super::round::Round;
use proto::{AgentId, AttemptKey, Event, TrialId};
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// Attempts that give way to one trial at most: a trial that needs more waits for them to end.
const VICTIMS_MAX: usize = 64;

/// The attempts that shall give way so that the trial finds a place; empty when none can help, or
/// when some are already on their way out for it. Lowest priority first, and among equals the one
/// that was granted last, which loses least.
pub(super) fn victims(
    round: &mut Round<'_>,
    priority: i32,
    id: &TrialId,
    trial: &Trial,
) -> Vec<Event> {
    let core = round.core;
    let may_help = round.lowest_leased.is_some_and(|lowest| lowest < priority);
    if !may_help || is_kept_for(core, round.now, id) {
        return Vec::new();
    }
    let leased = core.expiries.iter().map(|(_, key)| &key.trial).collect::<BTreeSet<_>>();
    let lower = leased.into_iter().filter_map(|victim| {
        let lease = core.trials.get(victim)?.lease()?;
        let theirs = priority_of(&core.experiments, lease)?;
        // One in line holds nothing; it is recalled as soon as a trial of another experiment waits.
        let may_go = theirs < priority && lease.preempted.is_none() && !lease.follows;
        may_go.then_some((theirs, Reverse(lease.granted_at), victim, lease))
    });
    let mut lower: Vec<_> = lower.collect();
    lower.sort_by(|a, b| (a.0, a.1, a.2).cmp(&(b.0, b.1, b.2)));
    let saved = round.agents.clone();
    let mut gone: BTreeSet<AttemptKey> = BTreeSet::new();
    let mut placed = None;
    for (_, _, victim, lease) in lower.iter().take(VICTIMS_MAX) {
        gone.extend(lease.live(victim).map(|(key, _)| key));
        for member in &lease.members {
            let agent = core.agents.all().get_key_value(&member.agent);
            let is_there = |agent: &&Agent| agent.is_available(round.now, round.core.lease_ttl_ms);
            if let Some((agent_id, agent)) = agent.filter(|(_, agent)| is_there(agent)) {
                round.agents.set(agent_id, agent, free_without(core, agent, &gone));
            }
        }
        placed = round.find(id, trial);
        if placed.is_some() {
            break;
        }
    }
    round.agents = saved;
    let Some(placed) = placed else {
        return Vec::new();
    };
    // Some were asked in vain: what they hold is elsewhere.
    let used: BTreeSet<&AgentId> = placed.members.iter().map(|(agent, _)| agent).collect();
    let helps = |lease: &Lease| lease.members.iter().any(|member| used.contains(&member.agent));
    let asked = lower.iter().filter(|(_, _, victim, lease)| {
        helps(lease) && lease.live(victim).any(|(key, _)| gone.contains(&key))
    });
    asked
        .map(|(_, _, victim, lease)| Event::AttemptPreempted {
            trial: (*victim).clone(),
            attempt: lease.attempt,
            by: id.clone(),
        })
        .collect()
}

/// What would be free on an agent without these attempts.
fn free_without(
    core: &super::super::Core,
    agent: &Agent,
    gone: &BTreeSet<AttemptKey>,
) -> super::super::agent::Free {
    let mut without = agent.clone();
    without.leases.retain(|key, _| !gone.contains(key));
    without.count_free(&core.trials)
}
