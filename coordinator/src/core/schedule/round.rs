//! One round of placements.

use super::super::Core;
use super::super::agent::{Agent, Free, Held};
use super::super::state::{Trial, units};
use super::fit::{label_misfit, pick};
use super::order::{Contender, Users, limit_reached};
use super::{Placed, RESERVE_AFTER_MS, SCAN_MAX, due_since, is_due, is_kept_for, is_same_shape};
use super::{preempt, reserve};
use proto::{AgentId, Devices, Event, Member, Resources, Runner, Timestamp, TrialId, TrialSpec};
use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// What makes an agent a better place: not avoided, then more free CPU slots, then more room for
/// trials without, then the name.
type Rank<'a> = (bool, Reverse<usize>, Reverse<u32>, &'a AgentId);

/// The agents that may get leases, and what is free on each as the round goes on.
#[derive(Clone)]
pub(super) struct Agents<'a> {
    pub(super) free: BTreeMap<&'a AgentId, (&'a Agent, Cow<'a, Free>)>,
    ranked: BTreeSet<Rank<'a>>,
    avoided: BTreeSet<&'a AgentId>,
}

impl<'a> Agents<'a> {
    fn new(core: &'a Core, now: Timestamp) -> Self {
        let available = core
            .agents
            .all()
            .iter()
            .filter(|(_, agent)| agent.is_available(now, core.lease_ttl_ms));
        let heads = core.experiments.values().filter_map(|known| known.queue.first());
        let mut heads = heads.filter_map(|(_, id)| core.trials.get(id));
        let wants_unslotted =
            heads.any(|trial| trial.spec.choices().any(|(_, wants)| wants.cpus == 0));
        // Full agents are most of a busy cluster; a round does not look at them.
        let free = available.filter_map(|(id, agent)| {
            let free = agent.free.as_ref()?;
            let has_room = !free.cpus.is_empty() || (wants_unslotted && free.unslotted > 0);
            has_room.then_some((id, (agent, Cow::Borrowed(free))))
        });
        let free: BTreeMap<_, _> = free.collect();
        let avoided = core
            .strikes
            .iter()
            .filter(|(_, strikes)| strikes.avoided_until().is_some_and(|until| until > now));
        let avoided: BTreeSet<&AgentId> = avoided.map(|(id, _)| id).collect();
        let ranked = free.iter().map(|(id, (_, free))| rank(&avoided, id, free)).collect();
        Self { free, ranked, avoided }
    }

    /// Takes devices away.
    fn take(&mut self, id: &AgentId, held: &Held) {
        if let Some((id, (agent, mut free))) = self.free.remove_entry(id) {
            self.ranked.remove(&rank(&self.avoided, id, &free));
            free.to_mut().take(held);
            self.put(id, agent, free);
        }
    }

    /// Sets what is free on an agent, also on one that was full.
    pub(super) fn set(&mut self, id: &'a AgentId, agent: &'a Agent, free: Free) {
        self.put(id, agent, Cow::Owned(free));
    }

    fn put(&mut self, id: &'a AgentId, agent: &'a Agent, free: Cow<'a, Free>) {
        if let Some((_, before)) = self.free.get(id) {
            self.ranked.remove(&rank(&self.avoided, id, before));
        }
        self.ranked.insert(rank(&self.avoided, id, &free));
        self.free.insert(id, (agent, free));
    }

    /// The agents from the best on; `home` before all, `last` after all.
    fn by_rank(
        &self,
        home: Option<&AgentId>,
        last: Option<&AgentId>,
    ) -> impl Iterator<Item = (&'a AgentId, &'a Agent, &Free)> {
        let is_special = move |id: &AgentId| Some(id) == home || Some(id) == last;
        let middle = self.ranked.iter().map(|(_, _, _, id)| *id).filter(move |id| !is_special(id));
        let known =
            |id: Option<&AgentId>| id.and_then(|id| self.free.get_key_value(id)).map(|(id, _)| *id);
        let last = last.filter(|last| Some(*last) != home);
        let ids = known(home).into_iter().chain(middle).chain(known(last));
        ids.filter_map(|id| self.free.get(id).map(|(agent, free)| (id, *agent, &**free)))
    }
}

fn rank<'a>(avoided: &BTreeSet<&AgentId>, id: &'a AgentId, free: &Free) -> Rank<'a> {
    (avoided.contains(id), Reverse(free.cpus.len()), Reverse(free.unslotted), id)
}

