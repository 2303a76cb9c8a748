//! How an experiment stands among others, and what it may use, as recipes write it.

use super::checked::Policy;
use super::error::{Path, RecipeError};
use super::quantity::Duration;
use super::section::Needs;
use serde::Deserialize;

/// Largest priority, and its negative the smallest: room for any order that people remember.
const PRIORITY_MAX: i32 = 1_000;
/// Smallest and largest weight: a millionth of the other's share is the least that matters.
const WEIGHT_MIN: f64 = 0.001;
const WEIGHT_MAX: f64 = 1_000.0;
/// Most GPU hours: a hundred thousand GPUs for a year. Sums stay exact far below.
const GPU_HOURS_MAX: f64 = 1e9;
/// Most FLOPs, as of one budget.
const FLOPS_MAX: f64 = 1e30;

#[derive(Debug, Default, Deserialize)]
pub(super) struct RawLimits {
    trial_time: Option<Duration>,
    trials_at_once: Option<u32>,
    trials: Option<u64>,
    gpu_hours: Option<f64>,
    flops: Option<f64>,
}

/// The keys of `spec` that decide when trials run.
#[derive(Debug)]
pub(super) struct RawPolicy {
    pub(super) priority: Option<i32>,
    pub(super) weight: Option<f64>,
    pub(super) limits: RawLimits,
}

impl RawPolicy {
    /// The policy, and the longest time of one attempt in milliseconds. `at` is `spec`; `needs`
    /// says what the study's trials can use.
    pub(super) fn check(
        self,
        needs: Needs,
        at: &Path,
    ) -> Result<(Policy, Option<u64>), RecipeError> {
        let default = Policy::default();
        let priority = self.priority.unwrap_or(default.priority);
        if !(-PRIORITY_MAX..=PRIORITY_MAX).contains(&priority) {
            let message =
                format!("must be from -{PRIORITY_MAX} to {PRIORITY_MAX}, found {priority}");
            return Err(RecipeError::new(&at.key("priority"), message)
                .hint("a higher one goes first; 0 is usual"));
        }
        let weight = self.weight.unwrap_or(default.weight);
        if !(WEIGHT_MIN..=WEIGHT_MAX).contains(&weight) {
            let message = format!("must be from {WEIGHT_MIN} to {WEIGHT_MAX}, found {weight}");
            return Err(RecipeError::new(&at.key("weight"), message)
                .hint("an experiment with weight 2 gets twice the share of one with 1"));
        }
        let (limits, at) = (self.limits, at.key("limits"));
        let trial_time_ms = limits.trial_time.map(|time| time.0);
        let zero = |key: &str, message: &str| {
            Err(RecipeError::new(&at.key(key), message).hint("leave the key out for no limit"))
        };
        if trial_time_ms == Some(0) {
            return zero("trial_time", "must be longer than zero");
        }
        if limits.trials_at_once == Some(0) {
            return zero("trials_at_once", "must be at least 1, found 0");
        }
        if limits.trials == Some(0) {
            return zero("trials", "must be at least 1, found 0");
        }
        check_amount(limits.gpu_hours, GPU_HOURS_MAX, &at.key("gpu_hours"))?;
        check_amount(limits.flops, FLOPS_MAX, &at.key("flops"))?;
        if limits.flops.is_some() && !needs.is_training() {
            let message = "nobody can count the FLOPs of a program";
            return Err(RecipeError::new(&at.key("flops"), message)
                .hint("limit trials, trial_time or gpu_hours"));
        }
        let policy = Policy {
            priority,
            weight,
            at_once: limits.trials_at_once,
            trials: limits.trials,
            gpu_hours: limits.gpu_hours,
            flops: limits.flops,
        };
        Ok((policy, trial_time_ms))
    }
}

fn check_amount(amount: Option<f64>, max: f64, at: &Path) -> Result<(), RecipeError> {
    match amount {
        Some(amount) if !(amount > 0.0 && amount <= max) => {
            let message = format!("must be above 0 and at most {max:e}, found {amount}");
            Err(RecipeError::new(at, message).hint("leave the key out for no limit"))
        }
        Some(_) | None => Ok(()),
    }
}
