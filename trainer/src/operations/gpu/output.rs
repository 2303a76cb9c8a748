//! The output layer and its loss, some rows at a time.

use super::{Machine, STREAM, empty_beside, failed, floats_beside, maybe_values, values};
use crate::data::NOT_SCORED;
use crate::operations::function::is_recorded;
use crate::operations::output::record_loss;
use kernels::logits::cuda::{self, Options, Tensors};
use tch::{Kind, Reduction, Tensor, no_grad};

/// Scores that are there at once, if a row is not more: 512 MiB in bfloat16. Each chunk adds to the
/// gradient of the whole weight, so few of them are quicker than many.
const CHUNK_SCORES: i64 = 1 << 28;

/// As [`output_loss`](crate::operations::output_loss), of `targets` on the same device.
pub(in crate::operations) fn loss(
    gpu: &'static Machine,
    x: &Tensor,
    weight: &Tensor,
    cap: Option<f64>,
    targets: &Tensor,
    reduction: Reduction,
) -> tch::Result<Tensor> {
    let recorded = is_recorded(&[x, weight]);
    let (loss, gradients) =
        no_grad(|| in_chunks(gpu, x, weight, cap, targets, reduction, recorded))?;
    record_loss(x, weight, &loss, gradients)?;
    Ok(loss)
}

/// The loss, and its gradients with respect to `x` and `weight` if they are `wanted`.
fn in_chunks(
    gpu: &Machine,
    x: &Tensor,
    weight: &Tensor,
    cap: Option<f64>,
    targets: &Tensor,
    reduction: Reduction,
    wanted: bool,
) -> tch::Result<(Tensor, Option<[Tensor; 2]>)> {
    let ((rows, _), (vocabulary, _)) = (x.size2()?, weight.size2()?);
    // How many count stays on the GPU: nobody waits for it.
    let factor = match reduction {
        Reduction::Mean => {
            let scored = targets.f_ne(NOT_SCORED)?.f_sum(Kind::Float)?;
            Some(scored.f_reciprocal()?)
        }
        Reduction::Sum | Reduction::None | Reduction::Other(_) => None,
    };
    let chunk = (CHUNK_SCORES / vocabulary).clamp(1, rows);
    let buffer = empty_beside(x, &[chunk, vocabulary])?;
    let losses = floats_beside(x, &[rows])?;
    let options = Options {
        not_scored: NOT_SCORED,
        cap: cap.map(|cap| cap as f32),
        backward: wanted.then_some(1.0),
    };
    let of_x = wanted.then(|| empty_beside(x, &x.size())).transpose()?;
    let mut of_weight: Option<Tensor> = None;
    for first in (0..rows).step_by(chunk as usize) {
        let count = chunk.min(rows - first);
        let part = |tensor: &Tensor| tensor.f_narrow(0, first, count);
        let (x, scores) = (part(x)?, buffer.f_narrow(0, 0, count)?);
        let _ = x.f_mm_out(&scores, &weight.f_tr()?)?;
        let tensors = Tensors {
            logits: values(&scores)?,
            targets: values(&part(targets)?)?,
            losses: values(&part(&losses)?)?,
            factor: maybe_values(factor.as_ref())?,
        };
        // SAFETY: contiguous tensors of this machine, each its own; libtorch reuses their memory
        // only in the order of its stream.
        #[expect(unsafe_code, reason = "kernels work on addresses")]
        unsafe { cuda::cross_entropy(gpu, STREAM, &tensors, &options) }.map_err(failed)?;
        if let Some(of_x) = &of_x {
            let _ = scores.f_mm_out(&part(of_x)?, weight)?;
            of_weight = Some(add_product(of_weight, &scores, &x)?);
        }
    }
    let sum = losses.f_sum(Kind::Float)?;
    let loss = factor.map_or_else(|| Ok(sum.shallow_clone()), |factor| sum.f_mul(&factor))?;
    let of_weight = of_weight.map(|sum| sum.f_to_kind(weight.kind())).transpose()?;
    Ok((loss, of_x.zip(of_weight).map(<[Tensor; 2]>::from)))
}

/// `sum` plus the product of `scores` (rows, V), turned, and `x` (rows, d). Sums of several chunks
/// are of float32, so that they are rounded once.
fn add_product(sum: Option<Tensor>, scores: &Tensor, x: &Tensor) -> tch::Result<Tensor> {
    let scores = scores.f_tr()?;
    match sum {
        None => scores.f_mm(x)?.f_to_kind(Kind::Float),
        Some(mut sum) if x.kind() == Kind::Float => sum.f_addmm_(&scores, x),
        Some(mut sum) => sum.f_add_(&scores.f_mm(x)?),
    }
}
