//! Which trainings: all at once.

use super::report;
use super::spec::TrainStudySpec;
use crate::recipe::TrialSettings;
use crate::report::Report;
use crate::study::{Next, Study, TrialView};
use proto::train::NUMERICS_VERSION;
use proto::{DataSpec, Runner, TrainSpec, TrialSpec, Value};
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

    fn report(&self, trials: &[TrialView<'_>]) -> Report {
        report::build(&self.spec, trials)
    }
}
