//! The checks of single values and sections.

use super::{RawClosedLoop, RawFit, RawGrid, RawObjective, RawWidthRange, WIDTHS_MAX};
use crate::fit::{Objective, RESAMPLES_MAX};
use crate::isoflop::grid::WIDTH_MAX;
use crate::isoflop::spec::{
    Beta2Rule, ClosedLoop, FitSettings, Grid, LayerRule, LearningRateRule, WidthRange,
};
use crate::recipe::{Path, RecipeError};
use crate::training::checks::{
    BATCH_MAX, SEQUENCE_MAX, STEPS_MAX, VOCABULARY_MAX, between, not_negative, positive, within,
};

/// Most budgets: a line needs a handful.
const BUDGETS_MAX: usize = 64;
/// Most extra cells of a budget; each is chosen after the one before it ended.
const EXTRA_CELLS_MAX: u32 = 32;
/// Largest budget: beyond it a product with the tokens leaves the range of 64 bits.
const BUDGET_MAX: f64 = 1e30;

pub(super) fn budgets(mut budgets: Vec<f64>, at: &Path) -> Result<Vec<f64>, RecipeError> {
    if budgets.is_empty() || budgets.len() > BUDGETS_MAX {
        let message = format!("needs 1 to {BUDGETS_MAX} budgets, found {}", budgets.len());
        return Err(RecipeError::new(at, message));
    }
    for (index, budget) in budgets.iter().enumerate() {
        flops(*budget, &at.index(index))?;
        if budgets[..index].contains(budget) {
            let message = format!("the budget {budget:e} is there twice");
            return Err(RecipeError::new(&at.index(index), message));
        }
    }
    budgets.sort_by(f64::total_cmp);
    Ok(budgets)
}

fn flops(value: f64, at: &Path) -> Result<f64, RecipeError> {
    if value > 0.0 && value <= BUDGET_MAX {
        return Ok(value);
    }
    let message =
        format!("must be a positive number of FLOPs up to {BUDGET_MAX:e}, found {value:e}");
    Err(RecipeError::new(at, message))
}

pub(super) fn widths(widths: Vec<u32>, at: &Path) -> Result<Vec<u32>, RecipeError> {
    if widths.len() > WIDTHS_MAX {
        let message = format!("has {} widths, at most {WIDTHS_MAX} are tried", widths.len());
        return Err(RecipeError::new(at, message));
    }
    for (index, width) in widths.iter().enumerate() {
        within(*width, 1, WIDTH_MAX, &at.index(index))?;
        if widths[..index].contains(width) {
            let message = format!("the width {width} is there twice");
            return Err(RecipeError::new(&at.index(index), message));
        }
    }
    Ok(widths)
}

impl RawWidthRange {
    pub(super) fn check(self, at: &Path) -> Result<WidthRange, RecipeError> {
        let Self { from, to, step, budget_min, budget_max } = self;
        within(from, 1, WIDTH_MAX, &at.key("from"))?;
        within(to, from, WIDTH_MAX, &at.key("to"))?;
        within(step, 1, WIDTH_MAX, &at.key("step"))?;
        for (budget, key) in [(budget_min, "budget_min"), (budget_max, "budget_max")] {
            if let Some(budget) = budget {
                flops(budget, &at.key(key))?;
            }
        }
        Ok(WidthRange { from, to, step, budget_min, budget_max })
    }
}

impl RawGrid {
    pub(super) fn check(self, at: &Path) -> Result<Grid, RecipeError> {
        let rule = LayerRule {
            base: self.layers.base.unwrap_or(24.0),
            per_log2_width: self.layers.per_log2_width.unwrap_or(4.0),
        };
        let layers = at.key("layers");
        positive(rule.base, &layers.key("base"))?;
        not_negative(rule.per_log2_width, &layers.key("per_log2_width"))?;
        let learning_rate = LearningRateRule {
            scale: positive(
                self.learning_rate.scale.unwrap_or(0.12),
                &at.key("learning_rate").key("scale"),
            )?,
            max: positive(
                self.learning_rate.max.unwrap_or(0.015),
                &at.key("learning_rate").key("max"),
            )?,
        };
        let beta2 = Beta2Rule {
            base: self.beta2.base.unwrap_or(0.98),
            batch: positive(self.beta2.batch.unwrap_or(16.0), &at.key("beta2").key("batch"))?,
        };
        between(beta2.base, 0.0, 1.0, &at.key("beta2").key("base"))?;
        let tolerance = self.tolerance.unwrap_or(0.01);
        between(tolerance, 0.0, 1.0, &at.key("tolerance"))?;
        let whole = |value: Option<u32>, default, max, key| {
            within(value.unwrap_or(default), 1, max, &at.key(key))
        };
        Ok(Grid {
            sequence: whole(self.sequence, 128, SEQUENCE_MAX, "sequence")?,
            vocabulary: whole(self.vocabulary, 256, VOCABULARY_MAX, "vocabulary")?,
            head_width: whole(self.head_width, 16, WIDTH_MAX, "head_width")?,
            mlp_ratio: positive(self.mlp_ratio.unwrap_or(4.0), &at.key("mlp_ratio"))?,
            layers: rule,
            steps_target: within(
                self.steps_target.unwrap_or(1_500),
                1,
                STEPS_MAX,
                &at.key("steps_target"),
            )?,
            batch_min: whole(self.batch_min, 1, BATCH_MAX, "batch_min")?,
            steps_max: within(
                self.steps_max.unwrap_or(10_000),
                1,
                STEPS_MAX,
                &at.key("steps_max"),
            )?,
            tolerance,
            learning_rate,
            beta2,
        })
    }
}

impl RawClosedLoop {
    pub(super) fn check(self, at: &Path) -> Result<ClosedLoop, RecipeError> {
        let interval_factor_max = self.interval_factor_max.unwrap_or(3.0);
        if !(interval_factor_max > 1.0 && interval_factor_max.is_finite()) {
            let message = format!("must be above 1, found {interval_factor_max}");
            return Err(RecipeError::new(&at.key("interval_factor_max"), message)
                .hint("it is the ratio of the interval's upper end to its lower end"));
        }
        let extra = self.extra_cells_max.unwrap_or(2);
        let multiple = self.width_multiple.unwrap_or(8);
        Ok(ClosedLoop {
            extra_cells_max: within(extra, 0, EXTRA_CELLS_MAX, &at.key("extra_cells_max"))?,
            interval_factor_max,
            width_multiple: within(multiple, 1, WIDTH_MAX, &at.key("width_multiple"))?,
        })
    }
}

impl RawFit {
    pub(super) fn check(self, at: &Path) -> Result<FitSettings, RecipeError> {
        let target = self.target_budget.map(|budget| flops(budget, &at.key("target_budget")));
        let resamples = self.resamples.unwrap_or(1_000);
        Ok(FitSettings {
            objective: match self.objective.unwrap_or(RawObjective::Huber) {
                RawObjective::Huber => Objective::HUBER,
                RawObjective::Mse => Objective::Mse,
            },
            resamples: within(resamples, 0, RESAMPLES_MAX, &at.key("resamples"))?,
            seed: self.seed.unwrap_or(0),
            target_budget: target.transpose()?,
        })
    }
}
