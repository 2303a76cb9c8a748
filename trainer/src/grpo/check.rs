//! What a policy's specification must satisfy before anything is allocated for it.

use crate::check::{check_adamw, check_shape, numerics, within};
use crate::device::THREADS_MAX;
use crate::error::TrainError;
use crate::train::Setting;
use proto::GrpoSpec;
use proto::grpo::{DIGITS_MAX, POLICY_VOCABULARY, Problems, UPDATES_MAX};

const STEPS_MAX: u64 = 1 << 27;
const ROWS_MAX: u32 = 1 << 16;

/// Checks every number of `spec`.
///
/// # Errors
/// [`TrainError::Numerics`] or [`TrainError::Spec`] for the first that is wrong.
pub(super) fn check(spec: &GrpoSpec, setting: &Setting<'_>) -> Result<(), TrainError> {
    numerics(spec.numerics)?;
    within("threads", setting.threads, 1..=THREADS_MAX)?;
    if let Some(membership) = setting.membership.filter(|members| members.world_size > 1) {
        return Err(TrainError::Spec {
            field: "members",
            found: membership.world_size.to_string(),
            wanted: "1: one process samples all completions of a policy".to_owned(),
        });
    }
    check_shape(&spec.model)?;
    within("model.vocabulary", spec.model.vocabulary, POLICY_VOCABULARY..=POLICY_VOCABULARY)?;
    if let Problems::Addition { digits } = spec.problems {
        within("problems.addition.digits", digits, 1..=DIGITS_MAX)?;
    }
    within("held_out", spec.held_out, f64::EPSILON..=1.0 - f64::EPSILON)?;
    within("completion_tokens_max", spec.completion_tokens_max, 1..=spec.model.sequence - 1)?;
    within("supervised.steps", spec.supervised.steps, 0..=STEPS_MAX)?;
    within("policy.steps", spec.policy.steps, 0..=STEPS_MAX)?;
    within("supervised.batch", spec.supervised.batch, 1..=ROWS_MAX)?;
    within("supervised.warmup_steps", spec.supervised.warmup_steps, 0..=STEPS_MAX)?;
    check_adamw(&spec.supervised.optimizer)?;
    let policy = &spec.policy;
    within("policy.prompts", policy.prompts, 1..=ROWS_MAX)?;
    within("policy.rollouts", policy.rollouts, 2..=ROWS_MAX / policy.prompts.max(1))?;
    within("policy.temperature", policy.temperature, 1e-3..=1e3)?;
    within("policy.updates", policy.updates, 1..=UPDATES_MAX)?;
    within("policy.clip", policy.clip, f64::EPSILON..=1.0)?;
    within("policy.kl", policy.kl, 0.0..=1e6)?;
    within("policy.warmup_steps", policy.warmup_steps, 0..=STEPS_MAX)?;
    check_adamw(&policy.optimizer)?;
    within("evaluation.problems", spec.evaluation.problems, 1..=u32::MAX)
}
