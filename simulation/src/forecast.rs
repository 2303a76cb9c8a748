//! How a recipe would fare on machines that fail: the production scheduler, ordinary bad luck.

use crate::chaos::{Chaos, Weights};
use crate::workload::{Client, Wish, Workload};
use crate::world::{Failure, Finished, Pace, Settings, World};
use coordinator::core::{Capacity, Gpu};
use proto::Inputs;
use proto::train::numerics_label;
use std::collections::BTreeMap;

/// How often a simulated agent reports: rarely, because a forecast of days on hundreds of machines
/// looks at every report.
const HEARTBEAT_MS: u64 = 20_000;
/// Lease terms in heartbeats.
const LEASE_HEARTBEATS: u64 = 3;
/// Longest time that a machine which failed is away.
const REPAIR_MAX_MS: u64 = 20 * 60_000;

/// The machines of a forecast.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// How many, all alike.
    pub agents: u32,
    /// CPU slots of each.
    pub cpus: u32,
    /// GPUs of each.
    pub gpus: u32,
    /// Memory of each GPU in bytes.
    pub gpu_memory_bytes: u64,
    /// Main memory of each in bytes.
    pub memory_bytes: u64,
    /// Mean time between failures of one machine, in milliseconds; `None` when none fails.
    pub mtbf_ms: Option<u64>,
}

/// Runs a recipe to its end on a simulated cluster.
///
/// # Errors
/// The recipe is refused, or does not come to rest on these machines.
pub fn forecast(
    recipe: &str,
    inputs: &Inputs,
    cluster: &Cluster,
    pace: Pace,
    seed: u64,
) -> Result<Finished, Box<Failure>> {
    let client = Client {
        recipe: recipe.to_owned(),
        inputs: inputs.clone(),
        user: String::new(),
        first_ms: 1_000,
        wishes: vec![Wish::Submit],
    };
    let every = cluster.mtbf_ms.map(|mtbf| (mtbf / u64::from(cluster.agents.max(1))).max(1));
    let settings = Settings {
        seed,
        // The faults do not end before the recipe does.
        steps: u64::MAX,
        lease_ttl_ms: HEARTBEAT_MS * LEASE_HEARTBEATS,
        heartbeat_ms: HEARTBEAT_MS,
        chaos: Chaos {
            fault_every_ms: every,
            weights: Weights::power_only(),
            outage_max_ms: REPAIR_MAX_MS,
            ..Chaos::none()
        },
        machines: (0..cluster.agents).map(|index| cluster.machine(index)).collect(),
        workload: Workload { clients: vec![client] },
        tick_ms: HEARTBEAT_MS / 2,
        pace,
        checks: false,
        log: false,
        #[cfg(feature = "planted-bugs")]
        planted: None,
    };
    World::new(settings).run()
}

impl Cluster {
    fn machine(&self, index: u32) -> (String, Capacity) {
        let gpu = |index| Gpu {
            index,
            name: "simulated".to_owned(),
            memory_bytes: self.gpu_memory_bytes,
        };
        let capacity = Capacity {
            host: format!("host-{index}"),
            cpus: self.cpus,
            gpus: (0..self.gpus).map(gpu).collect(),
            withdrawn: BTreeMap::new(),
            memory_bytes: self.memory_bytes,
            code_version: "simulated".to_owned(),
            labels: BTreeMap::from([numerics_label()]),
            extras: BTreeMap::new(),
        };
        (format!("agent-{index}"), capacity)
    }
}
