//! The next token of each text, chosen where the scores are.

use super::{Machine, STREAM, failed, values};
use kernels::sampling::{Sampler, cuda};
use tch::{Kind, Tensor};

/// As [`choose_tokens`](crate::operations::choose_tokens).
pub(in crate::operations) fn choose_tokens(
    gpu: &Machine,
    scores: &Tensor,
    sampler: &Sampler,
    uniforms: &[f64],
) -> tch::Result<Vec<Option<u32>>> {
    let device = scores.device();
    let tokens = Tensor::f_empty([uniforms.len() as i64], (Kind::Int64, device))?;
    let uniforms = Tensor::f_from_slice(uniforms)?.f_to_device(device)?;
    let tensors = [values(scores)?, values(&uniforms)?, values(&tokens)?];
    // SAFETY: contiguous tensors of this machine, each its own; libtorch reuses their memory only
    // in the order of its stream.
    #[expect(unsafe_code, reason = "kernels work on addresses")]
    unsafe {
        let [scores, uniforms, tokens] = &tensors;
        cuda::sample(gpu, STREAM, sampler, scores, uniforms, tokens)
    }
    .map_err(failed)?;
    let tokens = Vec::<i64>::try_from(&tokens)?;
    Ok(tokens.into_iter().map(|token| u32::try_from(token).ok()).collect())
}
