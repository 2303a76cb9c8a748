//! Machines, a coordinator and clients, and the loop that lets things happen to them.

use crate::chaos::{Chaos, Fault};
use crate::machine::Machine;
use crate::nature::{Nature, What, tag};
use crate::referee::Referee;
use crate::server::Server;
use crate::workload::Workload;
use coordinator::core::{Capacity, Core};
use proto::Timestamp;
use std::collections::BTreeMap;

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
    /// How often an agent looks at its clock, in milliseconds.
    pub tick_ms: u64,
    /// How long trials take.
    pub pace: Pace,
    /// Check every law after every step; a forecast trusts them.
    pub checks: bool,
    /// Keeps the last lines of what happened, for people.
    pub log: bool,
    /// A bug to plant into the coordinator.
    #[cfg(feature = "planted-bugs")]
    pub planted: Option<coordinator::core::Planted>,
}

/// How long simulated trials take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// Some drawn time that follows from the trial's id, with failures among them.
    Drawn,
    /// What a real one would take.
    Estimated {
        /// Counted training FLOPs per second of one GPU.
        gpu_flops_per_s: f64,
        /// Of one CPU slot.
        cpu_flops_per_s: f64,
        /// Of a program, whose cost nobody can tell, in milliseconds.
        program_ms: u64,
        /// How often a program saves its state, in milliseconds; `None` when it never does.
        program_saves_ms: Option<u64>,
    },
}

/// Longest time from the end of the faults to rest, in milliseconds.
const REST_WITHIN_MS: u64 = 45 * 60_000;
/// Most things that happen after the faults ended.
const REST_STEPS_MAX: u64 = 3_000_000;

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
    /// Trials that have not ended.
    pub open: u64,
    /// What the first of them waits for, in words; empty when none was drawn.
    pub waits: String,
    /// Notices by the word of their kind.
    pub notices: BTreeMap<&'static str, u64>,
    /// What the trials did.
    pub work: Work,
    /// The machine's disk lied, and the coordinator refused to start from what it gave.
    pub refused: bool,
}

/// What the processes of all trials did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// Processes that were started.
    pub started: u64,
    /// Time on GPUs, in milliseconds of one whole GPU.
    pub gpu_ms: u64,
    /// Time on CPU slots, in milliseconds of one.
    pub cpu_ms: u64,
    /// Time of processes that was lost: steps that did not end, and steps done again.
    pub lost_ms: u64,
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
        let mut nature = Nature::new(settings);
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
        while let Some(what) = self.nature.next() {
            self.steps += 1;
            self.happen(what)?;
            if self.server.has_refused() {
                return Ok(true);
            }
            if self.steps == self.nature.settings.steps {
                self.calm();
                rest_by = (self.nature.now + REST_WITHIN_MS, self.steps + REST_STEPS_MAX);
            }
            let looks = self.nature.calm || !self.nature.settings.checks;
            let pause = 6 * self.nature.settings.tick_ms.max(200);
            if looks && self.nature.now >= checked_rest_at + pause {
                checked_rest_at = self.nature.now;
                if self.is_at_rest() {
                    self.referee.keeps_promises()?;
                    self.referee.none_hangs()?;
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
            Fault::LoseGpu => self.gpu_is_lost(machine),
        }
    }

    /// No further faults; what stands still or is cut off goes on when its time has come.
    fn calm(&mut self) {
        self.nature.calm = true;
        self.nature.log(|| "the faults are over".to_owned());
    }

    fn trace(&self) -> String {
        self.nature.trace_hash()
    }

    /// How many trials have not ended, and what the first of them waits for.
    fn waiting(&self, core: &Core) -> (u64, String) {
        let counts = core.experiments().values().map(Core::counts);
        let open = counts.map(|counts| counts.trials - counts.ended).sum();
        let now = Timestamp(self.nature.now);
        let waits = core.trials().keys().find_map(|id| core.waits(id, now));
        (open, waits.map_or_else(String::new, |waits| waits.to_string()))
    }

    fn finished(&self, refused: bool) -> Finished {
        let mut ended: BTreeMap<&'static str, u64> = BTreeMap::new();
        let trials = self.server.core().map(|core| core.trials().values());
        for outcome in trials.into_iter().flatten().filter_map(|trial| trial.outcome()) {
            *ended.entry(outcome.word()).or_default() += 1;
        }
        let (open, waits) = self.server.core().map(|core| self.waiting(core)).unwrap_or_default();
        Finished {
            steps: self.steps,
            time_ms: self.nature.now,
            trace: self.trace(),
            faults: self.nature.faults.clone(),
            records: self.server.last,
            ended,
            open,
            waits,
            notices: self.referee.notices(),
            work: self.nature.work,
            refused,
        }
    }
}
