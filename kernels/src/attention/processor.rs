//! Forward and backward pass, [`LANES`] queries at a time.

use super::tile::{self, Lanes, by_columns, by_rows, in_tiles, load, store};
use super::{Columns, ColumnsMut};
use crate::KernelError;
use crate::simd::{exp, fma, vectorized};

pub use super::tile::LANES;

/// Where the exponential is as good as 0, and [`exp`] is still right.
const FAR_BELOW: f32 = -87.0;
/// Keys whose exponentials are summed before they join the sum of all: the error of a sum grows
/// with its length.
const SUM_KEYS: usize = 64;
/// Side of a square of values that is turned at once.
const SQUARE: usize = 8;

/// What attention reads.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// (S, heads hd).
    pub q: Columns<'a>,
    /// (S, hd).
    pub k: Columns<'a>,
    /// (S, hd).
    pub v: Columns<'a>,
    /// Factor of the scores.
    pub scale: f32,
}

/// What the backward pass reads besides.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// o, (S, heads hd).
    pub output: Columns<'a>,
    /// l, (heads, S).
    pub logs: &'a [f32],
    /// Gradient of o, (S, heads hd).
    pub gradient: Columns<'a>,
}

/// What the backward pass fills.
#[derive(Debug)]
pub struct Gradients<'a> {
    /// (S, heads hd).
    pub q: ColumnsMut<'a>,
    /// (S, hd).
    pub k: ColumnsMut<'a>,
    /// (S, hd).
    pub v: ColumnsMut<'a>,
}

