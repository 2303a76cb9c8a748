//! A world drawn from a seed.

use crate::chaos::Chaos;
use crate::random::Random;
use crate::workload::Workload;
use crate::world::{Pace, Settings};
use coordinator::core::{Capacity, Gpu};
use proto::train::numerics_label;
use std::collections::BTreeMap;

impl Settings {
    /// The world of `seed`: machines, faults and clients are drawn from it. The faults last for
    /// `steps` steps.
    pub fn draw(seed: u64, steps: u64) -> Self {
        // Another stream of numbers than the one that the world itself will use.
        let mut random = Random::new(seed ^ 0x5eed_0f5e_7714_6500);
        let machines = random.between(1, 6);
        Self {
            seed,
            steps,
            lease_ttl_ms: 5_000,
            heartbeat_ms: random.between(200, 1_500),
            chaos: Chaos::draw(&mut random),
            machines: (0..machines).map(|index| machine(&mut random, index)).collect(),
            workload: Workload::draw(&mut random),
            tick_ms: 100,
            pace: Pace::Drawn,
            checks: true,
            log: false,
            #[cfg(feature = "planted-bugs")]
            planted: None,
        }
    }
}

fn machine(random: &mut Random, index: u64) -> (String, Capacity) {
    let gpu = |index: u64| Gpu {
        index: index as u32,
        name: "simulated".to_owned(),
        memory_bytes: 80 << 30,
    };
    let zone = ["a", "b"][random.below(2) as usize].to_owned();
    let capacity = Capacity {
        host: format!("host-{index}"),
        cpus: random.between(1, 4) as u32,
        gpus: (0..random.below(3)).map(gpu).collect(),
        withdrawn: BTreeMap::new(),
        memory_bytes: 16 << 30,
        code_version: "simulated".to_owned(),
        labels: BTreeMap::from([("zone".to_owned(), zone), numerics_label()]),
        extras: BTreeMap::new(),
    };
    (format!("m{index}"), capacity)
}
