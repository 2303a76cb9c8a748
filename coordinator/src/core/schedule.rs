//! Who gets which trial. Pure and stable: placing again without a change places nothing.

use super::Core;
use super::state::{Capacity, Free, Trial, TrialState};
use proto::{AgentId, Devices, Event, Resources, Timestamp, TrialId};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Waiting trials that one round looks at. A big trial at the head may be overtaken by smaller
/// ones behind it, but a round's cost stays bounded however long the queue is.
pub(super) const SCAN_MAX: usize = 1_024;

/// The leases that can be granted at `now`: trials in planning order; for each, the agent that
/// holds its checkpoint if it fits there, else the one with the most free CPU slots.
pub(super) fn place(core: &Core, now: Timestamp) -> Vec<Event> {
    let mut free: BTreeMap<&AgentId, Free> = core
        .agents
        .iter()
        .filter(|(_, agent)| agent.is_available(now, core.lease_ttl_ms))
        .map(|(id, agent)| (id, agent.free(&core.trials)))
        .collect();
    // An attempt that was taken back may still write into the trial's folder.
    let releasing = core.agents.values().flat_map(|agent| agent.releasing.keys());
    let stopping: BTreeSet<&TrialId> = releasing.map(|(trial, _)| trial).collect();
    let is_ready = |id: &TrialId, trial: &Trial| is_due(trial, now) && !stopping.contains(id);
    let mut events = Vec::new();
    for (_, id) in core.queue.iter().take(SCAN_MAX) {
        if free.values().all(|free| free.devices.cpus.is_empty()) {
            break;
        }
        let Some(trial) = core.trials.get(id).filter(|trial| is_ready(id, trial)) else {
            continue;
        };
        let Some((agent, devices)) = choose(core, trial, &free) else {
            continue;
        };
        if let Some(left) = free.get_mut(&agent) {
            left.take(&devices, trial.spec.resources.memory_bytes);
        }
        let (trial, attempt) = (id.clone(), trial.attempt.next());
        let version = core.agents.get(&agent).map(|agent| agent.capacity.code_version.clone());
        let code_version = version.unwrap_or_default();
        events.push(Event::LeaseGranted { trial, attempt, agent, devices, code_version });
    }
    events
}

fn is_due(trial: &Trial, now: Timestamp) -> bool {
    match trial.state {
        TrialState::Waiting { not_before } => not_before <= now,
        TrialState::Leased { .. } | TrialState::Ended { .. } => false,
    }
}

fn choose(
    core: &Core,
    trial: &Trial,
    free: &BTreeMap<&AgentId, Free>,
) -> Option<(AgentId, Devices)> {
    let wants = &trial.spec.resources;
    let home = trial.checkpoint.as_ref().map(|checkpoint| &checkpoint.agent);
    let offer = |(id, free): (&&AgentId, &Free)| {
        let granted = pick(&core.agents.get(*id)?.capacity, free, wants)?;
        // The last key makes the first name win among equals.
        let key = (Some(*id) == home, free.devices.cpus.len(), Reverse((*id).clone()));
        Some((key, granted))
    };
    let (key, granted) = free.iter().filter_map(offer).max_by(|a, b| a.0.cmp(&b.0))?;
    Some((key.2.0, granted))
}

/// The lowest of the `free` devices that fill `wants`, or `None` when they do not suffice.
pub(super) fn pick(has: &Capacity, free: &Free, wants: &Resources) -> Option<Devices> {
    let big_enough = |index: &&u32| {
        has.gpus
            .iter()
            .any(|gpu| gpu.index == **index && gpu.memory_bytes >= wants.gpu_memory_bytes)
    };
    let cpus: Vec<u32> = free.devices.cpus.iter().take(wants.cpus as usize).copied().collect();
    let gpus: Vec<u32> =
        free.devices.gpus.iter().filter(big_enough).take(wants.gpus as usize).copied().collect();
    let enough = cpus.len() == wants.cpus as usize
        && gpus.len() == wants.gpus as usize
        && free.memory_bytes >= wants.memory_bytes;
    enough.then_some(Devices { cpus, gpus })
}
