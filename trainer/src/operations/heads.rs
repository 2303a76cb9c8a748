//! From the rows that hold queries, keys and values to the three, turned by their positions.

use super::function::{is_recorded, record};
use super::gpu;
use super::host::{
    PIECE_VALUES, contiguous, each, empty, is_slice, last_is_whole, strided, values, values_mut,
};
use crate::model::rotary::rotate;
use kernels::rotary::processor::{self, Gather, Part};
use tch::{Tensor, no_grad};

/// What the rows hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads {
    /// B.
    pub(crate) batch: i64,
    /// S.
    pub(crate) sequence: i64,
    /// Heads of queries, keys and values.
    pub(crate) counts: [i64; 3],
    /// hd.
    pub(crate) width: i64,
}

impl Heads {
    fn all(&self) -> i64 {
        self.counts.iter().sum()
    }

    /// Values of a row, and those of its queries and keys.
    fn widths(&self) -> [usize; 2] {
        let [queries, keys, _] = self.counts;
        [self.all() * self.width, (queries + keys) * self.width].map(|width| width as usize)
    }

    /// Queries, keys and values (B, S, heads, hd) in the memory of `rows`.
    pub(crate) fn split(&self, rows: &Tensor) -> tch::Result<[Tensor; 3]> {
        let rows = rows.f_view([self.batch, self.sequence, self.all(), self.width])?;
        let parts = rows.f_split_with_sizes(self.counts, 2)?;
        let Ok(parts) = parts.try_into() else { unreachable!("a split into 3 sizes has 3 parts") };
        Ok(parts)
    }
}

/// The normalisation of queries and keys by their root mean square.
#[derive(Debug)]
pub(crate) struct HeadNorm<'a> {
    pub(crate) epsilon: f64,
    /// (hd) each, for queries and for keys.
    pub(crate) weights: Option<[&'a Tensor; 2]>,
}

/// Queries, keys and values (B, S, heads, hd) of `rows` (B*S, heads hd), which are used up; queries
/// and keys normalised by `norm` and turned by `rotation`, complex, (S, 1, hd/2), or
/// (B, S, 1, hd/2) where sequences have positions of their own.
///
/// # Errors
/// libtorch refuses, for lack of memory.
pub(crate) fn split_heads(
    heads: Heads,
    rows: Tensor,
    rotation: Option<&Tensor>,
    norm: Option<&HeadNorm<'_>>,
) -> tch::Result<[Tensor; 3]> {
    let weights = norm.and_then(|norm| norm.weights);
    let inputs: Vec<&Tensor> = [&rows].into_iter().chain(weights.into_iter().flatten()).collect();
    if let Some(rotation) = rotation
        && let Some(gpu) = gpu::machine_of(&rows).filter(|_| gpu::are_usable(&inputs))
        && let Some(found) = gpu::heads(gpu, heads, &rows, rotation, norm)?
    {
        return Ok(found);
    }
    match norm {
        None if is_slice(&rows) => in_place(heads, rows, rotation),
        _ => of_libtorch(heads, &rows, rotation, norm),
    }
}

fn of_libtorch(
    heads: Heads,
    rows: &Tensor,
    rotation: Option<&Tensor>,
    norm: Option<&HeadNorm<'_>>,
) -> tch::Result<[Tensor; 3]> {
    let [q, k, v] = heads.split(rows)?;
    if rotation.is_none() && norm.is_none() {
        return Ok([q, k, v]);
    }
    // Queries and keys are treated as one tensor: the number of operations is the cost.
    let [queries, keys, _] = heads.counts;
    let rows = rows.f_view([heads.batch, heads.sequence, heads.all(), heads.width])?;
    let mut both = rows.f_narrow(2, 0, queries + keys)?;
    if let Some(norm) = norm {
        both = both.f_rms_norm(heads.width, None::<&Tensor>, norm.epsilon)?;
        if let Some([q, k]) = norm.weights {
            let each = |weight: &Tensor, count| weight.f_expand([count, heads.width], true);
            both = both.f_mul(&Tensor::f_cat(&[each(q, queries)?, each(k, keys)?], 0)?)?;
        }
    }
    if let Some(rotation) = rotation {
        both = rotate(&both, rotation)?;
    }
    Ok([both.f_narrow(2, 0, queries)?, both.f_narrow(2, queries, keys)?, v])
}

fn in_place(heads: Heads, mut rows: Tensor, rotation: Option<&Tensor>) -> tch::Result<[Tensor; 3]> {
    let angles = |rotation: &Tensor| contiguous(&rotation.f_view_as_real()?);
    let angles = no_grad(|| rotation.map(angles).transpose())?;
    if let Some(angles) = &angles {
        turn(heads, &mut rows, angles)?;
    }
    // In the same memory: whoever made the rows does not need them for its own gradient.
    let parts = no_grad(|| heads.split(&rows.f_detach()?))?;
    if is_recorded(&[&rows]) {
        let [q, k, v] = &parts;
        record(&[&rows], &[q, k, v], move |gradients| {
            Ok(vec![Some(gather(heads, gradients, angles.as_ref())?)])
        })?;
    }
    Ok(parts)
}

/// Sequences that are one piece.
fn piece_sequences(heads: Heads) -> usize {
    (PIECE_VALUES / (heads.widths()[0] * heads.sequence as usize)).max(1)
}

/// The angles of piece number `piece`: the same for all, or its own.
fn angles_of(heads: Heads, angles: &[f32], piece: usize) -> &[f32] {
    let own = heads.sequence as usize * heads.width as usize;
    if angles.len() == own {
        return angles;
    }
    let len = piece_sequences(heads) * own;
    &angles[piece * len..angles.len().min((piece + 1) * len)]
}

