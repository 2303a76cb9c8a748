//! Products of small tiles whose sums stay in registers.

use crate::simd::fma;

/// Values side by side: queries, or parts of a head.
pub const LANES: usize = 16;
/// One row of a tile.
pub(super) type Lanes = [f32; LANES];

/// Calls `tile::<FUSED, R>(first, ...)` for R rows from `first` on, until all of `len` rows are
/// done. With 6 rows of 16 lanes the sums fill 12 of the 16 registers of AVX2.
macro_rules! in_tiles {
    ($len:expr, $tile:ident($($argument:expr),* $(,)?)) => {{
        let (len, mut first) = ($len, 0);
        while len - first >= 6 {
            $tile::<FUSED, 6>(first, $($argument),*);
            first += 6;
        }
        if len - first >= 4 {
            $tile::<FUSED, 4>(first, $($argument),*);
            first += 4;
        }
        if len - first >= 2 {
            $tile::<FUSED, 2>(first, $($argument),*);
            first += 2;
        }
        if len > first {
            $tile::<FUSED, 1>(first, $($argument),*);
        }
    }};
}
pub(super) use in_tiles;

/// The first values of `row`, with 0 for those that it does not have.
#[inline(always)]
pub(super) fn load(row: &[f32]) -> Lanes {
    let mut lanes = [0.0; LANES];
    match row.first_chunk::<LANES>() {
        Some(whole) => lanes = *whole,
        None => lanes.iter_mut().zip(row).for_each(|(lane, value)| *lane = *value),
    }
    lanes
}

/// Puts `lanes` into the first values of `row`, as many as it has.
#[inline(always)]
pub(super) fn store(lanes: &Lanes, row: &mut [f32]) {
    match row.first_chunk_mut() {
        Some(whole) => *whole = *lanes,
        None => row.iter_mut().zip(lanes).for_each(|(value, lane)| *value = *lane),
    }
}

/// `R` rows. A loop, because `array::from_fn` is a call where the closure is large.
#[inline(always)]
pub(super) fn rows<'a, const R: usize>(row: impl Fn(usize) -> &'a [f32]) -> [&'a [f32]; R] {
    let mut rows: [&[f32]; R] = [&[]; R];
    for (r, place) in rows.iter_mut().enumerate() {
        *place = row(r);
    }
    rows
}

/// sums_r + sum over k of `a`_r[k] `b`[k]; each of `a` has at least as many values as `b` has rows.
#[inline(always)]
pub(super) fn by_rows<const FUSED: bool, const R: usize>(
    mut a: [&[f32]; R],
    b: &[Lanes],
    mut sums: [Lanes; R],
) -> [Lanes; R] {
    for row in &mut a {
        *row = &row[..b.len()];
    }
    for (k, b) in b.iter().enumerate() {
        let b = *b;
        for (sums, a) in sums.iter_mut().zip(&a) {
            add::<FUSED>(sums, a[k], &b);
        }
    }
    sums
}

/// sum over k of `a`(k)[r] `b`[k].
#[inline(always)]
pub(super) fn by_columns<'a, const FUSED: bool, const R: usize>(
    a: impl Fn(usize) -> &'a [f32],
    b: &[Lanes],
) -> [Lanes; R] {
    let mut sums = [[0.0; LANES]; R];
    for (k, b) in b.iter().enumerate() {
        let (a, b) = (&a(k)[..R], *b);
        for (sums, a) in sums.iter_mut().zip(a) {
            add::<FUSED>(sums, *a, &b);
        }
    }
    sums
}

#[inline(always)]
fn add<const FUSED: bool>(sums: &mut Lanes, a: f32, b: &Lanes) {
    for (sum, b) in sums.iter_mut().zip(b) {
        *sum = fma::<FUSED>(a, *b, *sum);
    }
}
