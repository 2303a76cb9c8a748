//! How much goes wrong. Times are in milliseconds, chances in a million.

use crate::random::Random;

/// The faults of one simulated world.
#[derive(Debug, Clone, PartialEq)]
pub struct Chaos {
    /// Shortest and longest time that a message takes.
    pub latency_ms: (u64, u64),
    /// Chance that a message takes up to a hundred times as long, so that later ones overtake it.
    pub delay: u64,
    /// Chance that a message is lost although the connection lives.
    pub loss: u64,
    /// Chance that a message arrives twice.
    pub duplication: u64,
    /// Mean time between two faults of any of the kinds below; `None` for none at all.
    pub fault_every_ms: Option<u64>,
    /// Weights of the kinds of faults.
    pub weights: Weights,
    /// Longest time that something is down, frozen or cut off.
    pub outage_max_ms: u64,
    /// Chance that the coordinator dies between two steps of a turn.
    pub crash_in_turn: u64,
    /// Chance that a write fails although the disk lives, for example because it is full.
    pub disk_error: u64,
    /// Chance that an attempt's process dies by itself within one of its steps.
    pub process_death: u64,
    /// Chance that one of its steps takes far longer, up to minutes.
    pub hang: u64,
    /// Chance that a step reports a number that is none.
    pub bad_number: u64,
    /// Whether checkpoints lie on a disk that all machines see.
    pub shared_disk: bool,
}

/// How often each kind of fault comes, relative to the others.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    /// The coordinator's process is killed.
    pub kill_coordinator: u64,
    /// The coordinator's process is stopped and goes on later.
    pub freeze_coordinator: u64,
    /// An agent's process is killed; its trials die with it.
    pub kill_agent: u64,
    /// An agent's process is stopped, its trials go on.
    pub freeze_agent: u64,
    /// A whole machine stops for a while, as a virtual one does when it is moved.
    pub freeze_machine: u64,
    /// A machine loses power.
    pub lose_power: u64,
    /// A connection breaks and both ends notice.
    pub break_connection: u64,
    /// Nothing passes between a machine and the coordinator for a while; nobody notices.
    pub partition: u64,
    /// An agent is asked to end and is started again.
    pub drain_agent: u64,
    /// A device disappears or comes back at the agent's next start.
    pub flap_device: u64,
    /// A GPU is lost until the agent's next start.
    pub lose_gpu: u64,
}

impl Chaos {
    /// A world in which nothing goes wrong.
    pub fn none() -> Self {
        Self {
            latency_ms: (1, 1),
            delay: 0,
            loss: 0,
            duplication: 0,
            fault_every_ms: None,
            weights: Weights::even(),
            outage_max_ms: 1,
            crash_in_turn: 0,
            disk_error: 0,
            process_death: 0,
            hang: 0,
            bad_number: 0,
            shared_disk: true,
        }
    }

    /// Faults drawn from a seed: some worlds have many of one kind, some a few of all.
    pub fn draw(random: &mut Random) -> Self {
        let rare = |random: &mut Random, most: u64| match random.below(3) {
            0 => 0,
            _ => random.below(most),
        };
        Self {
            latency_ms: (random.below(3), random.between(3, 60)),
            delay: rare(random, 50_000),
            loss: rare(random, 50_000),
            duplication: rare(random, 50_000),
            fault_every_ms: Some(random.between(300, 8_000)),
            weights: Weights::draw(random),
            outage_max_ms: random.between(500, 20_000),
            crash_in_turn: rare(random, 10_000),
            disk_error: rare(random, 3_000),
            process_death: rare(random, 20_000),
            hang: rare(random, 100_000),
            bad_number: rare(random, 20_000),
            shared_disk: random.below(2) == 0,
        }
    }
}

impl Weights {
    fn even() -> Self {
        Self {
            kill_coordinator: 1,
            freeze_coordinator: 1,
            kill_agent: 1,
            freeze_agent: 1,
            freeze_machine: 1,
            lose_power: 1,
            break_connection: 1,
            partition: 1,
            drain_agent: 1,
            flap_device: 1,
            lose_gpu: 1,
        }
    }

    /// Machines lose power, and nothing else happens.
    pub fn power_only() -> Self {
        Self {
            kill_coordinator: 0,
            freeze_coordinator: 0,
            kill_agent: 0,
            freeze_agent: 0,
            freeze_machine: 0,
            lose_power: 1,
            break_connection: 0,
            partition: 0,
            drain_agent: 0,
            flap_device: 0,
            lose_gpu: 0,
        }
    }

    fn draw(random: &mut Random) -> Self {
        let mut weight = || [0, 1, 1, 4][random.below(4) as usize];
        Self {
            kill_coordinator: weight(),
            freeze_coordinator: weight(),
            kill_agent: weight(),
            freeze_agent: weight(),
            freeze_machine: weight(),
            lose_power: weight(),
            break_connection: weight(),
            partition: weight(),
            drain_agent: weight(),
            flap_device: weight(),
            lose_gpu: weight(),
        }
    }
}

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields of `Weights` say what each is")]
pub enum Fault {
    KillCoordinator,
    FreezeCoordinator,
    KillAgent,
    FreezeAgent,
    FreezeMachine,
    LosePower,
    BreakConnection,
    Partition,
    DrainAgent,
    FlapDevice,
    LoseGpu,
}

impl Weights {
    /// Draws a kind of fault; `None` when all weights are zero.
    pub fn pick(&self, random: &mut Random) -> Option<Fault> {
        let kinds = [
            (self.kill_coordinator, Fault::KillCoordinator),
            (self.freeze_coordinator, Fault::FreezeCoordinator),
            (self.kill_agent, Fault::KillAgent),
            (self.freeze_agent, Fault::FreezeAgent),
            (self.freeze_machine, Fault::FreezeMachine),
            (self.lose_power, Fault::LosePower),
            (self.break_connection, Fault::BreakConnection),
            (self.partition, Fault::Partition),
            (self.drain_agent, Fault::DrainAgent),
            (self.flap_device, Fault::FlapDevice),
            (self.lose_gpu, Fault::LoseGpu),
        ];
        let total: u64 = kinds.iter().map(|(weight, _)| weight).sum();
        let mut drawn = random.below(total);
        kinds.into_iter().find_map(|(weight, fault)| {
            let is_it = drawn < weight;
            drawn = drawn.saturating_sub(weight);
            is_it.then_some(fault)
        })
    }
}
