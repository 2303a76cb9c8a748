//! Grid and random search over the parameters of any program.
//!
//! * `raw.rs`, `command.rs`: the keys of `spec.study.sweep` and their checks.
//! * [`SweepSpec`]: what they mean.
//! * `template.rs`: `{name}` in arguments and environment.
//! * `points.rs`: the parameter values of every trial.
//! * `planner.rs`: which trials come next.
//! * [`EarlyStopping`]: which of them are ended before they are done, and why.
//! * `results.rs`, `report.rs`, `figures.rs`: what they showed; `completion.rs`: when nothing is
//!   measured.

mod command;
mod completion;
mod figures;
mod planner;
mod points;
pub(crate) mod raw;
mod report;
mod results;
mod spec;
mod stopping;
mod template;
#[cfg(test)]
mod tests;

pub use spec::{
    Command, Domain, GRID_TRIALS_MAX, Goal, Metric, Program, RANDOM_TRIALS_MAX, Search, SweepSpec,
};
pub use stopping::{Asha, EarlyStopping, Hyperband, Median};
pub use template::Template;
