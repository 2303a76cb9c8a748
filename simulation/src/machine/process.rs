//! The processes of trials: they step, save, stop, and end themselves when their lease does.

use super::program::{Program, State};
use super::{DEATH_MAX_MS, Said, find};
use crate::nature::{Nature, ToServer, What};
use crate::world::World;
use agent_core::{Input, Lease, Moment, TrialEnd};
use coordinator::core::Point;
use proto::{AttemptKey, Checkpoint, Devices, Outcome, Runner};
use std::collections::BTreeMap;

/// How often a process looks whether its lease holds.
const WATCHDOG_MS: u64 = 100;
/// Longest time in which a program that was asked to stop saves its state.
const SAVE_MAX_MS: u64 = 800;

/// Longest hangs: some that pass for a slow step, some that nobody would wait for.
const HANGS_MAX_MS: [u64; 3] = [5_000, 60_000, 900_000];

/// Saved states by the attempt that wrote them.
pub(super) type Saved = BTreeMap<Checkpointed, State>;

/// Names a checkpoint: step, then attempt.
type Checkpointed = (u64, u32);

/// A live process.
#[derive(Debug, Clone)]
pub(super) struct Process {
    pub(super) key: AttemptKey,
    pub(super) devices: Devices,
    program: Program,
    state: State,
    /// The process ends itself then, on the machine's clock.
    lease_until: Moment,
    /// When the step began at which it is now, in milliseconds of the world.
    step_began: u64,
    was_asked: bool,
    /// It makes no step before, and answers nobody.
    hangs_until: u64,
}

impl Process {
    /// Counts the time since the step began. It is lost when the step ended before in an earlier
    /// attempt, or does not end.
    pub(super) fn count_work(&mut self, nature: &mut Nature, is_lost: bool) {
        let ms = nature.now - self.step_began;
        self.step_began = nature.now;
        let gpu_milli = self.devices.gpus.len() as u64 * u64::from(self.devices.gpu_milli());
        nature.work.cpu_ms += self.devices.cpus.len() as u64 * ms;
        nature.work.gpu_ms += gpu_milli * ms / 1_000;
        nature.work.lost_ms += if is_lost { ms } else { 0 };
    }
}

impl World {
    pub(super) fn process_starts(
        &mut self,
        index: usize,
        lease: Lease,
        lease_until: Moment,
    ) -> Result<Option<Input>, String> {
        if lease.spec.runner == Runner::Noop {
            let outcome = Outcome::Completed { metrics: BTreeMap::new(), checkpoint: None };
            self.referee.process_said(lease.key.clone(), outcome.clone());
            let end = Some(TrialEnd::Outcome(outcome));
            return Ok(Some(Input::Exited { key: lease.key, end, how: String::new() }));
        }
        if self.nature.settings.checks {
            self.check_start(index, &lease)?;
        }
        self.nature.work.started += 1;
        let pace = self.nature.settings.pace;
        let program = Program::of(&lease.key.trial, &lease.spec, &lease.devices, pace);
        let process = Process {
            state: self.best_state(index, &lease),
            key: lease.key,
            devices: lease.devices,
            program,
            lease_until,
            step_began: self.nature.now,
            was_asked: false,
            hangs_until: 0,
        };
        self.nature
            .log(|| format!("machine {index} starts {} at {:?}", process.key, process.state));
        let number = self.nature.number();
        self.tell_agent(index, Input::Started(process.key.clone()));
        self.nature.after(program.step_ms, What::ProcessStep { machine: index, process: number });
        self.machines[index].processes.insert(number, process);
        self.watch_lease(index, number, lease_until);
        self.process_may_lack_gpu(index, number);
        Ok(None)
    }

    /// A process that uses a lost GPU fails soon.
    pub(super) fn process_may_lack_gpu(&mut self, index: usize, number: u64) {
        let machine = &self.machines[index];
        let is_lost =
            |process: &Process| process.devices.gpus.iter().any(|gpu| machine.lost.contains(gpu));
        if machine.processes.get(&number).is_some_and(is_lost) {
            let delay = self.nature.random.between(1, DEATH_MAX_MS);
            self.nature.after(delay, What::ProcessDies { machine: index, process: number });
        }
    }

