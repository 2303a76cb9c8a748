//! Post-training: a small policy imitates answers and is then rewarded for right ones. Variants of
//! the loss, learning rates and weights of the divergence are compared, each with every seed.
//!
//! * `raw.rs`: the keys of `spec.study.grpo` and their checks; [`GrpoSpec`]: what they mean.
//! * `planner.rs`: every combination is one trial of the runner `grpo`.
//! * `report.rs`: held-out accuracy before and after the rewards, with intervals, and the courses
//!   of reward, accuracy, entropy, length and divergence; `wilson.rs`: the intervals.

mod planner;
pub(crate) mod raw;
mod report;
mod spec;
#[cfg(test)]
mod tests;
mod wilson;

pub use spec::{Constants, GrpoSpec, Policy, Problems, Supervised};
