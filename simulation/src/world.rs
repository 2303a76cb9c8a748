//! One queue of things that will happen, and the loop that lets them happen.

use crate::chaos::{Chaos, Fault};
use crate::machine::{Machine, Said};
use crate::random::Random;
use crate::referee::Referee;
use crate::server::Server;
use crate::workload::Workload;
use coordinator::core::{Capacity, Point, Rejection, Request, Wanted};
use proto::AttemptKey;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

/// What a world consists of.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Seeds everything.
    pub seed: u64,
    /// Things that happen before the faults end.
    pub steps: u64,
    /// How long a lease lives, in milliseconds.
    pub lease_ttl_ms: u64,
    /// How often an agent reports at least, in milliseconds.
    pub heartbeat_ms: u64,
    /// How much goes wrong.
    pub chaos: Chaos,
    /// The machines, by name.
    pub machines: Vec<(String, Capacity)>,
    /// Who submits what.
    pub workload: Workload,
    /// Keeps the last lines of what happened, for people.
    pub log: bool,
    /// A bug to plant into the coordinator.
    #[cfg(feature = "planted-bugs")]
    pub planted: Option<coordinator::core::Planted>,
}

/// Longest time from the end of the faults to rest, in milliseconds.
const REST_WITHIN_MS: u64 = 45 * 60_000;
/// Most things that happen after the faults ended.
const REST_STEPS_MAX: u64 = 3_000_000;
/// Lines of the log that are kept.
const LOG_LINES_MAX: usize = 200;

/// A world that came to rest without breaking a law.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Things that happened.
    pub steps: u64,
    /// Simulated time in milliseconds.
    pub time_ms: u64,
    /// Hash of all that happened.
    pub trace: String,
    /// How often which kind of fault came.
    pub faults: BTreeMap<String, u64>,
    /// Durable records.
    pub records: u64,
    /// Trials by the word of their end.
    pub ended: BTreeMap<&'static str, u64>,
    /// The machine's disk lied, and the coordinator refused to start from what it gave.
    pub refused: bool,
}

/// A broken law.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "seed {seed}, step {step}, {time_ms} ms: {law}\ntrace {trace}; replay it with `brine sim --seed {seed}`"
)]
pub struct Failure {
    /// Of which seed.
    pub seed: u64,
    /// After which step.
    pub step: u64,
    /// At which simulated time in milliseconds.
    pub time_ms: u64,
    /// What was broken.
    pub law: String,
    /// Hash of all that happened until then.
    pub trace: String,
    /// The last lines of the log, when there was one.
    pub log: Vec<String>,
}

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
    log: VecDeque<String>,
    faults: BTreeMap<String, u64>,
}

impl Nature {
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

/// Machines, a coordinator, clients, and the laws that must hold between them.
pub struct World {
    pub(crate) nature: Nature,
    pub(crate) server: Server,
    pub(crate) machines: Vec<Machine>,
    pub(crate) referee: Referee,
    steps: u64,
}

impl World {
    /// A world at its beginning.
    pub fn new(settings: Settings) -> Self {
        let machines = settings.machines.iter().enumerate();
        let machines: Vec<Machine> = machines
            .filter_map(|(index, (name, capacity))| Machine::new(index, name, capacity.clone()))
            .collect();
        let clients = settings.workload.clients.len();
        let mut nature = Nature {
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
            settings,
        };
        nature.after(0, What::ServerStart);
        for machine in 0..machines.len() {
            let delay = nature.random.between(0, 500);
            nature.after(delay, What::AgentStart { machine });
        }
        for client in 0..clients {
            let delay = nature.settings.workload.clients[client].first_ms;
            nature.after(delay, What::ClientActs { client });
        }
        if let Some(mean) = nature.chaos.fault_every_ms {
            nature.after(mean, What::Fault);
        }
        let server = Server::default();
        Self { nature, server, machines, referee: Referee::default(), steps: 0 }
    }

    /// Lets everything happen until the faults are over and the world has come to rest.
    ///
    /// # Errors
    /// The first law that was broken.
    pub fn run(mut self) -> Result<Finished, Box<Failure>> {
        match self.run_to_rest() {
            Ok(refused) => Ok(self.finished(refused)),
            Err(law) => Err(Box::new(Failure {
                seed: self.nature.settings.seed,
                step: self.steps,
                time_ms: self.nature.now,
                law,
                trace: self.trace(),
                log: self.nature.log.into(),
            })),
        }
    }

    fn run_to_rest(&mut self) -> Result<bool, String> {
        let mut rest_by = (u64::MAX, u64::MAX);
        let mut checked_rest_at = 0;
        while let Some(Reverse(coming)) = self.nature.coming.pop() {
            self.nature.now = coming.at;
            self.steps += 1;
            self.happen(coming.what)?;
            if self.server.has_refused() {
                return Ok(true);
            }
            if self.steps == self.nature.settings.steps {
                self.calm();
                rest_by = (self.nature.now + REST_WITHIN_MS, self.steps + REST_STEPS_MAX);
            }
            if self.nature.calm && self.nature.now >= checked_rest_at + 1_000 {
                checked_rest_at = self.nature.now;
                if self.is_at_rest() {
                    self.referee.keeps_promises()?;
                    return Ok(false);
                }
            }
            if self.nature.now > rest_by.0 || self.steps > rest_by.1 {
                return Err(format!("the world does not come to rest: {}", self.unrest()));
            }
        }
        Err("nothing will ever happen again".to_owned())
    }

