//! What the kernels for the processor share: one body, compiled for each width of vectors, and the
//! sums and functions that the compiler makes vector instructions of.

use std::f32::consts::LOG2_E;

/// ln 2 in two parts, so that a whole number times the first is exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// Adding it rounds to a whole number, which then stands in the lowest bits.
const ROUND: f32 = 12_582_912.0;
/// Bits of a number of 32 bits below its exponent, and the exponent of one.
const MANTISSA_BITS: u32 = 23;
const EXPONENT_OF_ONE: u32 = 127;

/// Partial sums of one sum: two of the widest vectors, so that additions need not wait for each
/// other. Part of the numerics, the same on every processor.
const LANES: usize = 32;

/// `fn name(...) = body;` calls `body::<FUSED>(...)`, which is `#[inline(always)]`, compiled for
/// the widest vectors that this processor has. FUSED says whether it has `a b + c` as one
/// instruction.
macro_rules! vectorized {
    (fn $name:ident($($argument:ident: $kind:ty),* $(,)?) = $body:ident;) => {
        fn $name($($argument: $kind),*) {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f")]
            fn with_avx512($($argument: $kind),*) {
                $body::<true>($($argument),*);
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn with_avx2($($argument: $kind),*) {
                $body::<true>($($argument),*);
            }
            #[cfg(target_arch = "x86_64")]
            #[expect(unsafe_code, reason = "instructions that not every processor has")]
            {
                if is_x86_feature_detected!("avx512f") {
                    // SAFETY: the processor has them.
                    return unsafe { with_avx512($($argument),*) };
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: the processor has them.
                    return unsafe { with_avx2($($argument),*) };
                }
            }
            $body::<false>($($argument),*);
        }
    };
}
pub(crate) use vectorized;

/// exp(x) for |x| <= 87, right to one unit of the last place: a power of two times a polynomial on
/// [-ln 2 / 2, ln 2 / 2], the one of Cephes' `expf`.
#[inline(always)]
pub(crate) fn exp<const FUSED: bool>(x: f32) -> f32 {
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
pub(crate) fn fma<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// The sum of `of(sum, i)` over i below `len`, where `of` adds value i to a partial sum.
#[inline(always)]
pub(crate) fn fold(
    len: usize,
    start: f32,
    of: impl Fn(f32, usize) -> f32,
    join: fn(f32, f32) -> f32,
) -> f32 {
    let mut lanes = [start; LANES];
    let whole = len - len % LANES;
    for first in (0..whole).step_by(LANES) {
        for (lane, partial) in lanes.iter_mut().enumerate() {
            *partial = of(*partial, first + lane);
        }
    }
    for i in whole..len {
        lanes[i - whole] = of(lanes[i - whole], i);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = join(lanes[lane], lanes[lane + width]);
        }
        width /= 2;
    }
    lanes[0]
}
