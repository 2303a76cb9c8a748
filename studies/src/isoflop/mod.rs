//! Compute-optimal model and data size from training runs of equal compute.
//!
//! * [`spec`]: the checked recipe section; `raw` is the section as it is written.
//! * [`grid`]: budgets and widths to models, batches, steps and rates, by SODA's rules.
//! * `planner`: the grid first; then, budget by budget, the cells that `closed_loop` asks for.
//! * `findings`, `report`, `figures`: both fits of the measured losses, as tables and pictures.
//!
//! A decision looks only at the outcomes of its own budget, so a restart repeats it exactly.

mod closed_loop;
mod figures;
mod findings;
pub mod grid;
mod history;
mod planner;
pub(crate) mod raw;
mod report;
pub mod spec;
#[cfg(test)]
mod tests;

pub use grid::{Cell, FlopsConvention, ParamsConvention, Refusal};
pub use spec::IsoflopSpec;
