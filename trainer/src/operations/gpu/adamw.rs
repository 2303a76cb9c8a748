//! The update of AdamW in one launch.

use super::{Machine, STREAM, failed, maybe_values, values};
use crate::operations::adamw::Moved;
use kernels::adamw::cuda::{self, Tensors};
use kernels::adamw::{Config, Constants};

/// Update number `t`, from 1.
pub(in crate::operations) fn adamw(
    gpu: &Machine,
    config: &Config,
    moved: &Moved<'_>,
    t: u64,
) -> tch::Result<()> {
    let [first_moment, second_moment] = &moved.moments;
    let decayed = moved.decayed;
    let tensors = Tensors {
        parameters: values(&moved.parameters)?,
        gradient: values(&moved.gradient)?,
        first_moment: values(first_moment)?,
        second_moment: values(second_moment)?,
        copy: maybe_values(moved.rounded.as_ref())?,
        clip: maybe_values(moved.clip)?,
    };
    // SAFETY: contiguous tensors of this machine, each its own; libtorch reuses their memory only
    // in the order of its stream.
    #[expect(unsafe_code, reason = "kernels work on addresses")]
    unsafe { cuda::update(gpu, STREAM, &tensors, decayed, &Constants::new(config, t)) }
        .map_err(failed)
}
