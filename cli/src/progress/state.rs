//! Progress as a pure fold: records and metric points in, counts and notes out. No clock: whoever
//! feeds it says what time it is.

use super::label::{Differences, Facts};
use super::note::{Note, TrialName};
use proto::{
    AgentId, Attempt, Event, ExperimentId, ExperimentState, MetricPoint, Outcome, Record, Runner,
    TrialId, TrialSpec,
};
use std::collections::BTreeMap;

/// Half of a rate's weight lies in about this time: fast enough to follow, slow enough to read.
const RATE_MEMORY_MS: f64 = 8_000.0;
/// The rest time is not guessed from less than this.
const ESTIMATE_AFTER_MS: u64 = 2_000;
/// The metric shown beside a bar: the first of these that a trial reports, else its own first.
const SHOWN_METRICS: [&str; 3] = ["loss", "training_loss", "validation_loss"];

/// Everything that is drawn about one experiment.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    experiment: ExperimentId,
    state: ExperimentState,
    trials: BTreeMap<TrialId, Trial>,
    /// What tells them apart.
    differences: Differences,
    /// Trials that an agent holds, by their number.
    leased: BTreeMap<usize, TrialId>,
    /// Planned trials that are not drawn yet.
    undrawn: u64,
    ended: usize,
    failed: usize,
    /// Work of all drawn trials, and of those that ended.
    work_all: f64,
    work_ended: f64,
    /// When the past ended, and how much work was done by then.
    live_since: Option<(u64, f64)>,
}

/// One trial of it.
#[derive(Debug, Clone)]
pub(crate) struct Trial {
    /// Place in the plan, from 1.
    pub(crate) number: usize,
    facts: Facts,
    /// Steps in all; `None` when the program alone knows.
    pub(crate) steps: Option<u64>,
    /// Where it is.
    pub(crate) phase: Phase,
    tokens_per_step: Option<u64>,
    work: f64,
}

/// Where a trial is.
#[derive(Debug, Clone)]
pub(crate) enum Phase {
    /// Not leased, or waiting after a failed attempt.
    Waiting,
    /// An agent holds it.
    Leased {
        /// Which try.
        attempt: Attempt,
        /// Who.
        agent: AgentId,
        /// What its program said; `None` until its process runs.
        live: Option<Live>,
    },
    /// Over.
    Ended(Outcome),
}

/// What a running program said last.
#[derive(Debug, Clone, Default)]
pub(crate) struct Live {
    /// Last step it reported.
    pub(crate) step: u64,
    /// The metric that is shown: its name and last value.
    pub(crate) shown: Option<(String, f64)>,
    /// Smoothed steps per second; `None` until two reports came.
    pub(crate) steps_per_s: Option<f64>,
    last_report_ms: Option<u64>,
}

/// The experiment in numbers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Overall {
    /// Trials planned so far.
    pub(crate) planned: usize,
    /// Trials that ended, well or not.
    pub(crate) ended: usize,
    /// Of these, the ones without a result.
    pub(crate) failed: usize,
    /// Trials whose process runs or is about to.
    pub(crate) running: usize,
    /// Done share of the planned work, in 0..=1; work is FLOPs for training, else trials.
    pub(crate) fraction: f64,
    /// Seconds to the end of what is planned so far, when that can be guessed.
    pub(crate) rest_s: Option<f64>,
}

impl Progress {
    /// Nothing is known yet.
    pub(crate) fn new(experiment: ExperimentId) -> Self {
        Self {
            experiment,
            state: ExperimentState::Running,
            trials: BTreeMap::new(),
            differences: Differences::default(),
            leased: BTreeMap::new(),
            undrawn: 0,
            ended: 0,
            failed: 0,
            work_all: 0.0,
            work_ended: 0.0,
            live_since: None,
        }
    }

