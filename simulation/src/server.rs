//! The coordinator's process: it decides turns and carries out their steps, and may die between
//! any two of them.

use crate::disk::{Disk, Remains};
use crate::nature::{Connection, ToMachine, ToServer, What};
use crate::world::World;
use coordinator::core::{Answer, Core, Join, Report, Request, Step, Ticket};
use coordinator::journal;
use proto::{AgentId, Event, Record, Timestamp, TrialSpec};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where the coordinator's wall clock begins.
const EPOCH_MS: u64 = 1_700_000_000_000;
/// Time between a message and the turn that takes it, in which others join.
const BATCH_MS: u64 = 2;

/// Who waits for an answer.
#[derive(Debug)]
enum Waiter {
    Client(usize),
    Session { machine: usize, connection: Connection },
    Report { machine: usize, connection: Connection, sequence: u64 },
}

/// The coordinator's process and what outlives it.
#[derive(Default)]
pub(crate) struct Server {
    /// `None` while the process is dead.
    core: Option<Core>,
    disk: Disk,
    /// Counts the starts, so that a turn of a dead process does not happen.
    life: u64,
    pub(crate) last: u64,
    pub(crate) frozen_until: u64,
    inbox: Vec<(Ticket, Request)>,
    waiting: BTreeMap<Ticket, Waiter>,
    sessions: BTreeMap<AgentId, (usize, Connection)>,
    /// Arrival of the newest message to each connection, for streams.
    sent: BTreeMap<Connection, u64>,
    turn_is_due: bool,
    wakes_at: u64,
    clock_offset_ms: u64,
    /// Hashes of the durable records; a recovery must find the same ones.
    durable: Vec<blake3::Hash>,
    lied: bool,
    refused: bool,
}

impl Server {
    pub(crate) fn core(&self) -> Option<&Core> {
        self.core.as_ref()
    }

    /// Whether the disk lied and the process refused to start.
    pub(crate) fn has_refused(&self) -> bool {
        self.refused
    }
}

impl World {
    /// The coordinator's clock.
    fn server_now(&self) -> Timestamp {
        Timestamp(EPOCH_MS + self.server.clock_offset_ms + self.nature.now)
    }

    pub(crate) fn server_start(&mut self) -> Result<(), String> {
        if self.server.core.is_some() {
            return Ok(());
        }
        // Within a process the steady clock counts; a new one reads the wall clock, which may jump.
        self.server.clock_offset_ms = match self.nature.random.below(4) {
            0 => self.nature.random.below(7_200_000),
            _ => self.server.clock_offset_ms,
        };
        if self.server.life > 0 && self.nature.random.chance(2_000) && !self.nature.calm {
            self.server.lied |= self.server.disk.forget_newest();
        }
        let mut core = Core::new(self.nature.settings.lease_ttl_ms);
        #[cfg(feature = "planted-bugs")]
        core.plant(self.nature.settings.planted);
        self.referee.recover();
        let mut law = Ok(());
        let mut hashes = Vec::new();
        let now = self.nature.now;
        let replayed = journal::replay(&self.server.disk, |record| {
            core.apply(record.at, &record.event);
            hashes.push(hash(record));
            let spec = spec(&core, record);
            law = std::mem::replace(&mut law, Ok(()))
                .and_then(|()| self.referee.durable(now, record, spec.as_deref()));
        });
        let last = match replayed {
            Ok(last) => last,
            Err(error) if self.server.lied => {
                self.nature.log(|| format!("the coordinator refuses its journal: {error}"));
                self.server.refused = true;
                return Ok(());
            }
            Err(error) => return Err(format!("the journal cannot be read: {error}")),
        };
        law?;
        if !hashes.starts_with(&self.server.durable) {
            return Err("a recovery found other records than those that were durable".to_owned());
        }
        self.referee.keeps_promises()?;
        self.server.durable = hashes;
        self.server.last = last;
        self.server.life += 1;
        core.restart(self.server_now());
        core.check_invariants(self.server_now())?;
        self.server.core = Some(core);
        self.nature.log(|| format!("the coordinator starts with {last} records"));
        self.wake_server(0);
        Ok(())
    }

    pub(crate) fn server_dies(&mut self) {
        if self.server.core.take().is_none() {
            return;
        }
        self.nature.log(|| "the coordinator dies".to_owned());
        self.server.inbox.clear();
        self.server.waiting.clear();
        self.server.turn_is_due = false;
        self.server.frozen_until = 0;
        for (_, (machine, connection)) in std::mem::take(&mut self.server.sessions) {
            self.tell_machine(machine, connection, ToMachine::Closed);
        }
        let outage = if self.nature.calm { 10 } else { self.nature.outage_ms() };
        self.nature.after(outage, What::ServerStart);
    }

