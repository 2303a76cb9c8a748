//! In place forwards. Backwards the three gradients, which lie as attention left them, are gathered
//! into rows and turned back on the way.

use crate::KernelError;
use crate::simd::{fma, vectorized};

/// Turns the first `turned` values of every row of `rows` (R, width), heads of hd values, by the
/// angles of `table` (T, hd): cosine and sine of each pair. Row r has the angles of row r mod T.
///
/// # Errors
/// The lengths do not fit to each other.
pub fn turn(
    rows: &mut [f32],
    width: usize,
    turned: usize,
    table: &[f32],
    head_width: usize,
) -> Result<(), KernelError> {
    let whole = head_width > 0 && head_width.is_multiple_of(2) && turned.is_multiple_of(head_width);
    if !whole || turned > width {
        return Err(KernelError::Length { name: "what is turned", found: turned, wanted: width });
    }
    for (name, len, part) in [("rows", rows.len(), width), ("angles", table.len(), head_width)] {
        if len == 0 || !len.is_multiple_of(part) {
            return Err(KernelError::Length { name, found: len, wanted: part });
        }
    }
    each_turn(rows, width, turned, table, head_width);
    Ok(())
}

vectorized! {
    fn each_turn(
        rows: &mut [f32], width: usize, turned: usize, table: &[f32], head_width: usize,
    ) = turn_rows;
}

#[inline(always)]
fn turn_rows<const FUSED: bool>(
    rows: &mut [f32],
    width: usize,
    turned: usize,
    table: &[f32],
    head_width: usize,
) {
    let angles = table.chunks_exact(head_width).cycle();
    for (row, angles) in rows.chunks_exact_mut(width).zip(angles) {
        for head in row[..turned].chunks_exact_mut(head_width) {
            for (pair, angle) in head.as_chunks_mut::<2>().0.iter_mut().zip(angles.as_chunks().0) {
                *pair = turn_pair::<FUSED>(*pair, *angle);
            }
        }
    }
}

#[inline(always)]
fn turn_pair<const FUSED: bool>([a, b]: [f32; 2], [cos, sin]: [f32; 2]) -> [f32; 2] {
    [fma::<FUSED>(a, cos, -(b * sin)), fma::<FUSED>(a, sin, b * cos)]
}

/// A gradient (B, S, heads, hd) as attention leaves it.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// From the first to the last value.
    pub values: &'a [f32],
    /// Number of heads.
    pub heads: usize,
    /// Values from a sequence, a position and a head to the next; a head's values are neighbours.
    pub strides: [usize; 3],
    /// Whether it was turned.
    pub turned: bool,
}

