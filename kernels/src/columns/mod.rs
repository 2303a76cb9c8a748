//! Sums of the columns of a matrix of float32: the second half of the gradients of weights, whose
//! first half leaves one row of partial sums per block. Reads (rows, width) once.

use crate::KernelError;
use crate::launch::{Argument, Call, Launch, Module, Stream, variant, variants};
use crate::memory::{DevicePtr, DeviceValues};

/// By the kind of the sums.
pub(crate) static MODULES: [Module; 2] =
    variants("columns", include_str!("columns.cu"), &["column_sums"]);

/// Columns of a block, and threads of a block.
const COLUMNS: u32 = 32;
const THREADS: u32 = 1_024;

/// Queues `sums` (width) = the sums over the rows of `partial` (rows, width).
///
/// # Errors
/// The driver refuses.
///
/// # Safety
/// As [`Launch::launch`], of tensors with these sizes.
#[expect(unsafe_code, reason = "the tensors are addresses")]
pub(crate) unsafe fn sum(
    gpu: &impl Launch,
    stream: Stream,
    partial: DevicePtr,
    sums: &DeviceValues,
    rows: u32,
) -> Result<(), KernelError> {
    let width = u32::try_from(sums.len).map_err(|_| KernelError::Limit {
        name: "the width",
        found: sums.len,
        most: u32::MAX as usize,
    })?;
    let arguments: [Argument; 4] = [partial.into(), sums.pointer.into(), rows.into(), width.into()];
    let call = Call {
        module: variant(&MODULES, "the sums", sums.kind)?,
        function: "column_sums",
        blocks: width.div_ceil(COLUMNS),
        threads: THREADS,
        stream,
        arguments: &arguments,
    };
    // SAFETY: these are the kernel's arguments; it touches no column at or beyond `width` and no
    // row at or beyond `rows`. The rest is the caller's.
    unsafe { gpu.launch(&call) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_has_the_same_constants() {
        let parts = THREADS / COLUMNS;
        let source = MODULES[0].source;
        assert!(source.contains(&format!("COLUMNS = {COLUMNS}, PARTS = {parts} ")));
    }
}
