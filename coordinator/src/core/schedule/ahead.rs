//! Trials that are granted ahead: short ones, in a line behind one of their own experiment.

use super::super::Core;
use super::super::agent::{Agent, Free};
use super::super::state::{Experiment, Lease};
use super::fit::misfit;
use super::order::limit_reached;
use super::{is_due, is_same_shape};
use proto::{AgentId, Devices, Event, ExperimentId, Runner, Timestamp, TrialSpec};
use std::collections::BTreeSet;

/// Mean time of an experiment's attempts up to which the time between two of them matters.
const SHORT_MS: f64 = 50.0;
/// How much work a line may hold: a few times what a report and its answer take.
const LINE_MS: f64 = 200.0;
/// Attempts in one line at most.
const LINE_MAX: f64 = 64.0;
/// Attempts in all lines of an agent at most; every report names each.
const AGENT_MAX: usize = 512;
/// Waiting trials of an experiment that are looked at to see whether one could be placed.
const HEADS_MAX: usize = 16;

/// Attempts that may be in one line behind the one that has the devices.
fn line_max(pace_ms: f64) -> usize {
    if pace_ms > SHORT_MS {
        return 0;
    }
    // Casting saturates.
    (LINE_MS / pace_ms.max(f64::MIN_POSITIVE)).min(LINE_MAX) as usize
}

/// Whether trials like this one may stand in a line: what they take is nothing but CPU slots, so
/// the next one fills exactly what the one before leaves.
fn may_queue(spec: &TrialSpec) -> bool {
    let (wants, placement) = (&spec.resources, &spec.placement);
    matches!(spec.runner, Runner::Command(_))
        && placement.members == 1
        && placement.alternatives.is_empty()
        && wants.cpus > 0
        && (wants.gpus, wants.gpu_share_milli, wants.memory_bytes) == (0, 0, 0)
        && wants.extras.is_empty()
}

/// The experiments that wait, each with the first of its trials that could be placed: those whom
/// lines might keep from devices.
pub(in super::super) struct Rivals<'a>(Vec<(&'a ExperimentId, &'a TrialSpec)>);

impl<'a> Rivals<'a> {
    pub(in super::super) fn new(core: &'a Core, now: Timestamp) -> Self {
        let waiting = core.experiments.iter().filter_map(|(id, experiment)| {
            let mut first = experiment.queue.iter().take(HEADS_MAX).filter_map(|(_, id)| {
                core.trials.get(id).filter(|trial| {
                    let (policy, used) = (&experiment.policy, &experiment.used);
                    is_due(trial, now)
                        && limit_reached(policy, used, experiment.leased, trial).is_none()
                })
            });
            first.next().map(|trial| (id, &*trial.spec))
        });
        Self(waiting.collect())
    }

    /// Whether another experiment than `own` waits for anything.
    pub(in super::super) fn any(&self, own: &ExperimentId) -> bool {
        self.0.iter().any(|(id, _)| *id != own)
    }

    /// Whether another experiment than `own` waits for what the agent has.
    pub(in super::super) fn want(&self, agent: &Agent, own: &ExperimentId) -> bool {
        self.any(own) && {
            let whole = Free::whole(&agent.capacity);
            let mut others = self.0.iter().filter(|(id, _)| *id != own);
            others.any(|(_, spec)| misfit(&agent.capacity, &whole, spec).is_none())
        }
    }
}

/// The leases that are granted ahead on the agents whose assignment changes in this turn.
pub(super) fn grant(core: &Core, now: Timestamp) -> Vec<Event> {
    let short = core.experiments.iter().filter_map(|(id, experiment)| {
        let length = line_max(experiment.pace_ms?);
        let grants = length > 0 && experiment.is_uniform && !experiment.queue.is_empty();
        grants.then_some((id, experiment, length))
    });
    let short: Vec<_> = short.collect();
    if short.is_empty() {
        return Vec::new();
    }
    let rivals = Rivals::new(core, now);
    let lines = short.into_iter().map(|(id, experiment, length)| Lines {
        core,
        now,
        id,
        experiment,
        rivals: &rivals,
        length,
    });
    lines.flat_map(|lines| lines.grant()).collect()
}

/// The lines of one experiment.
struct Lines<'a> {
    core: &'a Core,
    now: Timestamp,
    id: &'a ExperimentId,
    experiment: &'a Experiment,
    rivals: &'a Rivals<'a>,
    /// Attempts behind the first one of each.
    length: usize,
}

