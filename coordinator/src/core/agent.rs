//! What the core knows of agents. Not journaled: after a restart they say it again.

use super::state::Trial;
use proto::{AttemptKey, Devices, Resources, Timestamp, TrialId};
use std::collections::{BTreeMap, BTreeSet};

/// Trials without CPU slots that one agent holds at most; more would only wait in its memory.
pub(super) const UNSLOTTED_MAX: u32 = 1_024;

/// What an agent said it has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Capacity {
    /// Name of its machine.
    pub host: String,
    /// CPU slots, numbered from 0.
    pub cpus: u32,
    /// GPUs.
    pub gpus: Vec<Gpu>,
    /// Those of them that it offers no longer, by their index, and why.
    pub withdrawn: BTreeMap<u32, String>,
    /// Main memory in bytes.
    pub memory_bytes: u64,
    /// Version of its code.
    pub code_version: String,
    /// What recipes may ask for.
    pub labels: BTreeMap<String, String>,
    /// Amounts of named things.
    pub extras: BTreeMap<String, u64>,
}

impl Capacity {
    /// The GPUs that are not withdrawn.
    pub fn offered(&self) -> impl Iterator<Item = &Gpu> {
        self.gpus.iter().filter(|gpu| !self.withdrawn.contains_key(&gpu.index))
    }
}

/// One GPU of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Number on its machine.
    pub index: u32,
    /// Model name.
    pub name: String,
    /// Memory in bytes.
    pub memory_bytes: u64,
}

/// An agent as the core sees it.
#[derive(Debug, Clone)]
pub struct Agent {
    /// What it has.
    pub capacity: Capacity,
    /// Which process speaks for it.
    pub(super) instance: u64,
    /// The newest hello of that process.
    pub(super) hello: u64,
    /// Its newest session.
    pub(super) session: u64,
    /// Newest report of that session.
    pub(super) sequence: u64,
    /// When it last said anything.
    pub heard_at: Timestamp,
    /// Whether its session is up; leases are granted only then.
    pub connected: bool,
    /// It said that it stops; it gets no further leases in this session.
    pub leaving: bool,
    /// Attempts leased to it, with the version of its assignment that last changed each.
    pub leases: BTreeMap<AttemptKey, u64>,
    /// Attempts taken back that the agent may still be stopping; their devices are not free.
    pub(super) releasing: BTreeMap<AttemptKey, Releasing>,
    /// Attempts in line for CPU slots that another one of `leases` has.
    pub(super) lines: BTreeMap<Vec<u32>, BTreeSet<AttemptKey>>,
    /// What nothing holds; `None` after something came back, until it is counted again.
    pub(super) free: Option<Free>,
    /// Rises with every change of its assignment.
    pub version: u64,
    /// Newest version that a report of this session named.
    pub(super) acknowledged: u64,
    /// Attempts that left the assignment after the acknowledged version, by the version.
    pub(super) dropped: BTreeMap<u64, AttemptKey>,
}

/// What an attempt holds on one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) devices: Devices,
    pub(super) memory_bytes: u64,
    pub(super) extras: BTreeMap<String, u64>,
}

impl Held {
    pub(super) fn new(devices: Devices, resources: &Resources) -> Self {
        let (memory_bytes, extras) = (resources.memory_bytes, resources.extras.clone());
        Self { devices, memory_bytes, extras }
    }
}

/// Devices on their way back.
#[derive(Debug, Clone)]
pub(super) struct Releasing {
    /// `None` when another attempt has them already: the agent lets it wait.
    pub(super) held: Option<Held>,
    /// Newest assignment that had the attempt; a report that knows it and does not list the attempt
    /// proves that the process is gone, or never was.
    pub(super) granted: u64,
    /// The agent's own watchdog has ended the attempt by then.
    pub(super) deadline: Timestamp,
}

/// What nothing holds on an agent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Free {
    /// CPU slots, ascending.
    pub cpus: Vec<u32>,
    /// Free thousandths of every GPU that is offered, by its index.
    pub gpus: BTreeMap<u32, u32>,
    /// Main memory in bytes that no trial has asked for.
    pub memory_bytes: u64,
    /// Amounts of named things.
    pub extras: BTreeMap<String, u64>,
    /// Further trials without CPU slots.
    pub unslotted: u32,
}

impl Free {
    /// Everything that an agent offers.
    pub(super) fn whole(capacity: &Capacity) -> Self {
        let gpus = capacity.offered().map(|gpu| (gpu.index, Devices::WHOLE_MILLI));
        Self {
            cpus: (0..capacity.cpus).collect(),
            gpus: gpus.collect(),
            memory_bytes: capacity.memory_bytes,
            extras: capacity.extras.clone(),
            unslotted: UNSLOTTED_MAX,
        }
    }