    /// Adds a record; the answer is what a person should hear about it. Records of other
    /// experiments and of unknown trials change nothing.
    pub(crate) fn apply(&mut self, record: &Record) -> Option<Note> {
        match &record.event {
            Event::ExperimentSubmitted { .. }
            | Event::RecipeChanged { .. }
            | Event::AttemptPreempted { .. }
            | Event::MemberEnded { .. }
            | Event::Measured { .. } => None,
            Event::RangePlanned { experiment, reason, count, .. } => {
                self.is_mine(experiment).then(|| {
                    self.undrawn += count;
                    let count = usize::try_from(*count).unwrap_or(usize::MAX);
                    Note::Planned { count, reason: reason.clone() }
                })
            }
            // Which trials these are, the study knows: see `draw`.
            Event::TrialsDrawn { experiment, count } => {
                if self.is_mine(experiment) {
                    self.undrawn = self.undrawn.saturating_sub(*count);
                }
                None
            }
            Event::TrialsPlanned { experiment, reason, trials } => {
                self.is_mine(experiment).then(|| {
                    let count = trials.len();
                    trials.iter().for_each(|spec| self.plan(spec));
                    Note::Planned { count, reason: reason.clone() }
                })
            }
            Event::ExperimentResumed { experiment, retried } => {
                self.is_mine(experiment).then(|| {
                    self.state = ExperimentState::Running;
                    self.reopen(retried);
                    Note::Resumed
                })
            }
            Event::ExperimentEnded { experiment, state } => self.is_mine(experiment).then(|| {
                self.state = *state;
                self.release_all();
                Note::ExperimentEnded(*state)
            }),
            Event::LeaseGranted { trial, attempt, agent, ahead, .. } => {
                let (attempt, agent) = (*attempt, agent.clone());
                self.set_phase(trial, Phase::Leased { attempt, agent, live: None });
                // It waits on the agent for another one to end.
                if *ahead && let Some(trial) = self.trials.get(trial) {
                    self.leased.remove(&trial.number);
                }
                None
            }
            Event::Noticed { trial, notice, .. } => {
                Some(Note::Noticed { trial: self.name(trial)?, notice: notice.clone() })
            }
            Event::AttemptStarted { trial, attempt } => self.start(trial, *attempt),
            Event::CheckpointSaved { .. } => None,
            Event::AttemptFailed { trial, attempt, outcome, retry_at } => {
                let name = self.name(trial)?;
                self.set_phase(trial, Phase::Waiting);
                Some(Note::AttemptFailed {
                    trial: name,
                    attempt: *attempt,
                    outcome: outcome.clone(),
                    pause_ms: retry_at.since_ms(record.at),
                })
            }
            Event::TrialEnded { trial, attempt: _, outcome } => {
                let name = self.name(trial)?;
                self.set_phase(trial, Phase::Ended(outcome.clone()));
                Some(Note::Ended { trial: name, outcome: outcome.clone() })
            }
        }
    }

    /// Learns from a snapshot how a trial ended that another experiment ran before this one
    /// planned it: its records lie outside of this experiment's stream.
    pub(crate) fn adopt_ended(&mut self, trial: &TrialId, outcome: Outcome) {
        if self.trials.get(trial).is_some_and(|known| matches!(known.phase, Phase::Waiting)) {
            self.set_phase(trial, Phase::Ended(outcome));
        }
    }

    /// Takes in trials of the planned range that were drawn, in their order.
    pub(crate) fn draw(&mut self, specs: &[TrialSpec]) {
        specs.iter().for_each(|spec| self.plan(spec));
    }

    /// The only place where a trial's phase changes, so that the sums follow.
    fn set_phase(&mut self, id: &TrialId, phase: Phase) {
        let Some(trial) = self.trials.get_mut(id) else {
            return;
        };
        let before = std::mem::replace(&mut trial.phase, phase);
        for (phase, sign) in [(&before, -1.0), (&trial.phase, 1.0)] {
            let Phase::Ended(outcome) = phase else { continue };
            self.work_ended += sign * trial.work;
            let is_failure = !matches!(outcome, Outcome::Completed { .. });
            if sign > 0.0 {
                self.ended += 1;
                self.failed += usize::from(is_failure);
            } else {
                self.ended -= 1;
                self.failed -= usize::from(is_failure);
            }
        }
        match trial.phase {
            Phase::Leased { .. } => self.leased.insert(trial.number, id.clone()),
            Phase::Waiting | Phase::Ended(_) => self.leased.remove(&trial.number),
        };
    }

