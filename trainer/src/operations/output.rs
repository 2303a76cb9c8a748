//! The output layer and its loss. The scores of all tokens, (rows, V), are the largest thing that a
//! small model computes; they are made, used and forgotten some rows at a time.

use super::function::{is_recorded, record};
use super::gpu;
use super::host::{is_slice, values_mut, whole_numbers};
use crate::data::NOT_SCORED;
use kernels::logits::processor::loss_and_gradient;
use tch::{Kind, Reduction, TchError, Tensor, no_grad};

/// Scores that are there at once, if a row is not more: 1 MiB, so that they stay in the cache.
const CHUNK_SCORES: i64 = 1 << 18;
/// Fewest rows of a chunk: a product of fewer is slow.
const CHUNK_ROWS_MIN: i64 = 64;

/// Cross-entropy in nats of `targets` (rows) under `scores` (rows, V), float32.
///
/// # Errors
/// libtorch refuses: no memory, or a token outside the vocabulary.
pub(crate) fn cross_entropy(
    scores: &Tensor,
    targets: &Tensor,
    reduction: Reduction,
) -> tch::Result<Tensor> {
    scores.f_cross_entropy_loss(targets, None::<&Tensor>, reduction, NOT_SCORED, 0.0)
}

/// Scores of `x` (rows, d) under `weight` (V, d): (rows, V), float32, between `cap` and -`cap` if
/// there is one.
///
/// # Errors
/// libtorch refuses, for lack of memory.
pub(crate) fn output_scores(x: &Tensor, weight: &Tensor, cap: Option<f64>) -> tch::Result<Tensor> {
    let scores = x.f_mm(&weight.f_tr()?)?.f_to_kind(Kind::Float)?;
    match cap {
        None => Ok(scores),
        Some(cap) => scores.f_div_scalar(cap)?.f_tanh()?.f_mul_scalar(cap),
    }
}

/// Cross-entropy in nats of `targets` (rows) under the scores of `x` (rows, d), a scalar: the sum
/// or the mean of those that count.
///
/// # Errors
/// As [`cross_entropy`].
pub(crate) fn output_loss(
    x: &Tensor,
    weight: &Tensor,
    cap: Option<f64>,
    targets: &Tensor,
    reduction: Reduction,
) -> tch::Result<Tensor> {
    let whole = matches!(reduction, Reduction::Sum | Reduction::Mean);
    if let Some(gpu) = gpu::machine_of(x).filter(|_| whole && gpu::are_usable(&[x, weight])) {
        return gpu::loss(gpu, x, weight, cap, targets, reduction);
    }
    let known = whole_numbers(targets).filter(|_| whole && is_slice(x) && is_slice(weight));
    let Some(known) = known else {
        return cross_entropy(&output_scores(x, weight, cap)?, targets, reduction);
    };
    if let Some(odd) = known.iter().find(|&&target| target < 0 && target != NOT_SCORED) {
        return Err(TchError::Torch(format!("target {odd} is no token")));
    }
    let scale = match reduction {
        Reduction::Mean => {
            (known.iter().filter(|&&target| target != NOT_SCORED).count() as f64).recip()
        }
        Reduction::Sum | Reduction::None | Reduction::Other(_) => 1.0,
    };
    let recorded = is_recorded(&[x, weight]);
    let (loss, gradients) = no_grad(|| in_chunks(x, weight, cap, known, scale, recorded))?;
    record_loss(x, weight, &loss, gradients)?;
    Ok(loss)
}

/// Makes `loss` a result of `x` and `weight`, with the gradients that were computed with it.
pub(super) fn record_loss(
    x: &Tensor,
    weight: &Tensor,
    loss: &Tensor,
    gradients: Option<[Tensor; 2]>,
) -> tch::Result<()> {
    let Some(gradients) = gradients else { return Ok(()) };
    record(&[x, weight], &[loss], move |outer| {
        let Some(outer) = &outer[0] else { return Ok(vec![None, None]) };
        let scaled = gradients.into_iter().map(|mut own| own.f_mul_(outer).map(Some));
        no_grad(|| scaled.collect())
    })
}

