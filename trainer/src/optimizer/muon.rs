//! Muon (Jordan et al. 2024), in the order of operations of PyTorch 2.11's Muon.
//!
//! ```text
//! m <- b m + (1 - b) g            u = m, or with Nesterov (1 - b) g + b m
//! p <- p (1 - lr decay)           p <- p - lr scale orthogonalise(u)
//! ```
//! The moment is a mean, as in PyTorch; Jordan's own code keeps the sum `b m + g`, which points the
//! same way, and only the direction counts. On a GPU Newton-Schulz is computed in bfloat16, as in
//! both. On a processor it is computed in float32: few have instructions for products of bfloat16,
//! and without them libtorch's are 30 to 40 times slower.

use super::matrix;
use crate::parameters::Entry;
use proto::{Muon, MuonScale};
use tch::{Kind, Tensor};

/// Coefficients of the quintic iteration: they push small singular values up fastest and leave all
/// of them between about 0.7 and 1.2 (Jordan et al. 2024).
const COEFFICIENTS: [f64; 3] = [3.4445, -4.775, 2.0315];
const STEPS: u32 = 5;
/// Smallest norm that a matrix is divided by.
const NORM_MIN: f64 = 1e-7;

/// Whether Muon moves this tensor: a matrix inside a layer.
pub(super) fn moves(entry: &Entry) -> bool {
    entry.shape.len() == 2 && entry.name.starts_with("layers.")
}

/// One update of `entries`, whose `values`, `gradient` and `moment` are (sum of their lengths),
/// with Newton-Schulz in `kind`.
pub(super) fn step(
    config: &Muon,
    moment: &mut Tensor,
    values: &Tensor,
    gradient: &Tensor,
    entries: &[Entry],
    (share, kind): (f64, Kind),
) -> tch::Result<()> {
    let learning_rate = config.learning_rate * share;
    let _ = moment.f_lerp_(gradient, 1.0 - config.momentum)?;
    let ahead = if config.nesterov {
        gradient.f_lerp(moment, config.momentum)?
    } else {
        moment.shallow_clone()
    };
    let _ = values.shallow_clone().f_mul_scalar_(1.0 - learning_rate * config.weight_decay)?;
    let first = entries.first().map_or(0, |entry| entry.start);
    for entry in entries {
        let change = orthogonalise(&matrix(&ahead, entry, first)?, kind)?;
        let rate = learning_rate * scale(config.scale, entry);
        let change = change.f_to_kind(Kind::Float)?.f_mul_scalar(rate)?;
        let _ = matrix(values, entry, first)?.f_sub_(&change)?;
    }
    Ok(())
}

fn scale(scale: MuonScale, entry: &Entry) -> f64 {
    let [outputs, inputs] = [0, 1].map(|side| entry.shape[side] as f64);
    match scale {
        MuonScale::Original => (outputs / inputs).max(1.0).sqrt(),
        MuonScale::MatchRmsAdamw => 0.2 * outputs.max(inputs).sqrt(),
    }
}

/// Nearly `U V^T` of `matrix = U S V^T`, computed in `kind`: five steps of Newton and Schulz, each
/// `X <- a X + (b A + c A A) X` with `A = X X^T`, from `X = matrix / |matrix|` with its shorter
/// side first.
pub(super) fn orthogonalise(matrix: &Tensor, kind: Kind) -> tch::Result<Tensor> {
    let [a, b, c] = COEFFICIENTS;
    let (rows, columns) = matrix.size2()?;
    let tall = rows > columns;
    let x = matrix.f_to_kind(kind)?;
    let x = if tall { x.f_tr()? } else { x };
    let x = x.f_div(&x.f_norm()?.f_clamp_min(NORM_MIN)?)?;
    // The batched product is the one that adds and scales in the same operation.
    let mut x = x.f_unsqueeze(0)?;
    for _ in 0..STEPS {
        let gram = x.f_bmm(&x.f_transpose(1, 2)?)?;
        let polynomial = gram.f_baddbmm(&gram, &gram, b, c)?;
        x = x.f_baddbmm(&polynomial, &x, a, 1.0)?;
    }
    let x = x.f_squeeze_dim(0)?;
    if tall { x.f_tr() } else { Ok(x) }
}
