//! The science: what a recipe asks for, which trials come next, and what the results mean.
//!
//! * [`recipe`]: YAML text to a checked [`Recipe`](recipe::Recipe).
//! * [`study`]: the frame that every study fills: [`Study`](study::Study).
//! * [`isoflop`], [`train`], [`grpo`], [`sweep`]: the studies, one folder each.
//! * [`training`]: what recipes with Brine's own trainer share.
//! * [`fit`]: scaling-law fits and their intervals.
//! * [`report`]: a study's findings as data, and as HTML, CSV and JSON.
//!
//! Nothing here does I/O, reads a clock, or draws a random number that was not seeded by its
//! caller.

pub mod fit;
pub mod grpo;
mod interval;
pub mod isoflop;
pub mod recipe;
pub mod report;
pub mod study;
pub mod sweep;
pub mod train;
pub mod training;
