//! Plain float32, value by value, in the kernel's order of operations: the reference, and the
//! processor's kernel, because it rounds alike however wide the vectors are.

use super::{Constants, check_lengths};
use crate::KernelError;
use crate::simd::vectorized;

/// One update in place.
///
/// # Errors
/// The slices have different lengths.
pub fn update(
    parameters: &mut [f32],
    gradient: &[f32],
    first_moment: &mut [f32],
    second_moment: &mut [f32],
    constants: &Constants,
) -> Result<(), KernelError> {
    check_lengths(parameters.len(), gradient.len(), first_moment.len(), second_moment.len())?;
    each(parameters, gradient, first_moment, second_moment, constants);
    Ok(())
}

vectorized! {
    fn each(
        parameters: &mut [f32], gradient: &[f32], first_moment: &mut [f32],
        second_moment: &mut [f32], constants: &Constants,
    ) = values;
}

/// Whether there is a fused instruction does not matter: none may be used.
#[inline(always)]
fn values<const FUSED: bool>(
    parameters: &mut [f32],
    gradient: &[f32],
    first_moment: &mut [f32],
    second_moment: &mut [f32],
    constants: &Constants,
) {
    let moments = first_moment.iter_mut().zip(second_moment);
    for ((p, &g), (m, v)) in parameters.iter_mut().zip(gradient).zip(moments) {
        let g = constants.gradient_scale * g;
        *m = lerp(*m, g, constants.one_minus_beta1);
        *v = lerp(*v, g * g, constants.one_minus_beta2);
        let root = v.sqrt() * constants.root_scale + constants.epsilon;
        *p = *p * constants.keep - constants.step_size * (*m / root);
    }
}

/// From `a` to `b`, as libtorch does: from the nearer end, so that a weight of one gives `b`
/// itself.
#[inline(always)]
fn lerp(a: f32, b: f32, weight: f32) -> f32 {
    if weight < 0.5 { a + weight * (b - a) } else { b - (b - a) * (1.0 - weight) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adamw::Config;

    /// The textbook's formula in 64 bits.
    fn textbook(state: &mut [f64; 3], gradient: f64, config: &Config, t: i32) {
        let [p, m, v] = state;
        let g = config.gradient_scale * gradient;
        *m = config.beta1 * *m + (1.0 - config.beta1) * g;
        *v = config.beta2 * *v + (1.0 - config.beta2) * g * g;
        let m_hat = *m / (1.0 - config.beta1.powi(t));
        let v_hat = *v / (1.0 - config.beta2.powi(t));
        let direction = m_hat / (v_hat.sqrt() + config.epsilon) + config.weight_decay * *p;
        *p -= config.learning_rate * direction;
    }

    #[track_caller]
    fn check(config: &Config) {
        const N: usize = 64;
        const UPDATES: u64 = 50;
        let start = |i: usize| (i as f64 - 31.5) / 16.0;
        let slope = |i: usize, t: u64| ((i * 37) as f64 + t as f64 * 0.7).sin() * 0.3;
        let mut expected: Vec<[f64; 3]> = (0..N).map(|i| [start(i), 0.0, 0.0]).collect();
        let mut p: Vec<f32> = (0..N).map(|i| start(i) as f32).collect();
        let (mut m, mut v) = (vec![0.0; N], vec![0.0; N]);
        for t in 1..=UPDATES {
            let gradient: Vec<f32> = (0..N).map(|i| slope(i, t) as f32).collect();
            let constants = Constants::new(config, t);
            update(&mut p, &gradient, &mut m, &mut v, &constants).unwrap();
            for (state, &g) in expected.iter_mut().zip(&gradient) {
                textbook(state, f64::from(g), config, t as i32);
            }
        }
        for (i, (found, [wanted, ..])) in p.iter().zip(&expected).enumerate() {
            let error = (f64::from(*found) - wanted).abs();
            assert!(
                error < 2e-6 * (1.0 + wanted.abs()),
                "{i}: {found} is not {wanted}: {config:?}"
            );
        }
    }

    #[test]
    fn it_agrees_with_the_textbook() {
        let config = Config {
            learning_rate: 1e-2,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            gradient_scale: 1.0,
        };
        check(&config);
        check(&Config { weight_decay: 0.1, ..config });
        check(&Config { gradient_scale: 0.25, ..config });
        check(&Config { beta1: 0.0, beta2: 0.5, epsilon: 1e-3, ..config });
    }

    #[test]
    fn a_gradient_of_zeros_only_decays() {
        let config = Config {
            learning_rate: 0.5,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-15,
            weight_decay: 0.5,
            gradient_scale: 1.0,
        };
        let (mut p, mut m, mut v) = ([2.0], [0.0], [0.0]);
        update(&mut p, &[0.0], &mut m, &mut v, &Constants::new(&config, 1)).unwrap();
        assert_eq!((p, m, v), ([1.5], [0.0], [0.0]));
    }

    #[test]
    fn slices_of_other_lengths_are_refused() {
        let config = Config {
            learning_rate: 0.1,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.0,
            gradient_scale: 1.0,
        };
        let (mut p, mut m, mut v) = ([1.0, 2.0], [0.0, 0.0], [0.0, 0.0]);
        let refused = update(&mut p, &[1.0], &mut m, &mut v, &Constants::new(&config, 1));
        assert!(matches!(refused, Err(KernelError::Length { found: 1, wanted: 2, .. })));
        assert_eq!(p, [1.0, 2.0]);
    }
}
