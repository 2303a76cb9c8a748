//! Which trials come next.

use super::points::{Point, Points};
use super::spec::{Search, SweepSpec};
use crate::recipe::{StudyError, TrialSettings};
use crate::report::Report;
use crate::study::{Next, Study, TrialView};
use proto::{BlobRef, CommandSpec, Inputs, Outcome, Runner, TrialSpec};
use std::collections::BTreeMap;

/// Most trials in one plan. A plan is one event and one message, at most 16 MiB; a trial's text is
/// bounded by the recipe's check to some 20 KiB.
const PLAN_TRIALS_MAX: usize = 512;

/// The planner of a sweep. The next trials are planned when at most [`PLAN_TRIALS_MAX`] are
/// unfinished, so a large grid does not exist as a whole before it is needed.
#[derive(Debug)]
pub(super) struct Sweep {
    pub(super) spec: SweepSpec,
    pub(super) points: Points,
    trial: TrialSettings,
    files: BTreeMap<String, BlobRef>,
}

impl Sweep {
    pub(super) fn new(
        spec: SweepSpec,
        trial: TrialSettings,
        inputs: &Inputs,
    ) -> Result<Self, StudyError> {
        let file = |name: &String| match inputs.files.get(name) {
            Some(blob) => Ok((name.clone(), blob.clone())),
            None => Err(StudyError::FileMissing(name.clone())),
        };
        Ok(Self {
            files: spec.files.keys().map(file).collect::<Result<_, _>>()?,
            points: Points::new(&spec),
            spec,
            trial,
        })
    }

    /// Trials of the whole sweep.
    pub(super) fn len(&self) -> usize {
        self.points.len() * self.spec.seeds.len()
    }

    /// The trial at `index` in planning order: all seeds of a point, then the next point.
    fn trial(&self, index: usize) -> TrialSpec {
        let seeds = self.spec.seeds.len();
        let seed = self.spec.seeds[index % seeds];
        let point = self.points.get(index / seeds);
        let runner = Runner::Command(self.command(&point, seed));
        self.trial.trial(runner, point, seed)
    }

    fn command(&self, point: &Point, seed: u64) -> CommandSpec {
        let environment = self.spec.environment.iter();
        CommandSpec {
            arguments: self
                .spec
                .arguments
                .iter()
                .map(|argument| argument.fill(point, seed))
                .collect(),
            environment: environment
                .map(|(name, value)| (name.clone(), value.fill(point, seed)))
                .collect(),
            working_folder: self.spec.working_folder.clone(),
            files: self.files.clone(),
        }
    }
}

impl Study for Sweep {
    fn has_result(&self, trials: &[TrialView<'_>]) -> bool {
        let has_metric = |trial: &TrialView<'_>| match trial.outcome {
            Some(Outcome::Completed { metrics, .. }) => {
                metrics.contains_key(&self.spec.metric.name)
            }
            Some(Outcome::Diverged { .. } | Outcome::Failed { .. }) | None => false,
        };
        trials.iter().any(has_metric)
    }

    fn next(&self, trials: &[TrialView<'_>]) -> Next {
        let unfinished = trials.iter().filter(|trial| trial.outcome.is_none()).count();
        // Points and seeds are distinct, so the trials planned so far are the first ones.
        let (first, all) = (trials.len(), self.len());
        if first >= all {
            return if unfinished == 0 { Next::Complete } else { Next::Wait };
        }
        if unfinished > PLAN_TRIALS_MAX {
            return Next::Wait;
        }
        let end = all.min(first + PLAN_TRIALS_MAX);
        let search = match self.spec.search {
            Search::Grid => "grid",
            Search::Random { .. } => "random search",
        };
        Next::Plan {
            trials: (first..end).map(|index| self.trial(index)).collect(),
            reason: format!("{search}: trials {} to {end} of {all}", first + 1),
        }
    }

    fn report(&self, trials: &[TrialView<'_>]) -> Report {
        super::report::report(self, trials)
    }
}