/// Agents that are kept for one trial, and until when others may still use them.
pub(super) type Reserved<'a> = BTreeMap<&'a AgentId, (&'a TrialId, Option<Timestamp>)>;

pub(super) struct Round<'a> {
    pub(super) core: &'a Core,
    pub(super) now: Timestamp,
    pub(super) agents: Agents<'a>,
    pub(super) reserved: Reserved<'a>,
    /// Trials whose last attempt may still write into their folder.
    stopping: BTreeSet<&'a TrialId>,
    /// Shapes that found no place; what is free only shrinks, so they find none later either.
    misfits: Vec<&'a TrialSpec>,
    placed: BTreeSet<&'a TrialId>,
    /// The lowest priority among experiments that hold leases.
    pub(super) lowest_leased: Option<i32>,
    /// A trial that others have overtaken for long enough.
    overdue: Option<(&'a TrialId, &'a Trial)>,
    pub(super) events: Vec<Event>,
}

impl<'a> Round<'a> {
    pub(super) fn new(core: &'a Core, now: Timestamp) -> Self {
        let kept = core.reservations.iter().filter(|(trial, _)| is_kept_for(core, now, trial));
        let kept = kept.flat_map(|(trial, (_, agents))| {
            agents.iter().map(move |agent| (agent, (trial, None)))
        });
        Self {
            core,
            now,
            agents: Agents::new(core, now),
            reserved: kept.collect(),
            stopping: core
                .agents
                .releasing()
                .map(|(key, _)| &key.trial)
                .chain(core.lingering.keys())
                .collect(),
            misfits: Vec::new(),
            placed: BTreeSet::new(),
            lowest_leased: lowest_leased(core),
            overdue: None,
            events: Vec::new(),
        }
    }

    pub(super) fn run(mut self) -> Vec<Event> {
        let mut users = Users::new(self.core.experiments.values());
        let waiting =
            self.core.experiments.iter().filter(|(_, experiment)| !experiment.queue.is_empty());
        let mut contenders: Vec<_> = waiting
            .map(|(id, experiment)| {
                let trials = experiment.queue.iter().take(SCAN_MAX).map(|(_, id)| id);
                (Contender::new(id, experiment), trials)
            })
            .collect();
        loop {
            let keys = contenders.iter().map(|(contender, _)| contender.key(&users));
            let Some((index, _)) = keys.enumerate().min_by_key(|(_, key)| *key) else {
                return self.events;
            };
            let (contender, trials) = &mut contenders[index];
            // On full machines only somebody else's place can help.
            let priority = contender.experiment.policy.priority;
            let may_take = self.lowest_leased.is_some_and(|lowest| lowest < priority);
            let may_find = !self.agents.free.is_empty() || may_take;
            let goes_on = match trials.next().filter(|_| may_find) {
                Some(id) => self.consider(contender, &mut users, id),
                None => false,
            };
            if !goes_on {
                drop(contenders.swap_remove(index));
            }
        }
    }

    /// Places a trial if it can be; whether others of its experiment may find a place after it.
    fn consider(
        &mut self,
        contender: &mut Contender<'a>,
        users: &mut Users<'a>,
        id: &'a TrialId,
    ) -> bool {
        let Some(trial) = self.core.trials.get(id) else {
            return true;
        };
        if self.misfits.iter().any(|spec| is_same_shape(spec, &trial.spec)) {
            return !contender.experiment.is_uniform;
        }
        let is_ready =
            is_due(trial, self.now) && !self.stopping.contains(id) && !self.placed.contains(id);
        let policy = &contender.experiment.policy;
        if !is_ready || limit_reached(policy, &contender.used, contender.leased, trial).is_some() {
            return true;
        }
        let mut found = self.find(id, trial);
        // Only now would one be overtaken: to choose its machine looks at every lease.
        if found.is_some()
            && let Some((overdue, theirs)) = self.overdue.take()
        {
            reserve::keep(self, overdue, theirs);
            found = self.find(id, trial);
        }
        let Some(placed) = found else {
            self.blocked(contender, id, trial);
            return !contender.experiment.is_uniform;
        };
        let resources = trial.spec.choice(placed.choice);
        for (agent, devices) in &placed.members {
            self.agents.take(agent, &Held::new(devices.clone(), resources));
        }
        contender.grant(users, trial, placed.members.iter().map(|(_, d)| units(d)).sum());
        self.placed.insert(id);
        self.events.extend(self.granted(contender, id, trial, placed));
        true
    }