    /// Takes away what an attempt holds.
    pub(super) fn take(&mut self, held: &Held) {
        if held.devices.cpus.is_empty() {
            self.unslotted = self.unslotted.saturating_sub(1);
        } else {
            self.cpus.retain(|cpu| !held.devices.cpus.contains(cpu));
        }
        for gpu in &held.devices.gpus {
            if let Some(milli) = self.gpus.get_mut(gpu) {
                *milli = milli.saturating_sub(held.devices.gpu_milli());
            }
        }
        self.memory_bytes = self.memory_bytes.saturating_sub(held.memory_bytes);
        for (name, amount) in &held.extras {
            if let Some(free) = self.extras.get_mut(name) {
                *free = free.saturating_sub(*amount);
            }
        }
    }

    /// GPUs that nothing holds.
    pub fn whole_gpus(&self) -> usize {
        self.gpus.values().filter(|milli| **milli == Devices::WHOLE_MILLI).count()
    }
}

impl Agent {
    /// Whether it may get a lease at `now`: its session is up and it was heard within a lease's
    /// term. A connection alone proves nothing; the machine behind it may be frozen.
    pub(super) fn is_available(&self, now: Timestamp, lease_ttl_ms: u64) -> bool {
        self.connected && !self.leaving && now.since_ms(self.heard_at) < lease_ttl_ms
    }

    /// The next version of its assignment.
    pub(super) fn change(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    /// An attempt left its assignment; its devices are free once the agent has let go.
    pub(super) fn drop_lease(&mut self, key: AttemptKey, held: Option<Held>, deadline: Timestamp) {
        let granted = self.leases.remove(&key).unwrap_or(self.version);
        let version = self.change();
        self.dropped.insert(version, key.clone());
        self.releasing.insert(key, Releasing { held, granted, deadline });
    }

    /// What no lease and no stopping attempt holds.
    pub(super) fn count_free(&self, trials: &BTreeMap<TrialId, Trial>) -> Free {
        let mut free = Free::whole(&self.capacity);
        for key in self.leases.keys() {
            let Some(trial) = trials.get(&key.trial) else { continue };
            let Some(lease) = trial.lease().filter(|lease| !lease.follows) else { continue };
            if let Some(member) = lease.members.get(key.rank as usize) {
                free.take(&Held::new(member.devices.clone(), trial.spec.choice(lease.choice)));
            }
        }
        let releasing = self.releasing.values().filter_map(|releasing| releasing.held.as_ref());
        releasing.for_each(|held| free.take(held));
        free
    }

    /// Forgets attempts on their way back for which `is_gone`; their devices are free then.
    pub(super) fn forget_releasing(&mut self, is_gone: impl Fn(&AttemptKey, &Releasing) -> bool) {
        let before = self.releasing.len();
        self.releasing.retain(|key, releasing| !is_gone(key, releasing));
        if self.releasing.len() < before {
            self.free = None;
        }
    }
}

/// Failures of attempts on one agent with no success in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Strikes {
    pub(super) count: u32,
    pub(super) last: Timestamp,
}

/// Failures in a row after which an agent is avoided: fewer may be the trials' bad luck.
const STRIKES_MIN: u32 = 3;
/// First time that an agent is avoided; doubles with every further failure.
const AVOID_FIRST_MS: u64 = 10_000;
/// Longest time that an agent is avoided; then it gets another chance.
const AVOID_MAX_MS: u64 = 600_000;
/// More doublings would exceed it.
const DOUBLINGS_MAX: u32 = 16;

impl Strikes {
    /// Until when the agent is avoided, if it is.
    pub(super) fn avoided_until(self) -> Option<Timestamp> {
        let further = self.count.checked_sub(STRIKES_MIN)?;
        let doubled = AVOID_FIRST_MS << further.min(DOUBLINGS_MAX);
        Some(self.last.plus_ms(doubled.min(AVOID_MAX_MS)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_for_which_an_agent_is_avoided_doubles_up_to_its_limit() {
        for (count, expected) in [
            (2, None),
            (3, Some(10_000)),
            (5, Some(40_000)),
            (9, Some(600_000)),
            (66, Some(600_000)),
        ] {
            let strikes = Strikes { count, last: Timestamp(0) };
            assert_eq!(strikes.avoided_until(), expected.map(Timestamp), "{count} failures");
        }
    }
}
