//! Which trainings: all at once.

use super::report;
use super::spec::TrainStudySpec;
use crate::recipe::TrialSettings;
use crate::report::Report;
use crate::study::{Next, Study, TrialView};
use crate::training::repeats;
use proto::train::NUMERICS_VERSION;
use proto::{Budget, DataSpec, Runner, TrainSpec, TrialSpec, Value};
use std::collections::BTreeMap;

/// Name of the trial parameter that is compared.
pub(super) const RATE: &str = "learning_rate";

/// Trainings of one model on one text.
#[derive(Debug)]
pub(super) struct TrainStudy {
    pub(super) spec: TrainStudySpec,
    pub(super) settings: TrialSettings,
    pub(super) data: DataSpec,
}

impl TrainStudy {
    fn trials(&self) -> Vec<TrialSpec> {
        let spec = &self.spec;
        let with_rate = |rate: &f64| {
            let train = TrainSpec {
                numerics: NUMERICS_VERSION,
                model: spec.model.clone(),
                data: self.data.clone(),
                batch: spec.batch,
                steps: spec.steps(),
                optimizer: spec.optimizer.at(*rate, spec.beta2),
                schedule: spec.optimizer.schedule,
                validation: spec.validation,
                accumulation: spec.training.accumulation,
                ema: spec.training.ema,
                precision: spec.training.precision,
                budget: spec.budget,
            };
            let parameters = BTreeMap::from([(RATE.to_owned(), Value::Number(*rate))]);
            let trial = move |seed: &u64| {
                let runner = Runner::Train(Box::new(train.clone()));
                self.settings.trial(runner, parameters.clone(), *seed)
            };
            spec.seeds.iter().map(trial)
        };
        spec.learning_rates.iter().flat_map(with_rate).collect()
    }
}

impl Study for TrainStudy {
    fn next(&self, trials: &[TrialView<'_>]) -> Next {
        Next::all_at_once(trials, || {
            let rates = self.spec.learning_rates.len();
            let seeds = self.spec.seeds.len();
            let reason = format!("learning rates to compare: {rates}, seeds of each: {seeds}");
            (self.trials(), reason)
        })
    }

    fn wants_each_outcome(&self) -> bool {
        false
    }

    fn warnings(&self, trials: &[TrialView<'_>]) -> Vec<String> {
        // How far a budget of time goes, nobody knows before.
        if matches!(self.spec.budget, Some(Budget::WallMs(_))) {
            return Vec::new();
        }
        let trained = trials.iter().filter_map(|view| match &view.spec.runner {
            Runner::Train(train) => Some(train.steps_max() as f64 * train.tokens_per_step() as f64),
            Runner::Grpo(_) | Runner::Command(_) | Runner::Noop => None,
        });
        repeats::of_text(&self.data, &trained.collect::<Vec<_>>()).into_iter().collect()
    }

    fn report(&self, trials: &[TrialView<'_>]) -> Report {
        let mut report = report::build(&self.spec, trials);
        report.notes.extend(self.warnings(trials));
        report
    }
}