/// The rows of a gradient (B*S, width): those of `parts` beside each other, turned back by `table`
/// (T, hd) where they were turned.
#[derive(Debug)]
pub struct Gather<'a, 'b> {
    /// Queries, keys, values.
    pub parts: [Part<'a>; 3],
    /// S.
    pub sequence: usize,
    /// hd.
    pub head_width: usize,
    /// Angles; `None` turns nothing.
    pub table: Option<&'a [f32]>,
    /// Takes the gradient.
    pub rows: &'b mut [f32],
}

/// Fills the rows.
///
/// # Errors
/// The lengths do not fit to each other.
pub fn gather(gather: Gather<'_, '_>) -> Result<(), KernelError> {
    let Gather { parts, sequence, head_width, table, rows } = &gather;
    let width = head_width * parts.iter().map(|part| part.heads).sum::<usize>();
    let batch = rows.len() / (width * sequence).max(1);
    let wanted = batch * sequence * width;
    let halves = table.is_none() || head_width.is_multiple_of(2);
    if rows.len() != wanted || wanted == 0 || !halves {
        return Err(KernelError::Length { name: "rows", found: rows.len(), wanted });
    }
    for part in parts {
        let steps = [batch, *sequence, part.heads];
        let last: usize = steps.iter().zip(part.strides).map(|(n, by)| (n - 1) * by).sum();
        let (found, wanted) = (part.values.len(), last + head_width);
        if found < wanted {
            return Err(KernelError::Length { name: "a gradient", found, wanted });
        }
    }
    if let Some(table) = table {
        let (found, wanted) = (table.len(), *head_width);
        if found == 0 || !found.is_multiple_of(wanted) {
            return Err(KernelError::Length { name: "angles", found, wanted });
        }
    }
    each_gather(gather);
    Ok(())
}

vectorized! { fn each_gather(gather: Gather<'_, '_>) = gather_rows; }

#[inline(always)]
fn gather_rows<const FUSED: bool>(gather: Gather<'_, '_>) {
    let Gather { parts, sequence, head_width, table, rows } = gather;
    let mut heads = rows.chunks_exact_mut(head_width);
    let positions = table.map_or(1, |table| table.len() / head_width);
    let mut row = 0;
    loop {
        let angles = table.map(|table| &table[row % positions * head_width..][..head_width]);
        for part in parts {
            let [by_sequence, by_position, by_head] = part.strides;
            let first = row / sequence * by_sequence + row % sequence * by_position;
            for head in 0..part.heads {
                let Some(to) = heads.next() else { return };
                let from = &part.values[first + head * by_head..][..head_width];
                let Some(angles) = angles.filter(|_| part.turned) else {
                    to.copy_from_slice(from);
                    continue;
                };
                let angles = angles.as_chunks::<2>().0;
                let pairs = to.as_chunks_mut::<2>().0.iter_mut().zip(from.as_chunks().0);
                for ((to, from), [cos, sin]) in pairs.zip(angles) {
                    *to = turn_pair::<FUSED>(*from, [*cos, -sin]);
                }
            }
        }
        row += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(len: usize, speed: f32) -> Vec<f32> {
        (0..len).map(|i| (i as f32 * speed).sin()).collect()
    }

    fn table(positions: usize, head_width: usize) -> Vec<f32> {
        let pairs = (0..positions * head_width / 2).map(|i| (i as f32 * 0.37).sin_cos());
        pairs.flat_map(|(sin, cos)| [cos, sin]).collect()
    }

    #[test]
    fn pairs_are_turned_by_their_angle_and_the_rest_is_left() {
        let (heads, head_width, sequence, batch) = (3, 6, 5, 2);
        let width = (heads + 1) * head_width;
        let given = wave(batch * sequence * width, 1.3);
        let table = table(sequence, head_width);
        let mut rows = given.clone();
        turn(&mut rows, width, heads * head_width, &table, head_width).unwrap();
        for (i, found) in rows.iter().enumerate() {
            let (row, column) = (i / width, i % width);
            if column >= heads * head_width {
                assert_eq!(*found, given[i]);
                continue;
            }
            let place = row % sequence * head_width + column % head_width / 2 * 2;
            let (a, b) = (given[i - i % 2], given[i - i % 2 + 1]);
            let (cos, sin) = (table[place], table[place + 1]);
            let expected = if i % 2 == 0 { a * cos - b * sin } else { a * sin + b * cos };
            assert!((found - expected).abs() < 1e-6, "{i}: {found} {expected}");
        }
    }

    // Goal: rows that are taken apart, turned, and gathered again are the rows, however the parts
    // lie.
    #[test]
    fn what_is_gathered_is_turned_back() {
        let (sequence, batch, head_width) = (5, 3, 4);
        let counts = [3, 2, 2];
        let width = head_width * counts.iter().sum::<usize>();
        let given = wave(batch * sequence * width, 0.8);
        let table = table(sequence, head_width);
        let mut rows = given.clone();
        turn(&mut rows, width, 5 * head_width, &table, head_width).unwrap();
        // (B, heads, S, hd), and (B, S, heads, hd).
        for heads_first in [true, false] {
            let mut start = 0;
            let parts = counts.map(|heads| {
                let strides = match heads_first {
                    true => [heads * sequence, 1, sequence],
                    false => [sequence * heads, heads, 1],
                };
                let strides = strides.map(|stride| stride * head_width);
                let mut values = vec![f32::NAN; batch * sequence * heads * head_width];
                for row in 0..batch * sequence {
                    for head in 0..heads {
                        let to = row / sequence * strides[0]
                            + row % sequence * strides[1]
                            + head * strides[2];
                        let from = row * width + start + head * head_width;
                        values[to..to + head_width].copy_from_slice(&rows[from..from + head_width]);
                    }
                }
                start += heads * head_width;
                (values, heads, strides)
            });
            let [q, k, v] = &parts;
            let parts =
                [(q, true), (k, true), (v, false)].map(|((values, heads, strides), turned)| Part {
                    values,
                    heads: *heads,
                    strides: *strides,
                    turned,
                });
            let mut found = vec![f32::NAN; given.len()];
            let table = Some(table.as_slice());
            gather(Gather { parts, sequence, head_width, table, rows: &mut found }).unwrap();
            for (found, given) in found.iter().zip(&given) {
                assert!((found - given).abs() < 1e-6, "{found} {given}");
            }
            let short = Part { values: &q.0[1..], ..parts[0] };
            let refused = gather(Gather {
                parts: [short, parts[1], parts[2]],
                sequence,
                head_width,
                table,
                rows: &mut found,
            });
            assert!(matches!(refused, Err(KernelError::Length { name: "a gradient", .. })));
        }
    }
}