    fn granted(
        &self,
        contender: &Contender<'_>,
        id: &TrialId,
        trial: &Trial,
        placed: Placed,
    ) -> Option<Event> {
        let mut members = placed.members.into_iter();
        let (agent, devices) = members.next()?;
        let code_version = self.core.agents.get(&agent)?.capacity.code_version.clone();
        Some(Event::LeaseGranted {
            trial: id.clone(),
            attempt: trial.attempt.next(),
            agent,
            devices,
            code_version,
            choice: placed.choice,
            members: members.map(|(agent, devices)| Member { agent, devices }).collect(),
            payer: Some(contender.id.clone()),
            ahead: false,
        })
    }

    /// A place for every member, under the first choice that has one.
    pub(super) fn find(&self, id: &TrialId, trial: &Trial) -> Option<Placed> {
        let members = trial.spec.placement.members;
        trial.spec.choices().find_map(|(choice, wants)| {
            let members = match members {
                1 => vec![self.find_one(id, trial, wants)?],
                several => self.find_gang(id, trial, wants, several)?,
            };
            Some(Placed { choice, members })
        })
    }

    fn find_one(
        &self,
        id: &TrialId,
        trial: &Trial,
        wants: &Resources,
    ) -> Option<(AgentId, Devices)> {
        let home = match (&trial.checkpoint, &trial.spec.runner) {
            (Some(checkpoint), _) => Some(&checkpoint.agent),
            // What a program keeps for its next attempt stays on its machine.
            (None, Runner::Command(_)) => trial.last_agent.as_ref(),
            (None, Runner::Train(_) | Runner::Grpo(_) | Runner::Noop) => None,
        };
        let failed = trial.last_agent.as_ref().filter(|_| trial.last_agent_failed);
        // An agent that keeps failing is no home, even if it has the checkpoint.
        let home = home.filter(|home| Some(*home) != failed && !self.agents.avoided.contains(home));
        let offer = |(agent_id, agent, free): (&AgentId, &Agent, &Free)| {
            if !self.may_use(agent_id, id, trial)
                || label_misfit(&agent.capacity, &trial.spec).is_some()
            {
                return None;
            }
            Some((agent_id.clone(), pick(&agent.capacity, free, wants).ok()?))
        };
        self.agents.by_rank(home, failed).find_map(offer)
    }

    /// All members or nothing.
    fn find_gang(
        &self,
        id: &TrialId,
        trial: &Trial,
        wants: &Resources,
        members: u32,
    ) -> Option<Vec<(AgentId, Devices)>> {
        let mut found = Vec::new();
        let failed = trial.last_agent.as_ref().filter(|_| trial.last_agent_failed);
        for (agent_id, agent, free) in self.agents.by_rank(None, failed) {
            if !self.may_use(agent_id, id, trial)
                || label_misfit(&agent.capacity, &trial.spec).is_some()
            {
                continue;
            }
            let mut free = free.clone();
            while found.len() < members as usize
                && let Ok(devices) = pick(&agent.capacity, &free, wants)
            {
                free.take(&Held::new(devices.clone(), wants));
                found.push((agent_id.clone(), devices));
            }
        }
        if planted!(self.core, HalfGang) && found.len() + 1 == members as usize {
            return Some(found);
        }
        (found.len() == members as usize).then_some(found)
    }

    /// Whether the trial may use the agent: it is not kept for another, or the trial's own time
    /// limit ends before the other could start.
    fn may_use(&self, agent: &AgentId, id: &TrialId, trial: &Trial) -> bool {
        match self.reserved.get(agent) {
            None => true,
            Some((kept_for, _)) if *kept_for == id => true,
            Some((_, until)) => match (until, trial.spec.time_limit_ms) {
                (Some(until), Some(limit_ms)) => self.now.plus_ms(limit_ms) <= *until,
                (None, _) | (_, None) => false,
            },
        }
    }

    /// A trial found no place: lower ones give way to it, or a machine is kept for it.
    fn blocked(&mut self, contender: &Contender<'a>, id: &'a TrialId, trial: &'a Trial) {
        self.misfits.push(&trial.spec);
        let priority = contender.experiment.policy.priority;
        let victims = preempt::victims(self, priority, id, trial);
        if !victims.is_empty() {
            self.events.extend(victims);
            return;
        }
        let waited = due_since(trial).map_or(0, |since| self.now.since_ms(since));
        // One at a time: a machine kept for every blocked trial would leave none to work.
        let is_kept = self.reserved.values().any(|(_, until)| until.is_some());
        let is_first = self.overdue.is_none() && !is_kept;
        if waited >= RESERVE_AFTER_MS && is_first && !is_kept_for(self.core, self.now, id) {
            self.overdue = Some((id, trial));
        }
    }
}

fn lowest_leased(core: &Core) -> Option<i32> {
    let holding = core.experiments.values().filter(|known| known.leased > 0);
    holding.map(|known| known.policy.priority).min()
}