    /// The past is over; from here on rates mean something.
    pub(crate) fn caught_up(&mut self, now_ms: u64) {
        if self.live_since.is_none() {
            self.live_since = Some((now_ms, self.work_done()));
        }
    }

    /// Adds live metric points; those of attempts that are over change nothing.
    pub(crate) fn metrics(&mut self, points: &[MetricPoint], now_ms: u64) {
        let mut latest: BTreeMap<&TrialId, u64> = BTreeMap::new();
        for point in points {
            let Some(live) = self.live_mut(&point.trial, point.attempt) else {
                continue;
            };
            live.show(&point.metric, point.value);
            let step = latest.entry(&point.trial).or_default();
            *step = point.step.max(*step);
        }
        // Points arrive in batches: one rate per batch, or a burst would look like a sprint.
        for (trial, step) in latest {
            if let Some(Phase::Leased { live: Some(live), .. }) =
                self.trials.get_mut(trial).map(|trial| &mut trial.phase)
            {
                live.advance(step, now_ms);
            }
        }
    }

    /// The experiment's id.
    pub(crate) fn experiment(&self) -> &ExperimentId {
        &self.experiment
    }

    /// The experiment's state.
    pub(crate) fn state(&self) -> ExperimentState {
        self.state
    }

    /// Trials that an agent holds, in planning order.
    pub(crate) fn running(&self) -> impl Iterator<Item = (&TrialId, &Trial)> {
        self.leased.values().filter_map(|id| Some((id, self.trials.get(id)?)))
    }

    /// A trial in a few words.
    pub(crate) fn label(&self, trial: &Trial) -> String {
        self.differences.label(&trial.facts)
    }

    /// The experiment in numbers, at `now_ms`.
    pub(crate) fn overall(&self, now_ms: u64) -> Overall {
        // A trial that is not drawn yet counts like a program's.
        let all = self.work_all + self.undrawn as f64;
        let done = self.work_done();
        Overall {
            planned: self.planned(),
            ended: self.ended,
            failed: self.failed,
            running: self.leased.len(),
            fraction: if all > 0.0 { (done / all).min(1.0) } else { 0.0 },
            rest_s: self.rest_s(all, done, now_ms),
        }
    }

    fn is_mine(&self, experiment: &ExperimentId) -> bool {
        *experiment == self.experiment
    }

    fn plan(&mut self, spec: &TrialSpec) {
        let id = spec.id();
        if self.trials.contains_key(&id) {
            return;
        }
        let trial = Trial::new(self.trials.len() + 1, spec);
        self.work_all += trial.work;
        self.differences.see(&trial.facts);
        self.trials.insert(id, trial);
    }

    fn planned(&self) -> usize {
        self.trials.len() + usize::try_from(self.undrawn).unwrap_or(usize::MAX)
    }

    /// Trials that still ran when the experiment ended have no end of their own.
    fn release_all(&mut self) {
        for id in self.leased.values().cloned().collect::<Vec<_>>() {
            self.set_phase(&id, Phase::Waiting);
        }
    }

    fn reopen(&mut self, retried: &[TrialId]) {
        retried.iter().for_each(|id| self.set_phase(id, Phase::Waiting));
    }

    fn start(&mut self, id: &TrialId, attempt: Attempt) -> Option<Note> {
        let name = self.name(id)?;
        let trial = self.trials.get_mut(id)?;
        match &mut trial.phase {
            Phase::Leased { attempt: leased, agent, live } if *leased == attempt => {
                *live = Some(Live::default());
                self.leased.insert(trial.number, id.clone());
                Some(Note::Started { trial: name, attempt, agent: agent.clone() })
            }
            Phase::Waiting | Phase::Leased { .. } | Phase::Ended(_) => None,
        }
    }

    fn name(&self, id: &TrialId) -> Option<TrialName> {
        let trial = self.trials.get(id)?;
        Some(TrialName {
            number: trial.number,
            planned: self.planned(),
            id: id.clone(),
            label: self.label(trial),
        })
    }

