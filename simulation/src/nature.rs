//! What will happen, when, and by what chance.

use crate::chaos::Chaos;
use crate::machine::Said;
use crate::random::Random;
use crate::world::{Settings, Work};
use coordinator::core::{Capacity, Point, Rejection, Request, Wanted};
use proto::AttemptKey;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

/// Lines of the log that are kept.
const LOG_LINES_MAX: usize = 200;

/// Names one connection of an agent; unique in a world.
pub(crate) type Connection = u64;

/// What travels from a machine to the coordinator.
#[derive(Debug, Clone)]
pub(crate) enum ToServer {
    Hello { running: Vec<AttemptKey>, capacity: Capacity, instance: u64, number: u64 },
    Report(agent_core::Report),
    Points(Vec<Point>),
    Closed,
}

/// What travels back.
#[derive(Debug, Clone)]
pub(crate) enum ToMachine {
    Welcome,
    Refused(Rejection),
    Reply { sequence: u64, refused: Vec<AttemptKey> },
    Assignment(Box<Wanted>),
    Closed,
}

/// Something that will happen.
#[derive(Debug, Clone)]
pub(crate) enum What {
    ServerHears { machine: usize, connection: Connection, message: ToServer },
    ServerRequest { client: usize, request: Request },
    ServerTurn { life: u64 },
    ServerStart,
    MachineHears { machine: usize, connection: Connection, message: ToMachine },
    AgentStart { machine: usize },
    AgentTick { machine: usize, life: u64 },
    AgentConnect { machine: usize, life: u64 },
    AgentInput { machine: usize, life: u64, said: Said },
    ProcessStep { machine: usize, process: u64 },
    ProcessWatch { machine: usize, process: u64 },
    ProcessStopped { machine: usize, process: u64 },
    ProcessDies { machine: usize, process: u64 },
    ClientActs { client: usize },
    ClientHears { client: usize, accepted: Result<(), String> },
    Fault,
}

struct Coming {
    at: u64,
    order: u64,
    what: What,
}

impl PartialEq for Coming {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Coming {}
impl PartialOrd for Coming {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Coming {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// What every part of the world may use.
pub(crate) struct Nature {
    /// Simulated time in milliseconds.
    pub(crate) now: u64,
    pub(crate) random: Random,
    pub(crate) chaos: Chaos,
    pub(crate) settings: Settings,
    /// The faults are over; what is broken heals.
    pub(crate) calm: bool,
    coming: BinaryHeap<Reverse<Coming>>,
    order: u64,
    numbers: u64,
    trace: blake3::Hasher,
    pub(crate) log: VecDeque<String>,
    pub(crate) faults: BTreeMap<String, u64>,
    pub(crate) work: Work,
    /// The furthest step of each trial's member.
    pub(crate) furthest: BTreeMap<(proto::TrialId, u32), u64>,
}

impl Nature {
    /// The beginning.
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            now: 0,
            random: Random::new(settings.seed),
            chaos: settings.chaos.clone(),
            calm: false,
            coming: BinaryHeap::new(),
            order: 0,
            numbers: 0,
            trace: blake3::Hasher::new(),
            log: VecDeque::new(),
            faults: BTreeMap::new(),
            work: Work::default(),
            furthest: BTreeMap::new(),
            settings,
        }
    }

    /// What happens next; the time is then its time.
    pub(crate) fn next(&mut self) -> Option<What> {
        let Reverse(coming) = self.coming.pop()?;
        self.now = coming.at;
        Some(coming.what)
    }

    /// The hash of all that happened.
    pub(crate) fn trace_hash(&self) -> String {
        self.trace.finalize().to_hex()[..16].to_owned()
    }

    pub(crate) fn after(&mut self, delay_ms: u64, what: What) {
        self.order += 1;
        let at = self.now.saturating_add(delay_ms);
        self.coming.push(Reverse(Coming { at, order: self.order, what }));
    }

    /// A number that nobody else has.
    pub(crate) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(crate) fn trace(&mut self, bytes: &[u8]) {
        self.trace.update(bytes);
    }

    pub(crate) fn log(&mut self, line: impl FnOnce() -> String) {
        if self.settings.log {
            self.log.push_back(format!("{:>9} {}", self.now, line()));
            if self.log.len() > LOG_LINES_MAX {
                self.log.pop_front();
            }
        }
    }

    pub(crate) fn count_fault(&mut self, kind: &str) {
        *self.faults.entry(kind.to_owned()).or_default() += 1;
        self.log(|| format!("fault: {kind}"));
    }

    pub(crate) fn outage_ms(&mut self) -> u64 {
        let most = self.chaos.outage_max_ms;
        self.random.between(1, most.max(1))
    }

    /// When a message sent now arrives: never, once or twice.
    pub(crate) fn arrivals(&mut self, is_ordered: &mut u64) -> Vec<u64> {
        let (low, high) = self.chaos.latency_ms;
        let chaos = if self.calm { Chaos::none() } else { self.chaos.clone() };
        let mut latency = self.random.between(low, high);
        if chaos.loss == 0 && chaos.duplication == 0 && chaos.delay == 0 {
            // A stream: nothing overtakes.
            let at = (self.now + latency).max(*is_ordered);
            *is_ordered = at;
            return vec![at - self.now];
        }
        if self.random.chance(chaos.loss) {
            return Vec::new();
        }
        if self.random.chance(chaos.delay) {
            latency *= self.random.between(2, 100);
        }
        let again = self.random.chance(chaos.duplication);
        let second = latency + self.random.between(0, 50);
        if again { vec![latency, second] } else { vec![latency] }
    }
}

/// What kind of thing happens, for the trace.
pub(crate) fn tag(what: &What) -> u64 {
    match what {
        What::ServerHears { machine, connection, .. } => 1 + 32 * (*machine as u64 + connection),
        What::ServerRequest { client, .. } => 2 + 32 * *client as u64,
        What::ServerTurn { life } => 3 + 32 * life,
        What::ServerStart => 4,
        What::MachineHears { machine, connection, .. } => 5 + 32 * (*machine as u64 + connection),
        What::AgentStart { machine } => 6 + 32 * *machine as u64,
        What::AgentTick { machine, .. } => 7 + 32 * *machine as u64,
        What::AgentConnect { machine, .. } => 8 + 32 * *machine as u64,
        What::AgentInput { machine, .. } => 9 + 32 * *machine as u64,
        What::ProcessStep { process, .. } => 10 + 32 * process,
        What::ProcessWatch { process, .. } => 11 + 32 * process,
        What::ProcessStopped { process, .. } => 12 + 32 * process,
        What::ProcessDies { process, .. } => 13 + 32 * process,
        What::ClientActs { client } => 14 + 32 * *client as u64,
        What::ClientHears { client, .. } => 15 + 32 * *client as u64,
        What::Fault => 16,
    }
}
