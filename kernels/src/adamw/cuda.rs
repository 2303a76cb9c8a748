//! The launcher.

use super::{Constants, MODULES, check_lengths};
use crate::KernelError;
use crate::launch::{Argument, Call, Launch, Stream, blocks_for, variant};
use crate::memory::{DeviceValues, Kind, aligned, checked_option};

/// Threads of a block; enough blocks fit into a multiprocessor to fill it.
const THREADS: u32 = 256;

/// The tensors of one update.
#[derive(Debug, Clone, Copy)]
pub struct Tensors {
    /// p (N), float32; changed.
    pub parameters: DeviceValues,
    /// g (N), float32 or bfloat16.
    pub gradient: DeviceValues,
    /// m (N), float32; changed.
    pub first_moment: DeviceValues,
    /// v (N), float32; changed.
    pub second_moment: DeviceValues,
    /// (N), bfloat16; receives the new parameters, rounded.
    pub copy: Option<DeviceValues>,
    /// (1), float32; the gradient is multiplied by it too, so that clipping need not wait for the
    /// norm.
    pub clip: Option<DeviceValues>,
}

/// Queues one update in place of all parameters, of which the first `decayed` decay and the others
/// do not; does not wait for it.
///
/// # Errors
/// Tensors have other lengths or kinds than said above, or the driver refuses.
///
/// # Safety
/// The tensors are contiguous, do not overlap, lie in the memory of `gpu`, and stay there until
/// `stream` has passed.
#[expect(unsafe_code, reason = "the tensors are addresses")]
pub unsafe fn update(
    gpu: &impl Launch,
    stream: Stream,
    tensors: &Tensors,
    decayed: usize,
    constants: &Constants,
) -> Result<(), KernelError> {
    let Tensors { parameters, gradient, first_moment, second_moment, copy, clip } = tensors;
    let n = parameters.len;
    check_lengths(n, gradient.len, first_moment.len, second_moment.len)?;
    if decayed > n {
        return Err(KernelError::Limit { name: "decayed", found: decayed, most: n });
    }
    let module = variant(&MODULES, "the gradient", gradient.kind)?;
    let p = parameters.checked("the parameters", Kind::Float32, n)?;
    let m = first_moment.checked("the first moment", Kind::Float32, n)?;
    let v = second_moment.checked("the second moment", Kind::Float32, n)?;
    let copy = checked_option(copy.as_ref(), "the copy", Kind::BFloat16, n)?;
    let clip = checked_option(clip.as_ref(), "the clipping factor", Kind::Float32, 1)?;
    let g = gradient.pointer;
    if n == 0 {
        return Ok(()); // A grid of no blocks is an error to the driver.
    }
    let arguments: [Argument; 16] = [
        p.into(),
        g.into(),
        m.into(),
        v.into(),
        copy.into(),
        clip.into(),
        (n as u64).into(),
        (decayed as u64).into(),
        u32::from(aligned(&[p, g, m, v, copy])).into(),
        constants.gradient_scale.into(),
        constants.one_minus_beta1.into(),
        constants.one_minus_beta2.into(),
        constants.root_scale.into(),
        constants.epsilon.into(),
        constants.keep.into(),
        constants.step_size.into(),
    ];
    let blocks = blocks_for(n.div_ceil(gradient.kind.lanes() * THREADS as usize), usize::MAX);
    let call = Call {
        module,
        function: "adamw_update",
        blocks,
        threads: THREADS,
        stream,
        arguments: &arguments,
    };
    // SAFETY: these are the kernel's arguments, each tensor has `n` values as checked above, and
    // the kernel touches none at or beyond `n`. The rest is the caller's.
    unsafe { gpu.launch(&call) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_has_the_same_constants() {
        let source = MODULES[0].source;
        assert!(source.contains(&format!("__launch_bounds__({THREADS})")));
    }
}
