//! A machine: the agent's process with its connection, and the processes of its trials.

mod process;
mod program;

pub(crate) use program::SHORT;

use crate::nature::{Connection, Nature, ToMachine, ToServer, What};
use crate::world::World;
use agent_core::{Assignment, Core, Effect, Gang, Input, Lease, Moment};
use coordinator::core::{Capacity, LeaseView, Wanted};
use process::{Process, Saved};
use proto::{AgentId, AttemptKey, TrialId};
use std::collections::{BTreeMap, BTreeSet};

/// A connection on which nothing comes for this many lease terms is given up.
const SILENCE_TERMS: u64 = 2;
/// Longest pause before connecting again.
const RECONNECT_MAX_MS: u64 = 3_000;
/// Longest time between the end of a process's input and its death.
const DEATH_MAX_MS: u64 = 40;
/// Shortest time in which an agent's program starts: longer than its last trials take to die.
const AGENT_START_MS: u64 = 100;
/// How long an agent that ends waits for its last reports to be settled.
const SETTLE_MAX_MS: u64 = 3_000;
/// The error of a GPU that has fallen off the bus, by NVIDIA's number.
const XID_LOST: u64 = 79;
/// Longest time after which an agent hears of an error of a GPU.
const XID_MAX_MS: u64 = 200;

/// What reaches an agent's process on its own machine.
#[derive(Debug, Clone)]
pub(crate) enum Said {
    Core(Box<Input>),
    Shutdown,
}

/// A machine and what runs on it.
pub(crate) struct Machine {
    pub(crate) id: AgentId,
    index: usize,
    capacity: Capacity,
    /// CPU slots of the machine when nothing is broken.
    cpus: u32,
    /// GPUs on which every process fails until the agent starts again.
    lost: BTreeSet<u32>,
    pub(crate) frozen_until: u64,
    pub(crate) agent_frozen_until: u64,
    pub(crate) cut_off_until: u64,
    /// The machine's clock minus the simulated time.
    clock_offset_ms: u64,
    /// Counts the agent's starts.
    life: u64,
    agent: Option<Agent>,
    processes: BTreeMap<u64, Process>,
    /// Checkpoints on the machine's own disk.
    saved: BTreeMap<TrialId, Saved>,
    /// Arrival of the newest message to the coordinator, for streams.
    sent: u64,
}

/// The agent's process.
struct Agent {
    core: Core,
    instance: u64,
    hellos: u64,
    link: Option<Link>,
    /// The connection on which a welcome is awaited, and since when.
    connecting: Option<(Connection, u64)>,
    idle_since: Option<u64>,
    shutting_down: bool,
}

struct Link {
    connection: Connection,
    heard_at: u64,
    reported_at: Option<u64>,
}

impl Machine {
    /// A machine without power; `None` when the name cannot be an agent's.
    pub(crate) fn new(index: usize, name: &str, capacity: Capacity) -> Option<Self> {
        Some(Self {
            id: AgentId::new(name).ok()?,
            index,
            cpus: capacity.cpus,
            lost: BTreeSet::new(),
            capacity,
            frozen_until: 0,
            agent_frozen_until: 0,
            cut_off_until: 0,
            // Every machine was started at another time.
            clock_offset_ms: 1_000_003 * (index as u64 + 1),
            life: 0,
            agent: None,
            processes: BTreeMap::new(),
            saved: BTreeMap::new(),
            sent: 0,
        })
    }

    /// What its agent says to be withdrawn; `None` without an agent.
    pub(crate) fn withdrawn(&self) -> Option<&BTreeMap<u32, String>> {
        self.agent.as_ref().map(|agent| agent.core.withdrawn())
    }

    fn moment(&self, nature: &Nature) -> Moment {
        Moment(nature.now + self.clock_offset_ms)
    }

    fn tell_server(&mut self, nature: &mut Nature, connection: Connection, message: ToServer) {
        if self.cut_off_until > nature.now {
            return;
        }
        for delay in nature.arrivals(&mut self.sent) {
            let (machine, message) = (self.index, message.clone());
            nature.after(delay, What::ServerHears { machine, connection, message });
        }
    }
}

