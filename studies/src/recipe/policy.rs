//! How an experiment stands among others, and what it may use, as recipes write it.

use super::checked::Policy;
use super::error::{Path, RecipeError};
use super::mistakes::{Mistakes, all};
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
    /// says what the study's trials can use, and is unknown when the study is wrong.
    pub(super) fn check(
        self,
        needs: Option<Needs>,
        at: &Path,
    ) -> Result<(Policy, Option<u64>), Mistakes> {
        let limits = self.limits;
        all! {
            let priority = check_priority(self.priority, &at.key("priority"));
            let weight = check_weight(self.weight, &at.key("weight"));
            let rest = limits.check(needs, &at.key("limits"));
        }
        let (limits, trial_time_ms) = rest;
        Ok((Policy { priority, weight, ..limits }, trial_time_ms))
    }
}

fn check_priority(priority: Option<i32>, at: &Path) -> Result<i32, RecipeError> {
    let priority = priority.unwrap_or(Policy::default().priority);
    if (-PRIORITY_MAX..=PRIORITY_MAX).contains(&priority) {
        return Ok(priority);
    }
    let message = format!("must be from -{PRIORITY_MAX} to {PRIORITY_MAX}, found {priority}");
    Err(RecipeError::new(at, message).hint("a higher one goes first; 0 is usual"))
}

fn check_weight(weight: Option<f64>, at: &Path) -> Result<f64, RecipeError> {
    let weight = weight.unwrap_or(Policy::default().weight);
    if (WEIGHT_MIN..=WEIGHT_MAX).contains(&weight) {
        return Ok(weight);
    }
    let message = format!("must be from {WEIGHT_MIN} to {WEIGHT_MAX}, found {weight}");
    Err(RecipeError::new(at, message)
        .hint("an experiment with weight 2 gets twice the share of one with 1"))
}

/// Of a limit in whole numbers.
const ZERO: &str = "must be at least 1, found 0";

impl RawLimits {
    /// A policy with these limits, and the longest time of one attempt in milliseconds.
    fn check(self, needs: Option<Needs>, at: &Path) -> Result<(Policy, Option<u64>), Mistakes> {
        let zero = |is_zero: bool, key: &str, message: &str| {
            let error = || RecipeError::new(&at.key(key), message);
            if is_zero { Err(error().hint("leave the key out for no limit")) } else { Ok(()) }
        };
        let trial_time_ms = self.trial_time.map(|time| time.0);
        let flops_at = at.key("flops");
        all! {
            let _time = zero(trial_time_ms == Some(0), "trial_time", "must be longer than zero");
            let _at_once = zero(self.trials_at_once == Some(0), "trials_at_once", ZERO);
            let _trials = zero(self.trials == Some(0), "trials", ZERO);
            let gpu_hours = check_amount(self.gpu_hours, GPU_HOURS_MAX, &at.key("gpu_hours"));
            let flops = check_amount(self.flops, FLOPS_MAX, &flops_at);
        }
        if flops.is_some() && needs.is_some_and(|needs| !needs.is_training()) {
            let message = "nobody can count the FLOPs of a program";
            return Err(RecipeError::new(&flops_at, message)
                .hint("limit trials, trial_time or gpu_hours")
                .into());
        }
        let (at_once, trials) = (self.trials_at_once, self.trials);
        Ok((Policy { at_once, trials, gpu_hours, flops, ..Policy::default() }, trial_time_ms))
    }
}

fn check_amount(amount: Option<f64>, max: f64, at: &Path) -> Result<Option<f64>, RecipeError> {
    match amount {
        Some(amount) if !(amount > 0.0 && amount <= max) => {
            let message = format!("must be above 0 and at most {max:e}, found {amount}");
            Err(RecipeError::new(at, message).hint("leave the key out for no limit"))
        }
        amount => Ok(amount),
    }
}
