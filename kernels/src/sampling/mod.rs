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

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sampler {
    /// The highest score; of equal ones the lowest token.
    Greedy,
    /// At random.
    Random {
        /// Above 0; below 1 sharpens, above 1 flattens.
        temperature: f64,
        /// At least 1; `None` keeps all.
        top_k: Option<u32>,
        /// In (0, 1]; `None` keeps all.
        top_p: Option<f64>,
    },
}

impl Sampler {
    /// What is wrong with it, if anything.
    pub fn fault(&self) -> Option<String> {
        let Self::Random { temperature, top_k, top_p } = *self else { return None };
        // Kernels divide by it in 32 bits.
        if !((temperature as f32).is_normal() && temperature > 0.0) {
            return Some(format!("temperature is {temperature}, it must be positive and finite"));
        }
        if top_k == Some(0) {
            return Some("top_k is 0, it must be at least 1".to_owned());
        }
        match top_p {
            Some(p) if !(p > 0.0 && p <= 1.0) => {
                Some(format!("top_p is {p}, it must be above 0 and at most 1"))
            }
            Some(_) | None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_samplers_are_named() {
        let random = |temperature, top_k, top_p| Sampler::Random { temperature, top_k, top_p };
        for (sampler, word) in [
            (random(0.0, None, None), "temperature is 0"),
            (random(f64::NAN, None, None), "temperature is NaN"),
            (random(1e-45, None, None), "temperature is 0.0"),
            (random(1.0, Some(0), None), "top_k is 0"),
            (random(1.0, None, Some(1.5)), "top_p is 1.5"),
        ] {
            assert!(sampler.fault().unwrap().starts_with(word), "{sampler:?}");
        }
        assert_eq!(random(0.5, Some(1), Some(1.0)).fault(), None);
        assert_eq!(Sampler::Greedy.fault(), None);
    }
}
