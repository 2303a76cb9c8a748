//! `spec.study.train` as it is written, its defaults, and its checks. The defaults are those of a
//! byte-level miniature on two CPU cores.

use super::spec::{Length, TrainStudySpec};
use crate::recipe::{Duration, Path, RecipeError};
use crate::training::check_vocabulary;
use crate::training::checks::{
    BATCH_MAX, STEPS_MAX, VOCABULARY_MAX, below_one, distinct, positive, seeds, trials, within,
};
use crate::training::raw::{RawData, RawOptimizer, RawShape, RawTraining, RawValidation};
use proto::{Budget, Mlp, ModelSpec, Norm, Positions};
use serde::Deserialize;

/// The model unless the recipe says otherwise; the width of its MLP follows.
const MODEL: ModelSpec = ModelSpec {
    vocabulary: 256,
    sequence: 128,
    width: 64,
    layers: 2,
    heads: 4,
    mlp_width: 0,
    mlp: Mlp::Gelu,
    tied: false,
    positions: Positions::Rotary,
    norm: Norm::RmsNorm,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawTrain {
    #[serde(default)]
    data: RawData,
    vocabulary: Option<u32>,
    #[serde(default)]
    model: RawShape,
    batch: Option<u32>,
    length: RawLength,
    budget: Option<RawBudget>,
    learning_rates: Option<Vec<f64>>,
    beta2: Option<f64>,
    #[serde(default)]
    optimizer: RawOptimizer,
    #[serde(default)]
    training: RawTraining,
    #[serde(default)]
    validation: RawValidation,
    seeds: Option<Vec<u64>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RawLength {
    Steps(u64),
    Flops(f64),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RawBudget {
    Wall(Duration),
    Flops(f64),
}

impl RawTrain {
    /// Checks every value.
    pub(crate) fn check(self, at: &Path) -> Result<TrainStudySpec, RecipeError> {
        let vocabulary_at = at.key("vocabulary");
        let vocabulary = self.vocabulary.unwrap_or(MODEL.vocabulary);
        let vocabulary = within(vocabulary, 1, VOCABULARY_MAX, &vocabulary_at)?;
        let model = self.model.check(&ModelSpec { vocabulary, ..MODEL }, &at.key("model"))?;
        let rates = self.learning_rates.unwrap_or_else(|| vec![5e-3]);
        let rates_at = at.key("learning_rates");
        distinct(&rates, f64::to_string, &rates_at)?;
        for (index, rate) in rates.iter().enumerate() {
            positive(*rate, &rates_at.index(index))?;
        }
        let spec = TrainStudySpec {
            data: self.data.check(&at.key("data"))?,
            batch: within(self.batch.unwrap_or(16), 1, BATCH_MAX, &at.key("batch"))?,
            length: match self.length {
                RawLength::Steps(steps) => Length::Steps(steps),
                RawLength::Flops(flops) => {
                    Length::Flops(positive(flops, &at.key("length").key("flops"))?)
                }
            },
            budget: None,
            learning_rates: rates,
            beta2: below_one(self.beta2.unwrap_or(0.98), &at.key("beta2"))?,
            optimizer: Box::new(self.optimizer.check(&at.key("optimizer"))?),
            training: self.training.check(&at.key("training"))?,
            validation: self.validation.check(&at.key("validation"))?,
            seeds: seeds(self.seeds, &at.key("seeds"))?,
            model,
        };
        check_vocabulary(&spec.data, vocabulary, &vocabulary_at)?;
        let steps = spec.steps();
        if !(1..=STEPS_MAX).contains(&steps) {
            let message = format!("gives {steps} steps, must be from 1 to {STEPS_MAX}");
            return Err(RecipeError::new(&at.key("length"), message)
                .hint("a step of this model and batch counts ".to_owned() + &step_flops(&spec)));
        }
        let budget = self.budget.map(|budget| budget.check(&spec, &at.key("budget")));
        let spec = TrainStudySpec { budget: budget.transpose()?, ..spec };
        let count = spec.learning_rates.len() * spec.seeds.len();
        trials(count, &rates_at, "give fewer rates or seeds")?;
        Ok(spec)
    }
}

impl RawBudget {
    fn check(self, spec: &TrainStudySpec, at: &Path) -> Result<Budget, RecipeError> {
        match self {
            Self::Wall(Duration(limit)) => {
                within(limit, 1, u64::MAX, &at.key("wall")).map(Budget::WallMs)
            }
            Self::Flops(flops) => {
                let at = at.key("flops");
                if positive(flops, &at)? < spec.step_flops() {
                    let message = format!("is less than one step, found {flops:.3e}");
                    return Err(RecipeError::new(&at, message).hint(
                        "a step of this model and batch counts ".to_owned() + &step_flops(spec),
                    ));
                }
                Ok(Budget::Flops(flops))
            }
        }
    }
}

fn step_flops(spec: &TrainStudySpec) -> String {
    format!("{:.3e} FLOPs", spec.step_flops())
}
