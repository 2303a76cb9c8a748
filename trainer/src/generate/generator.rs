//! Random numbers of a sampler, whose whole state is two integers.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

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
    use kernels::sampling::Sampler;
    use kernels::sampling::cpu::{choose, distribution};

    #[test]
    fn tokens_come_as_often_as_their_probabilities_say() {
        let scores = [0.0, 2.0, 1.0, 2.0, -1.0];
        let sampler = Sampler::Random { temperature: 0.7, top_k: None, top_p: None };
        let mut counts = [0u32; 5];
        let mut generator = Generator { seed: 3, sequence: 0, drawn: 0 };
        const DRAWS: u32 = 20_000;
        for _ in 0..DRAWS {
            counts[choose(&sampler, &scores, generator.uniform()).unwrap()] += 1;
        }
        for (token, p) in distribution(&sampler, &scores) {
            let found = f64::from(counts[token]) / f64::from(DRAWS);
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
}
