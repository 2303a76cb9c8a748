//! A control plane on a table: time moves when told, agents say what they are told to say, and the
//! invariants are checked after every step.

use super::super::state::Capacity;
use super::super::*;
use proto::{Attempt, Checkpoint, CommandSpec, Inputs, Resources, Retries, Runner};

pub(super) const TTL: u64 = 5_000;

pub(super) struct Lab {
    core: Core,
    now: Timestamp,
    journal: Vec<(Timestamp, Event)>,
    /// How far `expect` has read the journal.
    read: usize,
    sessions: u64,
    refused: Vec<(TrialId, Attempt)>,
    /// What the next reports say about their agent's plans.
    pub(super) leaving: bool,
}

/// Trial `seed`: a command that is only told apart by its seed.
pub(super) fn spec(seed: u64) -> TrialSpec {
    TrialSpec {
        runner: Runner::Command(CommandSpec {
            arguments: vec!["true".into()],
            environment: BTreeMap::new(),
            working_folder: None,
            files: BTreeMap::new(),
        }),
        parameters: BTreeMap::new(),
        seed,
        resources: Resources::default(),
        retries: Retries::default(),
        time_limit_ms: None,
        checkpoint_every_ms: 60_000,
    }
}

pub(super) fn completed() -> Outcome {
    Outcome::Completed { metrics: BTreeMap::from([("loss".into(), 0.5)]), checkpoint: None }
}

pub(super) fn failed(class: FailureClass) -> Outcome {
    Outcome::failed(class, "as told")
}

pub(super) fn at_step(step: u64) -> Checkpoint {
    Checkpoint {
        step,
        attempt: Attempt(0),
        agent: AgentId::new("x").unwrap(),
        folder: "/nowhere".into(),
        files: Vec::new(),
    }
}

fn agent_id(name: &str) -> AgentId {
    AgentId::new(name).unwrap()
}

fn experiment_id(name: &str) -> ExperimentId {
    ExperimentId::new(name).unwrap()
}

impl Lab {
    pub(super) fn new() -> Self {
        Self {
            core: Core::new(TTL),
            now: Timestamp(1_000_000),
            journal: Vec::new(),
            read: 0,
            sessions: 0,
            refused: Vec::new(),
            leaving: false,
        }
    }

    pub(super) fn agent(mut self, name: &str, cpus: u32) -> Self {
        self.join_holding(name, cpus, &[]);
        self
    }

    /// Plans trials for experiment `e` without a study.
    pub(super) fn plan<const N: usize>(self, trials: [TrialSpec; N]) -> Self {
        self.plan_for("e", trials)
    }

    pub(super) fn plan_for<const N: usize>(mut self, name: &str, trials: [TrialSpec; N]) -> Self {
        let experiment = experiment_id(name);
        // No study can be read from this text, so nothing but the test plans or ends anything.
        let recipe = "none".to_owned();
        let inputs = Inputs::default();
        self.take(Event::ExperimentSubmitted { experiment, recipe, inputs });
        let (experiment, reason) = (experiment_id(name), "the test asks".to_owned());
        self.take(Event::TrialsPlanned { experiment, reason, trials: trials.to_vec() });
        self.read = self.journal.len();
        self
    }

    pub(super) fn submit_sweep(mut self) -> Self {
        self.submit_again(false);
        self.settle();
        self.read = self.journal.len();
        self
    }

    pub(super) fn submit_again(&mut self, retry_failed: bool) {
        let recipe = include_str!("sweep.yaml").to_owned();
        let inputs = Inputs::default();
        self.decide(&Input::Submit { recipe, inputs, retry_failed }).unwrap();
    }

    pub(super) fn only_trial(&self) -> TrialId {
        let mut ids = self.core.trials.keys();
        let id = ids.next().unwrap().clone();
        assert_eq!(ids.next(), None);
        id
    }

    fn take(&mut self, event: Event) {
        self.core.apply(self.now, &event);
        self.journal.push((self.now, event));
        self.core.check_invariants().unwrap();
    }

    fn decide(&mut self, input: &Input) -> Result<(), Rejection> {
        for event in self.core.decide(self.now, input)? {
            self.take(event);
        }
        Ok(())
    }

