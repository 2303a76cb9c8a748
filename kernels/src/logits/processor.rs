//! Three passes over a row that is in the cache: its maximum, the exponentials with their sum, and
//! the gradient.

use crate::KernelError;
use crate::simd::{exp, fma, fold, vectorized};

/// Where the exponential is as good as 0, and [`exp`] is still right.
const FAR_BELOW: f32 = -87.0;

/// The summed loss in nats of `targets` (rows) under `scores` (rows, `vocabulary`), which are
/// replaced by the gradient of `scale` times that sum. A target below 0 does not count.
///
/// # Errors
/// The slices do not fit to each other, or a target is not in the vocabulary.
pub fn loss_and_gradient(
    scores: &mut [f32],
    targets: &[i64],
    vocabulary: usize,
    cap: Option<f32>,
    scale: f32,
) -> Result<f64, KernelError> {
    let wanted = vocabulary * targets.len();
    if scores.len() != wanted {
        return Err(KernelError::Length { name: "scores", found: scores.len(), wanted });
    }
    if let Some(&target) = targets.iter().find(|&&target| target >= vocabulary as i64) {
        return Err(KernelError::Target { target, vocabulary });
    }
    let mut sum = 0.0;
    if vocabulary > 0 {
        each(scores, targets, vocabulary, cap, scale, &mut sum);
    }
    Ok(sum)
}

vectorized! {
    fn each(
        scores: &mut [f32], targets: &[i64], vocabulary: usize, cap: Option<f32>, scale: f32,
        sum: &mut f64,
    ) = rows;
}

#[inline(always)]
fn rows<const FUSED: bool>(
    scores: &mut [f32],
    targets: &[i64],
    vocabulary: usize,
    cap: Option<f32>,
    scale: f32,
    sum: &mut f64,
) {
    let mut slopes = vec![1.0; if cap.is_some() { vocabulary } else { 0 }];
    for (scores, &target) in scores.chunks_exact_mut(vocabulary).zip(targets) {
        let Ok(target) = usize::try_from(target) else {
            scores.fill(0.0);
            continue;
        };
        if let Some(cap) = cap {
            for (score, slope) in scores.iter_mut().zip(&mut slopes) {
                let share = (*score / cap).tanh();
                (*score, *slope) = (cap * share, 1.0 - share * share);
            }
        }
        *sum += row::<FUSED>(scores, target, scale);
        if cap.is_some() {
            scores.iter_mut().zip(&slopes).for_each(|(score, slope)| *score *= slope);
        }
    }
}

/// The loss of one row, whose scores become the gradient. NaN among the scores makes it NaN.
#[inline(always)]
fn row<const FUSED: bool>(scores: &mut [f32], target: usize, scale: f32) -> f64 {
    let len = scores.len();
    let given = &*scores;
    let largest = fold(len, f32::NEG_INFINITY, |a, i| a.max(given[i]), f32::max);
    let own = scores[target] - largest;
    for score in scores.iter_mut() {
        let below = *score - largest;
        // `max` would make a number of NaN.
        let near = if below < FAR_BELOW { FAR_BELOW } else { below };
        *score = exp::<FUSED>(near);
    }
    let powers = &*scores;
    let total = fold(len, 0.0, |sum, i| sum + powers[i], |a, b| a + b);
    let factor = scale / total;
    scores.iter_mut().for_each(|score| *score *= factor);
    scores[target] = fma::<FUSED>(-1.0, scale, scores[target]);
    f64::from(total.ln()) - f64::from(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn textbook(scores: &[f64], target: usize, cap: Option<f64>) -> f64 {
        let capped = |x: &f64| cap.map_or(*x, |cap| cap * (x / cap).tanh());
        let scores: Vec<f64> = scores.iter().map(capped).collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        scores.iter().map(|s| (s - largest).exp()).sum::<f64>().ln() + largest - scores[target]
    }

    fn scores(len: usize, size: f32) -> Vec<f32> {
        (0..len).map(|i| (i as f32 * 1.7).sin() * size).collect()
    }

    // Goal: the formula's loss, and the differences of the formula as gradient.
    #[test]
    fn it_is_the_formula_and_its_differences() {
        for (rows, vocabulary) in [(1, 1), (3, 7), (4, 64), (5, 257)] {
            for (cap, size) in [(None, 3.0), (None, 60.0), (Some(15.0_f32), 20.0)] {
                let given = scores(rows * vocabulary, size);
                let mut targets: Vec<i64> =
                    (0..rows).map(|row| (row * 5 % vocabulary) as i64).collect();
                if rows > 1 {
                    targets[1] = -100;
                }
                let mut found = given.clone();
                let loss = loss_and_gradient(&mut found, &targets, vocabulary, cap, 0.5).unwrap();
                let wide: Vec<f64> = given.iter().map(|&score| f64::from(score)).collect();
                let mut sum = 0.0;
                for (row, &target) in targets.iter().enumerate() {
                    let place = row * vocabulary..(row + 1) * vocabulary;
                    let (own, gradient) = (&wide[place.clone()], &found[place]);
                    let Ok(target) = usize::try_from(target) else {
                        assert!(gradient.iter().all(|&g| g == 0.0));
                        continue;
                    };
                    sum += textbook(own, target, cap.map(f64::from));
                    for (i, &g) in gradient.iter().enumerate() {
                        let at = |by: f64| {
                            let mut moved = own.to_vec();
                            moved[i] += by;
                            textbook(&moved, target, cap.map(f64::from))
                        };
                        let slope = 0.5 * (at(1e-5) - at(-1e-5)) / 2e-5;
                        assert!((f64::from(g) - slope).abs() < 2e-6, "{g} {slope}");
                    }
                }
                assert!((loss - sum).abs() < 1e-5 * (1.0 + sum), "{loss} {sum}");
            }
        }
    }

    #[test]
    fn what_is_no_number_stays_seen() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut scores = [0.0, bad, 1.0];
            let loss = loss_and_gradient(&mut scores, &[0], 3, None, 1.0).unwrap();
            assert!(!loss.is_finite(), "{bad}: {loss}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let refused = loss_and_gradient(&mut [0.0; 5], &[0, 1], 3, None, 1.0);
        assert!(matches!(refused, Err(KernelError::Length { found: 5, wanted: 6, .. })));
        let refused = loss_and_gradient(&mut [0.0; 3], &[3], 3, None, 1.0);
        assert!(matches!(refused, Err(KernelError::Target { target: 3, vocabulary: 3 })));
    }
}