impl Lines<'_> {
    fn grant(&self) -> Vec<Event> {
        let Self { core, experiment, .. } = *self;
        if self.tries_again() {
            return Vec::new();
        }
        let (mut used, mut leased) = (experiment.used, experiment.leased);
        // One that was tried before may have to keep away from somewhere.
        let fresh = experiment.queue.iter().filter_map(|(_, id)| {
            let trial = core.trials.get(id)?;
            (trial.attempt.0 == 0 && is_due(trial, self.now)).then_some((id, trial))
        });
        let mut fresh = fresh.take(AGENT_MAX);
        let mut events = Vec::new();
        for (agent_id, agent, devices) in self.places() {
            let Some((id, trial)) = fresh.next() else { break };
            if limit_reached(&experiment.policy, &used, leased, trial).is_some() {
                break;
            }
            leased += 1;
            used.trials += 1;
            events.push(Event::LeaseGranted {
                trial: id.clone(),
                attempt: trial.attempt.next(),
                agent: agent_id.clone(),
                devices: devices.clone(),
                code_version: agent.capacity.code_version.clone(),
                choice: 0,
                members: Vec::new(),
                payer: Some(self.id.clone()),
                ahead: true,
            });
        }
        events
    }

    /// Whether a trial waits for another try. It may not stand in line, and devices that are handed
    /// on along one never become free for it.
    fn tries_again(&self) -> bool {
        let first = self.experiment.queue.iter().take(HEADS_MAX);
        let mut again = first.filter(|(_, id)| {
            let trial = self.core.trials.get(id);
            trial.is_some_and(|trial| trial.attempt.0 > 0 && is_due(trial, self.now))
        });
        again.any(|(_, id)| {
            let is_gone = self.core.agents.releasing().all(|(key, _)| key.trial != *id);
            is_gone && !self.core.lingering.contains_key(id)
        })
    }

    /// Where another attempt may stand in line, the shortest lines of each agent first.
    fn places(&self) -> Vec<(&AgentId, &Agent, &Devices)> {
        let agents = self.core.changed.iter().filter_map(|id| {
            let agent = self.core.agents.get(id)?;
            self.may_use(id, agent).then_some((id, agent))
        });
        let mut places = Vec::new();
        for (id, agent) in agents {
            let in_line: usize = agent.lines.values().map(BTreeSet::len).sum();
            let lines = self.lines(agent);
            let mut wanted: Vec<(usize, &Devices)> = lines
                .flat_map(|devices| {
                    (agent.line_length(devices)..self.length).map(move |place| (place, devices))
                })
                .collect();
            wanted.sort_by_key(|(place, _)| *place);
            wanted.truncate(AGENT_MAX.saturating_sub(in_line));
            places.extend(wanted.into_iter().map(|(_, devices)| (id, agent, devices)));
        }
        places
    }

    /// The devices of the attempts of this experiment behind which others may stand.
    fn lines<'b>(&'b self, agent: &'b Agent) -> impl Iterator<Item = &'b Devices> {
        let leases = agent.leases.keys().filter_map(|key| {
            let trial = self.core.trials.get(&key.trial)?;
            let lease: &Lease = trial.lease()?;
            let is_first = !lease.follows && lease.preempted.is_none();
            let is_own = lease.payer.as_ref() == Some(self.id);
            (is_first && is_own && may_queue(&trial.spec)).then_some((trial, lease))
        });
        let first = self.experiment.trials.first();
        let shape = first.and_then(|id| self.core.trials.get(id)).map(|trial| &trial.spec);
        let alike = leases
            .filter(move |(trial, _)| shape.is_some_and(|spec| is_same_shape(spec, &trial.spec)));
        alike.map(|(_, lease)| &lease.leader().devices)
    }

    fn may_use(&self, id: &AgentId, agent: &Agent) -> bool {
        let core = self.core;
        let strikes = core.strikes.get(id).and_then(|strikes| strikes.avoided_until());
        let is_kept = core.reservations.values().any(|(_, agents)| agents.contains(id));
        agent.is_available(self.now, core.lease_ttl_ms)
            && strikes.is_none_or(|until| until <= self.now)
            && !is_kept
            && !self.rivals.want(agent, self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_holds_a_bounded_amount_of_short_work() {
        for (pace_ms, expected) in [(0.0, 64), (1.0, 64), (10.0, 20), (50.0, 4), (50.1, 0)] {
            assert_eq!(line_max(pace_ms), expected, "{pace_ms} ms");
        }
    }
}