    pub(super) fn settle(&mut self) {
        self.core.pass_time(self.now);
        for _ in 0..100 {
            let events = self.core.settle(self.now);
            if events.is_empty() {
                return;
            }
            events.into_iter().for_each(|event| self.take(event));
        }
        panic!("the core never settles");
    }

    pub(super) fn pass(&mut self, milliseconds: u64) {
        self.now = self.now.plus_ms(milliseconds);
    }

    /// Settles, then compares what was recorded since the last call.
    #[track_caller]
    pub(super) fn expect<const N: usize>(&mut self, expected: [&str; N]) {
        self.settle();
        let names = self.journal[self.read..].iter().map(|(_, event)| self.name(event));
        let names: Vec<String> = names.collect();
        self.read = self.journal.len();
        assert_eq!(names, expected);
    }

    /// The first record since the last call, without settling.
    #[track_caller]
    pub(super) fn expect_first(&mut self, expected: &str) {
        assert_eq!(self.name(&self.journal[self.read].1), expected);
        self.read += 1;
    }

    fn name(&self, event: &Event) -> String {
        let number = |id: &TrialId| match (1..100).find(|seed| spec(*seed).id() == *id) {
            Some(seed) => seed.to_string(),
            None => "?".to_owned(),
        };
        match event {
            Event::LeaseGranted { trial, attempt, agent, devices, .. } => {
                let [cpu] = devices.cpus[..] else { panic!("one CPU slot each") };
                format!("lease {}/{attempt} {agent}[{cpu}]", number(trial))
            }
            Event::AttemptStarted { trial, attempt } => {
                format!("started {}/{attempt}", number(trial))
            }
            Event::CheckpointSaved { trial, checkpoint } => {
                let Checkpoint { attempt, step, .. } = checkpoint;
                format!("checkpoint {}/{attempt} step {step}", number(trial))
            }
            Event::AttemptFailed { trial, attempt, outcome, .. } => {
                format!("failed {}/{attempt} {}", number(trial), outcome.word())
            }
            Event::TrialEnded { trial, attempt, outcome } => {
                format!("ended {}/{attempt} {}", number(trial), outcome.word())
            }
            Event::ExperimentEnded { experiment, state } => {
                format!("experiment {} {}", short(experiment), state.word())
            }
            Event::ExperimentResumed { experiment, .. } => {
                format!("experiment {} resumed", short(experiment))
            }
            Event::ExperimentSubmitted { .. } | Event::TrialsPlanned { .. } => {
                format!("{event:?}")
            }
        }
    }

    pub(super) fn last_pause_ms(&self) -> u64 {
        let pause = |(at, event): &(Timestamp, Event)| {
            let Event::AttemptFailed { retry_at, .. } = event else { return None };
            Some(retry_at.since_ms(*at))
        };
        self.journal.iter().rev().find_map(pause).unwrap()
    }

    pub(super) fn waiting_for(&self) -> String {
        self.core.waiting_for(&self.core.trials[&self.only_trial()], self.now)
    }

    pub(super) fn join_holding(&mut self, name: &str, cpus: u32, held: &[(u64, u32)]) {
        let agent = agent_id(name);
        let held = held.iter().map(|(seed, attempt)| (spec(*seed).id(), Attempt(*attempt)));
        let running: Vec<_> = held.collect();
        self.decide(&Input::Joined { agent: agent.clone(), running: running.clone() }).unwrap();
        self.sessions += 1;
        let gpus = Vec::new();
        let (host, code_version, memory_bytes) = ("h".into(), "1".into(), 1 << 34);
        let capacity = Capacity { host, cpus, gpus, memory_bytes, code_version };
        self.core
            .hear(self.now, &Heard::Joined { agent, session: self.sessions, capacity, running });
        self.core.check_invariants().unwrap();
    }

    pub(super) fn leave(&mut self, name: &str) {
        let agent = agent_id(name);
        let session = self.core.agents[&agent].session;
        self.core.hear(self.now, &Heard::Left { agent, session });
    }

    /// Folds the journal anew, as after a crash.
    pub(super) fn restarted(&self) -> Self {
        self.restarted_at(self.now)
    }