fn turn(heads: Heads, rows: &mut Tensor, angles: &Tensor) -> tch::Result<()> {
    let [width, turned] = heads.widths();
    let len = piece_sequences(heads) * heads.sequence as usize * width;
    let angles = values(angles);
    let pieces = values_mut(rows).chunks_mut(len).enumerate();
    each(pieces.collect(), |(piece, rows)| {
        let angles = angles_of(heads, angles, piece);
        processor::turn(rows, width, turned, angles, heads.width as usize)
    })
}

/// The gradient of the rows from those of queries, keys and values.
fn gather(
    heads: Heads,
    gradients: Vec<Option<Tensor>>,
    angles: Option<&Tensor>,
) -> tch::Result<Tensor> {
    let Heads { batch, sequence, counts, width } = heads;
    let gradients: Vec<Tensor> = gradients
        .into_iter()
        .zip(counts)
        .map(|(gradient, count)| match gradient {
            // A head's values must be neighbours, as attention leaves them.
            Some(gradient) if last_is_whole(&gradient) => Ok(gradient),
            Some(gradient) => contiguous(&gradient),
            None => Ok(empty(&[batch, sequence, count, width])?.f_zero_()?),
        })
        .collect::<tch::Result<_>>()?;
    let mut rows = empty(&[batch * sequence, heads.all() * width])?;
    let per_piece = piece_sequences(heads);
    let len = per_piece * sequence as usize * heads.widths()[0];
    let parts: Vec<_> =
        gradients.iter().zip(counts).map(|(g, n)| (strided(g), n as usize)).collect();
    let angles = angles.map(values);
    let pieces = values_mut(&mut rows).chunks_mut(len).enumerate();
    each(pieces.collect(), |(piece, rows)| {
        let part = |index: usize| {
            let ((values, strides), heads) = &parts[index];
            let first = (piece * per_piece * strides[0]).min(values.len());
            Part {
                values: &values[first..],
                heads: *heads,
                strides: [strides[0], strides[1], strides[2]],
                turned: index < 2,
            }
        };
        processor::gather(Gather {
            parts: [part(0), part(1), part(2)],
            sequence: sequence as usize,
            head_width: width as usize,
            table: angles.map(|angles| angles_of(heads, angles, piece)),
            rows,
        })
    })?;
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::rotary::rotations;
    use crate::operations::wave;
    use tch::{Device, Kind};

    // Goal: the same values and gradients as libtorch's operations, with common and own positions,
    // without positions, in one piece and in several.
    #[test]
    fn it_is_what_libtorch_would_do() {
        for (batch, sequence, counts) in [(1, 1, [1, 1, 1]), (2, 5, [4, 2, 2]), (70, 64, [2, 2, 2])]
        {
            let heads = Heads { batch, sequence, counts, width: 8 };
            let own = Tensor::arange(batch * sequence, (Kind::Int64, Device::Cpu));
            let table = rotations(64, 8, 10_000.0, crate::model::architecture::Angles::Double);
            let table = table.unwrap();
            let own = table.index_select(0, &own.remainder(60)).view([batch, sequence, 1, 4]);
            for rotation in [None, Some(table.narrow(0, 0, sequence)), Some(own)] {
                check(heads, rotation.as_ref());
            }
        }
    }

    fn check(heads: Heads, rotation: Option<&Tensor>) {
        let shape = [heads.batch * heads.sequence, heads.all() * heads.width];
        let leaf = wave(&shape, 1.3).set_requires_grad(true);
        let results = |[q, k, v]: [Tensor; 3]| {
            // As attention sees them.
            let seen = [&q, &k, &v].map(|part| part.transpose(1, 2));
            let sums = seen.iter().enumerate().map(|(index, part)| {
                (part * wave(&part.size(), 0.31 + index as f64)).sum(Kind::Double)
            });
            let loss = sums.reduce(|a, b| a + b).unwrap();
            let mut found = vec![q, k, v];
            found.extend(Tensor::f_run_backward(&[loss], &[&leaf], false, false).unwrap());
            found
        };
        let ours = results(split_heads(heads, &leaf * 1.0, rotation, None).unwrap());
        let theirs = results(of_libtorch(heads, &(&leaf * 1.0), rotation, None).unwrap());
        for (ours, theirs) in ours.iter().zip(theirs) {
            let difference = (ours - theirs).abs().max().double_value(&[]);
            assert!(difference < 1e-6, "{heads:?} {rotation:?}: {difference}");
        }
    }

    #[test]
    fn heads_of_any_width_work_without_rotation() {
        for width in [1, 3] {
            let heads = Heads { batch: 2, sequence: 5, counts: [2, 2, 2], width };
            check(heads, None);
        }
    }

    #[test]
    fn a_part_without_a_gradient_has_one_of_zeros() {
        let heads = Heads { batch: 2, sequence: 3, counts: [2, 1, 1], width: 4 };
        let leaf = wave(&[6, 16], 1.3).set_requires_grad(true);
        let [_, k, _] = split_heads(heads, &leaf * 1.0, None, None).unwrap();
        let gradient = Tensor::f_run_backward(&[k.sum(Kind::Float)], &[&leaf], false, false);
        let gradient = gradient.unwrap().remove(0);
        let sums = gradient.sum_dim_intlist(0, false, Kind::Float);
        let expected = Tensor::zeros([16], (Kind::Float, Device::Cpu));
        let _ = expected.narrow(0, 8, 4).fill_(6.0);
        assert_eq!(sums, expected);
    }
}
