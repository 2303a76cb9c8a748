//! `spec.study.train` as it is written, its defaults, and its checks. The defaults are those of a
//! byte-level miniature on two CPU cores.

use super::spec::{Length, TrainStudySpec};
use crate::recipe::{Duration, Mistakes, Path, RecipeError, all};
use crate::training::check_vocabulary;
use crate::training::checks::{
    BATCH_MAX, STEPS_MAX, VOCABULARY_MAX, below_one, compared, positive, seeds, trials, within,
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
    pub(crate) fn check(self, at: &Path) -> Result<TrainStudySpec, Mistakes> {
        let vocabulary = self.vocabulary.unwrap_or(MODEL.vocabulary);
        let [vocabulary_at, data_at, rates_at] =
            ["vocabulary", "data", "learning_rates"].map(|key| at.key(key));
        let rates = self.learning_rates.unwrap_or_else(|| vec![5e-3]);
        let budget = self.budget.map(|budget| budget.check(&at.key("budget")));
        all! {
            let vocabulary = within(vocabulary, 1, VOCABULARY_MAX, &vocabulary_at);
            let model = self.model.check(&MODEL, &at.key("model"));
            let learning_rates = compared(rates, f64::to_string, positive, &rates_at);
            let data = self.data.check(&data_at);
            let batch = within(self.batch.unwrap_or(16), 1, BATCH_MAX, &at.key("batch"));
            let length = self.length.check(&at.key("length"));
            let budget = budget.transpose();
            let beta2 = below_one(self.beta2.unwrap_or(0.98), &at.key("beta2"));
            let optimizer = self.optimizer.check(&at.key("optimizer"));
            let training = self.training.check(&at.key("training"));
            let validation = self.validation.check(&at.key("validation"));
            let seeds = seeds(self.seeds, &at.key("seeds"));
        }
        let spec = TrainStudySpec {
            data,
            model: ModelSpec { vocabulary, ..model },
            batch,
            length,
            budget,
            learning_rates,
            beta2,
            optimizer: Box::new(optimizer),
            training,
            validation,
            seeds,
        };
        all! {
            let _vocabulary = check_vocabulary(&spec.data, vocabulary, &vocabulary_at, &data_at);
            let _steps = check_steps(&spec, at);
            let _trials = trials(
                spec.learning_rates.len() * spec.seeds.len(),
                &rates_at,
                "give fewer rates or seeds",
            );
        }
        Ok(spec)
    }
}

/// Refuses too many steps or none, and a budget of less than one.
fn check_steps(spec: &TrainStudySpec, at: &Path) -> Result<(), RecipeError> {
    let step_flops = spec.step_flops();
    let refused = |path: &Path, message: String| {
        let values = ["model", "vocabulary", "batch"].map(|key| at.key(key));
        Err(RecipeError::new(path, message)
            .given(values)
            .hint(format!("a step of this model and batch counts {step_flops:.3e} FLOPs")))
    };
    let steps = spec.steps();
    if !(1..=STEPS_MAX).contains(&steps) {
        let message = format!("gives {steps} steps, must be from 1 to {STEPS_MAX}");
        return refused(&at.key("length"), message);
    }
    match spec.budget {
        Some(Budget::Flops(flops)) if flops < step_flops => {
            let message = format!("is less than one step, found {flops:.3e}");
            refused(&at.key("budget").key("flops"), message)
        }
        Some(Budget::Flops(_) | Budget::WallMs(_)) | None => Ok(()),
    }
}

impl RawLength {
    fn check(self, at: &Path) -> Result<Length, RecipeError> {
        match self {
            Self::Steps(steps) => Ok(Length::Steps(steps)),
            Self::Flops(flops) => positive(flops, &at.key("flops")).map(Length::Flops),
        }
    }
}

impl RawBudget {
    fn check(self, at: &Path) -> Result<Budget, RecipeError> {
        match self {
            Self::Wall(Duration(limit)) => {
                within(limit, 1, u64::MAX, &at.key("wall")).map(Budget::WallMs)
            }
            Self::Flops(flops) => positive(flops, &at.key("flops")).map(Budget::Flops),
        }
    }
}
