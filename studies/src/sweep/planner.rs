//! Which trials come next.

use super::points::{Point, Points};
use super::spec::{Command, Program, Search, SweepSpec};
use super::stopping::Stopper;
use crate::recipe::{StudyError, TrialSettings};
use crate::report::Report;
use crate::study::{Next, Study, TrialView, Watch};
use proto::{BlobRef, CommandSpec, Inputs, Outcome, Runner, TrialSpec};
use std::collections::BTreeMap;

/// The planner of a sweep. All its trials are one range, so a large grid does not exist as a whole
/// at any time.
#[derive(Debug)]
pub(super) struct Sweep {
    pub(super) spec: SweepSpec,
    pub(super) points: Points,
    pub(super) stopper: Option<Stopper>,
    settings: TrialSettings,
    files: BTreeMap<String, BlobRef>,
}

impl Sweep {
    pub(super) fn new(
        spec: SweepSpec,
        settings: TrialSettings,
        inputs: &Inputs,
    ) -> Result<Self, StudyError> {
        let file = |name: &String| match inputs.files.get(name) {
            Some(blob) => Ok((name.clone(), blob.clone())),
            None => Err(StudyError::FileMissing(name.clone())),
        };
        let files = match &spec.program {
            Program::Command(command) => {
                command.files.keys().map(file).collect::<Result<_, _>>()?
            }
            Program::Noop => BTreeMap::new(),
        };
        let stopper = spec
            .early_stopping
            .zip(spec.metric.as_ref())
            .map(|(rule, metric)| Stopper::new(rule, metric.clone(), spec.seeds.len()));
        Ok(Self { files, points: Points::new(&spec), stopper, spec, settings })
    }

    /// Trials of the whole sweep.
    pub(super) fn len(&self) -> u64 {
        self.points.len() * self.spec.seeds.len() as u64
    }

    fn command(&self, command: &Command, point: &Point, seed: u64) -> CommandSpec {
        let environment = command.environment.iter();
        CommandSpec {
            arguments: command
                .arguments
                .iter()
                .map(|argument| argument.fill(point, seed))
                .collect(),
            environment: environment
                .map(|(name, value)| (name.clone(), value.fill(point, seed)))
                .collect(),
            working_folder: command.working_folder.clone(),
            files: self.files.clone(),
        }
    }
}

impl Study for Sweep {
    fn next(&self, trials: &[TrialView<'_>]) -> Next {
        let planned = trials.len() as u64;
        // The whole search is one range. A history of the first format may hold a part of it as
        // lists of trials; such a sweep is asked when these are over, and plans the rest.
        let is_cut = !self.wants_each_outcome() && planned < self.len();
        if trials.is_empty() || is_cut {
            let search = match self.spec.search {
                Search::Grid => "grid",
                Search::Random { .. } => "random search",
            };
            let (points, seeds) = (self.points.len(), self.spec.seeds.len());
            let noun = if points == 1 { "point" } else { "points" };
            let reason = match seeds {
                1 => format!("{search}: {points} {noun}"),
                _ => format!("{search}: {points} {noun} with {seeds} seeds"),
            };
            return Next::PlanRange { count: self.len() - planned, reason };
        }
        if let Some(stop) = self.stopper.as_ref().and_then(|stopper| stopper.next(trials)) {
            return stop;
        }
        let open = trials.iter().any(|trial| trial.outcome.is_none());
        if open || planned < self.len() { Next::Wait } else { Next::Complete }
    }

    /// The trial at `index` in planning order: all seeds of a point, then the next point.
    fn trial(&self, index: u64) -> Option<TrialSpec> {
        let seeds = self.spec.seeds.len() as u64;
        let point = self.points.get(index / seeds)?;
        let seed = *self.spec.seeds.get((index % seeds) as usize)?;
        let runner = match &self.spec.program {
            Program::Command(command) => Runner::Command(self.command(command, &point, seed)),
            Program::Noop => Runner::Noop,
        };
        Some(self.settings.trial(runner, point, seed))
    }

    fn watch(&self) -> Option<Watch<'_>> {
        self.stopper.as_ref().map(Stopper::watch)
    }

    /// Nothing but early stopping depends on an outcome.
    fn wants_each_outcome(&self) -> bool {
        self.stopper.is_some()
    }

    /// Whether a trial has a value of the metric; without a metric, whether all completed.
    fn has_result(&self, trials: &[TrialView<'_>]) -> bool {
        let completed = |trial: &TrialView<'_>| match trial.outcome {
            Some(Outcome::Completed { metrics, .. }) => match &self.spec.metric {
                Some(metric) => metrics.contains_key(&metric.name),
                None => true,
            },
            Some(Outcome::Diverged { .. } | Outcome::Failed { .. }) | None => false,
        };
        match self.spec.metric {
            Some(_) => trials.iter().any(completed),
            None => !trials.is_empty() && trials.iter().all(completed),
        }
    }

    fn report(&self, trials: &[TrialView<'_>]) -> Report {
        match &self.spec.metric {
            Some(metric) => super::report::report(self, metric, trials),
            None => super::completion::report(self, trials),
        }
    }
}
