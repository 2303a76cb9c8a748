//! Scaling-law fits: both methods side by side, with bootstrap intervals.
//!
//! * [`analyse`]: points in, [`Analysis`] out: the parametric fit, Approach 2, predictions.
//! * [`parametric`]: `L = E + A / N^alpha + B / D^beta` by a search of our own.
//! * [`approach2`]: a parabola per budget, then lines through the minima.
//! * [`table`]: points from a CSV file, for `brine fit`.
//!
//! Nothing here knows where a point came from. Random numbers come from the caller's seed.

mod analysis;
pub mod approach2;
mod bootstrap;
mod linear;
mod newton;
mod notes;
pub mod parametric;
mod starts;
pub mod table;
#[cfg(test)]
mod tests;

pub(crate) use analysis::fit_budgets;
pub use analysis::{
    Analysis, Approach2, BudgetFit, BudgetMinimum, Estimate, Method, Options, Parametric,
    Prediction, Resamples, analyse,
};
pub use parametric::{Objective, Surface};

/// Most resamples: the ends of a 95 % interval are stable long before.
pub const RESAMPLES_MAX: u32 = 20_000;
/// Most budgets of which each is listed; a budget column with more is not a list of budgets.
pub const BUDGETS_MAX: usize = 200;

/// One trained model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Parameters N; positive.
    pub parameters: f64,
    /// Training tokens D; positive.
    pub tokens: f64,
    /// Final loss L; positive.
    pub loss: f64,
    /// The FLOP budget C that it belongs to, for Approach 2.
    pub budget: Option<f64>,
}

impl Point {
    fn logs(&self) -> [f64; 3] {
        [self.parameters.ln(), self.tokens.ln(), self.loss.ln()]
    }
}

/// Why a table of points has no parametric fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FitError {
    /// Fewer points than unknowns plus one.
    #[error("a parametric fit needs at least {needed} points, found {found}")]
    TooFewPoints {
        /// Points given.
        found: usize,
        /// Points wanted.
        needed: usize,
    },
    /// A column does not vary, so nothing depends on it.
    #[error("all {what} are equal; a parametric fit needs them to vary")]
    AllEqual {
        /// The column, in words.
        what: &'static str,
    },
    /// N and D carry the same information.
    #[error(
        "ln N and ln D lie on one line, so the terms of N and D cannot be told apart; \
         vary the ratio of tokens to parameters"
    )]
    Collinear,
    /// No search ended at a minimum.
    #[error("no search for the five constants converged; the losses may not fall with N and D")]
    NotConverged,
}
