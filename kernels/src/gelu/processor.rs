//! Value and derivative in one pass.

use crate::KernelError;
use crate::simd::{exp, fma, vectorized};

/// 2 sqrt(2 / pi), and that times 0.044715.
const LINEAR: f32 = 1.595_769_2;
const CUBIC: f32 = 0.071_354_814;
/// Beyond it s is 0 or 1 to the last bit of y, and the exponential still is a number.
const FLAT: f32 = 9.9;

/// y and y' of every x.
///
/// # Errors
/// The slices have different lengths.
pub fn forward(x: &[f32], y: &mut [f32], slope: &mut [f32]) -> Result<(), KernelError> {
    for (name, found) in [("y", y.len()), ("the slope", slope.len())] {
        if found != x.len() {
            return Err(KernelError::Length { name, found, wanted: x.len() });
        }
    }
    each(x, y, slope);
    Ok(())
}

vectorized! { fn each(x: &[f32], y: &mut [f32], slope: &mut [f32]) = values; }

#[inline(always)]
fn values<const FUSED: bool>(x: &[f32], y: &mut [f32], slope: &mut [f32]) {
    for ((&x, y), slope) in x.iter().zip(y).zip(slope) {
        let near = x.clamp(-FLAT, FLAT);
        let square = near * near;
        let e = exp::<FUSED>(-near * fma::<FUSED>(CUBIC, square, LINEAR));
        let s = 1.0 / (1.0 + e);
        let bend = fma::<FUSED>(3.0 * CUBIC, square, LINEAR); // 2 u'
        *slope = fma::<FUSED>(near * s * (e * s), bend, s);
        *y = x * s;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::PI;

    /// The formula in 64 bits: y and y'.
    fn textbook(x: f64) -> [f64; 2] {
        let c = (2.0 / PI).sqrt();
        let t = (c * (x + 0.044_715 * x.powi(3))).tanh();
        let bend = c * (1.0 + 3.0 * 0.044_715 * x * x);
        // (1 - t^2) bend, without infinity times nothing.
        let slope = if t.abs() == 1.0 { 0.0 } else { (1.0 - t * t) * bend };
        [0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * slope]
    }

    /// Values that a vector's width does not divide, of all sizes.
    fn inputs() -> Vec<f32> {
        let near = (-300_007..300_000).map(|i| i as f32 * 5e-5);
        let far = (-30..30).flat_map(|power| [1.3_f32.powi(power), 10_f32.powi(power)]);
        near.chain(far.flat_map(|x| [x, -x])).chain([0.0, -0.0, f32::MIN_POSITIVE]).collect()
    }

    #[track_caller]
    fn check(forward: impl Fn(&[f32], &mut [f32], &mut [f32])) {
        let x = inputs();
        let (mut y, mut slope) = (vec![f32::NAN; x.len()], vec![f32::NAN; x.len()]);
        forward(&x, &mut y, &mut slope);
        for ((x, found), slope) in x.into_iter().zip(y).zip(slope) {
            let [y, derivative] = textbook(f64::from(x));
            let error = (f64::from(found) - y).abs() / f64::from(x.abs().max(1e-3));
            assert!(error < 4e-7, "y({x}) = {found}, wanted {y}");
            let error = (f64::from(slope) - derivative).abs();
            assert!(error < 5e-7, "y'({x}) = {slope}, wanted {derivative}");
        }
    }

    #[test]
    fn it_agrees_with_the_formula_on_this_processor_and_on_any() {
        check(|x, y, slope| forward(x, y, slope).unwrap());
        check(values::<false>);
        check(values::<true>);
    }

    #[test]
    fn what_is_no_number_stays_none() {
        let (mut y, mut slope) = ([0.0; 3], [0.0; 3]);
        forward(&[f32::NAN, 1.0, -f32::NAN], &mut y, &mut slope).unwrap();
        assert!(y[0].is_nan() && y[1].is_finite() && y[2].is_nan(), "{y:?}");
    }

    #[test]
    fn other_lengths_are_refused() {
        assert!(forward(&[1.0], &mut [], &mut [0.0]).is_err());
        assert!(forward(&[1.0], &mut [0.0], &mut [0.0, 1.0]).is_err());
        assert!(forward(&[], &mut [], &mut []).is_ok());
    }
}