impl World {
    pub(crate) fn agent_start(&mut self, index: usize) -> Result<(), String> {
        let machine = &mut self.machines[index];
        if machine.agent.is_some() {
            return Ok(());
        }
        machine.life += 1;
        machine.agent_frozen_until = 0;
        machine.lost.clear();
        machine.agent = Some(Agent {
            core: Core::default(),
            instance: self.nature.number(),
            hellos: 0,
            link: None,
            connecting: None,
            idle_since: None,
            shutting_down: false,
        });
        let life = machine.life;
        self.nature.after(0, What::AgentConnect { machine: index, life });
        let tick = self.nature.settings.tick_ms;
        self.nature.after(tick, What::AgentTick { machine: index, life });
        Ok(())
    }

    pub(crate) fn agent_connect(&mut self, index: usize, life: u64) {
        let machine = &mut self.machines[index];
        let (is_alive, now) = (machine.life == life, self.nature.now);
        let connection = self.nature.number();
        let Some(agent) = machine.agent.as_mut().filter(|_| is_alive) else {
            return;
        };
        if agent.link.is_some() {
            return;
        }
        agent.connecting = Some((connection, now));
        let running = agent.core.held().into_iter().map(|(key, _)| key).collect();
        let withdrawn = agent.core.withdrawn().clone();
        let capacity = Capacity { withdrawn, ..machine.capacity.clone() };
        let instance = agent.instance;
        agent.hellos += 1;
        let hello = ToServer::Hello { running, capacity, instance, number: agent.hellos };
        machine.tell_server(&mut self.nature, connection, hello);
        let again = self.nature.random.between(RECONNECT_MAX_MS / 2, RECONNECT_MAX_MS);
        self.nature.after(again, What::AgentConnect { machine: index, life });
    }

    pub(crate) fn machine_hears(
        &mut self,
        index: usize,
        connection: Connection,
        message: ToMachine,
    ) -> Result<(), String> {
        let (now, ttl) = (self.nature.now, self.nature.settings.lease_ttl_ms);
        let machine = &mut self.machines[index];
        let (life, offset) = (machine.life, machine.clock_offset_ms);
        let Some(agent) = &mut machine.agent else {
            return Ok(());
        };
        let connecting = agent.connecting.filter(|(awaited, _)| *awaited == connection);
        let linked = agent.link.as_mut().filter(|link| link.connection == connection);
        let input = match (message, connecting, linked) {
            (ToMachine::Welcome, Some((_, sent_at)), _) => {
                agent.connecting = None;
                agent.link = Some(Link { connection, heard_at: now, reported_at: None });
                let hello_sent = Moment(sent_at + offset);
                Input::Connected { hello_sent, lease_ttl_ms: ttl, heeds_withdrawn: true }
            }
            (ToMachine::Refused(why), Some(_), _) => {
                agent.connecting = None;
                self.nature.log(|| format!("agent {index} is refused: {why}"));
                return Ok(());
            }
            (ToMachine::Closed, Some(_), _) => {
                agent.connecting = None;
                return Ok(());
            }
            (ToMachine::Closed | ToMachine::Refused(_), None, Some(_)) => {
                agent.link = None;
                let again = self.nature.random.between(50, RECONNECT_MAX_MS / 2);
                self.nature.after(again, What::AgentConnect { machine: index, life });
                Input::Disconnected
            }
            (ToMachine::Reply { sequence, refused }, None, Some(link)) => {
                link.heard_at = now;
                Input::Reply { sequence, refused }
            }
            (ToMachine::Assignment(wanted), None, Some(link)) => {
                link.heard_at = now;
                Input::Assignment(assignment(*wanted))
            }
            // Of a connection that is no more, or for one that is not welcomed yet.
            (_, _, _) => return Ok(()),
        };
        self.agent_does(index, input)
    }

    pub(crate) fn agent_input(
        &mut self,
        index: usize,
        life: u64,
        said: Said,
    ) -> Result<(), String> {
        if self.machines[index].life != life {
            return Ok(());
        }
        match said {
            Said::Core(input) => self.agent_does(index, *input),
            Said::Shutdown => {
                if let Some(agent) = &mut self.machines[index].agent {
                    agent.shutting_down = true;
                }
                self.agent_does(index, Input::Shutdown)
            }
        }
    }