    fn live_mut(&mut self, id: &TrialId, attempt: Attempt) -> Option<&mut Live> {
        match &mut self.trials.get_mut(id)?.phase {
            Phase::Leased { attempt: leased, live, .. } if *leased == attempt => live.as_mut(),
            Phase::Waiting | Phase::Leased { .. } | Phase::Ended(_) => None,
        }
    }

    fn work_done(&self) -> f64 {
        let running = self.running().map(|(_, trial)| trial.work * trial.fraction());
        self.work_ended + running.sum::<f64>()
    }

    fn rest_s(&self, all: f64, done: f64, now_ms: u64) -> Option<f64> {
        let (since_ms, done_before) = self.live_since?;
        let elapsed_ms = now_ms.saturating_sub(since_ms);
        let gained = done - done_before;
        if elapsed_ms < ESTIMATE_AFTER_MS || gained <= 0.0 {
            return None;
        }
        Some((all - done).max(0.0) * elapsed_ms as f64 / 1e3 / gained)
    }
}

impl Trial {
    fn new(number: usize, spec: &TrialSpec) -> Self {
        let (steps, tokens_per_step, work) = match &spec.runner {
            Runner::Train(train) => (
                Some(train.steps_max()),
                Some(train.tokens_per_step()),
                train.model.training_flops(train.tokens()),
            ),
            Runner::Grpo(grpo) => (Some(grpo.steps()), None, grpo.flops()),
            Runner::Command(_) | Runner::Noop => (None, None, 1.0),
        };
        let facts = Facts::of(spec);
        Self { number, facts, steps, phase: Phase::Waiting, tokens_per_step, work }
    }

    /// Tokens per second, when it trains and its rate is known.
    pub(crate) fn tokens_per_s(&self) -> Option<f64> {
        Some(self.live()?.steps_per_s? * self.tokens_per_step? as f64)
    }

    /// Seconds to its last step, when both are known.
    pub(crate) fn rest_s(&self) -> Option<f64> {
        let live = self.live()?;
        let rate = live.steps_per_s.filter(|rate| *rate > 0.0)?;
        Some(self.steps?.saturating_sub(live.step) as f64 / rate)
    }

    /// What its program said last, while it runs.
    pub(crate) fn live(&self) -> Option<&Live> {
        match &self.phase {
            Phase::Leased { live, .. } => live.as_ref(),
            Phase::Waiting | Phase::Ended(_) => None,
        }
    }

    fn fraction(&self) -> f64 {
        match &self.phase {
            Phase::Waiting => 0.0,
            Phase::Leased { live, .. } => match (live, self.steps) {
                (Some(live), Some(steps)) if steps > 0 => {
                    (live.step as f64 / steps as f64).min(1.0)
                }
                _unknown => 0.0,
            },
            Phase::Ended(_) => 1.0,
        }
    }
}

impl Live {
    fn show(&mut self, metric: &str, value: f64) {
        let rank = |name: &str| {
            let known = SHOWN_METRICS.iter().position(|shown| *shown == name);
            known.unwrap_or(SHOWN_METRICS.len())
        };
        match &mut self.shown {
            Some((name, shown)) if name == metric => *shown = value,
            Some((name, _)) if rank(metric) >= rank(name) => {}
            Some(_) | None => self.shown = Some((metric.to_owned(), value)),
        }
    }

    fn advance(&mut self, step: u64, now_ms: u64) {
        if let Some(last_ms) = self.last_report_ms {
            let elapsed_ms = now_ms.saturating_sub(last_ms) as f64;
            if elapsed_ms == 0.0 || step <= self.step {
                return;
            }
            let rate = (step - self.step) as f64 / elapsed_ms * 1e3;
            let weight = 1.0 - (-elapsed_ms / RATE_MEMORY_MS).exp();
            self.steps_per_s = Some(match self.steps_per_s {
                Some(before) => before + weight * (rate - before),
                None => rate,
            });
        }
        self.step = step;
        self.last_report_ms = Some(now_ms);
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