    pub(super) fn restarted_at(&self, now: Timestamp) -> Self {
        let mut lab = Self::new();
        lab.now = now;
        lab.sessions = self.sessions;
        for (at, event) in &self.journal {
            lab.core.apply(*at, event);
            lab.journal.push((*at, event.clone()));
        }
        lab.read = self.read;
        lab.core.restart(lab.now);
        lab.core.check_invariants().unwrap();
        lab
    }

    /// Cancels the experiment whose name begins so.
    pub(super) fn cancel(&mut self, name: &str) {
        let known = self.core.experiments.keys().find(|id| id.as_str().starts_with(name));
        let experiment = known.unwrap().clone();
        self.decide(&Input::Cancel { experiment }).unwrap();
    }

    /// Settles, and counts the live leases.
    pub(super) fn leased(&mut self) -> usize {
        self.settle();
        self.core.trials.values().filter(|trial| trial.lease().is_some()).count()
    }

    pub(super) fn heartbeat(&mut self, name: &str) {
        let version = self.core.agents[&agent_id(name)].version;
        self.heartbeat_knowing(name, version);
    }

    pub(super) fn heartbeat_knowing(&mut self, name: &str, version: u64) {
        self.report(self.empty_report(name), version).unwrap();
    }

    pub(super) fn running(&mut self, name: &str, seed: u64, attempt: u32) {
        let mut report = self.empty_report(name);
        report.running.push((spec(seed).id(), Attempt(attempt), true));
        self.report(report, 0).unwrap();
    }

    pub(super) fn ended(&mut self, name: &str, seed: u64, attempt: u32, outcome: Outcome) -> &Self {
        self.ended_id(name, &spec(seed).id(), attempt, outcome)
    }

    pub(super) fn ended_id(
        &mut self,
        name: &str,
        id: &TrialId,
        attempt: u32,
        outcome: Outcome,
    ) -> &Self {
        let mut report = self.empty_report(name);
        report.ended.push((id.clone(), Attempt(attempt), outcome));
        self.report(report, u64::MAX).unwrap();
        let refused = std::mem::take(&mut self.refused);
        // The next report no longer lists the attempt, so its devices are free.
        self.report(self.empty_report(name), u64::MAX).unwrap();
        self.refused = refused;
        self
    }

    pub(super) fn checkpoint(&mut self, name: &str, seed: u64, attempt: u32, what: Checkpoint) {
        let mut report = self.empty_report(name);
        let (attempt, agent) = (Attempt(attempt), agent_id(name));
        report.checkpoints.push((spec(seed).id(), Checkpoint { attempt, agent, ..what }));
        self.report(report, 0).unwrap();
    }

    pub(super) fn report_of_session(&mut self, name: &str, session: u64) -> Result<(), Rejection> {
        let report = Report { session, ..self.empty_report(name) };
        self.report(report, 0)
    }

    fn empty_report(&self, name: &str) -> Report {
        let agent = agent_id(name);
        Report {
            session: self.core.agents.get(&agent).map_or(0, |agent| agent.session),
            agent,
            running: Vec::new(),
            ended: Vec::new(),
            checkpoints: Vec::new(),
        }
    }

    fn report(&mut self, report: Report, assignment_version: u64) -> Result<(), Rejection> {
        let (events, settled) = self.core.decide_report(self.now, &report)?;
        self.refused = settled.refused;
        events.into_iter().for_each(|event| self.take(event));
        let ended = report.ended.iter().map(|(id, attempt, _)| (id.clone(), *attempt));
        let running = report.running.iter().map(|(id, attempt, _)| (id.clone(), *attempt));
        let running = running.chain(ended).collect();
        let (agent, leaving) = (report.agent.clone(), self.leaving);
        let heard = Heard::Report { agent, running, assignment_version, leaving };
        self.core.hear(self.now, &heard);
        assert_eq!(self.core.check_invariants(), Ok(()));
        Ok(())
    }

    /// The last report's reply refused exactly this attempt.
    #[track_caller]
    pub(super) fn refused(&self, seed: u64, attempt: u32) {
        assert_eq!(self.refused, [(spec(seed).id(), Attempt(attempt))]);
    }
}

fn short(id: &ExperimentId) -> &str {
    id.as_str().split('-').next().unwrap()
}
