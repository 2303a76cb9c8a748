//! A control plane on a table: time moves when told, agents say what they are told to say, and the
//! invariants are checked after every step.

use super::super::*;
use proto::{
    Attempt, Checkpoint, CommandSpec, Event, FailureClass, Inputs, Outcome, Placement, Resources,
    Retries, Runner, TrialSpec,
};
use studies::recipe::Policy;

pub(super) const TTL: u64 = 5_000;

pub(super) struct Lab {
    core: Core,
    now: Timestamp,
    journal: Vec<(Timestamp, Event)>,
    /// How far `expect` has read the journal.
    read: usize,
    sessions: u64,
    sequence: u64,
    pub(super) refused: Vec<AttemptKey>,
    /// What the next reports say about their agent's plans.
    pub(super) leaving: bool,
    pub(super) withdrawn: BTreeMap<u32, String>,
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
        checkpoint_every_ms: Some(60_000),
        placement: Placement::default(),
        hang: None,
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
            sequence: 0,
            refused: Vec::new(),
            leaving: false,
            withdrawn: BTreeMap::new(),
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
        let (inputs, user) = (Inputs::default(), String::new());
        self.take(Event::ExperimentSubmitted { experiment, recipe, inputs, user });
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
        let (inputs, user) = (Inputs::default(), String::new());
        let submission = Submission { recipe, inputs, retry_failed, user };
        let (_, events) = self.core.decide_submit(&submission).unwrap();
        events.into_iter().for_each(|event| self.take(event));
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
    }

    pub(super) fn settle(&mut self) {
        self.core.pass_time(self.now);
        for _ in 0..100 {
            let events = self.core.settle(self.now);
            self.core.check_invariants(self.now).unwrap();
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
        // The tests' own trials have small seeds; those of a recipe go unnamed.
        let number = |id: &TrialId| match self.core.trials.get(id).map(|trial| trial.spec.seed) {
            Some(seed) if seed < 100 => seed.to_string(),
            Some(_) | None => "?".to_owned(),
        };
        match event {
            Event::LeaseGranted { trial, attempt, agent, devices, members, ahead, .. } => {
                let leader = (agent, devices);
                let others = members.iter().map(|member| (&member.agent, &member.devices));
                let places = std::iter::once(leader).chain(others).map(|(agent, devices)| {
                    let gpus = devices.gpus.iter().map(|gpu| format!("gpu{gpu}"));
                    let all = devices.cpus.iter().map(u32::to_string).chain(gpus);
                    format!(" {agent}[{}]", all.collect::<Vec<_>>().join(","))
                });
                let word = if *ahead { "next" } else { "lease" };
                format!("{word} {}/{attempt}{}", number(trial), places.collect::<String>())
            }
            Event::AttemptPreempted { trial, attempt, by } => {
                format!("preempted {}/{attempt} by {}", number(trial), number(by))
            }
            Event::MemberEnded { trial, attempt, rank, .. } => {
                format!("member {rank} ended {}/{attempt}", number(trial))
            }
            Event::Measured { trial, rung, .. } => format!("rung {rung} of {}", number(trial)),
            Event::Noticed { trial, notice, .. } => {
                format!("noticed of {}: {}", number(trial), notice.text)
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
            Event::RangePlanned { count, .. } => format!("range of {count}"),
            Event::TrialsDrawn { count, .. } => format!("drawn {count}"),
            Event::ExperimentSubmitted { .. }
            | Event::RecipeChanged { .. }
            | Event::TrialsPlanned { .. } => format!("{event:?}"),
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
        self.core.waits(&self.only_trial(), self.now).unwrap().to_string()
    }

    /// The process of rank 0 of an attempt of trial `seed`.
    pub(super) fn key_of(&self, seed: u64, attempt: u32) -> AttemptKey {
        let mut trials = self.core.trials.iter();
        let id = trials.find(|(_, trial)| trial.spec.seed == seed).map(|(id, _)| id.clone());
        AttemptKey { trial: id.unwrap(), attempt: Attempt(attempt), rank: 0 }
    }

    pub(super) fn set_policy(&mut self, name: &str, policy: Policy) {
        self.core.experiments.get_mut(&experiment_id(name)).unwrap().policy = policy;
    }

    pub(super) fn set_user(&mut self, name: &str, user: &str) {
        user.clone_into(&mut self.core.experiments.get_mut(&experiment_id(name)).unwrap().user);
    }

    /// Why trial `seed` waits, in words.
    pub(super) fn why(&self, seed: u64) -> String {
        self.core.waits(&self.key_of(seed, 1).trial, self.now).unwrap().to_string()
    }

    /// Settles, then compares the newest record.
    #[track_caller]
    pub(super) fn expect_last(&mut self, expected: &str) {
        self.settle();
        assert_eq!(self.name(&self.journal.last().unwrap().1), expected);
        self.read = self.journal.len();
    }

    /// A report that knows the newest assignment and holds nothing of it.
    pub(super) fn says_nothing_of_its_leases(&mut self, name: &str) {
        let assignment_version = self.core.agents.all()[&agent_id(name)].version;
        let report = Report { running: Vec::new(), assignment_version, ..self.empty_report(name) };
        self.report(report).unwrap();
    }

    /// A report that knows the newest assignment and holds only this.
    pub(super) fn holds_only(&mut self, name: &str, held: &[(u64, u32)]) {
        let assignment_version = self.core.agents.all()[&agent_id(name)].version;
        let held = held.iter().map(|(seed, attempt)| (self.key_of(*seed, *attempt), false));
        let running = held.collect();
        let report = Report { running, assignment_version, ..self.empty_report(name) };
        self.report(report).unwrap();
    }

    /// What the agent is told to give back unless it has begun.
    pub(super) fn recalled(&self, name: &str) -> Vec<AttemptKey> {
        let wanted = self.core.wanted(&agent_id(name)).unwrap();
        wanted.leases.into_iter().filter(|lease| lease.recalled).map(|lease| lease.key).collect()
    }

    /// Trials of experiment `e` that have devices.
    pub(super) fn running_of_e(&self) -> u64 {
        Core::counts(&self.core.experiments[&experiment_id("e")]).running
    }

    pub(super) fn join_holding(&mut self, name: &str, cpus: u32, held: &[(u64, u32)]) {
        self.join(name, Capacity { cpus, ..capacity() }, held).unwrap();
    }

    pub(super) fn join(
        &mut self,
        name: &str,
        capacity: Capacity,
        held: &[(u64, u32)],
    ) -> Result<(), Rejection> {
        self.sessions += 1;
        let join = Join {
            agent: agent_id(name),
            instance: 1,
            number: self.sessions,
            session: self.sessions,
            capacity,
            running: held.iter().map(|(seed, attempt)| key(*seed, *attempt)).collect(),
        };
        self.join_as(join)
    }

    pub(super) fn join_as(&mut self, join: Join) -> Result<(), Rejection> {
        let events = self.core.decide_join(self.now, &join)?;
        events.into_iter().for_each(|event| self.take(event));
        self.core.hear_join(self.now, &join);
        Ok(())
    }

    pub(super) fn leave(&mut self, name: &str) {
        let agent = agent_id(name);
        let session = self.core.agents.all()[&agent].session;
        self.core.hear_leave(&agent, session);
    }

    /// Folds the journal anew, as after a crash.
    pub(super) fn restarted(&self) -> Self {
        self.restarted_at(self.now)
    }

    pub(super) fn restarted_at(&self, now: Timestamp) -> Self {
        let mut lab = Self::new();
        lab.now = now;
        (lab.sessions, lab.sequence) = (self.sessions, self.sequence);
        for (at, event) in &self.journal {
            lab.core.apply(*at, event);
            lab.journal.push((*at, event.clone()));
        }
        lab.read = self.read;
        lab.core.restart(lab.now);
        lab.core.check_invariants(lab.now).unwrap();
        lab
    }

    /// Cancels the experiment whose name begins so.
    pub(super) fn cancel(&mut self, name: &str) {
        let known = self.core.experiments.keys().find(|id| id.as_str().starts_with(name));
        let experiment = known.unwrap().clone();
        let events = self.core.decide_cancel(&experiment).unwrap();
        events.into_iter().for_each(|event| self.take(event));
    }

    /// Settles, and counts the live leases.
    pub(super) fn leased(&mut self) -> usize {
        self.settle();
        self.core.trials.values().filter(|trial| trial.lease().is_some()).count()
    }

    pub(super) fn heartbeat(&mut self, name: &str) {
        let version = self.core.agents.all()[&agent_id(name)].version;
        self.heartbeat_knowing(name, version);
    }

    /// Says that the agent holds what is leased to it, and knows this assignment.
    pub(super) fn heartbeat_knowing(&mut self, name: &str, version: u64) {
        let mut report = self.empty_report(name);
        report.assignment_version = version;
        self.report(report).unwrap();
    }

    pub(super) fn running(&mut self, name: &str, seed: u64, attempt: u32) {
        let mut report = self.empty_report(name);
        report.running = vec![(self.key_of(seed, attempt), true)];
        self.report(report).unwrap();
    }

    pub(super) fn ended(&mut self, name: &str, seed: u64, attempt: u32, outcome: Outcome) -> &Self {
        self.ended_key(name, &self.key_of(seed, attempt), outcome)
    }

    pub(super) fn ended_key(&mut self, name: &str, key: &AttemptKey, outcome: Outcome) -> &Self {
        let mut report = self.empty_report(name);
        report.running.retain(|(other, _)| other != key);
        report.ended.push((key.clone(), outcome));
        report.assignment_version = self.core.agents.all()[&agent_id(name)].version;
        self.report(report).unwrap();
        let refused = std::mem::take(&mut self.refused);
        // The next report no longer lists the attempt, so its devices are free.
        self.heartbeat(name);
        self.refused = refused;
        self
    }

    pub(super) fn checkpoint(&mut self, name: &str, seed: u64, attempt: u32, what: Checkpoint) {
        let mut report = self.empty_report(name);
        let (attempt, agent) = (Attempt(attempt), agent_id(name));
        report.checkpoints.push((spec(seed).id(), Checkpoint { attempt, agent, ..what }));
        self.report(report).unwrap();
    }

    pub(super) fn report_of_session(&mut self, name: &str, session: u64) -> Result<(), Rejection> {
        let report = Report { session, ..self.empty_report(name) };
        self.report(report)
    }

    /// Says nothing but that the agent runs what is leased to it.
    pub(super) fn empty_report(&mut self, name: &str) -> Report {
        let id = agent_id(name);
        let agent = self.core.agents.get(&id);
        self.sequence += 1;
        let leases = agent.map_or_else(Vec::new, |agent| agent.leases.keys().cloned().collect());
        Report {
            session: agent.map_or(0, |agent| agent.session),
            agent: id,
            sequence: self.sequence,
            running: leases.into_iter().map(|key| (key, false)).collect(),
            ended: Vec::new(),
            checkpoints: Vec::new(),
            notices: Vec::new(),
            assignment_version: 0,
            leaving: self.leaving,
            withdrawn: self.withdrawn.clone(),
        }
    }

    pub(super) fn report(&mut self, report: Report) -> Result<(), Rejection> {
        let (events, settled) = self.core.decide_report(self.now, &report)?;
        self.refused = settled.refused;
        events.into_iter().for_each(|event| self.take(event));
        self.core.hear_report(self.now, &report);
        Ok(())
    }

    /// The last report's reply refused exactly this attempt.
    #[track_caller]
    pub(super) fn refused(&self, seed: u64, attempt: u32) {
        assert_eq!(self.refused, [key(seed, attempt)]);
    }
}

/// An agent with 16 GiB of memory, no GPUs and one CPU slot.
pub(super) fn capacity() -> Capacity {
    Capacity {
        host: "h".into(),
        cpus: 1,
        memory_bytes: 1 << 34,
        code_version: "1".into(),
        ..Capacity::default()
    }
}

pub(super) fn key(seed: u64, attempt: u32) -> AttemptKey {
    AttemptKey { trial: spec(seed).id(), attempt: Attempt(attempt), rank: 0 }
}

pub(super) fn withdrawn(gpus: &[u32]) -> BTreeMap<u32, String> {
    gpus.iter().map(|gpu| (*gpu, format!("GPU {gpu} is lost"))).collect()
}

fn short(id: &ExperimentId) -> &str {
    id.as_str().split('-').next().unwrap()
}
