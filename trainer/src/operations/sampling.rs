//! The next token of each text.

use super::gpu;
use kernels::sampling::{Sampler, cpu};
use tch::{Device, Kind, Tensor};

/// The token that `sampler` takes after each row of `scores` (rows, V), float32, where the row's
/// number in `uniforms`, in [0, 1), decides; `None` where scores are no finite numbers.
///
/// # Errors
/// libtorch refuses.
pub(crate) fn choose_tokens(
    scores: &Tensor,
    sampler: &Sampler,
    uniforms: &[f64],
) -> tch::Result<Vec<Option<u32>>> {
    let scores = scores.f_contiguous()?;
    if let Some(gpu) = gpu::machine_of(&scores) {
        return gpu::choose_tokens(gpu, &scores, sampler, uniforms);
    }
    let scores = scores.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?;
    let width = scores.size2()?.1 as usize;
    let mut values = vec![0.0; scores.numel()];
    scores.f_copy_data(&mut values, scores.numel())?;
    let choose = |(row, &uniform): (&[f32], &f64)| {
        let finite = row.iter().all(|score| score.is_finite());
        let token = cpu::choose(sampler, row, uniform).filter(|_| finite)?;
        u32::try_from(token).ok()
    };
    Ok(values.chunks_exact(width.max(1)).zip(uniforms).map(choose).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::emulated::emulating;

    // Goal: the same tokens on a GPU, here in the emulator, as on the processor, and none where the
    // scores are no numbers.
    #[test]
    fn a_gpu_takes_the_same_tokens() {
        let rows = 6;
        let place = Tensor::arange(rows * 61, (Kind::Float, Device::Cpu));
        let scores = ((place * 1.7).sin() * 3.0).view([rows, 61]);
        let _ = scores.narrow(0, 4, 1).narrow(1, 7, 1).fill_(f64::NAN);
        let uniforms: Vec<f64> = (0..rows).map(|row| row as f64 / rows as f64).collect();
        let random = Sampler::Random { temperature: 0.8, top_k: Some(9), top_p: Some(0.9) };
        for sampler in [Sampler::Greedy, random] {
            let choose = || choose_tokens(&scores, &sampler, &uniforms).unwrap();
            let tokens = choose();
            assert_eq!(emulating(choose), tokens, "{sampler:?}");
            assert_eq!(tokens.iter().position(Option::is_none), Some(4));
            assert!(tokens.len() == 6 && tokens.iter().flatten().count() == 5);
        }
    }
}
