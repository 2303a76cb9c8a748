//! What goes wrong in one cycle, drawn from the seed. Pure: the same seed and cycle give the same
//! plan, whatever the machine does meanwhile.

use std::fmt;

use super::random::Random;
use super::sweeps::{Kind, Sweep};

/// How long a cycle lasts, in milliseconds: short, so that the ends of longer faults fall into the
/// next cycle, among its own faults.
pub(crate) const CYCLE_MS: u64 = 2_500;
/// Faults that begin in one cycle.
const FAULTS: (u64, u64) = (2, 4);
/// How long a killed program stays away, in milliseconds: from "at once" to "longer than most
/// pauses between two tries to connect".
const DOWN_MS: (u64, u64) = (50, 1_500);
/// Outages that a lease of 5 s survives, in milliseconds.
const SHORT_MS: (u64, u64) = (300, 2_500);
/// Outages that it does not survive.
const LONG_MS: (u64, u64) = (6_000, 7_500);
/// One outage in so many is longer than a lease.
const LONG_ONCE_IN: u64 = 4;
/// How long a disk stays full, in milliseconds.
const FULL_MS: (u64, u64) = (300, 2_000);
/// Trials of the sweep that keeps agents busy, in every cycle: more, and the queue grows.
const BUSY_TRIALS: u64 = 1;
/// In one cycle of so many the recipes are submitted a second time.
const AGAIN_ONCE_IN: u64 = 4;

/// A program that is tormented.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    /// `brine coordinator`.
    Coordinator,
    /// `brine-agent`, by number.
    Agent(usize),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinator => f.write_str("coordinator"),
            Self::Agent(number) => write!(f, "agent-{number}"),
        }
    }
}

/// What happens to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// It is reset, and so is every new one.
    Reset,
    /// Bytes wait; they arrive when the fault ends.
    Stall,
    /// Bytes vanish and nobody is told, until the connection is reset at the fault's end.
    Swallow,
}

/// In which direction a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Both.
    Both,
    /// From the agent to the coordinator.
    Up,
    /// From the coordinator to the agent.
    Down,
}

/// One thing that goes wrong. Times are in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// kill -9, and a new start after a while.
    Kill { target: Target, down_ms: u64 },
    /// kill -9 of the process that starts an agent's programs, the `pick`-th of those that live.
    KillKeeper { pick: u64 },
    /// kill -9 of a trial's own program, the `pick`-th of those that live.
    KillProgram { pick: u64 },
    /// SIGSTOP, and SIGCONT after a while.
    Freeze { target: Target, for_ms: u64 },
    /// The disk with the program's data is full for a while.
    FillDisk { target: Target, for_ms: u64 },
    /// The connections of one agent are cut for a while.
    Cut { agent: usize, cut: Cut, way: Way, for_ms: u64 },
}

/// Names of all kinds of faults, as the summary lists them.
pub(crate) const KINDS: [&str; 11] = [
    "kill coordinator",
    "kill agent",
    "kill keeper",
    "kill program",
    "freeze coordinator",
    "freeze agent",
    "fill coordinator's disk",
    "fill agent's disk",
    "reset connection",
    "stall connection",
    "swallow connection",
];

impl Fault {
    /// Its name in [`KINDS`].
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Kill { target: Target::Coordinator, .. } => "kill coordinator",
            Self::Kill { target: Target::Agent(_), .. } => "kill agent",
            Self::KillKeeper { .. } => "kill keeper",
            Self::KillProgram { .. } => "kill program",
            Self::Freeze { target: Target::Coordinator, .. } => "freeze coordinator",
            Self::Freeze { target: Target::Agent(_), .. } => "freeze agent",
            Self::FillDisk { target: Target::Coordinator, .. } => "fill coordinator's disk",
            Self::FillDisk { target: Target::Agent(_), .. } => "fill agent's disk",
            Self::Cut { cut: Cut::Reset, .. } => "reset connection",
            Self::Cut { cut: Cut::Stall, .. } => "stall connection",
            Self::Cut { cut: Cut::Swallow, .. } => "swallow connection",
        }
    }

    /// Milliseconds from its begin to its end; `None` when it has no end of its own, because a
    /// killed program is started again by whoever watches over it.
    pub(crate) fn lasts_ms(self) -> Option<u64> {
        match self {
            Self::Kill { .. } | Self::KillKeeper { .. } | Self::KillProgram { .. } => None,
            Self::Freeze { for_ms, .. }
            | Self::FillDisk { for_ms, .. }
            | Self::Cut { for_ms, .. } => Some(for_ms),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill { target, down_ms } => write!(f, "kill {target} (back in {down_ms} ms)"),
            Self::KillKeeper { .. } => f.write_str("kill a keeper of programs"),
            Self::KillProgram { .. } => f.write_str("kill a trial's program"),
            Self::Freeze { target, for_ms } => write!(f, "freeze {target} {for_ms} ms"),
            Self::FillDisk { target, for_ms } => write!(f, "fill {target}'s disk {for_ms} ms"),
            Self::Cut { agent, cut, way, for_ms } => {
                let cut = match cut {
                    Cut::Reset => "reset",
                    Cut::Stall => "stall",
                    Cut::Swallow => "swallow",
                };
                let way = match way {
                    Way::Both => "",
                    Way::Up => " up",
                    Way::Down => " down",
                };
                write!(f, "{cut} agent-{agent}{way} {for_ms} ms")
            }
        }
    }
}

