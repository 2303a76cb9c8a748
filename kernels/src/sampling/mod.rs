//! The next token of each row of scores, chosen where the scores are.
//!
//! Scores are divided by the temperature, then the `top_k` highest are kept, then the fewest of
//! these whose probabilities sum to at least `top_p` (Holtzman et al. 2019, arXiv 1904.09751). Of
//! equal scores the lowest token comes first. The kept tokens lie on [0, 1) by their probabilities,
//! most probable first, and the row's random number, which the caller draws, falls on one of them:
//! a seed gives the same tokens here and on the processor, unless the number falls within some 1e-7
//! of a border.
//!
//! Shapes: scores (rows, V) and finite, float32; random numbers (rows) in [0, 1), float64; tokens
//! (rows), int64, -1 where a score is not a number or the highest is infinite. The scores are read
//! up to 24 times, all but once from the caches.

pub mod cpu;
pub mod cuda;

use crate::launch::Module;

/// Scores are float32.
pub(crate) static MODULES: [Module; 1] = [Module {
    name: "sampling",
    source: include_str!("sampling.cu"),
    options: &[],
    functions: &["sample"],
}];

/// Which tokens may be taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sampler {
    /// The highest score.
    Greedy,
    /// At random.
    Random {
        /// Above 0 and finite.
        temperature: f64,
        /// At least 1; None keeps all.
        top_k: Option<u32>,
        /// In (0, 1]; None keeps all.
        top_p: Option<f64>,
    },
}