    /// No device serves two processes, none is withdrawn, and no two attempts of a trial both think
    /// that they may write.
    fn check_start(&self, index: usize, lease: &Lease) -> Result<(), String> {
        let mut law = Ok(());
        let withdrawn = self.machines[index].withdrawn();
        let is_withdrawn = |gpu| withdrawn.is_some_and(|gpus| gpus.contains_key(gpu));
        if lease.devices.gpus.iter().any(is_withdrawn) {
            law = Err(format!("{} starts on a GPU that its agent has withdrawn", lease.key));
        }
        self.each_process(|other_index, other, frozen| {
            let shares = |a: &[u32], b: &[u32]| a.iter().any(|device| b.contains(device));
            let whole = other.devices.gpu_share_milli == 0 || lease.devices.gpu_share_milli == 0;
            let same_device = other_index == index
                && (shares(&other.devices.cpus, &lease.devices.cpus)
                    || (whole && shares(&other.devices.gpus, &lease.devices.gpus)));
            if same_device {
                law = Err(format!("{} starts on a device of {}", lease.key, other.key));
            }
            let clock = self.machines[other_index].moment(&self.nature);
            let is_leased = other.lease_until > clock && !frozen;
            let same_trial = other.key.trial == lease.key.trial
                && (other.key.attempt != lease.key.attempt || other.key.rank == lease.key.rank);
            if same_trial && is_leased {
                law = Err(format!("{} starts while {} may run", lease.key, other.key));
            }
        });
        law
    }

    /// The best state from which an attempt can go on.
    fn best_state(&self, index: usize, lease: &Lease) -> State {
        let trial = &lease.key.trial;
        let own = self.machines[index].saved.get(trial).into_iter().flatten();
        let own = own.map(|(_, state)| *state);
        let shared = self.nature.chaos.shared_disk;
        let named = lease.checkpoint.iter().filter_map(|checkpoint| {
            let holder = self.machines.iter().find(|machine| machine.id == checkpoint.agent)?;
            let is_here = shared || holder.id == self.machines[index].id;
            let name = (checkpoint.step, checkpoint.attempt.0);
            is_here.then(|| holder.saved.get(trial)?.get(&name).copied()).flatten()
        });
        own.chain(named).max_by_key(|state| state.step).unwrap_or_default()
    }

    fn tell_agent(&mut self, index: usize, input: Input) {
        let life = self.machines[index].life;
        let said = Said::Core(Box::new(input));
        let delay = self.nature.random.between(0, 5);
        self.nature.after(delay, What::AgentInput { machine: index, life, said });
    }

    pub(crate) fn process_step(&mut self, index: usize, number: u64) -> Result<(), String> {
        let dies = !self.nature.calm && self.nature.random.chance(self.nature.chaos.process_death);
        let Some(process) = self.machines[index].processes.get_mut(&number) else {
            return Ok(());
        };
        if dies {
            let key = process.key.clone();
            self.nature.count_fault("ProcessDeath");
            self.process_exits(index, number, &key, None, "was killed by signal 9");
            return Ok(());
        }
        if process.state.step < process.program.steps {
            process.state = process.state.next(&process.key.trial);
        }
        let trial = (process.key.trial.clone(), process.key.rank);
        let furthest = self.nature.furthest.entry(trial).or_default();
        let is_again = process.state.step <= *furthest;
        *furthest = process.state.step.max(*furthest);
        process.count_work(&mut self.nature, is_again);
        let Process { key, program, state, .. } = process.clone();
        self.tell_metric(index, &key, state);
        self.tell_pulse(index, &key, state);
        if state.step >= program.steps {
            return self.process_ends(index, number, &key, program, state);
        }
        if state.step % program.checkpoint_every == 0 && key.rank == 0 {
            self.save(index, &key, state);
        }
        let step_ms = self.next_step_ms(index, number, program);
        self.nature.after(step_ms, What::ProcessStep { machine: index, process: number });
        Ok(())
    }

    /// How long the next step takes: as always, unless the process hangs.
    fn next_step_ms(&mut self, index: usize, number: u64, program: Program) -> u64 {
        if self.nature.calm || !self.nature.random.chance(self.nature.chaos.hang) {
            return program.step_ms;
        }
        self.nature.count_fault("Hang");
        let most = *self.nature.random.pick(&HANGS_MAX_MS).unwrap_or(&program.step_ms);
        let step_ms = self.nature.random.between(program.step_ms, most);
        if let Some(process) = self.machines[index].processes.get_mut(&number) {
            process.hangs_until = self.nature.now + step_ms;
        }
        step_ms
    }

    fn process_ends(
        &mut self,
        index: usize,
        number: u64,
        key: &AttemptKey,
        program: Program,
        state: State,
    ) -> Result<(), String> {
        if state != program.last_state(&key.trial) {
            return Err(format!("{key} ended in another state than an undisturbed run"));
        }
        let outcome = program.outcome(state);
        self.referee.process_said(key.clone(), outcome.clone());
        self.process_exits(index, number, key, Some(TrialEnd::Outcome(outcome)), "ended");
        Ok(())
    }

    fn process_exits(
        &mut self,
        index: usize,
        number: u64,
        key: &AttemptKey,
        end: Option<TrialEnd>,
        how: &str,
    ) {
        if let Some(mut process) = self.machines[index].processes.remove(&number) {
            process.count_work(&mut self.nature, true);
        }
        self.nature.log(|| format!("machine {index}: {key} {how}"));
        let (key, how) = (key.clone(), how.to_owned());
        self.tell_agent(index, Input::Exited { key, end, how });
    }

