//! Trials as the study reads them.

use super::spec::IsoflopSpec;
use crate::fit::Point;
use crate::study::TrialView;
use proto::{Outcome, Runner};

/// Name of the trial parameter that holds the budget.
pub(super) const BUDGET: &str = "flop_budget";
/// Metric that the study fits, in nats per token.
pub(super) const LOSS: &str = "validation_loss";
/// The same in bits per byte.
pub(super) const BITS: &str = "validation_bits_per_byte";

/// One trial of this study.
#[derive(Debug, Clone, Copy)]
pub(super) struct Training<'a> {
    pub(super) view: TrialView<'a>,
    /// C in the recipe's convention.
    pub(super) budget: f64,
    pub(super) width: u32,
    /// N in the recipe's convention.
    pub(super) parameters: f64,
    /// D.
    pub(super) tokens: f64,
    /// FLOPs in the recipe's convention.
    pub(super) flops: f64,
    pub(super) state: State,
}

/// What is known about its loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum State {
    /// It waits or trains.
    Open,
    /// Its held-out loss in nats per token.
    Measured(f64),
    /// It ended without a loss that can be fitted.
    LeftOut,
}

impl<'a> Training<'a> {
    /// Reads a trial; `None` for one that this study did not plan.
    fn read(spec: &IsoflopSpec, view: TrialView<'a>) -> Option<Self> {
        let Runner::Train(train) = &view.spec.runner else {
            return None;
        };
        let state = match view.outcome {
            None => State::Open,
            Some(Outcome::Completed { metrics, .. }) => match metrics.get(LOSS) {
                Some(loss) if loss.is_finite() && *loss > 0.0 => State::Measured(*loss),
                Some(_) | None => State::LeftOut,
            },
            Some(Outcome::Diverged { .. } | Outcome::Failed { .. }) => State::LeftOut,
        };
        Some(Self {
            view,
            budget: view.spec.parameters.get(BUDGET)?.as_f64()?,
            width: train.model.width,
            parameters: spec.params.count(&train.model) as f64,
            tokens: train.tokens() as f64,
            flops: spec.flops_per_token(&train.model) * train.tokens() as f64,
            state,
        })
    }

    /// Every trial of this study, in planning order.
    pub(super) fn read_all(spec: &IsoflopSpec, views: &[TrialView<'a>]) -> Vec<Self> {
        views.iter().filter_map(|view| Self::read(spec, *view)).collect()
    }

    /// What the fits see, when there is a loss.
    pub(super) fn point(&self) -> Option<Point> {
        let State::Measured(loss) = self.state else {
            return None;
        };
        Some(Point {
            parameters: self.parameters,
            tokens: self.tokens,
            loss,
            budget: Some(self.budget),
        })
    }

    /// How it ended without a loss, in words.
    pub(super) fn left_out_reason(&self) -> Option<String> {
        if self.state != State::LeftOut {
            return None;
        }
        Some(match self.view.outcome? {
            Outcome::Completed { .. } => format!("completed without a positive {LOSS}"),
            Outcome::Diverged { metric, step } => format!("diverged ({metric} at step {step})"),
            Outcome::Failed { class, .. } => format!("ended as {}", class.word()),
        })
    }
}