    pub(crate) fn agent_tick(&mut self, index: usize, life: u64) -> Result<(), String> {
        if self.machines[index].life != life || self.machines[index].agent.is_none() {
            return Ok(());
        }
        let tick = self.nature.settings.tick_ms;
        self.nature.after(tick, What::AgentTick { machine: index, life });
        self.agent_does(index, Input::Tick)?;
        self.agent_gives_up_silence(index)?;
        self.agent_ends_when_done(index);
        Ok(())
    }

    fn agent_gives_up_silence(&mut self, index: usize) -> Result<(), String> {
        let now = self.nature.now;
        let patience_ms = SILENCE_TERMS * self.nature.settings.lease_ttl_ms;
        let machine = &mut self.machines[index];
        let Some(agent) = &mut machine.agent else {
            return Ok(());
        };
        let silent = agent.link.as_ref().filter(|link| now >= link.heard_at + patience_ms);
        let Some(connection) = silent.map(|link| link.connection) else {
            return Ok(());
        };
        agent.link = None;
        let life = machine.life;
        machine.tell_server(&mut self.nature, connection, ToServer::Closed);
        self.nature.after(1, What::AgentConnect { machine: index, life });
        self.agent_does(index, Input::Disconnected)
    }

    /// An agent that was asked to end does, and is started again later.
    fn agent_ends_when_done(&mut self, index: usize) {
        let now = self.nature.now;
        let machine = &mut self.machines[index];
        let Some(agent) = machine.agent.as_mut().filter(|agent| agent.shutting_down) else {
            return;
        };
        if agent.core.holds_processes() {
            return;
        }
        let idle_since = *agent.idle_since.get_or_insert(now);
        let is_done = agent.core.has_taken_leave() || agent.link.is_none();
        if is_done || now >= idle_since + SETTLE_MAX_MS {
            self.agent_dies(index);
        }
    }

