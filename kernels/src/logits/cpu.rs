//! The reference: float32, row by row, with the sum over a row in 64 bits.

/// The loss of one row of logits (V), which becomes its gradient times `scale`. `target` is None
/// where the row is not scored. `cap` bounds the logits.
///
/// # Panics
/// The target is no token.
pub fn cross_entropy(
    logits: &mut [f32],
    target: Option<usize>,
    cap: Option<f32>,
    scale: f32,
) -> f32 {
    let Some(target) = target else {
        logits.fill(0.0);
        return 0.0;
    };
    if let Some(cap) = cap {
        logits.iter_mut().for_each(|z| *z = cap * (*z / cap).tanh());
    }
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from((l - highest).exp())).sum();
    // The highest is taken off first: beside a large one the sum's logarithm would lose its digits.
    let loss = sum.ln() as f32 + (highest - logits[target]);
    let share = (1.0 / sum) as f32;
    for (token, l) in logits.iter_mut().enumerate() {
        let bend = cap.map_or(1.0, |cap| 1.0 - (*l / cap) * (*l / cap));
        let hit = if token == target { 1.0 } else { 0.0 };
        *l = ((*l - highest).exp() * share - hit) * scale * bend;
    }
    loss
}

#[cfg(test)]
mod tests {
    use super::*;

    fn textbook(z: &[f64], target: usize, cap: Option<f64>) -> f64 {
        let bound = |z: f64| cap.map_or(z, |cap| cap * (z / cap).tanh());
        let sum: f64 = z.iter().map(|&z| bound(z).exp()).sum();
        sum.ln() - bound(z[target])
    }

    // Goal: the loss is the formula's, and the gradient its slope in 64 bits.
    #[test]
    fn loss_and_gradient_are_the_formula_s() {
        for cap in [None, Some(2.5)] {
            for len in [1, 2, 13, 50] {
                let z: Vec<f64> = (0..len).map(|i| (i as f64 * 1.7).sin() * 4.0).collect();
                for target in [0, len / 2, len - 1] {
                    let mut found: Vec<f32> = z.iter().map(|&z| z as f32).collect();
                    let single = cap.map(|cap| cap as f32);
                    let loss = cross_entropy(&mut found, Some(target), single, 0.5);
                    let wanted = textbook(&z, target, cap);
                    assert!((f64::from(loss) - wanted).abs() < 2e-6 * (1.0 + wanted), "{loss}");
                    for (i, found) in found.iter().enumerate() {
                        let at = |step: f64| {
                            let mut z = z.clone();
                            z[i] += step;
                            textbook(&z, target, cap)
                        };
                        let wanted = 0.5 * (at(1e-5) - at(-1e-5)) / 2e-5;
                        let error = (f64::from(*found) - wanted).abs();
                        assert!(error < 1e-6, "{i} of {len}: {found} is not {wanted}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_that_is_not_scored_has_no_loss_and_no_gradient() {
        let mut row = [1.0, 2.0];
        assert_eq!(cross_entropy(&mut row, None, None, 1.0), 0.0);
        assert_eq!(row, [0.0, 0.0]);
    }

    #[test]
    fn large_logits_and_forbidden_tokens_do_no_harm() {
        let mut row = [1e4, f32::NEG_INFINITY, 1e4];
        let loss = cross_entropy(&mut row, Some(0), None, 1.0);
        assert!((loss - 2.0_f32.ln()).abs() < 1e-6, "{loss}");
        assert_eq!(row, [-0.5, 0.0, 0.5]);
    }
}