    /// Lets a turn happen soon.
    fn wake_server(&mut self, delay_ms: u64) {
        if !self.server.turn_is_due {
            self.server.turn_is_due = true;
            let life = self.server.life;
            self.nature.after(delay_ms, What::ServerTurn { life });
        }
    }

    fn enqueue(&mut self, request: Request, waiter: Option<Waiter>) {
        if self.server.core.is_none() {
            return;
        }
        let ticket = self.nature.number();
        self.server.waiting.extend(waiter.map(|waiter| (ticket, waiter)));
        self.server.inbox.push((ticket, request));
        let delay = self.nature.random.between(0, BATCH_MS);
        self.wake_server(delay);
    }

    pub(crate) fn server_request(&mut self, client: usize, request: Request) {
        self.enqueue(request, Some(Waiter::Client(client)));
    }

    pub(crate) fn server_hears(
        &mut self,
        machine: usize,
        connection: Connection,
        message: ToServer,
    ) {
        let agent = self.machines[machine].id.clone();
        match message {
            ToServer::Hello { running, capacity, instance, number } => {
                let join = Join { agent, instance, number, session: connection, capacity, running };
                self.enqueue(Request::Join(join), Some(Waiter::Session { machine, connection }));
            }
            ToServer::Report(report) => {
                let sequence = report.sequence;
                let report = Report {
                    agent,
                    session: connection,
                    sequence,
                    running: report.running,
                    ended: report.ended,
                    checkpoints: report
                        .checkpoints
                        .into_iter()
                        .map(|(key, checkpoint)| (key.trial, checkpoint))
                        .collect(),
                    notices: report.notices,
                    assignment_version: report.assignment_version,
                    leaving: report.leaving,
                    withdrawn: report.withdrawn,
                };
                let waiter = Waiter::Report { machine, connection, sequence };
                self.enqueue(Request::Report(report), Some(waiter));
            }
            ToServer::Points(points) => self.enqueue(Request::Measure(points), None),
            ToServer::Closed => {
                self.server.sessions.retain(|_, (_, known)| *known != connection);
                self.enqueue(Request::Leave(agent, connection), None);
            }
        }
    }

    pub(crate) fn server_turn(&mut self, life: u64) -> Result<(), String> {
        if life != self.server.life {
            return Ok(());
        }
        self.server.turn_is_due = false;
        let now = self.server_now();
        let Some(core) = &mut self.server.core else {
            return Ok(());
        };
        let requests = std::mem::take(&mut self.server.inbox);
        let steps = core.turn(now, self.server.last, requests);
        if self.nature.settings.checks {
            core.check_invariants(now)?;
        }
        for step in steps {
            let dies = self.nature.random.chance(self.nature.chaos.crash_in_turn);
            if dies && !self.nature.calm && !matches!(step, Step::Persist(_)) {
                self.nature.count_fault("CrashInTurn");
                self.server_dies();
                return Ok(());
            }
            if !self.carry_out(step)? {
                self.server_dies();
                return Ok(());
            }
        }
        self.sleep_until_deadline();
        Ok(())
    }

    /// Time alone may change something next.
    fn sleep_until_deadline(&mut self) {
        let now = self.server_now();
        let Some(core) = &self.server.core else {
            return;
        };
        if let Some((at, _)) = core.next_deadline() {
            let delay = at.since_ms(now).max(1);
            let wakes_at = self.nature.now + delay;
            let is_set = self.server.wakes_at > self.nature.now && self.server.wakes_at <= wakes_at;
            if !is_set {
                self.server.wakes_at = wakes_at;
                let life = self.server.life;
                self.nature.after(delay, What::ServerTurn { life });
            }
        }
    }

    /// Does what a step says; false when the process must end because of it.
    fn carry_out(&mut self, step: Step) -> Result<bool, String> {
        match step {
            Step::Persist(records) => return self.persist(&records),
            Step::Acknowledge(answers) => {
                for (ticket, answer) in answers {
                    if let Some(waiter) = self.server.waiting.remove(&ticket) {
                        self.answer(waiter, answer)?;
                    }
                }
            }
            Step::Assign(assignments) => {
                for (agent, wanted) in assignments {
                    if let Some((machine, connection)) = self.server.sessions.get(&agent).copied() {
                        let message = ToMachine::Assignment(Box::new(wanted));
                        self.tell_machine(machine, connection, message);
                    }
                }
            }
            Step::Publish(records) => {
                let durable = self.server.last;
                if records.last().is_some_and(|record| record.sequence > durable) {
                    return Err("records were published that are not durable".to_owned());
                }
            }
        }
        Ok(true)
    }

