//! The launcher.

use super::MODULES;
use crate::KernelError;
use crate::launch::{Argument, Call, Launch, Stream, blocks_for, threads_for, variant};
use crate::memory::{DeviceValues, Kind, aligned, checked_option};

/// As in logits.cu.
const THREADS_MAX: usize = 512;
/// Blocks of a multiprocessor that loop over rows; some times as many as run there at once, so that
/// none waits long for the last. Only the rows of blocks that run must fit into the second-level
/// cache: on an H100 3 times 132 rows of 100 kB, which are 40 MB.
const BLOCKS: usize = 16;

/// The tensors, and what is computed from them.
#[derive(Debug, Clone, Copy)]
pub struct Tensors {
    /// z (rows, V), float32 or bfloat16; changed if `backward`.
    pub logits: DeviceValues,
    /// (rows), int64.
    pub targets: DeviceValues,
    /// (rows), float32; written.
    pub losses: DeviceValues,
    /// (1), float32; the gradient is multiplied by it too.
    pub factor: Option<DeviceValues>,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// The target of rows that are not scored.
    pub not_scored: i64,
    /// c, above 0.
    pub cap: Option<f32>,
    /// What the gradient is multiplied by; None computes losses only, and logits stay as they are.
    pub backward: Option<f32>,
}

/// Queues losses, and gradients, of the rows of `logits`, as many as there are targets; does not
/// wait for it.
///
/// # Errors
/// Tensors have other lengths or kinds than said above, or the driver refuses.
///
/// # Safety
/// The tensors are contiguous, do not overlap, lie in the memory of `gpu`, and stay there until
/// `stream` has passed.
#[expect(unsafe_code, reason = "the tensors are addresses")]
pub unsafe fn cross_entropy(
    gpu: &impl Launch,
    stream: Stream,
    tensors: &Tensors,
    options: &Options,
) -> Result<(), KernelError> {
    let Tensors { logits, targets, losses, factor } = tensors;
    let module = variant(&MODULES, "the logits", logits.kind)?;
    let rows = targets.len;
    let targets = targets.checked("the targets", Kind::Int64, rows)?;
    let losses = losses.checked("the losses", Kind::Float32, rows)?;
    let factor = checked_option(factor.as_ref(), "the factor", Kind::Float32, 1)?;
    if rows == 0 {
        logits.checked("the logits", logits.kind, 0)?;
        return Ok(());
    }
    let width = logits.len / rows;
    let most = u32::MAX as usize / 2; // A thread's next pack must still be a number of 32 bits.
    if width > most {
        return Err(KernelError::Limit { name: "the vocabulary", found: width, most });
    }
    if width == 0 {
        return Err(KernelError::Size { name: "the vocabulary", found: 0, wanted: "at least 1" });
    }
    let pointer = logits.checked("the logits", logits.kind, width * rows)?;
    let lanes = logits.kind.lanes();
    let whole = width.is_multiple_of(lanes) && aligned(&[pointer]);
    let arguments: [Argument; 11] = [
        pointer.into(),
        targets.into(),
        losses.into(),
        factor.into(),
        (rows as u64).into(),
        (width as u32).into(),
        u32::from(whole).into(),
        u32::from(options.backward.is_some()).into(),
        options.not_scored.into(),
        options.cap.unwrap_or(0.0).into(),
        options.backward.unwrap_or(0.0).into(),
    ];
    let call = Call {
        module,
        function: "cross_entropy",
        blocks: blocks_for(rows, gpu.multiprocessors() as usize * BLOCKS),
        threads: threads_for(width.div_ceil(lanes), THREADS_MAX),
        stream,
        arguments: &arguments,
    };
    // SAFETY: these are the kernel's arguments, of the lengths checked above. The rest is the
    // caller's.
    unsafe { gpu.launch(&call) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_has_the_same_constants() {
        let source = MODULES[0].source;
        assert!(source.contains(&format!("THREADS_MAX = {THREADS_MAX} ")));
    }
}
