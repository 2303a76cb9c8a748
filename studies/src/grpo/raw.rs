//! `spec.study.grpo` as it is written, its defaults, and its checks. The defaults are those of
//! two-digit addition in a few minutes on two CPU cores.

use super::spec::{Constants, GrpoSpec, Policy, Problems, Supervised};
use crate::recipe::{DataWanted, Mistakes, Path, RecipeError, all};
use crate::training::checks::{
    BATCH_MAX, STEPS_MAX, below_one, between, compared, not_negative, positive, seeds, trials,
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
    pub(crate) fn check(self, at: &Path) -> Result<GrpoSpec, Mistakes> {
        all! {
            let problems = self.problems.check(&at.key("problems"));
            let held_out = between(self.held_out.unwrap_or(0.2), 0.0, 1.0, &at.key("held_out"));
            let model = self.model.check(&MODEL, &at.key("model"));
            let supervised = self.supervised.check(&at.key("supervised"));
            let policy = self.policy.check(&at.key("policy"));
            let optimizer = self.optimizer.check(&at.key("optimizer"));
            let evaluation = self.evaluation.check(&at.key("evaluation"));
            let seeds = seeds(self.seeds, &at.key("seeds"));
        }
        // A prompt has one token at least.
        let tokens_max = (model.sequence - 1).max(1);
        let tokens = self.completion_tokens_max.unwrap_or(4);
        let tokens = within(tokens, 1, tokens_max, &at.key("completion_tokens_max"));
        let sequence_at = at.key("model").key("sequence");
        let completion_tokens_max = tokens.map_err(|error| error.given([sequence_at]))?;
        let spec = GrpoSpec {
            problems,
            held_out,
            model,
            completion_tokens_max,
            supervised,
            policy,
            optimizer,
            evaluation,
            seeds,
        };
        let Policy { variants, learning_rates, kl_weights, .. } = &spec.policy;
        let count = variants.len() * learning_rates.len() * kl_weights.len() * spec.seeds.len();
        all! {
            let _fit = check_fit(&spec, at);
            let _steps = check_phases(&spec, at);
            let _trials = trials(
                count,
                &at.key("policy"),
                "give fewer variants, learning_rates, kl_weights or seeds",
            );
        }
        Ok(spec)
    }
}

fn check_phases(spec: &GrpoSpec, at: &Path) -> Result<(), RecipeError> {
    if spec.supervised.steps + spec.policy.steps > 0 {
        return Ok(());
    }
    let message = "neither the supervised phase nor the policy has steps";
    Err(RecipeError::new(&at.key("policy").key("steps"), message))
}

/// The longest sum must fit; the client knows no more of pairs than their files.
fn check_fit(spec: &GrpoSpec, at: &Path) -> Result<(), RecipeError> {
    let Problems::Addition { digits } = spec.problems else { return Ok(()) };
    let tokens_at = at.key("completion_tokens_max");
    // "99+99=" and "198" with its end.
    let (prompt, answer) = (2 * digits + 2, digits + 2);
    if spec.completion_tokens_max < answer {
        let message = format!(
            "sums of {digits} digits need {answer}, their end included, found {}",
            spec.completion_tokens_max
        );
        return Err(RecipeError::new(&tokens_at, message));
    }
    let needed = prompt + spec.completion_tokens_max;
    if spec.model.sequence < needed {
        let message = format!(
            "must be at least {needed} for a prompt and its completion, found {}",
            spec.model.sequence
        );
        return Err(RecipeError::new(&at.key("model").key("sequence"), message).given([tokens_at]));
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
    fn check(self, at: &Path) -> Result<Supervised, Mistakes> {
        let rate = self.learning_rate.unwrap_or(2e-3);
        let warmup = self.warmup_steps.unwrap_or(50);
        all! {
            let steps = within(self.steps.unwrap_or(300), 0, STEPS_MAX, &at.key("steps"));
            let batch = within(self.batch.unwrap_or(64), 1, BATCH_MAX, &at.key("batch"));
            let learning_rate = positive(rate, &at.key("learning_rate"));
            let warmup_steps = within(warmup, 0, STEPS_MAX, &at.key("warmup_steps"));
        }
        Ok(Supervised { steps, batch, learning_rate, warmup_steps })
    }
}

impl RawPolicy {
    fn check(self, at: &Path) -> Result<Policy, Mistakes> {
        let variants = self.variants.unwrap_or_else(|| vec![Variant::GrpoClip]);
        let rates = self.learning_rates.unwrap_or_else(|| vec![5e-4]);
        let weights = self.kl_weights.unwrap_or_else(|| vec![0.0]);
        let temperature = self.temperature.unwrap_or(1.0);
        let warmup = self.warmup_steps.unwrap_or(10);
        let word = |variant: &Variant| variant.word().to_owned();
        let any = |variant, _at: &Path| Ok(variant);
        let weight = |weight, at: &Path| within(weight, 0.0, 1e6, at);
        all! {
            let steps = within(self.steps.unwrap_or(240), 0, STEPS_MAX, &at.key("steps"));
            let prompts = within(self.prompts.unwrap_or(64), 1, BATCH_MAX, &at.key("prompts"));
            let temperature = within(temperature, 1e-3, 1e3, &at.key("temperature"));
            let updates = within(self.updates.unwrap_or(4), 1, UPDATES_MAX, &at.key("updates"));
            let variants = compared(variants, word, any, &at.key("variants"));
            let learning_rates =
                compared(rates, f64::to_string, positive, &at.key("learning_rates"));
            let kl_weights = compared(weights, f64::to_string, weight, &at.key("kl_weights"));
            let clip = between(self.clip.unwrap_or(0.2), 0.0, 1.0, &at.key("clip"));
            let warmup_steps = within(warmup, 0, STEPS_MAX, &at.key("warmup_steps"));
        }
        let rollouts_max = (BATCH_MAX / prompts).max(2);
        let rollouts = within(self.rollouts.unwrap_or(8), 2, rollouts_max, &at.key("rollouts"))
            .map_err(|error| error.given([at.key("prompts")]))?;
        Ok(Policy {
            steps,
            prompts,
            rollouts,
            temperature,
            updates,
            variants,
            learning_rates,
            kl_weights,
            clip,
            warmup_steps,
        })
    }
}

impl RawConstants {
    fn check(self, at: &Path) -> Result<Constants, Mistakes> {
        let decay = self.weight_decay.unwrap_or(0.0);
        all! {
            let beta1 = below_one(self.beta1.unwrap_or(0.9), &at.key("beta1"));
            let beta2 = below_one(self.beta2.unwrap_or(0.95), &at.key("beta2"));
            let epsilon = positive(self.epsilon.unwrap_or(1e-8), &at.key("epsilon"));
            let weight_decay = not_negative(decay, &at.key("weight_decay"));
            let clip = not_negative(self.clip.unwrap_or(1.0), &at.key("clip"));
        }
        // 0 switches clipping off, as no gradient has that norm.
        let clip = (clip > 0.0).then_some(clip);
        Ok(Constants { beta1, beta2, epsilon, weight_decay, clip })
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