/// The loss, and its gradients with respect to `x` and `weight` if they are `wanted`.
fn in_chunks(
    x: &Tensor,
    weight: &Tensor,
    cap: Option<f64>,
    targets: &[i64],
    scale: f64,
    wanted: bool,
) -> tch::Result<(Tensor, Option<[Tensor; 2]>)> {
    let ((rows, _), (vocabulary, _)) = (x.size2()?, weight.size2()?);
    let chunk = (CHUNK_SCORES / vocabulary).max(CHUNK_ROWS_MIN).min(rows);
    let buffer = Tensor::f_empty([chunk, vocabulary], (Kind::Float, x.device()))?;
    let gradients = match wanted {
        true => Some([x.f_empty_like()?, weight.f_zeros_like()?]),
        false => None,
    };
    let mut sum = 0.0;
    for first in (0..rows).step_by(chunk as usize) {
        let count = chunk.min(rows - first);
        let part = x.f_narrow(0, first, count)?;
        let mut scores = buffer.f_narrow(0, 0, count)?;
        let _ = part.f_mm_out(&scores, &weight.f_tr()?)?;
        let own = &targets[first as usize..(first + count) as usize];
        let cap = cap.map(|cap| cap as f32);
        sum +=
            loss_and_gradient(values_mut(&mut scores), own, vocabulary as usize, cap, scale as f32)
                .map_err(|error| TchError::Torch(error.to_string()))?;
        if let Some([of_x, of_weight]) = &gradients {
            let _ = scores.f_mm_out(&of_x.f_narrow(0, first, count)?, weight)?;
            let _ = of_weight.shallow_clone().f_addmm_(&scores.f_tr()?, &part)?;
        }
    }
    let loss = Tensor::f_from_slice(&[(scale * sum) as f32])?.f_view([0i64; 0])?;
    Ok((loss, gradients))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::wave;
    use tch::Device;

    fn leaf(shape: [i64; 2], speed: f64) -> Tensor {
        wave(&shape, speed).set_requires_grad(true)
    }

    // Goal: libtorch's loss and gradients, in one chunk and in several, with rows that do not
    // count, and inside of a larger expression.
    #[test]
    fn it_is_libtorch_s_loss() {
        for (rows, width, vocabulary) in [(1, 1, 1), (7, 5, 13), (700, 16, 1_500)] {
            let (x, weight) = (leaf([rows, width], 1.7), leaf([vocabulary, width], 0.9));
            let targets = Tensor::arange(rows, (Kind::Int64, Device::Cpu)).remainder(vocabulary);
            if rows > 1 {
                let _ = targets.narrow(0, rows / 2, 2).fill_(NOT_SCORED);
            }
            for cap in [None, Some(1.5)] {
                for reduction in [Reduction::Mean, Reduction::Sum] {
                    let results = |loss: Tensor| {
                        let inputs = [&x, &weight];
                        let outer = &loss * 3.0;
                        let mut found =
                            Tensor::f_run_backward(&[outer], &inputs, false, false).unwrap();
                        found.push(loss);
                        found
                    };
                    let ours = output_loss(&x, &weight, cap, &targets, reduction).unwrap();
                    let scores = output_scores(&x, &weight, cap).unwrap();
                    let theirs = cross_entropy(&scores, &targets, reduction).unwrap();
                    for (ours, theirs) in results(ours).iter().zip(results(theirs)) {
                        let difference = (ours - &theirs).abs().max().double_value(&[]);
                        let size = theirs.abs().max().double_value(&[]);
                        assert!(difference < 2e-6 * (1.0 + size), "{difference} of {size}");
                    }
                    let quiet = no_grad(|| output_loss(&x, &weight, cap, &targets, reduction));
                    assert!(quiet.unwrap().f_is_nonzero().is_ok());
                }
            }
        }
    }

    #[test]
    fn a_token_outside_the_vocabulary_is_an_error() {
        let (x, weight) = (leaf([2, 3], 1.0), leaf([5, 3], 1.0));
        let targets = Tensor::from_slice(&[1i64, 5]);
        let error = output_loss(&x, &weight, None, &targets, Reduction::Mean).unwrap_err();
        assert!(error.to_string().contains("vocabulary of 5"), "{error}");
        let targets = Tensor::from_slice(&[1i64, -1]);
        let error = output_loss(&x, &weight, None, &targets, Reduction::Mean).unwrap_err();
        assert!(error.to_string().contains("target -1"), "{error}");
    }
}
