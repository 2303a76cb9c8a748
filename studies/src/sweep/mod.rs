//! Grid and random search over the parameters of any program.
//!
//! * `raw.rs`, `command.rs`: the keys of `spec.study.sweep` and their checks.
//! * [`SweepSpec`]: what they mean.
//! * `template.rs`: `{name}` in arguments and environment.
//! * `points.rs`: the parameter values of every trial.
//! * `planner.rs`: which trials come next.
//! * `results.rs`, `report.rs`: what they showed.

mod command;
mod interval;
mod planner;
mod points;
pub(crate) mod raw;
mod report;
mod results;
mod spec;
mod template;
#[cfg(test)]
mod tests;

pub use spec::{Domain, Goal, Metric, Search, SweepSpec, TRIALS_MAX};
pub use template::Template;
