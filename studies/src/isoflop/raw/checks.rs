//! The checks of single values and sections.

use super::{
    RawBeta2, RawClosedLoop, RawFit, RawGrid, RawLayers, RawLearningRate, RawObjective,
    RawWidthRange, WIDTHS_MAX,
};
use crate::fit::{Objective, RESAMPLES_MAX};
use crate::isoflop::grid::WIDTH_MAX;
use crate::isoflop::spec::{
    Beta2Rule, ClosedLoop, FitSettings, Grid, LayerRule, LearningRateRule, WidthRange,
};
use crate::recipe::{Mistakes, Path, RecipeError, all, every};
use crate::training::checks::{
    BATCH_MAX, SEQUENCE_MAX, STEPS_MAX, VOCABULARY_MAX, between, not_negative, once, positive,
    within,
};

/// Most budgets: a line needs a handful.
const BUDGETS_MAX: usize = 64;
/// Most extra cells of a budget; each is chosen after the one before it ended.
const EXTRA_CELLS_MAX: u32 = 32;
/// Largest budget: beyond it a product with the tokens leaves the range of 64 bits.
const BUDGET_MAX: f64 = 1e30;

pub(super) fn budgets(mut budgets: Vec<f64>, at: &Path) -> Result<Vec<f64>, Mistakes> {
    if budgets.is_empty() || budgets.len() > BUDGETS_MAX {
        let message = format!("needs 1 to {BUDGETS_MAX} budgets, found {}", budgets.len());
        return Err(RecipeError::new(at, message).into());
    }
    let each = budgets.iter().enumerate();
    all! {
        let _each = every(each.map(|(index, budget)| flops(*budget, &at.index(index))));
        let _once = once(&budgets, |budget| format!("the budget {budget:e}"), at);
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

pub(super) fn widths(widths: Vec<u32>, at: &Path) -> Result<Vec<u32>, Mistakes> {
    if widths.len() > WIDTHS_MAX {
        let message = format!("has {} widths, at most {WIDTHS_MAX} are tried", widths.len());
        return Err(RecipeError::new(at, message).into());
    }
    let each = widths.iter().enumerate();
    let width = |(index, width): (usize, &u32)| within(*width, 1, WIDTH_MAX, &at.index(index));
    all! {
        let _each = every(each.map(width));
        let _once = once(&widths, |width| format!("the width {width}"), at);
    }
    Ok(widths)
}

impl RawWidthRange {
    pub(super) fn check(self, at: &Path) -> Result<WidthRange, Mistakes> {
        let budget = |budget: Option<f64>, key: &str| {
            budget.map(|budget| flops(budget, &at.key(key))).transpose()
        };
        all! {
            let from = within(self.from, 1, WIDTH_MAX, &at.key("from"));
            let step = within(self.step, 1, WIDTH_MAX, &at.key("step"));
            let budget_min = budget(self.budget_min, "budget_min");
            let budget_max = budget(self.budget_max, "budget_max");
        }
        let to = within(self.to, from, WIDTH_MAX, &at.key("to"))?;
        Ok(WidthRange { from, to, step, budget_min, budget_max })
    }
}

impl RawGrid {
    pub(super) fn check(self, at: &Path) -> Result<Grid, Mistakes> {
        let whole = |value: Option<u32>, default, max, key| {
            within(value.unwrap_or(default), 1, max, &at.key(key))
        };
        let steps = |value: Option<u64>, default, key| {
            within(value.unwrap_or(default), 1, STEPS_MAX, &at.key(key))
        };
        all! {
            let sequence = whole(self.sequence, 128, SEQUENCE_MAX, "sequence");
            let vocabulary = whole(self.vocabulary, 256, VOCABULARY_MAX, "vocabulary");
            let head_width = whole(self.head_width, 16, WIDTH_MAX, "head_width");
            let mlp_ratio = positive(self.mlp_ratio.unwrap_or(4.0), &at.key("mlp_ratio"));
            let layers = self.layers.check(&at.key("layers"));
            let steps_target = steps(self.steps_target, 1_500, "steps_target");
            let batch_min = whole(self.batch_min, 1, BATCH_MAX, "batch_min");
            let steps_max = steps(self.steps_max, 10_000, "steps_max");
            let tolerance =
                between(self.tolerance.unwrap_or(0.01), 0.0, 1.0, &at.key("tolerance"));
            let learning_rate = self.learning_rate.check(&at.key("learning_rate"));
            let beta2 = self.beta2.check(&at.key("beta2"));
        }
        Ok(Grid {
            sequence,
            vocabulary,
            head_width,
            mlp_ratio,
            layers,
            steps_target,
            batch_min,
            steps_max,
            tolerance,
            learning_rate,
            beta2,
        })
    }
}

impl RawLayers {
    fn check(self, at: &Path) -> Result<LayerRule, Mistakes> {
        let per_log2_width = self.per_log2_width.unwrap_or(4.0);
        all! {
            let base = positive(self.base.unwrap_or(24.0), &at.key("base"));
            let per_log2_width = not_negative(per_log2_width, &at.key("per_log2_width"));
        }
        Ok(LayerRule { base, per_log2_width })
    }
}

impl RawLearningRate {
    fn check(self, at: &Path) -> Result<LearningRateRule, Mistakes> {
        all! {
            let scale = positive(self.scale.unwrap_or(0.12), &at.key("scale"));
            let max = positive(self.max.unwrap_or(0.015), &at.key("max"));
        }
        Ok(LearningRateRule { scale, max })
    }
}

impl RawBeta2 {
    fn check(self, at: &Path) -> Result<Beta2Rule, Mistakes> {
        all! {
            let base = between(self.base.unwrap_or(0.98), 0.0, 1.0, &at.key("base"));
            let batch = positive(self.batch.unwrap_or(16.0), &at.key("batch"));
        }
        Ok(Beta2Rule { base, batch })
    }
}

impl RawClosedLoop {
    pub(super) fn check(self, at: &Path) -> Result<ClosedLoop, Mistakes> {
        let extra = self.extra_cells_max.unwrap_or(2);
        let factor = self.interval_factor_max.unwrap_or(3.0);
        let multiple = self.width_multiple.unwrap_or(8);
        all! {
            let extra_cells_max =
                within(extra, 0, EXTRA_CELLS_MAX, &at.key("extra_cells_max"));
            let interval_factor_max = interval_factor(factor, &at.key("interval_factor_max"));
            let width_multiple = within(multiple, 1, WIDTH_MAX, &at.key("width_multiple"));
        }
        Ok(ClosedLoop { extra_cells_max, interval_factor_max, width_multiple })
    }
}

fn interval_factor(factor: f64, at: &Path) -> Result<f64, RecipeError> {
    if factor > 1.0 && factor.is_finite() {
        return Ok(factor);
    }
    Err(RecipeError::new(at, format!("must be above 1, found {factor}"))
        .hint("it is the ratio of the interval's upper end to its lower end"))
}

impl RawFit {
    pub(super) fn check(self, at: &Path) -> Result<FitSettings, Mistakes> {
        let target = self.target_budget;
        all! {
            let target_budget =
                target.map(|budget| flops(budget, &at.key("target_budget"))).transpose();
            let resamples = within(
                self.resamples.unwrap_or(1_000),
                0,
                RESAMPLES_MAX,
                &at.key("resamples"),
            );
        }
        Ok(FitSettings {
            objective: match self.objective.unwrap_or(RawObjective::Huber) {
                RawObjective::Huber => Objective::HUBER,
                RawObjective::Mse => Objective::Mse,
            },
            resamples,
            seed: self.seed.unwrap_or(0),
            target_budget,
        })
    }
}
