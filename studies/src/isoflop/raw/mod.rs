//! `spec.study.isoflop` as it is written, its defaults, and its checks. The defaults are those of
//! a byte-level miniature on two CPU cores; `recipes/isoflop-soda.yaml` has SODA's values.

mod checks;

use super::grid::{FlopsConvention, ParamsConvention};
use super::spec::IsoflopSpec;
use crate::recipe::{Mistakes, Path, RecipeError, all, every};
use crate::training::raw::{RawData, RawModel, RawOptimizer, RawTraining, RawValidation};
use crate::training::{check_vocabulary, checks as shared};
use serde::Deserialize;

/// Most widths that a recipe may name for one budget.
const WIDTHS_MAX: usize = 1_000;
/// Most trials of the first plan, which is one event of the journal.
const TRIALS_MAX: usize = 10_000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawIsoflop {
    #[serde(default)]
    data: RawData,
    flop_budgets: Vec<f64>,
    flops: Option<FlopsConvention>,
    params: Option<ParamsConvention>,
    #[serde(default)]
    widths: Vec<u32>,
    #[serde(default)]
    width_ranges: Vec<RawWidthRange>,
    #[serde(default)]
    grid: RawGrid,
    #[serde(default)]
    model: RawModel,
    #[serde(default)]
    optimizer: RawOptimizer,
    #[serde(default)]
    training: RawTraining,
    #[serde(default)]
    validation: RawValidation,
    seeds: Option<Vec<u64>>,
    #[serde(default)]
    closed_loop: RawClosedLoop,
    #[serde(default)]
    fit: RawFit,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWidthRange {
    from: u32,
    to: u32,
    step: u32,
    budget_min: Option<f64>,
    budget_max: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGrid {
    sequence: Option<u32>,
    vocabulary: Option<u32>,
    head_width: Option<u32>,
    mlp_ratio: Option<f64>,
    #[serde(default)]
    layers: RawLayers,
    steps_target: Option<u64>,
    batch_min: Option<u32>,
    steps_max: Option<u64>,
    tolerance: Option<f64>,
    #[serde(default)]
    learning_rate: RawLearningRate,
    #[serde(default)]
    beta2: RawBeta2,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLayers {
    base: Option<f64>,
    per_log2_width: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLearningRate {
    scale: Option<f64>,
    max: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBeta2 {
    base: Option<f64>,
    batch: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawClosedLoop {
    extra_cells_max: Option<u32>,
    interval_factor_max: Option<f64>,
    width_multiple: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFit {
    objective: Option<RawObjective>,
    resamples: Option<u32>,
    seed: Option<u64>,
    target_budget: Option<f64>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RawObjective {
    Huber,
    Mse,
}

impl RawIsoflop {
    /// Checks every value and every budget's grid.
    pub(crate) fn check(self, at: &Path) -> Result<IsoflopSpec, Mistakes> {
        let [data_at, ranges_at, grid_at] = ["data", "width_ranges", "grid"].map(|key| at.key(key));
        let ranges = self.width_ranges.into_iter().enumerate();
        all! {
            let data = self.data.check(&data_at);
            let flop_budgets = checks::budgets(self.flop_budgets, &at.key("flop_budgets"));
            let widths = checks::widths(self.widths, &at.key("widths"));
            let width_ranges =
                every(ranges.map(|(index, range)| range.check(&ranges_at.index(index))));
            let grid = self.grid.check(&grid_at);
            let optimizer = self.optimizer.check(&at.key("optimizer"));
            let training = self.training.check(&at.key("training"));
            let validation = self.validation.check(&at.key("validation"));
            let seeds = shared::seeds(self.seeds, &at.key("seeds"));
            let closed_loop = self.closed_loop.check(&at.key("closed_loop"));
            let fit = self.fit.check(&at.key("fit"));
        }
        let spec = IsoflopSpec {
            data,
            flop_budgets,
            flops: self.flops.unwrap_or(FlopsConvention::CountedTraining),
            params: self.params.unwrap_or(ParamsConvention::All),
            widths,
            width_ranges,
            grid,
            model: self.model.filled(),
            optimizer: Box::new(optimizer),
            training,
            validation,
            seeds,
            closed_loop,
            fit,
        };
        let (vocabulary, vocabulary_at) = (spec.grid.vocabulary, grid_at.key("vocabulary"));
        all! {
            let _vocabulary = check_vocabulary(&spec.data, vocabulary, &vocabulary_at, &data_at);
            let _cells = check_cells(&spec, at)
                .map_err(|error| error.about(OF_CELLS.map(|key| at.key(key))));
        }
        Ok(spec)
    }
}

/// The keys that decide which trials there are.
const OF_CELLS: [&str; 8] =
    ["flop_budgets", "flops", "params", "widths", "width_ranges", "grid", "model", "seeds"];

/// Every budget must have a cell, and not too many trials may follow.
fn check_cells(spec: &IsoflopSpec, at: &Path) -> Result<(), RecipeError> {
    let mut trials = 0;
    for budget in &spec.flop_budgets {
        let tried = spec.widths_at(*budget);
        if tried.is_empty() {
            let message = format!("no width is given for the budget {budget:e}");
            return Err(RecipeError::new(&at.key("widths"), message)
                .hint("give widths, or width_ranges that hold this budget"));
        }
        if tried.len() > WIDTHS_MAX {
            let message = format!(
                "{} widths for the budget {budget:e}, at most {WIDTHS_MAX} are tried",
                tried.len()
            );
            return Err(RecipeError::new(&at.key("width_ranges"), message));
        }
        let cells = spec.cells_at(*budget).len();
        if cells == 0 {
            return Err(no_cell(spec, *budget, &tried, at));
        }
        trials += cells * spec.seeds.len();
    }
    if trials > TRIALS_MAX {
        let message = format!("the grid has {trials} trials, at most {TRIALS_MAX} are planned");
        return Err(RecipeError::new(at, message).hint("give fewer budgets, widths or seeds"));
    }
    Ok(())
}

fn no_cell(spec: &IsoflopSpec, budget: f64, tried: &[u32], at: &Path) -> RecipeError {
    const REASONS_MAX: usize = 3;
    let mut reasons: Vec<String> = tried
        .iter()
        .filter_map(|width| Some((width, spec.cell(budget, *width).err()?)))
        .map(|(width, refusal)| format!("width {width}: {refusal}"))
        .collect();
    let more = reasons.len().saturating_sub(REASONS_MAX);
    reasons.truncate(REASONS_MAX);
    if more > 0 {
        reasons.push(format!("and {more} more widths"));
    }
    let message =
        format!("no cell of the grid is valid for the budget {budget:e} ({})", reasons.join("; "));
    RecipeError::new(&at.key("flop_budgets"), message).hint(
        "change the budget, the widths, or grid.steps_target, grid.batch_min and \
         grid.learning_rate",
    )
}