/// What happens in one cycle.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// What is submitted at its begin: one sweep of any kind, and one that keeps the agents busy,
    /// so that most faults find somebody at work.
    pub(crate) sweeps: [Sweep; 2],
    /// Whether the same recipes are submitted once more after they were acknowledged.
    pub(crate) again: bool,
    /// Faults with their begin in milliseconds after the cycle's, in that order.
    pub(crate) faults: Vec<(u64, Fault)>,
}

/// Draws the plan of `cycle`, counted from 1.
pub(crate) fn draw(seed: u64, cycle: u64, agents: usize) -> Plan {
    let mut random = Random::new(seed, cycle);
    let kind = *random.pick(&Kind::WEIGHTED).unwrap_or(&Kind::Count);
    let (few, many) = kind.trials();
    let any = Sweep { number: 2 * cycle, kind, trials: random.between(few, many) };
    let busy = Sweep { number: 2 * cycle + 1, kind: Kind::Count, trials: BUSY_TRIALS };
    let again = random.once_in(AGAIN_ONCE_IN);
    let number = random.between(FAULTS.0, FAULTS.1);
    let mut faults: Vec<(u64, Fault)> =
        (0..number).map(|_| (random.below(CYCLE_MS), draw_fault(&mut random, agents))).collect();
    faults.sort_by_key(|(at_ms, _)| *at_ms);
    Plan { sweeps: [any, busy], again, faults }
}

fn draw_fault(random: &mut Random, agents: usize) -> Fault {
    let agent = usize::try_from(random.below(agents as u64)).unwrap_or(0);
    let any = if random.once_in(2) { Target::Coordinator } else { Target::Agent(agent) };
    match random.below(12) {
        0 | 1 => Fault::Kill { target: any, down_ms: random.between(DOWN_MS.0, DOWN_MS.1) },
        2 | 3 => Fault::KillKeeper { pick: random.below(1_000) },
        4 | 5 => Fault::KillProgram { pick: random.below(1_000) },
        6 | 7 => Fault::Freeze { target: any, for_ms: draw_outage(random) },
        8 | 9 => Fault::FillDisk { target: any, for_ms: random.between(FULL_MS.0, FULL_MS.1) },
        _ => {
            let cut = *random.pick(&[Cut::Reset, Cut::Stall, Cut::Swallow]).unwrap_or(&Cut::Reset);
            let way = *random.pick(&[Way::Both, Way::Up, Way::Down]).unwrap_or(&Way::Both);
            Fault::Cut { agent, cut, way, for_ms: draw_outage(random) }
        }
    }
}

fn draw_outage(random: &mut Random) -> u64 {
    let (low, high) = if random.once_in(LONG_ONCE_IN) { LONG_MS } else { SHORT_MS };
    random.between(low, high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_plan_follows_from_seed_and_cycle() {
        assert_eq!(draw(7, 3, 2), draw(7, 3, 2));
        assert_ne!(draw(7, 3, 2), draw(7, 4, 2));
        assert_ne!(draw(7, 3, 2), draw(8, 3, 2));
    }

    #[test]
    fn thirty_cycles_hold_every_kind_of_fault_and_of_sweep() {
        for seed in 0..20 {
            let plans: Vec<Plan> = (1..=30).map(|cycle| draw(seed, cycle, 2)).collect();
            let faults = plans.iter().flat_map(|plan| &plan.faults);
            let kinds: BTreeSet<&str> = faults.map(|(_, fault)| fault.kind()).collect();
            assert!(kinds.len() >= KINDS.len() - 1, "seed {seed}: {kinds:?}");
            assert!(kinds.iter().all(|kind| KINDS.contains(kind)));
            let sweeps: BTreeSet<Kind> = plans.iter().map(|plan| plan.sweeps[0].kind).collect();
            assert!(sweeps.len() >= 4, "seed {seed}: {sweeps:?}");
        }
    }

    #[test]
    fn faults_begin_inside_their_cycle_in_order_and_name_agents_that_exist() {
        for cycle in 1..200 {
            let plan = draw(1, cycle, 3);
            assert!(plan.faults.is_sorted_by_key(|(at_ms, _)| *at_ms));
            assert!((2..=4).contains(&plan.faults.len()));
            for (at_ms, fault) in plan.faults {
                assert!(at_ms < CYCLE_MS);
                match fault {
                    Fault::Kill { target: Target::Agent(agent), .. }
                    | Fault::Freeze { target: Target::Agent(agent), .. }
                    | Fault::FillDisk { target: Target::Agent(agent), .. }
                    | Fault::Cut { agent, .. } => assert!(agent < 3),
                    Fault::Kill { .. } | Fault::Freeze { .. } | Fault::FillDisk { .. } => {}
                    Fault::KillKeeper { .. } | Fault::KillProgram { .. } => {}
                }
            }
        }
    }

    #[test]
    fn some_outages_are_longer_than_a_lease_and_most_are_not() {
        let faults = (1..500).flat_map(|cycle| draw(1, cycle, 2).faults);
        let outages: Vec<u64> = faults
            .filter_map(|(_, fault)| match fault {
                Fault::Freeze { for_ms, .. } | Fault::Cut { for_ms, .. } => Some(for_ms),
                Fault::Kill { .. } | Fault::KillKeeper { .. } => None,
                Fault::KillProgram { .. } | Fault::FillDisk { .. } => None,
            })
            .collect();
        let long = outages.iter().filter(|for_ms| **for_ms > 5_000).count();
        assert!(long * 2 < outages.len() && long * 10 > outages.len(), "{long} long ones");
    }
}
