//! The grid: which models a budget trains, by the rules of SODA's generator (arXiv 2602.16687)
//! with every constant configurable.

use super::spec::IsoflopSpec;
use proto::{ModelSpec, Positions};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Largest width, layers, batch and steps: those that the trainer accepts.
pub(crate) const WIDTH_MAX: u32 = 1 << 16;
const LAYERS_MAX: f64 = 1024.0;
const MLP_WIDTH_MAX: f64 = (1 << 20) as f64;
const BATCH_MAX: f64 = (1 << 16) as f64;

/// What a budget counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlopsConvention {
    /// Forward and backward pass as counted by
    /// [`ModelSpec::training_flops`](proto::ModelSpec::training_flops).
    CountedTraining,
    /// The forward pass alone: a third of it. SODA's generator.
    CountedForward,
    /// `6 N D`, with N by the recipe's own convention. Chinchilla.
    #[serde(rename = "6nd")]
    SixNd,
}

impl fmt::Display for FlopsConvention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CountedTraining => "counted training FLOPs",
            Self::CountedForward => "counted forward FLOPs (a third of training)",
            Self::SixNd => "6 N D FLOPs",
        })
    }
}

/// Which parameters N counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParamsConvention {
    /// Every trained value.
    All,
    /// Without token embedding, output layer and learned positions.
    NonEmbedding,
    /// Every trained value but the norm before the output layer. SODA's table.
    AllButFinalNorm,
}

impl ParamsConvention {
    /// N of a model.
    pub fn count(self, model: &ModelSpec) -> u64 {
        match self {
            Self::All => model.parameters(),
            Self::NonEmbedding => model.non_embedding_parameters(),
            Self::AllButFinalNorm => {
                model.parameters() - model.norm.vectors() * u64::from(model.width)
            }
        }
    }
}

impl fmt::Display for ParamsConvention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "all parameters",
            Self::NonEmbedding => "parameters without embeddings",
            Self::AllButFinalNorm => "all parameters but the final norm",
        })
    }
}

/// One model and its training at one budget.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// The budget C that it belongs to, in the recipe's convention.
    pub budget: f64,
    /// Shape.
    pub model: ModelSpec,
    /// Sequences per step.
    pub batch: u32,
    /// Optimiser steps.
    pub steps: u64,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// N in the recipe's convention.
    pub parameters: u64,
    /// Training tokens D.
    pub tokens: u64,
    /// FLOPs in the recipe's convention; near the budget.
    pub flops: f64,
}

/// Why a width gives no cell at a budget.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Refusal {
    /// The layer rule or the MLP ratio gives a shape that no model has.
    Shape,
    /// The batch that keeps the learning rate in its limit is below the smallest.
    SmallBatch,
    /// The batch is beyond what the trainer accepts.
    LargeBatch,
    /// Whole steps miss the budget by more than the tolerance; the share that is reached.
    Budget(f64),
    /// More steps than allowed.
    Steps(f64),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape => f.write_str("the layer rule gives no model"),
            Self::SmallBatch => f.write_str("its batch is below grid.batch_min"),
            Self::LargeBatch => write!(f, "its batch is above {BATCH_MAX}"),
            Self::Budget(share) => write!(
                f,
                "whole steps reach {:.1} % of the budget, outside grid.tolerance",
                100.0 * share
            ),
            Self::Steps(steps) => write!(f, "it takes {steps:.0} steps, more than grid.steps_max"),
        }
    }
}

impl IsoflopSpec {
    /// The widths to try at a budget, ascending.
    pub fn widths_at(&self, budget: f64) -> Vec<u32> {
        let ranges = self.width_ranges.iter().filter(|range| range.holds(budget));
        let mut widths = self.widths.clone();
        for range in ranges {
            widths.extend((range.from..=range.to).step_by(range.step as usize));
        }
        widths.sort_unstable();
        widths.dedup();
        widths
    }

    /// The cells of a budget, by ascending width.
    pub fn cells_at(&self, budget: f64) -> Vec<Cell> {
        let widths = self.widths_at(budget);
        widths.into_iter().filter_map(|width| self.cell(budget, width).ok()).collect()
    }

    /// The model of a width and its training at a budget.
    ///
    /// # Errors
    /// [`Refusal`] says which rule the width breaks.
    pub fn cell(&self, budget: f64, width: u32) -> Result<Cell, Refusal> {
        let grid = &self.grid;
        let model = self.shape(width).ok_or(Refusal::Shape)?;
        let parameters = self.params.count(&model);
        let per_token = self.flops_per_token(&model);
        let sequence = f64::from(grid.sequence);
        let wanted = budget / (per_token * grid.steps_target as f64 * sequence);
        let mut batch = wanted.log2().ceil().exp2();
        let rate = |batch: f64| grid.learning_rate.scale * batch.sqrt() / f64::from(width);
        while rate(batch) > grid.learning_rate.max && batch >= 1.0 {
            batch /= 2.0;
        }
        if batch < f64::from(grid.batch_min) {
            return Err(Refusal::SmallBatch);
        }
        if batch > BATCH_MAX {
            return Err(Refusal::LargeBatch);
        }
        let steps = (budget / (per_token * batch * sequence)).round_ties_even();
        let flops = per_token * batch * sequence * steps;
        if (flops / budget - 1.0).abs() > grid.tolerance {
            return Err(Refusal::Budget(flops / budget));
        }
        if steps >= grid.steps_max as f64 {
            return Err(Refusal::Steps(steps));
        }
        Ok(Cell {
            budget,
            batch: batch as u32,
            steps: steps as u64,
            learning_rate: rate(batch),
            beta2: grid.beta2.base.powf(batch / grid.beta2.batch),
            parameters,
            tokens: batch as u64 * u64::from(grid.sequence) * steps as u64,
            flops,
            model,
        })
    }

    /// FLOPs of one training token in the recipe's convention.
    pub(super) fn flops_per_token(&self, model: &ModelSpec) -> f64 {
        match self.flops {
            FlopsConvention::CountedTraining => model.training_flops(1),
            FlopsConvention::CountedForward => model.forward_flops_per_token() as f64,
            FlopsConvention::SixNd => 6.0 * self.params.count(model) as f64,
        }
    }

    /// The shape of a width, or `None` when the rules give none that the trainer accepts.
    fn shape(&self, width: u32) -> Option<ModelSpec> {
        let (grid, model) = (&self.grid, &self.model);
        let d = f64::from(width);
        let layers = (d / (grid.layers.base + grid.layers.per_log2_width * d.log2()))
            .round_ties_even()
            .max(1.0);
        let mlp_width = (grid.mlp_ratio * d).round();
        let pair = match model.positions {
            Positions::Learned => 1,
            Positions::Rotary => 2,
        };
        let mut heads = (width / grid.head_width).max(1);
        while heads > 1 && !width.is_multiple_of(heads * pair) {
            heads -= 1;
        }
        let valid = (1..=WIDTH_MAX).contains(&width)
            && width.is_multiple_of(heads * pair)
            && layers <= LAYERS_MAX
            && (1.0..=MLP_WIDTH_MAX).contains(&mlp_width);
        valid.then_some(ModelSpec {
            vocabulary: grid.vocabulary,
            sequence: grid.sequence,
            width,
            layers: layers as u32,
            heads,
            mlp_width: mlp_width as u32,
            mlp: model.mlp,
            tied: model.tied,
            positions: model.positions,
            norm: model.norm,
        })
    }
}