    fn happen(&mut self, what: What) -> Result<(), String> {
        if let Some(thaw_at) = self.frozen_until(&what) {
            // A process that is stopped sees what came meanwhile when it goes on.
            let delay = thaw_at.saturating_sub(self.nature.now).max(1);
            self.nature.after(delay, what);
            return Ok(());
        }
        let stamp = (self.nature.now, tag(&what));
        self.nature.trace(&stamp.0.to_le_bytes());
        self.nature.trace(&stamp.1.to_le_bytes());
        match what {
            What::ServerHears { machine, connection, message } => {
                self.server_hears(machine, connection, message);
                Ok(())
            }
            What::ServerRequest { client, request } => {
                self.server_request(client, request);
                Ok(())
            }
            What::ServerTurn { life } => self.server_turn(life),
            What::ServerStart => self.server_start(),
            What::MachineHears { machine, connection, message } => {
                self.machine_hears(machine, connection, message)
            }
            What::AgentStart { machine } => self.agent_start(machine),
            What::AgentTick { machine, life } => self.agent_tick(machine, life),
            What::AgentConnect { machine, life } => {
                self.agent_connect(machine, life);
                Ok(())
            }
            What::AgentInput { machine, life, said } => self.agent_input(machine, life, said),
            What::ProcessStep { machine, process } => self.process_step(machine, process),
            What::ProcessWatch { machine, process } => self.process_watch(machine, process),
            What::ProcessStopped { machine, process } => self.process_stopped(machine, process),
            What::ProcessDies { machine, process } => self.process_dies(machine, process),
            What::ClientActs { client } => {
                self.client_acts(client);
                Ok(())
            }
            What::ClientHears { client, accepted } => self.client_hears(client, accepted),
            What::Fault => {
                self.fault();
                Ok(())
            }
        }
    }

    /// Until when the one to whom something happens stands still, if it does.
    fn frozen_until(&self, what: &What) -> Option<u64> {
        let until = match what {
            What::ServerHears { .. } | What::ServerRequest { .. } | What::ServerTurn { .. } => {
                self.server.frozen_until
            }
            What::MachineHears { machine, .. }
            | What::AgentTick { machine, .. }
            | What::AgentConnect { machine, .. }
            | What::AgentInput { machine, .. } => {
                let machine = &self.machines[*machine];
                machine.frozen_until.max(machine.agent_frozen_until)
            }
            What::ProcessStep { machine, .. }
            | What::ProcessWatch { machine, .. }
            | What::ProcessStopped { machine, .. }
            | What::ProcessDies { machine, .. }
            | What::AgentStart { machine } => self.machines[*machine].frozen_until,
            What::ServerStart
            | What::ClientActs { .. }
            | What::ClientHears { .. }
            | What::Fault => 0,
        };
        (until > self.nature.now).then_some(until)
    }

    fn fault(&mut self) {
        if self.nature.calm {
            return;
        }
        if let Some(mean) = self.nature.chaos.fault_every_ms {
            let delay = self.nature.random.exponential(mean as f64);
            self.nature.after(delay, What::Fault);
        }
        let weights = self.nature.chaos.weights.clone();
        let Some(fault) = weights.pick(&mut self.nature.random) else {
            return;
        };
        let machine = self.nature.random.below(self.machines.len() as u64) as usize;
        self.nature.count_fault(&format!("{fault:?}"));
        let outage = self.nature.outage_ms();
        let until = self.nature.now + outage;
        match fault {
            Fault::KillCoordinator => self.server_dies(),
            // What came meanwhile waits for the first thaw, so a second frost does not end sooner.
            Fault::FreezeCoordinator => {
                self.server.frozen_until = self.server.frozen_until.max(until);
            }
            Fault::KillAgent => self.agent_dies(machine),
            Fault::FreezeAgent => {
                let frozen = &mut self.machines[machine].agent_frozen_until;
                *frozen = until.max(*frozen);
            }
            Fault::FreezeMachine => {
                let frozen = &mut self.machines[machine].frozen_until;
                *frozen = until.max(*frozen);
            }
            Fault::LosePower => self.machine_loses_power(machine),
            Fault::BreakConnection => self.connection_breaks(machine),
            Fault::Partition => self.machines[machine].cut_off_until = until,
            Fault::DrainAgent => self.agent_drains(machine),
            Fault::FlapDevice => self.device_flaps(machine),
        }
    }

    /// No further faults; what stands still or is cut off goes on when its time has come.
    fn calm(&mut self) {
        self.nature.calm = true;
        self.nature.log(|| "the faults are over".to_owned());
    }

    fn trace(&self) -> String {
        self.nature.trace.finalize().to_hex()[..16].to_owned()
    }

    fn finished(&self, refused: bool) -> Finished {
        let mut ended: BTreeMap<&'static str, u64> = BTreeMap::new();
        for (_, outcome) in self.referee.ended() {
            *ended.entry(outcome.word()).or_default() += 1;
        }
        Finished {
            steps: self.steps,
            time_ms: self.nature.now,
            trace: self.trace(),
            faults: self.nature.faults.clone(),
            records: self.server.last,
            ended,
            refused,
        }
    }
}

/// What kind of thing happens, for the trace.
fn tag(what: &What) -> u64 {
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