impl Inputs<'_> {
    fn sequence(&self) -> usize {
        self.q.rows()
    }

    fn head_width(&self) -> usize {
        self.k.width()
    }

    /// Query heads.
    fn heads(&self) -> usize {
        self.q.width() / self.k.width()
    }

    /// # Errors
    /// The shapes do not fit to each other, or one of `wide` (S, heads hd) and `logs` does not.
    fn check(&self, wide: &[(&'static str, [usize; 2])], logs: usize) -> Result<(), KernelError> {
        let [sequence, width] = [self.q.rows(), self.k.width()];
        if width == 0 || !self.q.width().is_multiple_of(width) {
            let wanted = "a multiple of the width of a key";
            return Err(KernelError::Size { name: "the queries", found: self.q.width(), wanted });
        }
        let own = [("keys", &self.k), ("values", &self.v)];
        let own = own.map(|(name, part)| (name, [part.rows(), part.width()], width));
        let wide = wide.iter().map(|(name, shape)| (*name, *shape, self.q.width()));
        for (name, [rows, found], wanted) in own.into_iter().chain(wide) {
            if rows != sequence || found != wanted {
                let (found, wanted) = (rows * found, sequence * wanted);
                return Err(KernelError::Length { name, found, wanted });
            }
        }
        let wanted = sequence * self.heads();
        if logs != wanted {
            return Err(KernelError::Length { name: "logs", found: logs, wanted });
        }
        Ok(())
    }
}

/// Fills `output` (S, heads hd) with o, and `logs` (heads, S) with l.
///
/// # Errors
/// The shapes do not fit to each other.
pub fn forward(
    inputs: Inputs<'_>,
    output: ColumnsMut<'_>,
    logs: &mut [f32],
) -> Result<(), KernelError> {
    inputs.check(&[("the output", [output.rows(), output.width()])], logs.len())?;
    each_forward(inputs, output, logs);
    Ok(())
}

/// Fills `gradients`.
///
/// # Errors
/// The shapes do not fit to each other.
pub fn backward(
    inputs: Inputs<'_>,
    known: Known<'_>,
    gradients: Gradients<'_>,
) -> Result<(), KernelError> {
    let wide = [
        ("the output", [known.output.rows(), known.output.width()]),
        ("the output's gradient", [known.gradient.rows(), known.gradient.width()]),
        ("the queries' gradient", [gradients.q.rows(), gradients.q.width()]),
    ];
    inputs.check(&wide, known.logs.len())?;
    for (name, part) in [("the keys' gradient", &gradients.k), ("the values'", &gradients.v)] {
        let (found, wanted) = (part.rows() * part.width(), inputs.k.rows() * inputs.k.width());
        if found != wanted {
            return Err(KernelError::Length { name, found, wanted });
        }
    }
    each_backward(inputs, known, gradients);
    Ok(())
}

vectorized! {
    fn each_forward(inputs: Inputs<'_>, output: ColumnsMut<'_>, logs: &mut [f32]) = forward_heads;
}

vectorized! {
    fn each_backward(inputs: Inputs<'_>, known: Known<'_>, gradients: Gradients<'_>) =
        backward_heads;
}

#[inline(always)]
fn forward_heads<const FUSED: bool>(
    inputs: Inputs<'_>,
    mut output: ColumnsMut<'_>,
    logs: &mut [f32],
) {
    let [sequence, width] = [inputs.sequence(), inputs.head_width()];
    let mut queries = vec![[0.0; LANES]; width];
    let mut scores = vec![[0.0; LANES]; sequence];
    for (head, logs) in logs.chunks_exact_mut(sequence.max(1)).enumerate() {
        let q = inputs.q.part(head * width, width);
        for (first, logs) in (0..).step_by(LANES).zip(logs.chunks_mut(LANES)) {
            side_by_side(q, first, logs.len(), inputs.scale, &mut queries);
            let scores = &mut scores[..first + logs.len()];
            in_tiles!(scores.len(), products(inputs.k, &queries, scores));
            hide_later(scores, first, f32::NEG_INFINITY);
            let [largest, sum] = powers::<FUSED>(scores);
            hide_later(scores, first, 0.0);
            let mut factor = sum;
            factor.iter_mut().for_each(|sum| *sum = sum.recip());
            let place = Place { column: head * width, first, count: logs.len() };
            in_tiles!(width, mixed(inputs.v, scores, &factor, place, &mut output));
            let found = largest.iter().zip(&sum).map(|(largest, sum)| largest + sum.ln());
            logs.iter_mut().zip(found).for_each(|(log, found)| *log = found);
        }
    }
}

/// Which rows and columns a result goes to.
#[derive(Debug, Clone, Copy)]
struct Place {
    column: usize,
    /// Row of the first lane.
    first: usize,
    /// Lanes that are rows.
    count: usize,
}

/// Rows `first` to `first + count` of `rows`, times `scale`, one a lane; the other lanes are 0.
#[inline(always)]
fn side_by_side(rows: Columns<'_>, first: usize, count: usize, scale: f32, lanes: &mut [Lanes]) {
    if count < LANES {
        lanes.iter_mut().for_each(|lanes| *lanes = [0.0; LANES]);
        for lane in 0..count {
            let row = rows.row(first + lane);
            lanes.iter_mut().zip(row).for_each(|(lanes, value)| lanes[lane] = scale * value);
        }
        return;
    }
    // Squares, which the compiler turns within registers.
    for half in [0, SQUARE] {
        let rows: [&[f32]; SQUARE] = tile::rows(|row| rows.row(first + half + row));
        let (squares, rest) = lanes.as_chunks_mut::<SQUARE>();
        for (index, square) in squares.iter_mut().enumerate() {
            let mut values = [[0.0; SQUARE]; SQUARE];
            for (values, row) in values.iter_mut().zip(&rows) {
                *values = row.as_chunks().0[index];
            }
            for (column, lanes) in square.iter_mut().enumerate() {
                for (lane, values) in lanes[half..][..SQUARE].iter_mut().zip(&values) {
                    *lane = scale * values[column];
                }
            }
        }
        let done = squares.len() * SQUARE;
        for (column, lanes) in rest.iter_mut().enumerate() {
            for (lane, row) in lanes[half..half + SQUARE].iter_mut().zip(&rows) {
                *lane = scale * row[done + column];
            }
        }
    }
}

/// Rows `tile` to `tile + R` of `rows` times `lanes`, into the same rows of `found`.
#[inline(always)]
fn products<const FUSED: bool, const R: usize>(
    tile: usize,
    rows: Columns<'_>,
    lanes: &[Lanes],
    found: &mut [Lanes],
) {
    let rows = tile::rows(|r| rows.row(tile + r));
    let sums = by_rows::<FUSED, R>(rows, lanes, [[0.0; LANES]; R]);
    if let Some(found) = found[tile..].first_chunk_mut() {
        *found = sums;
    }
}

/// Puts `value` where a query, of which the first lane's is number `first`, meets a later key.
#[inline(always)]
fn hide_later(keys: &mut [Lanes], first: usize, value: f32) {
    for (later, lanes) in keys[first..].iter_mut().enumerate() {
        lanes[..later].fill(value);
    }
}

/// Scores become powers of e, the largest of each lane 1; gives that score and their sum.
#[inline(always)]
fn powers<const FUSED: bool>(scores: &mut [Lanes]) -> [Lanes; 2] {
    let mut largest = [f32::NEG_INFINITY; LANES];
    for lanes in &*scores {
        for (largest, score) in largest.iter_mut().zip(lanes) {
            *largest = if score > largest { *score } else { *largest };
        }
    }
    let mut sum = [0.0; LANES];
    for some in scores.chunks_mut(SUM_KEYS) {
        let mut part = [0.0; LANES];
        for lanes in some {
            for ((score, largest), part) in lanes.iter_mut().zip(&largest).zip(&mut part) {
                *score = power::<FUSED>(*score - largest);
                *part += *score;
            }
        }
        sum.iter_mut().zip(&part).for_each(|(sum, part)| *sum += part);
    }
    [largest, sum]
}

/// e to the power of `x`, which is not above 0 by more than rounding.
#[inline(always)]
fn power<const FUSED: bool>(x: f32) -> f32 {
    // `max` would make a number of NaN.
    exp::<FUSED>(if x < FAR_BELOW { FAR_BELOW } else { x })
}

/// Columns `tile` to `tile + R` of the sum of `rows`, row j weighed by lane j of `weights`, times
/// `factor`, to rows of their own.
#[inline(always)]
fn mixed<const FUSED: bool, const R: usize>(
    tile: usize,
    rows: Columns<'_>,
    weights: &[Lanes],
    factor: &Lanes,
    place: Place,
    found: &mut ColumnsMut<'_>,
) {
    let sums: [Lanes; R] = by_columns::<FUSED, R>(|k| &rows.row(k)[tile..], weights);
    for lane in 0..place.count {
        let row = &mut found.row(place.first + lane)[place.column + tile..][..R];
        for (value, sums) in row.iter_mut().zip(&sums) {
            *value = sums[lane] * factor[lane];
        }
    }
}

#[inline(always)]
fn backward_heads<const FUSED: bool>(
    inputs: Inputs<'_>,
    known: Known<'_>,
    mut gradients: Gradients<'_>,
) {
    let [sequence, width] = [inputs.sequence(), inputs.head_width()];
    let mut scratch = Scratch::new(sequence, width);
    for head in 0..inputs.heads() {
        let column = head * width;
        let q = inputs.q.part(column, width);
        let output = known.output.part(column, width);
        let outer = known.gradient.part(column, width);
        let logs = &known.logs[head * sequence..(head + 1) * sequence];
        for (first, logs) in (0..).step_by(LANES).zip(logs.chunks(LANES)) {
            let count = logs.len();
            scratch.queries.fill(q, first, count, inputs.scale);
            scratch.outer.fill(outer, first, count, 1.0);
            let mut own = [[0.0; LANES]; 2];
            for (lane, log) in logs.iter().enumerate() {
                own[0][lane] = *log;
                own[1][lane] = product::<FUSED>(output.row(first + lane), outer.row(first + lane));
            }
            let place = Place { column, first, count };
            block::<FUSED>(inputs, &mut scratch, own, place, &mut gradients.q);
        }
    }
    for row in 0..sequence {
        for part in 0..width.div_ceil(LANES) {
            let (from, to) = (part * sequence + row, part * LANES);
            store(&scratch.keys[from], &mut gradients.k.row(row)[to..]);
            store(&scratch.values[from], &mut gradients.v.row(row)[to..]);
        }
    }
}

#[inline(always)]
fn product<const FUSED: bool>(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
        for ((sum, a), b) in sums.iter_mut().zip(&load(a)).zip(&load(b)) {
            *sum = fma::<FUSED>(*a, *b, *sum);
        }
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0]
}

/// [`LANES`] rows, as lanes and as they are.
#[derive(Debug)]
struct Block {
    /// (hd).
    lanes: Vec<Lanes>,
    /// (hd / LANES, rows): parts of the rows, the last filled up by 0.
    parts: Vec<[Lanes; LANES]>,
}

impl Block {
    fn new(width: usize) -> Self {
        let parts = vec![[[0.0; LANES]; LANES]; width.div_ceil(LANES)];
        Self { lanes: vec![[0.0; LANES]; width], parts }
    }

    #[inline(always)]
    fn fill(&mut self, rows: Columns<'_>, first: usize, count: usize, scale: f32) {
        side_by_side(rows, first, count, scale, &mut self.lanes);
        for row in 0..LANES {
            if row >= count {
                self.parts.iter_mut().for_each(|part| part[row].fill(0.0));
                continue;
            }
            let values = rows.row(first + row);
            for (index, part) in self.parts.iter_mut().enumerate() {
                part[row] = load(&values[index * LANES..]);
                part[row].iter_mut().for_each(|value| *value *= scale);
            }
        }
    }
}

/// What the backward pass keeps from one block of queries to the next.
#[derive(Debug)]
struct Scratch {
    /// Times scale.
    queries: Block,
    /// Gradient of the output.
    outer: Block,
    /// p, (S).
    powers: Vec<Lanes>,
    /// e, (S).
    slopes: Vec<Lanes>,
    /// The keys' gradient so far, (hd / LANES, S).
    keys: Vec<Lanes>,
    /// Likewise of the values.
    values: Vec<Lanes>,
}

impl Scratch {
    fn new(sequence: usize, width: usize) -> Self {
        let scores = vec![[0.0; LANES]; sequence];
        let sums = vec![[0.0; LANES]; width.div_ceil(LANES) * sequence];
        Self {
            queries: Block::new(width),
            outer: Block::new(width),
            powers: scores.clone(),
            slopes: scores,
            keys: sums.clone(),
            values: sums,
        }
    }
}

/// What one block of queries gives to all gradients, `gradient` that of the queries; `logs` and
/// `sums` are l and D of its lanes.
#[inline(always)]
fn block<const FUSED: bool>(
    inputs: Inputs<'_>,
    scratch: &mut Scratch,
    [logs, sums]: [Lanes; 2],
    place: Place,
    gradient: &mut ColumnsMut<'_>,
) {
    let keys = place.first + place.count;
    let (powers, slopes) = (&mut scratch.powers[..keys], &mut scratch.slopes[..keys]);
    in_tiles!(keys, products(inputs.k, &scratch.queries.lanes, powers));
    in_tiles!(keys, products(inputs.v, &scratch.outer.lanes, slopes));
    for (p, e) in powers.iter_mut().zip(&mut *slopes) {
        for lane in 0..LANES {
            p[lane] = power::<FUSED>(p[lane] - logs[lane]);
            e[lane] = p[lane] * (e[lane] - sums[lane]);
        }
    }
    hide_later(powers, place.first, 0.0);
    hide_later(slopes, place.first, 0.0);
    let scale = [inputs.scale; LANES];
    in_tiles!(inputs.head_width(), mixed(inputs.k, slopes, &scale, place, gradient));
    in_tiles!(keys, add_products(powers, &scratch.outer.parts, &mut scratch.values));
    in_tiles!(keys, add_products(slopes, &scratch.queries.parts, &mut scratch.keys));
}

/// Adds lanes `tile` to `tile + R` of `weights` times `parts` to the same rows of each part of
/// `found`.
#[inline(always)]
fn add_products<const FUSED: bool, const R: usize>(
    tile: usize,
    weights: &[Lanes],
    parts: &[[Lanes; LANES]],
    found: &mut [Lanes],
) {
    let sequence = found.len() / parts.len();
    let weights = tile::rows(|r| weights[tile + r].as_slice());
    for (part, found) in parts.iter().zip(found.chunks_exact_mut(sequence)) {
        if let Some(found) = found[tile..].first_chunk_mut() {
            *found = by_rows::<FUSED, R>(weights, part, *found);
        }
    }
}