    fn persist(&mut self, records: &[Record]) -> Result<bool, String> {
        let crashes = self.nature.random.chance(self.nature.chaos.crash_in_turn);
        let fails = self.nature.random.chance(self.nature.chaos.disk_error);
        if (crashes || fails) && !self.nature.calm {
            self.nature.count_fault(if crashes { "CrashInWrite" } else { "DiskError" });
            let remains = [Remains::Nothing, Remains::Everything, Remains::Torn];
            let remains = *self.nature.random.pick(&remains).unwrap_or(&Remains::Nothing);
            self.server.disk.fail_next(remains);
        }
        if journal::append(&self.server.disk, records).is_err() {
            return Ok(false);
        }
        self.server.last = records.last().map_or(self.server.last, |record| record.sequence);
        if !self.nature.settings.checks {
            return Ok(true);
        }
        for record in records {
            self.check_grant(record)?;
            let spec = self.server.core.as_ref().and_then(|core| spec(core, record));
            self.referee.durable(self.nature.now, record, spec.as_deref())?;
            let hash = hash(record);
            self.nature.trace(hash.as_bytes());
            self.server.durable.push(hash);
            self.nature.log(|| format!("record {} {:?}", record.sequence, record.event));
        }
        Ok(true)
    }

    /// No GPU is granted that its agent has withdrawn, as far as was heard before the turn's end.
    fn check_grant(&self, record: &Record) -> Result<(), String> {
        let Event::LeaseGranted { agent, devices, members, .. } = &record.event else {
            return Ok(());
        };
        let others = members.iter().map(|member| (&member.agent, &member.devices));
        for (agent, devices) in std::iter::once((agent, devices)).chain(others) {
            let known = self.server.core().and_then(|core| core.agents().get(agent));
            let is_withdrawn =
                |gpu| known.is_some_and(|known| known.capacity.withdrawn.contains_key(gpu));
            if let Some(gpu) = devices.gpus.iter().find(|gpu| is_withdrawn(gpu)) {
                return Err(format!("GPU {gpu} of {agent} was granted, which is withdrawn"));
            }
        }
        Ok(())
    }

    fn answer(&mut self, waiter: Waiter, answer: Answer) -> Result<(), String> {
        match (waiter, answer) {
            (Waiter::Client(client), Answer::Submitted(result)) => {
                if let Ok(submitted) = &result
                    && self.nature.settings.checks
                {
                    self.referee.acknowledged(&submitted.experiment)?;
                }
                let accepted = result.map(|_| ()).map_err(|error| error.to_string());
                self.tell_client(client, accepted);
            }
            (Waiter::Client(client), Answer::Cancelled(result)) => {
                self.tell_client(client, result.map_err(|error| error.to_string()));
            }
            (Waiter::Session { machine, connection }, Answer::Joined(result)) => {
                let message = match result {
                    Ok(()) => {
                        let agent = self.machines[machine].id.clone();
                        self.server.sessions.insert(agent, (machine, connection));
                        ToMachine::Welcome
                    }
                    Err(rejection) => ToMachine::Refused(rejection),
                };
                self.tell_machine(machine, connection, message);
            }
            (Waiter::Report { machine, connection, sequence }, Answer::Reported(result)) => {
                // An error is for a session or a report that a newer one has replaced.
                if let Ok(settled) = result {
                    let refused = settled.refused;
                    let message = ToMachine::Reply { sequence, refused };
                    self.tell_machine(machine, connection, message);
                }
            }
            (waiter, answer) => return Err(format!("{waiter:?} was answered {answer:?}")),
        }
        Ok(())
    }

    fn tell_machine(&mut self, machine: usize, connection: Connection, message: ToMachine) {
        if self.machines[machine].cut_off_until > self.nature.now {
            return;
        }
        let mut newest = self.server.sent.get(&connection).copied().unwrap_or(0);
        for delay in self.nature.arrivals(&mut newest) {
            let message = message.clone();
            self.nature.after(delay, What::MachineHears { machine, connection, message });
        }
        self.server.sent.insert(connection, newest);
    }

    fn tell_client(&mut self, client: usize, accepted: Result<(), String>) {
        let (low, high) = self.nature.chaos.latency_ms;
        let delay = self.nature.random.between(low, high);
        self.nature.after(delay, What::ClientHears { client, accepted });
    }
}

fn hash(record: &Record) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    // A hasher takes everything, and records are JSON.
    drop(serde_json::to_writer(&mut hasher, record));
    hasher.finalize()
}

/// What the trial is that a record is about, where the referee asks for it.
fn spec(core: &Core, record: &Record) -> Option<Arc<TrialSpec>> {
    let (Event::LeaseGranted { trial, .. } | Event::Noticed { trial, .. }) = &record.event else {
        return None;
    };
    core.trial(trial).map(|trial| Arc::clone(&trial.spec))
}
