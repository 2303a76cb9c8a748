//! The update of AdamW in one pass over memory.

use super::gpu;
use super::host::{PIECE_VALUES, each, is_slice, values, values_mut};
use kernels::adamw::{Config, Constants, cpu};
use tch::Tensor;

/// The tensors of one update, float32.
pub(crate) struct Moved<'a> {
    /// (N), changed.
    pub(crate) parameters: Tensor,
    /// (N).
    pub(crate) gradient: Tensor,
    /// First and second, (N) each, changed.
    pub(crate) moments: [Tensor; 2],
    /// (N), bfloat16; receives the new parameters, rounded.
    pub(crate) rounded: Option<Tensor>,
    /// What the gradient is multiplied by first, a scalar.
    pub(crate) clip: Option<&'a Tensor>,
    /// Values, from the first, that decay.
    pub(crate) decayed: usize,
}

/// Update number `t`, from 1; gives the tensors back where they are not where this can be done.
///
/// # Errors
/// libtorch or the GPU's driver refuses.
pub(crate) fn adamw<'a>(
    config: &Config,
    mut moved: Moved<'a>,
    t: u64,
) -> tch::Result<Result<(), Moved<'a>>> {
    if let Some(gpu) = gpu::machine_of(&moved.parameters) {
        return gpu::adamw(gpu, config, &moved, t).map(Ok);
    }
    let Moved { parameters, gradient, moments: [first, second], clip, decayed, .. } = &mut moved;
    if ![&*parameters, gradient, first, second].into_iter().all(is_slice) {
        return Ok(Err(moved));
    }
    let scale = clip.map_or(Ok(1.0), |clip| clip.f_double_value(&[]))?;
    let config = Config { gradient_scale: config.gradient_scale * scale, ..*config };
    let decaying = Constants::new(&config, t);
    let others = Constants::new(&Config { weight_decay: 0.0, ..config }, t);
    let pieces = values_mut(parameters).chunks_mut(PIECE_VALUES);
    let pieces = pieces.zip(values(gradient).chunks(PIECE_VALUES));
    let moments = values_mut(first).chunks_mut(PIECE_VALUES);
    let moments = moments.zip(values_mut(second).chunks_mut(PIECE_VALUES));
    let pieces: Vec<_> = pieces.zip(moments).enumerate().collect();
    let decayed = *decayed;
    each(pieces, |(piece, ((parameters, gradient), (first, second)))| {
        let border = decayed.saturating_sub(piece * PIECE_VALUES).min(parameters.len());
        let (p, g) = (parameters.split_at_mut(border), gradient.split_at(border));
        let (m, v) = (first.split_at_mut(border), second.split_at_mut(border));
        cpu::update(p.0, g.0, m.0, v.0, &decaying)?;
        cpu::update(p.1, g.1, m.1, v.1, &others)
    })?;
    if let Some(rounded) = &mut moved.rounded {
        rounded.f_copy_(&moved.parameters)?;
    }
    Ok(Ok(()))
}
