//! What a specification must satisfy before anything is allocated for it.

use crate::error::TrainError;
use proto::train::NUMERICS_VERSION;
use proto::{
    AdamW, Budget, Lion, ModelSpec, Optimizer, Packing, Positions, Rest, TokenFormat, TrainSpec,
};
use std::fmt::Display;
use std::ops::{Bound, RangeBounds};

// The largest numbers keep every product of them (parameters, tokens, counted operations) inside
// 64 bits. They lie far above what one machine trains.
const VOCABULARY_MAX: u32 = 1 << 24;
const SEQUENCE_MAX: u32 = 1 << 20;
const WIDTH_MAX: u32 = 1 << 16;
const MLP_WIDTH_MAX: u32 = 1 << 20;
const LAYERS_MAX: u32 = 1 << 10;
const BATCH_MAX: u32 = 1 << 16;
const STEPS_MAX: u64 = 1 << 27;
const POSITIVE: Open = Open(0.0, f64::INFINITY);

/// Checks every number of `spec`, which `members` train together.
///
/// # Errors
/// [`TrainError::Numerics`] or [`TrainError::Spec`] for the first that is wrong.
pub(crate) fn check(spec: &TrainSpec, members: u32) -> Result<(), TrainError> {
    numerics(spec.numerics)?;
    check_shape(&spec.model)?;
    within("batch", spec.batch, 1..=BATCH_MAX)?;
    // A member without a sequence would do nothing but wait.
    within("members", members, 1..=spec.batch)?;
    within("steps", spec.steps, 1..=STEPS_MAX)?;
    within("data.held_out", spec.data.held_out, Open(0.0, 1.0))?;
    if spec.data.packing == Packing::Documents && spec.data.format != TokenFormat::Jsonl {
        return Err(TrainError::Spec {
            field: "data.packing",
            found: "documents".to_owned(),
            wanted: "stream: only jsonl tells where documents end".to_owned(),
        });
    }
    let (format, tokenizer) = (spec.data.format, &spec.data.tokenizer);
    let fits = match (format, tokenizer) {
        (TokenFormat::Text, tokenizer) => tokenizer.is_some(),
        (TokenFormat::Jsonl, None) => true,
        (TokenFormat::Jsonl, Some(tokenizer)) => tokenizer.end_of_document.is_some(),
        (TokenFormat::Bytes | TokenFormat::U16 | TokenFormat::Shards, tokenizer) => {
            tokenizer.is_none()
        }
    };
    if !fits {
        return Err(TrainError::Spec {
            field: "data.tokenizer",
            found: format!("{tokenizer:?} for {format:?}"),
            wanted: "given for text, with an end of documents for jsonl, and for nothing else"
                .to_owned(),
        });
    }
    within("accumulation", spec.accumulation, 1..=BATCH_MAX)?;
    if let Some(ema) = spec.ema {
        within("ema", ema, Open(0.0, 1.0))?;
    }
    check_budget(spec)?;
    if let Some(target) = spec.validation.target {
        within("validation.target", target, POSITIVE)?;
    }
    check_optimizer(&spec.optimizer)?;
    within("schedule.warmup", spec.schedule.warmup, 0.0..=1.0)?;
    // Shares such as 0.9 and 0.1 add up to a little more than one in binary.
    let left = 1.0 - spec.schedule.warmup + f64::EPSILON;
    within("schedule.decay", spec.schedule.decay, 0.0..=left)?;
    within("schedule.decay_to", spec.schedule.decay_to, 0.0..=1.0)
}

fn check_budget(spec: &TrainSpec) -> Result<(), TrainError> {
    match spec.budget {
        None => Ok(()),
        Some(Budget::WallMs(limit)) => within("budget.wall_ms", limit, 1..=u64::MAX),
        Some(Budget::Flops(flops)) => {
            let step = spec.model.training_flops(spec.tokens_per_step());
            within("budget.flops", flops, step..f64::INFINITY)
        }
    }
}

/// Whether a trial was planned for this trainer's arithmetic.
pub(crate) fn numerics(planned: u32) -> Result<(), TrainError> {
    if planned == NUMERICS_VERSION {
        return Ok(());
    }
    Err(TrainError::Numerics { planned, ours: NUMERICS_VERSION })
}

