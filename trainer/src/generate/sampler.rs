//! The next token from its scores: pure functions, and random numbers whose state is two integers.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sampler {
    /// The highest score; of equal ones the lowest token.
    Greedy,
    /// At random: scores are divided by the temperature, then the `top_k` highest are kept, then
    /// the fewest of these whose probabilities sum to at least `top_p` (Holtzman et al. 2019,
    /// arXiv 1904.09751).
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
    pub(super) fn fault(&self) -> Option<String> {
        let Self::Random { temperature, top_k, top_p } = *self else { return None };
        if !(temperature.is_finite() && temperature > 0.0) {
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

    /// The token to take after `logits`, one finite score per token. `uniform`, in [0, 1), decides.
    pub fn choose(&self, logits: &[f32], uniform: f64) -> u32 {
        let kept = self.distribution(logits);
        let mut left = uniform;
        for &(token, probability) in &kept {
            left -= probability;
            if left < 0.0 {
                return token;
            }
        }
        // Probabilities may sum to a little less than one.
        kept.last().map_or(0, |&(token, _)| token)
    }

    /// Tokens that may be taken and their probabilities, most probable first; equal ones in the
    /// order of their numbers.
    pub fn distribution(&self, logits: &[f32]) -> Vec<(u32, f64)> {
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        let score = |token: u32| logits[token as usize];
        order.sort_by(|&a, &b| score(b).total_cmp(&score(a)).then(a.cmp(&b)));
        let Self::Random { temperature, top_k, top_p } = *self else {
            return order.first().map(|&token| (token, 1.0)).into_iter().collect();
        };
        order.truncate(top_k.map_or(usize::MAX, |k| k as usize));
        let highest = order.first().map_or(0.0, |&token| f64::from(score(token)));
        let weight = |token: u32| ((f64::from(score(token)) - highest) / temperature).exp();
        let mut kept: Vec<_> = order.into_iter().map(|token| (token, weight(token))).collect();
        normalize(&mut kept);
        if let Some(p) = top_p {
            let mut sum = 0.0;
            let enough = kept.iter().position(|(_, probability)| {
                sum += probability;
                sum >= p
            });
            kept.truncate(enough.map_or(kept.len(), |last| last + 1));
            normalize(&mut kept);
        }
        kept
    }
}

fn normalize(kept: &mut [(u32, f64)]) {
    let sum: f64 = kept.iter().map(|(_, weight)| weight).sum();
    kept.iter_mut().for_each(|(_, weight)| *weight /= sum);
}

/// Random numbers for one sequence. Its whole state is the seed, the sequence and how many were
/// drawn, so what is drawn for a prompt does not depend on which others share its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generator {
    /// The user's.
    pub seed: u64,
    /// Number of the prompt.
    pub sequence: u64,
    /// Numbers drawn so far.
    pub drawn: u64,
}

impl Generator {
    /// The next number, in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        const WORDS: u128 = 2; // of 32 bits, in one number of 64
        let mut stream = ChaCha8Rng::seed_from_u64(self.seed);
        stream.set_stream(self.sequence);
        stream.set_word_pos(WORDS * u128::from(self.drawn));
        self.drawn += 1;
        (stream.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [0.0, 2.0, 1.0, 2.0, -1.0];

    fn random(temperature: f64, top_k: Option<u32>, top_p: Option<f64>) -> Sampler {
        Sampler::Random { temperature, top_k, top_p }
    }

    #[test]
    fn what_is_kept_is_what_the_names_say() {
        let tokens = |sampler: Sampler| -> Vec<u32> {
            let kept = sampler.distribution(&LOGITS);
            let sum: f64 = kept.iter().map(|(_, p)| p).sum();
            assert!((sum - 1.0).abs() < 1e-12, "{sampler:?}");
            kept.into_iter().map(|(token, _)| token).collect()
        };
        assert_eq!(tokens(Sampler::Greedy), [1]);
        assert_eq!(tokens(random(1.0, None, None)), [1, 3, 2, 0, 4]);
        assert_eq!(tokens(random(1.0, Some(3), None)), [1, 3, 2]);
        assert_eq!(tokens(random(1.0, Some(99), None)), [1, 3, 2, 0, 4]);
        // Probabilities .388 .388 .143 .053 .019.
        assert_eq!(tokens(random(1.0, None, Some(0.5))), [1, 3]);
        assert_eq!(tokens(random(1.0, None, Some(0.8))), [1, 3, 2]);
        assert_eq!(tokens(random(1.0, None, Some(1e-9))), [1]);
        assert_eq!(tokens(random(0.1, None, Some(0.99))), [1, 3], "sharpened before the cut");
        // Of the two that top_k keeps, the first has half.
        assert_eq!(tokens(random(1.0, Some(2), Some(0.5))), [1]);
    }

    #[test]
    fn tokens_come_as_often_as_their_probabilities_say() {
        let sampler = random(0.7, None, None);
        let mut counts = [0u32; 5];
        let mut generator = Generator { seed: 3, sequence: 0, drawn: 0 };
        const DRAWS: u32 = 20_000;
        for _ in 0..DRAWS {
            counts[sampler.choose(&LOGITS, generator.uniform()) as usize] += 1;
        }
        for (token, p) in sampler.distribution(&LOGITS) {
            let found = f64::from(counts[token as usize]) / f64::from(DRAWS);
            let deviation = (p * (1.0 - p) / f64::from(DRAWS)).sqrt();
            assert!((found - p).abs() < 5.0 * deviation, "{token}: {found} {p}");
        }
    }

    #[test]
    fn a_generator_is_its_numbers() {
        let mut first = Generator { seed: 1, sequence: 2, drawn: 0 };
        let numbers = [first.uniform(), first.uniform(), first.uniform()];
        let mut later = Generator { drawn: 2, ..Generator { seed: 1, sequence: 2, drawn: 0 } };
        assert_eq!(later.uniform(), numbers[2]);
        assert_eq!(first, later);
        let other = Generator { seed: 1, sequence: 3, drawn: 0 }.uniform();
        assert!(!numbers.contains(&other));
    }

    #[test]
    fn impossible_samplers_are_named() {
        for (sampler, word) in [
            (random(0.0, None, None), "temperature is 0"),
            (random(f64::NAN, None, None), "temperature is NaN"),
            (random(1.0, Some(0), None), "top_k is 0"),
            (random(1.0, None, Some(1.5)), "top_p is 1.5"),
        ] {
            assert!(sampler.fault().unwrap().starts_with(word), "{sampler:?}");
        }
        assert_eq!(random(0.5, Some(1), Some(1.0)).fault(), None);
    }
}
