//! Models of one given shape, trained on one text: learning rates are compared, each with every
//! seed.
//!
//! * `raw.rs`: the keys of `spec.study.train` and their checks; [`TrainStudySpec`]: what they mean.
//! * `planner.rs`: every learning rate with every seed is one trial of the runner `train`.
//! * `report.rs`: held-out loss with intervals over the seeds, and the courses of the losses.

mod planner;
pub(crate) mod raw;
mod report;
mod spec;
#[cfg(test)]
mod tests;

pub use spec::{Length, TrainStudySpec};