fn check_optimizer(optimizer: &Optimizer) -> Result<(), TrainError> {
    if let Some(clip) = optimizer.clip() {
        within("optimizer.clip", clip, POSITIVE)?;
    }
    match optimizer {
        Optimizer::AdamW(config) => check_adamw(config),
        Optimizer::Lion(config) => check_lion(config),
        Optimizer::Sgd(config) => {
            within("optimizer.learning_rate", config.learning_rate, POSITIVE)?;
            within("optimizer.momentum", config.momentum, 0.0..1.0)?;
            within("optimizer.weight_decay", config.weight_decay, 0.0..f64::INFINITY)
        }
        Optimizer::Muon(config) => {
            within("optimizer.learning_rate", config.learning_rate, POSITIVE)?;
            within("optimizer.momentum", config.momentum, 0.0..1.0)?;
            within("optimizer.weight_decay", config.weight_decay, 0.0..f64::INFINITY)?;
            let clip = match &config.rest {
                Rest::AdamW(rest) => check_adamw(rest).map(|()| rest.clip)?,
                Rest::Lion(rest) => check_lion(rest).map(|()| rest.clip)?,
            };
            let Some(clip) = clip else { return Ok(()) };
            let wanted = "null: one norm of the whole gradient is clipped".to_owned();
            Err(TrainError::Spec { field: "optimizer.rest.clip", found: clip.to_string(), wanted })
        }
    }
}

pub(crate) fn check_adamw(config: &AdamW) -> Result<(), TrainError> {
    within("optimizer.learning_rate", config.learning_rate, POSITIVE)?;
    within("optimizer.beta1", config.beta1, 0.0..1.0)?;
    within("optimizer.beta2", config.beta2, 0.0..1.0)?;
    within("optimizer.epsilon", config.epsilon, POSITIVE)?;
    within("optimizer.weight_decay", config.weight_decay, 0.0..f64::INFINITY)
}

fn check_lion(config: &Lion) -> Result<(), TrainError> {
    within("optimizer.learning_rate", config.learning_rate, POSITIVE)?;
    within("optimizer.beta1", config.beta1, 0.0..1.0)?;
    within("optimizer.beta2", config.beta2, 0.0..1.0)?;
    within("optimizer.weight_decay", config.weight_decay, 0.0..f64::INFINITY)
}

pub(crate) fn check_shape(model: &ModelSpec) -> Result<(), TrainError> {
    within("model.vocabulary", model.vocabulary, 1..=VOCABULARY_MAX)?;
    within("model.sequence", model.sequence, 1..=SEQUENCE_MAX)?;
    within("model.width", model.width, 1..=WIDTH_MAX)?;
    within("model.mlp_width", model.mlp_width, 1..=MLP_WIDTH_MAX)?;
    within("model.layers", model.layers, 1..=LAYERS_MAX)?;
    within("model.heads", model.heads, 1..=model.width)?;
    let head = match model.positions {
        Positions::Learned => 1,
        Positions::Rotary => 2,
    };
    if !model.width.is_multiple_of(model.heads * head) {
        let wanted = match model.positions {
            Positions::Learned => format!("a multiple of heads, {}", model.heads),
            Positions::Rotary => format!(
                "a multiple of twice the heads, {}, because rotary positions turn pairs",
                2 * model.heads
            ),
        };
        return Err(TrainError::Spec {
            field: "model.width",
            found: model.width.to_string(),
            wanted,
        });
    }
    Ok(())
}

/// All numbers between two, without both.
#[derive(Clone, Copy)]
struct Open(f64, f64);

impl RangeBounds<f64> for Open {
    fn start_bound(&self) -> Bound<&f64> {
        Bound::Excluded(&self.0)
    }

    fn end_bound(&self) -> Bound<&f64> {
        Bound::Excluded(&self.1)
    }
}

pub(crate) fn within<T: PartialOrd + Display>(
    field: &'static str,
    value: T,
    range: impl RangeBounds<T>,
) -> Result<(), TrainError> {
    if range.contains(&value) {
        return Ok(());
    }
    let low = match range.start_bound() {
        Bound::Included(low) => format!("at least {low}"),
        Bound::Excluded(low) => format!("above {low}"),
        Bound::Unbounded => "any number".to_owned(),
    };
    let high = match range.end_bound() {
        Bound::Included(high) => format!("at most {high}"),
        Bound::Excluded(high) => format!("below {high}"),
        Bound::Unbounded => "not limited above".to_owned(),
    };
    Err(TrainError::Spec { field, found: value.to_string(), wanted: format!("{low} and {high}") })
}
