//! The reference: sorts, and sums in float64.

use super::Sampler;

/// The tokens of `scores` (V) that may be taken and their probabilities, most probable first; of
/// equal scores the lowest token first.
pub fn distribution(sampler: &Sampler, scores: &[f32]) -> Vec<(usize, f64)> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    let Sampler::Random { temperature, top_k, top_p } = *sampler else {
        return order.first().map(|&token| (token, 1.0)).into_iter().collect();
    };
    order.truncate(top_k.map_or(usize::MAX, |k| k as usize));
    let highest = order.first().map_or(0.0, |&token| f64::from(scores[token]));
    let weight = |token: usize| ((f64::from(scores[token]) - highest) / temperature).exp();
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

fn normalize(kept: &mut [(usize, f64)]) {
    let sum: f64 = kept.iter().map(|(_, weight)| weight).sum();
    kept.iter_mut().for_each(|(_, weight)| *weight /= sum);
}

/// The token on which `uniform`, in [0, 1), falls; None for no scores.
pub fn choose(sampler: &Sampler, scores: &[f32], uniform: f64) -> Option<usize> {
    let kept = distribution(sampler, scores);
    let mut left = uniform;
    for &(token, probability) in &kept {
        left -= probability;
        if left < 0.0 {
            return Some(token);
        }
    }
    // Probabilities may sum to a little less than one.
    kept.last().map(|&(token, _)| token)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCORES: [f32; 5] = [0.0, 2.0, 1.0, 2.0, -1.0];

    #[test]
    fn what_is_kept_is_what_the_names_say() {
        let check = |temperature: f64, top_k: Option<u32>, top_p: Option<f64>, kept: &[usize]| {
            let sampler = Sampler::Random { temperature, top_k, top_p };
            let found = distribution(&sampler, &SCORES);
            let tokens: Vec<usize> = found.iter().map(|&(token, _)| token).collect();
            assert_eq!(tokens, kept, "{sampler:?}");
            let sum: f64 = found.iter().map(|&(_, probability)| probability).sum();
            assert!((sum - 1.0).abs() < 1e-12, "{sampler:?}");
        };
        check(1.0, None, None, &[1, 3, 2, 0, 4]);
        check(1.0, Some(3), None, &[1, 3, 2]);
        check(1.0, Some(99), None, &[1, 3, 2, 0, 4]);
        // Probabilities .388 .388 .143 .053 .019.
        check(1.0, None, Some(0.5), &[1, 3]);
        check(1.0, None, Some(0.8), &[1, 3, 2]);
        check(1.0, None, Some(1e-9), &[1]);
        check(0.1, None, Some(0.99), &[1, 3]);
        check(1.0, Some(2), Some(0.5), &[1]);
        assert_eq!(distribution(&Sampler::Greedy, &SCORES), [(1, 1.0)]);
    }

    #[test]
    fn a_number_falls_on_the_token_whose_share_it_is() {
        let sampler = Sampler::Random { temperature: 1.0, top_k: Some(3), top_p: None };
        // Shares .422 .422 .155.
        for (uniform, token) in [(0.0, 1), (0.42, 1), (0.43, 3), (0.84, 3), (0.85, 2), (1.0, 2)] {
            assert_eq!(choose(&sampler, &SCORES, uniform), Some(token), "{uniform}");
        }
        assert_eq!(choose(&sampler, &[], 0.5), None);
    }
}