    fn save(&mut self, index: usize, key: &AttemptKey, state: State) {
        let machine = &mut self.machines[index];
        let saved = machine.saved.entry(key.trial.clone()).or_default();
        saved.insert((state.step, key.attempt.0), state);
        let checkpoint = Checkpoint {
            step: state.step,
            attempt: key.attempt,
            agent: machine.id.clone(),
            folder: "/checkpoints".to_owned(),
            files: Vec::new(),
        };
        self.tell_agent(index, Input::Saved(key.clone(), checkpoint));
    }

    fn tell_metric(&mut self, index: usize, key: &AttemptKey, state: State) {
        let machine = &mut self.machines[index];
        let link = machine.agent.as_ref().and_then(|agent| agent.link.as_ref());
        let Some(connection) = link.map(|link| link.connection) else {
            return;
        };
        let point = Point {
            agent: machine.id.clone(),
            key: key.clone(),
            metric: "loss".to_owned(),
            step: state.step,
            value: state.loss(),
        };
        machine.tell_server(&mut self.nature, connection, ToServer::Points(vec![point]));
    }

    /// The agent hears every metric, and judges by it how its trials train.
    fn tell_pulse(&mut self, index: usize, key: &AttemptKey, state: State) {
        if !self.nature.settings.checks {
            return;
        }
        let is_bad = !self.nature.calm && self.nature.random.chance(self.nature.chaos.bad_number);
        if is_bad {
            self.nature.count_fault("BadNumber");
            self.referee.bad_number(key, state.step);
        }
        let value = if is_bad { f64::NAN } else { state.loss() };
        let (key, metric, step) = (key.clone(), "loss".to_owned(), state.step);
        self.tell_agent(index, Input::Metric { key, metric, step, value });
    }

    pub(super) fn process_renewed(&mut self, index: usize, key: &AttemptKey, until: Moment) {
        let Some(number) = find(&self.machines[index].processes, key) else {
            return;
        };
        if let Some(process) = self.machines[index].processes.get_mut(&number) {
            process.lease_until = process.lease_until.max(until);
        }
    }

    fn watch_lease(&mut self, index: usize, number: u64, until: Moment) {
        let left = until.since_ms(self.machines[index].moment(&self.nature));
        let delay = left + self.nature.random.between(1, WATCHDOG_MS);
        self.nature.after(delay, What::ProcessWatch { machine: index, process: number });
    }

    /// The watchdog ends the process when its lease has passed, whatever became of the agent.
    pub(crate) fn process_watch(&mut self, index: usize, number: u64) -> Result<(), String> {
        let clock = self.machines[index].moment(&self.nature);
        let Some(process) = self.machines[index].processes.get(&number) else {
            return Ok(());
        };
        if process.lease_until > clock {
            let until = process.lease_until;
            self.watch_lease(index, number, until);
            return Ok(());
        }
        let key = process.key.clone();
        self.process_exits(index, number, &key, None, "ended itself at its lease's end");
        Ok(())
    }

    /// The process was asked to save its state and end.
    pub(super) fn process_asked(&mut self, index: usize, key: &AttemptKey) {
        let Some(number) = find(&self.machines[index].processes, key) else {
            return;
        };
        let Some(process) = self.machines[index].processes.get_mut(&number) else {
            return;
        };
        process.was_asked = true;
        if !process.program.is_stubborn && process.hangs_until <= self.nature.now {
            let delay = self.nature.random.between(1, SAVE_MAX_MS);
            self.nature.after(delay, What::ProcessStopped { machine: index, process: number });
        }
    }

    pub(crate) fn process_stopped(&mut self, index: usize, number: u64) -> Result<(), String> {
        let Some(process) = self.machines[index].processes.get(&number) else {
            return Ok(());
        };
        if !process.was_asked {
            return Err("a process stopped that nobody asked".to_owned());
        }
        let (key, state) = (process.key.clone(), process.state);
        if state.step > 0 && key.rank == 0 {
            self.save(index, &key, state);
        }
        self.process_exits(index, number, &key, Some(TrialEnd::Stopped), "stopped");
        Ok(())
    }

    pub(super) fn process_killed(&mut self, index: usize, key: &AttemptKey) {
        if let Some(process) = find(&self.machines[index].processes, key) {
            let delay = self.nature.random.between(1, 20);
            self.nature.after(delay, What::ProcessDies { machine: index, process });
        }
    }

    pub(crate) fn process_dies(&mut self, index: usize, number: u64) -> Result<(), String> {
        if let Some(process) = self.machines[index].processes.get(&number) {
            let key = process.key.clone();
            self.process_exits(index, number, &key, None, "was killed");
        }
        Ok(())
    }
}
