//! `spec.study.grpo` as it is written, its defaults, and its checks. The defaults are those of
//! two-digit addition in a few minutes on two CPU cores.

use super::spec::{Constants, GrpoSpec, Policy, Problems, Supervised};
use crate::recipe::{DataWanted, Path, RecipeError};
use crate::training::checks::{
    BATCH_MAX, STEPS_MAX, below_one, between, distinct, not_negative, positive, seeds, trials,
    within,
};
use crate::training::raw::{Patterns, RawShape};
use proto::grpo::{DIGITS_MAX, Evaluation, POLICY_VOCABULARY, UPDATES_MAX, Variant, VerifierKind};
use proto::{Mlp, ModelSpec, Norm, Positions};
use serde::Deserialize;

/// The policy unless the recipe says otherwise; the width of its MLP follows.
const MODEL: ModelSpec = ModelSpec {
    vocabulary: POLICY_VOCABULARY,
    sequence: 16,
    width: 64,
    layers: 2,
    heads: 4,
    mlp_width: 0,
    mlp: Mlp::Gelu,
    tied: false,
    positions: Positions::Learned,
    norm: Norm::RmsNorm,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawGrpo {
    problems: RawProblems,
    held_out: Option<f64>,
    #[serde(default)]
    model: RawShape,
    completion_tokens_max: Option<u32>,
    #[serde(default)]
    supervised: RawSupervised,
    #[serde(default)]
    policy: RawPolicy,
    #[serde(default)]
    optimizer: RawConstants,
    #[serde(default)]
    evaluation: RawEvaluation,
    seeds: Option<Vec<u64>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RawProblems {
    Addition(RawAddition),
    Pairs(RawPairs),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAddition {
    digits: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPairs {
    files: Patterns,
    verifier: VerifierKind,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSupervised {
    steps: Option<u64>,
    batch: Option<u32>,
    learning_rate: Option<f64>,
    warmup_steps: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPolicy {
    steps: Option<u64>,
    prompts: Option<u32>,
    rollouts: Option<u32>,
    temperature: Option<f64>,
    updates: Option<u32>,
    variants: Option<Vec<Variant>>,
    learning_rates: Option<Vec<f64>>,
    kl_weights: Option<Vec<f64>>,
    clip: Option<f64>,
    warmup_steps: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConstants {
    beta1: Option<f64>,
    beta2: Option<f64>,
    epsilon: Option<f64>,
    weight_decay: Option<f64>,
    clip: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEvaluation {
    every_steps: Option<u64>,
    problems: Option<u32>,
}

impl RawGrpo {
    /// Checks every value.
    pub(crate) fn check(self, at: &Path) -> Result<GrpoSpec, RecipeError> {
        let model = self.model.check(&MODEL, &at.key("model"))?;
        let held_out = between(self.held_out.unwrap_or(0.2), 0.0, 1.0, &at.key("held_out"))?;
        let tokens_at = at.key("completion_tokens_max");
        let tokens = self.completion_tokens_max.unwrap_or(4);
        // A prompt has one token at least.
        let completion_tokens_max = within(tokens, 1, (model.sequence - 1).max(1), &tokens_at)?;
        let spec = GrpoSpec {
            problems: self.problems.check(&at.key("problems"))?,
            held_out,
            completion_tokens_max,
            supervised: self.supervised.check(&at.key("supervised"))?,
            policy: self.policy.check(&at.key("policy"))?,
            optimizer: self.optimizer.check(&at.key("optimizer"))?,
            evaluation: self.evaluation.check(&at.key("evaluation"))?,
            seeds: seeds(self.seeds, &at.key("seeds"))?,
            model,
        };
        check_fit(&spec, at)?;
        if spec.supervised.steps + spec.policy.steps == 0 {
            let message = "neither the supervised phase nor the policy has steps";
            return Err(RecipeError::new(&at.key("policy").key("steps"), message));
        }
        let Policy { variants, learning_rates, kl_weights, .. } = &spec.policy;
        let count = variants.len() * learning_rates.len() * kl_weights.len() * spec.seeds.len();
        let hint = "give fewer variants, learning_rates, kl_weights or seeds";
        trials(count, &at.key("policy"), hint)?;
        Ok(spec)
    }
}

/// The longest sum must fit; the client knows no more of pairs than their files.
fn check_fit(spec: &GrpoSpec, at: &Path) -> Result<(), RecipeError> {
    let Problems::Addition { digits } = spec.problems else { return Ok(()) };
    // "99+99=" and "198" with its end.
    let (prompt, answer) = (2 * digits + 2, digits + 2);
    if spec.completion_tokens_max < answer {
        let message = format!(
            "sums of {digits} digits need {answer}, their end included, found {}",
            spec.completion_tokens_max
        );
        return Err(RecipeError::new(&at.key("completion_tokens_max"), message));
    }
    let needed = prompt + spec.completion_tokens_max;
    if spec.model.sequence < needed {
        let message = format!(
            "must be at least {needed} for a prompt and its completion, found {}",
            spec.model.sequence
        );
        return Err(RecipeError::new(&at.key("model").key("sequence"), message));
    }
    Ok(())
}

impl RawProblems {
    fn check(self, at: &Path) -> Result<Problems, RecipeError> {
        match self {
            Self::Addition(RawAddition { digits }) => {
                within(digits, 1, DIGITS_MAX, &at.key("addition").key("digits"))?;
                Ok(Problems::Addition { digits })
            }
            Self::Pairs(RawPairs { files, verifier }) => {
                let files = files.check(&at.key("pairs").key("files"))?;
                Ok(Problems::Pairs { files: DataWanted::Files(files), verifier })
            }
        }
    }
}

impl RawSupervised {
    fn check(self, at: &Path) -> Result<Supervised, RecipeError> {
        let rate = self.learning_rate.unwrap_or(2e-3);
        Ok(Supervised {
            steps: within(self.steps.unwrap_or(300), 0, STEPS_MAX, &at.key("steps"))?,
            batch: within(self.batch.unwrap_or(64), 1, BATCH_MAX, &at.key("batch"))?,
            learning_rate: positive(rate, &at.key("learning_rate"))?,
            warmup_steps: within(
                self.warmup_steps.unwrap_or(50),
                0,
                STEPS_MAX,
                &at.key("warmup_steps"),
            )?,
        })
    }
}

impl RawPolicy {
    fn check(self, at: &Path) -> Result<Policy, RecipeError> {
        let prompts = within(self.prompts.unwrap_or(64), 1, BATCH_MAX, &at.key("prompts"))?;
        let rollouts = self.rollouts.unwrap_or(8);
        let most = (BATCH_MAX / prompts).max(2);
        let variants = self.variants.unwrap_or_else(|| vec![Variant::GrpoClip]);
        let rates = self.learning_rates.unwrap_or_else(|| vec![5e-4]);
        let kl_weights = self.kl_weights.unwrap_or_else(|| vec![0.0]);
        distinct(&variants, |variant| variant.word().to_owned(), &at.key("variants"))?;
        distinct(&rates, f64::to_string, &at.key("learning_rates"))?;
        distinct(&kl_weights, f64::to_string, &at.key("kl_weights"))?;
        for (index, rate) in rates.iter().enumerate() {
            positive(*rate, &at.key("learning_rates").index(index))?;
        }
        for (index, weight) in kl_weights.iter().enumerate() {
            within(*weight, 0.0, 1e6, &at.key("kl_weights").index(index))?;
        }
        let temperature = self.temperature.unwrap_or(1.0);
        Ok(Policy {
            steps: within(self.steps.unwrap_or(240), 0, STEPS_MAX, &at.key("steps"))?,
            prompts,
            rollouts: within(rollouts, 2, most, &at.key("rollouts"))?,
            temperature: within(temperature, 1e-3, 1e3, &at.key("temperature"))?,
            updates: within(self.updates.unwrap_or(4), 1, UPDATES_MAX, &at.key("updates"))?,
            variants,
            learning_rates: rates,
            kl_weights,
            clip: between(self.clip.unwrap_or(0.2), 0.0, 1.0, &at.key("clip"))?,
            warmup_steps: within(
                self.warmup_steps.unwrap_or(10),
                0,
                STEPS_MAX,
                &at.key("warmup_steps"),
            )?,
        })
    }
}

impl RawConstants {
    fn check(self, at: &Path) -> Result<Constants, RecipeError> {
        // 0 switches clipping off, as no gradient has that norm.
        let clip = not_negative(self.clip.unwrap_or(1.0), &at.key("clip"))?;
        Ok(Constants {
            beta1: below_one(self.beta1.unwrap_or(0.9), &at.key("beta1"))?,
            beta2: below_one(self.beta2.unwrap_or(0.95), &at.key("beta2"))?,
            epsilon: positive(self.epsilon.unwrap_or(1e-8), &at.key("epsilon"))?,
            weight_decay: not_negative(self.weight_decay.unwrap_or(0.0), &at.key("weight_decay"))?,
            clip: (clip > 0.0).then_some(clip),
        })
    }
}

impl RawEvaluation {
    fn check(self, at: &Path) -> Result<Evaluation, RecipeError> {
        let problems = self.problems.unwrap_or(1_000);
        Ok(Evaluation {
            every_steps: self.every_steps.unwrap_or(20),
            problems: within(problems, 1, u32::MAX, &at.key("problems"))?,
        })
    }
}