    /// Lets the agent's core take something in, does what it wants, and reports.
    pub(crate) fn agent_does(&mut self, index: usize, input: Input) -> Result<(), String> {
        let mut inputs = std::collections::VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let machine = &mut self.machines[index];
            let moment = machine.moment(&self.nature);
            let Some(agent) = &mut machine.agent else {
                return Ok(());
            };
            for effect in agent.core.handle(moment, input) {
                inputs.extend(self.carry_out_effect(index, effect)?);
            }
        }
        self.agent_reports(index);
        Ok(())
    }

    fn carry_out_effect(&mut self, index: usize, effect: Effect) -> Result<Option<Input>, String> {
        match effect {
            Effect::Start { lease, lease_until } => {
                return self.process_starts(index, *lease, lease_until);
            }
            Effect::Renew { key, lease_until } => self.process_renewed(index, &key, lease_until),
            Effect::Stop(key) => self.process_asked(index, &key),
            Effect::Kill(key) => self.process_killed(index, &key),
            Effect::Settled { key, outcome } if self.nature.settings.checks => {
                self.referee.settled(&key, &outcome)?;
            }
            Effect::Settled { .. } | Effect::Withdrawn { .. } => {}
        }
        Ok(None)
    }

    fn agent_reports(&mut self, index: usize) {
        let (now, heartbeat) = (self.nature.now, self.nature.settings.heartbeat_ms);
        let machine = &mut self.machines[index];
        let moment = machine.moment(&self.nature);
        let Some(agent) = &mut machine.agent else {
            return;
        };
        let is_due = agent.core.report_is_due();
        let Some(link) = &mut agent.link else {
            return;
        };
        let rested = link.reported_at.is_none_or(|at| now >= at + heartbeat);
        if !is_due && !rested {
            return;
        }
        link.reported_at = Some(now);
        let connection = link.connection;
        let report = agent.core.report(moment);
        machine.tell_server(&mut self.nature, connection, ToServer::Report(report));
    }

    /// The agent's process is gone; its trials see the end of their input and end themselves.
    pub(crate) fn agent_dies(&mut self, index: usize) {
        let machine = &mut self.machines[index];
        let Some(agent) = machine.agent.take() else {
            return;
        };
        machine.life += 1;
        for process in machine.processes.keys() {
            let delay = self.nature.random.between(0, DEATH_MAX_MS);
            self.nature.after(delay, What::ProcessDies { machine: index, process: *process });
        }
        if let Some(link) = agent.link {
            machine.tell_server(&mut self.nature, link.connection, ToServer::Closed);
        }
        let outage = if self.nature.calm { 0 } else { self.nature.outage_ms() };
        let outage = outage.max(AGENT_START_MS);
        self.nature.log(|| format!("agent {index} is gone for {outage} ms"));
        self.nature.after(outage, What::AgentStart { machine: index });
    }

    pub(crate) fn machine_loses_power(&mut self, index: usize) {
        for mut process in std::mem::take(&mut self.machines[index].processes).into_values() {
            process.count_work(&mut self.nature, true);
        }
        self.agent_dies(index);
    }

    pub(crate) fn connection_breaks(&mut self, index: usize) {
        let machine = &mut self.machines[index];
        let link = machine.agent.as_ref().and_then(|agent| agent.link.as_ref());
        let Some(connection) = link.map(|link| link.connection) else {
            return;
        };
        let (sooner, later) =
            (self.nature.random.between(0, 50), self.nature.random.between(0, 2_000));
        let message = ToMachine::Closed;
        self.nature.after(sooner, What::MachineHears { machine: index, connection, message });
        let message = ToServer::Closed;
        self.nature.after(later, What::ServerHears { machine: index, connection, message });
    }

    pub(crate) fn agent_drains(&mut self, index: usize) {
        let life = self.machines[index].life;
        let said = Said::Shutdown;
        self.nature.after(1, What::AgentInput { machine: index, life, said });
    }

    /// A device is there or not when the agent starts again.
    pub(crate) fn device_flaps(&mut self, index: usize) {
        let machine = &mut self.machines[index];
        let lost = machine.capacity.cpus < machine.cpus;
        machine.capacity.cpus =
            if lost { machine.cpus } else { machine.cpus.saturating_sub(1).max(1) };
        self.agent_dies(index);
    }

    /// A GPU is lost: what runs on it fails, and the agent hears why, sooner or later.
    pub(crate) fn gpu_is_lost(&mut self, index: usize) {
        let machine = &mut self.machines[index];
        let gpus: Vec<u32> = machine.capacity.gpus.iter().map(|gpu| gpu.index).collect();
        let Some(gpu) = self.nature.random.pick(&gpus).copied() else {
            return;
        };
        machine.lost.insert(gpu);
        let (numbers, life) = (machine.processes.keys().copied().collect::<Vec<_>>(), machine.life);
        numbers.into_iter().for_each(|number| self.process_may_lack_gpu(index, number));
        let said = Said::Core(Box::new(Input::Xid { gpu, number: XID_LOST }));
        let delay = self.nature.random.between(0, XID_MAX_MS);
        self.nature.after(delay, What::AgentInput { machine: index, life, said });
    }

    /// Calls `each` with every live process, its machine and whether that stands still.
    fn each_process(&self, mut each: impl FnMut(usize, &Process, bool)) {
        for (index, machine) in self.machines.iter().enumerate() {
            let frozen = machine.frozen_until > self.nature.now;
            machine.processes.values().for_each(|process| each(index, process, frozen));
        }
    }
}

/// What an agent's session makes of the coordinator's wish.
fn assignment(wanted: Wanted) -> Assignment {
    Assignment {
        version: wanted.version,
        base: wanted.base,
        leases: wanted.leases.into_iter().map(lease).collect(),
        dropped: wanted.dropped,
        unreadable: Vec::new(),
    }
}

fn lease(view: LeaseView) -> Lease {
    Lease {
        key: view.key,
        spec: (*view.spec).clone(),
        devices: view.devices,
        checkpoint: view.checkpoint,
        preempted: view.preempted,
        recalled: view.recalled,
        mtbf_ms: view.mtbf_ms,
        gang: view.gang.map(|(world_size, master_addr, master_port)| Gang {
            world_size,
            master_addr,
            master_port,
        }),
    }
}

/// Names a live process of an attempt on a machine.
fn find(processes: &BTreeMap<u64, Process>, key: &AttemptKey) -> Option<u64> {
    processes.iter().find(|(_, process)| process.key == *key).map(|(number, _)| *number)
}
