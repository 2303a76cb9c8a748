//! A checked `spec.study.isoflop`.

use super::grid::{FlopsConvention, ParamsConvention};
use super::planner::IsoflopStudy;
use crate::fit::Objective;
use crate::recipe::{Needs, StudyError, TrialSettings, Wanted};
use crate::study::Study;
use crate::training::{Architecture, Data, Optimizer, TrainingSettings};
use proto::{Inputs, Validation};
use serde::Serialize;

/// What to train and what to fit; every value is in its range, and every budget has a cell.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct IsoflopSpec {
    /// The text.
    pub data: Data,
    /// Budgets C in FLOPs, ascending, distinct.
    pub flop_budgets: Vec<f64>,
    /// What a budget counts.
    pub flops: FlopsConvention,
    /// What N counts.
    pub params: ParamsConvention,
    /// Widths to try at every budget.
    pub widths: Vec<u32>,
    /// Widths to try at some budgets.
    pub width_ranges: Vec<WidthRange>,
    /// Constants of the generator.
    pub grid: Grid,
    /// What all models have in common.
    pub model: Architecture,
    /// What all trainings have in common.
    pub optimizer: Box<Optimizer>,
    /// How a step is computed, and what is kept beside the weights.
    pub training: TrainingSettings,
    /// How the held-out loss is measured.
    pub validation: Validation,
    /// Every cell is trained once for each.
    pub seeds: Vec<u64>,
    /// When to ask for more cells.
    pub closed_loop: ClosedLoop,
    /// How to fit.
    pub fit: FitSettings,
}

/// Widths `from`, `from + step`, ... up to `to`, at the budgets in a range.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WidthRange {
    /// First width.
    pub from: u32,
    /// Last width, at most.
    pub to: u32,
    /// Distance.
    pub step: u32,
    /// Smallest budget that it is for, in FLOPs.
    pub budget_min: Option<f64>,
    /// Largest budget that it is for, in FLOPs.
    pub budget_max: Option<f64>,
}

impl WidthRange {
    pub(super) fn holds(&self, budget: f64) -> bool {
        self.budget_min.is_none_or(|min| budget >= min)
            && self.budget_max.is_none_or(|max| budget <= max)
    }
}

/// Constants of the generator. In brackets SODA's values.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Grid {
    /// Context S in tokens. (SODA: 4096)
    pub sequence: u32,
    /// Vocabulary V. (SODA: 144644)
    pub vocabulary: u32,
    /// Width of one attention head: heads = max(1, d / head_width). (SODA: 128)
    pub head_width: u32,
    /// MLP width over d. (SODA: 4)
    pub mlp_ratio: f64,
    /// Layers by width.
    pub layers: LayerRule,
    /// Steps that the batch aims at: `B = 2^ceil(log2(D / (steps_target S)))`. (SODA: 65536)
    pub steps_target: u64,
    /// Smallest batch in sequences. (SODA: 8)
    pub batch_min: u32,
    /// A cell has fewer steps than this. (SODA: 400000)
    pub steps_max: u64,
    /// Largest relative distance from the budget. (SODA: 0.01)
    pub tolerance: f64,
    /// Peak learning rate by batch and width.
    pub learning_rate: LearningRateRule,
    /// Decay of the second moment by batch.
    pub beta2: Beta2Rule,
}

/// `layers = round(d / (base + per_log2_width log2 d))`, at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LayerRule {
    /// (SODA: 57)
    pub base: f64,
    /// (SODA: 4)
    pub per_log2_width: f64,
}

/// `learning rate = scale sqrt(B) / d`; the batch is halved while it exceeds `max`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LearningRateRule {
    /// (SODA: 0.33)
    pub scale: f64,
    /// (SODA: 0.01)
    pub max: f64,
}

/// `beta2 = base^(B / batch)`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Beta2Rule {
    /// (SODA: 0.98)
    pub base: f64,
    /// (SODA: 128)
    pub batch: f64,
}

/// When to ask for more cells.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ClosedLoop {
    /// Most cells that a budget gets beyond its grid.
    pub extra_cells_max: u32,
    /// A bracketed minimum is sharp enough when its interval's ends are within this factor.
    pub interval_factor_max: f64,
    /// Extra widths are multiples of this.
    pub width_multiple: u32,
}

/// How to fit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct FitSettings {
    /// What the parametric fit minimises.
    pub objective: Objective,
    /// Bootstrap resamples.
    pub resamples: u32,
    /// Seed of the resamples.
    pub seed: u64,
    /// Budget in FLOPs at which N* and D* are predicted.
    pub target_budget: Option<f64>,
}

impl IsoflopSpec {
    /// The files that the client has to read.
    pub fn wanted(&self) -> Wanted {
        self.data.wanted()
    }

    /// What executes the trials.
    pub(crate) fn needs(&self) -> Needs {
        Needs::Trainer { batch_min: self.grid.batch_min }
    }

    /// The planner.
    ///
    /// # Errors
    /// [`StudyError`] when the text is missing or too short for one sequence of training and one
    /// of held-out text.
    pub fn study(
        &self,
        trial: TrialSettings,
        inputs: &Inputs,
    ) -> Result<Box<dyn Study>, StudyError> {
        let data = self.data.spec(inputs, self.grid.sequence)?;
        Ok(Box::new(IsoflopStudy::new(self.clone(), trial, data)))
    }
}
