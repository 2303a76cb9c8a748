//! Written so that the compiler makes vector instructions of it, once for every width that
//! processors have. The exponential is a power of two times a polynomial on [-ln 2 / 2, ln 2 / 2],
//! the one of Cephes' `expf`, right to one unit of the last place.

use crate::KernelError;
use std::f32::consts::LOG2_E;

/// ln 2 in two parts, so that a whole number times the first is exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// Adding it rounds to a whole number, which then stands in the lowest bits.
const ROUND: f32 = 12_582_912.0;
/// Bits of a number of 32 bits below its exponent, and the exponent of one.
const MANTISSA_BITS: u32 = 23;
const EXPONENT_OF_ONE: u32 = 127;
/// 2 sqrt(2 / pi), and that times 0.044715.
const LINEAR: f32 = 1.595_769_2;
const CUBIC: f32 = 0.071_354_814;
/// Beyond it s is 0 or 1 to the last bit of y, and the exponential still is a number.
const FLAT: f32 = 9.9;

/// y and y' such that `y = rest + slope x` and `slope` is y': with both as constants, one
/// multiplication and addition has GELU's value and its gradient.
///
/// # Errors
/// The slices have different lengths.
pub fn linearize(x: &[f32], rest: &mut [f32], slope: &mut [f32]) -> Result<(), KernelError> {
    for (name, found) in [("the rest", rest.len()), ("the slope", slope.len())] {
        if found != x.len() {
            return Err(KernelError::Length { name, found, wanted: x.len() });
        }
    }
    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "instructions that not every processor has")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has them.
            unsafe { with_avx512(x, rest, slope) };
            return Ok(());
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has them.
            unsafe { with_avx2(x, rest, slope) };
            return Ok(());
        }
    }
    each::<false>(x, rest, slope);
    Ok(())
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn with_avx512(x: &[f32], rest: &mut [f32], slope: &mut [f32]) {
    each::<true>(x, rest, slope);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn with_avx2(x: &[f32], rest: &mut [f32], slope: &mut [f32]) {
    each::<true>(x, rest, slope);
}

#[inline(always)]
fn each<const FUSED: bool>(x: &[f32], rest: &mut [f32], slope: &mut [f32]) {
    for ((&x, rest), slope) in x.iter().zip(rest).zip(slope) {
        let near = x.clamp(-FLAT, FLAT);
        let square = near * near;
        let e = exp::<FUSED>(-near * fma::<FUSED>(CUBIC, square, LINEAR));
        let s = 1.0 / (1.0 + e);
        let bend = fma::<FUSED>(3.0 * CUBIC, square, LINEAR); // 2 u'
        *slope = fma::<FUSED>(near * s * (e * s), bend, s);
        *rest = fma::<FUSED>(-x, *slope, x * s);
    }
}

/// exp(x) for |x| <= 87.
#[inline(always)]
fn exp<const FUSED: bool>(x: f32) -> f32 {
    let shifted = fma::<FUSED>(x, LOG2_E, ROUND);
    let power = shifted - ROUND;
    let r = fma::<FUSED>(power, -LN2_LOW, fma::<FUSED>(power, -LN2_HIGH, x));
    let mut p = 1.987_569_1e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = fma::<FUSED>(p, r, coefficient);
    }
    let value = fma::<FUSED>(p, r * r, r) + 1.0;
    let scale = shifted
        .to_bits()
        .wrapping_shl(MANTISSA_BITS)
        .wrapping_add(EXPONENT_OF_ONE << MANTISSA_BITS);
    value * f32::from_bits(scale)
}

/// a b + c, rounded once where the processor can; without the instruction it would be a call.
#[inline(always)]
fn fma<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
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
    fn check(linearize: impl Fn(&[f32], &mut [f32], &mut [f32])) {
        let x = inputs();
        let (mut rest, mut slope) = (vec![f32::NAN; x.len()], vec![f32::NAN; x.len()]);
        linearize(&x, &mut rest, &mut slope);
        for ((x, rest), slope) in x.into_iter().zip(rest).zip(slope) {
            let [y, derivative] = textbook(f64::from(x));
            let found = f64::from(rest + x * slope);
            let error = (found - y).abs() / f64::from(x.abs().max(1e-3));
            assert!(error < 4e-7, "y({x}) = {found}, wanted {y}");
            let error = (f64::from(slope) - derivative).abs();
            assert!(error < 5e-7, "y'({x}) = {slope}, wanted {derivative}");
        }
    }

    #[test]
    fn it_agrees_with_the_formula_on_this_processor_and_on_any() {
        check(|x, rest, slope| linearize(x, rest, slope).unwrap());
        check(each::<false>);
        check(each::<true>);
    }

    #[test]
    fn what_is_no_number_stays_none() {
        let (mut rest, mut slope) = ([0.0; 3], [0.0; 3]);
        linearize(&[f32::NAN, 1.0, -f32::NAN], &mut rest, &mut slope).unwrap();
        assert!(rest[0].is_nan() && rest[1].is_finite() && rest[2].is_nan(), "{rest:?}");
    }

    #[test]
    fn other_lengths_are_refused() {
        assert!(linearize(&[1.0], &mut [], &mut [0.0]).is_err());
        assert!(linearize(&[1.0], &mut [0.0], &mut [0.0, 1.0]).is_err());
        assert!(linearize(&[], &mut [], &mut []).is_ok());
    }
}
