//! The launchers.

use super::MODULES;
use crate::KernelError;
use crate::launch::{Argument, Call, Launch, Stream, blocks_for, threads_for, variant};
use crate::memory::{DevicePtr, DeviceValues, Kind, aligned};

/// As in activation.cu.
const THREADS_MAX: usize = 256;
/// Blocks of a multiprocessor that loop over rows.
const BLOCKS: usize = 32;

/// An activation of single values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pointwise {
    /// GELU in its form with tanh.
    Gelu,
    /// The squared ReLU.
    ReluSquared,
}

/// Queues `y` = the activation of `x`, both (N) and of one kind; does not wait for it.
///
/// # Errors
/// The tensors have different lengths or kinds, or the driver refuses.
///
/// # Safety
/// The tensors are contiguous, do not overlap, lie in the memory of `gpu`, and stay there until
/// `stream` has passed.
#[expect(unsafe_code, reason = "the tensors are addresses")]
pub unsafe fn forward(
    gpu: &impl Launch,
    stream: Stream,
    activation: Pointwise,
    x: &DeviceValues,
    y: &DeviceValues,
) -> Result<(), KernelError> {
    let function = match activation {
        Pointwise::Gelu => "gelu_forward",
        Pointwise::ReluSquared => "relu_squared_forward",
    };
    let y = y.checked("y", x.kind, x.len)?;
    // SAFETY: these are the kernel's tensors, of the length of x. The rest is the caller's.
    unsafe { pointwise(gpu, stream, function, x, &[x.pointer, y]) }
}

/// Queues `x_gradient` = the activation's slope at `x` times `y_gradient`, all (N) and of one kind;
/// does not wait for it.
///
/// # Errors
/// As [`forward`].
///
/// # Safety
/// As [`forward`], except that `x_gradient` may be `y_gradient`.
#[expect(unsafe_code, reason = "the tensors are addresses")]
pub unsafe fn backward(
    gpu: &impl Launch,
    stream: Stream,
    activation: Pointwise,
    y_gradient: &DeviceValues,
    x: &DeviceValues,
    x_gradient: &DeviceValues,
) -> Result<(), KernelError> {
    let function = match activation {
        Pointwise::Gelu => "gelu_backward",
        Pointwise::ReluSquared => "relu_squared_backward",
    };
    let y_gradient = y_gradient.checked("the gradient of y", x.kind, x.len)?;
    let x_gradient = x_gradient.checked("the gradient of x", x.kind, x.len)?;
    // SAFETY: these are the kernel's tensors, of the length of x. The rest is the caller's.
    unsafe { pointwise(gpu, stream, function, x, &[y_gradient, x.pointer, x_gradient]) }
}

/// # Safety
/// `tensors` are those of `function`, each of the length and kind of `x`.
#[expect(unsafe_code, reason = "the tensors are addresses")]
unsafe fn pointwise(
    gpu: &impl Launch,
    stream: Stream,
    function: &'static str,
    x: &DeviceValues,
    tensors: &[DevicePtr],
) -> Result<(), KernelError> {
    let module = variant(&MODULES, "x", x.kind)?;
    if x.len == 0 {
        return Ok(());
    }
    let mut arguments: Vec<Argument> = tensors.iter().map(|&tensor| tensor.into()).collect();
    arguments.extend([Argument::U64(x.len as u64), u32::from(aligned(tensors)).into()]);
    let call = Call {
        module,
        function,
        blocks: blocks_for(x.len.div_ceil(x.kind.lanes() * THREADS_MAX), usize::MAX),
        threads: THREADS_MAX as u32,
        stream,
        arguments: &arguments,
    };
    // SAFETY: the caller's; the kernel touches no value at or beyond the length.
    unsafe { gpu.launch(&call) }
}

/// Queues SwiGLU of `x` (rows, 2 width) to `y` (rows, width), of one kind; does not wait for it.
///
/// # Errors
/// The tensors have other lengths or kinds, or the driver refuses.
///
/// # Safety
/// As [`forward`].
#[expect(unsafe_code, reason = "the tensors are addresses")]
pub unsafe fn swiglu_forward(
    gpu: &impl Launch,
    stream: Stream,
    x: &DeviceValues,
    y: &DeviceValues,
    width: usize,
) -> Result<(), KernelError> {
    let rows = rows(y, width)?;
    let x = x.checked("x", y.kind, doubled(y)?)?;
    // SAFETY: these are the kernel's tensors, of lengths that fit. The rest is the caller's.
    unsafe { swiglu(gpu, stream, "swiglu_forward", y.kind, &[x, y.pointer], rows, width) }
}

/// Queues the gradient of `x` (rows, 2 width) from that of `y` (rows, width); does not wait for it.
///
/// # Errors
/// As [`swiglu_forward`].
///
/// # Safety
/// As [`forward`], except that `x_gradient` may be `x`.
#[expect(unsafe_code, reason = "the tensors are addresses")]
pub unsafe fn swiglu_backward(
    gpu: &impl Launch,
    stream: Stream,
    y_gradient: &DeviceValues,
    x: &DeviceValues,
    x_gradient: &DeviceValues,
    width: usize,
) -> Result<(), KernelError> {
    let rows = rows(y_gradient, width)?;
    let (kind, len) = (y_gradient.kind, doubled(y_gradient)?);
    let x = x.checked("x", kind, len)?;
    let x_gradient = x_gradient.checked("the gradient of x", kind, len)?;
    let tensors = [y_gradient.pointer, x, x_gradient];
    // SAFETY: these are the kernel's tensors, of lengths that fit. The rest is the caller's.
    unsafe { swiglu(gpu, stream, "swiglu_backward", kind, &tensors, rows, width) }
}

fn rows(y: &DeviceValues, width: usize) -> Result<usize, KernelError> {
    let most = u32::MAX as usize / 2; // A thread's next pack must still be a number of 32 bits.
    if width == 0 {
        return Err(KernelError::Size { name: "the width", found: 0, wanted: "at least 1" });
    }
    if width > most {
        return Err(KernelError::Limit { name: "the width", found: width, most });
    }
    let rows = y.len / width;
    y.checked("y", y.kind, rows * width)?;
    Ok(rows)
}

fn doubled(y: &DeviceValues) -> Result<usize, KernelError> {
    let most = usize::MAX / 2;
    y.len.checked_mul(2).ok_or(KernelError::Limit { name: "y", found: y.len, most })
}

/// # Safety
/// `tensors` are those of `function`, of `rows` rows and `kind`.
#[expect(unsafe_code, reason = "the tensors are addresses")]
unsafe fn swiglu(
    gpu: &impl Launch,
    stream: Stream,
    function: &'static str,
    kind: Kind,
    tensors: &[DevicePtr],
    rows: usize,
    width: usize,
) -> Result<(), KernelError> {
    let module = variant(&MODULES, "y", kind)?;
    if rows == 0 {
        return Ok(());
    }
    let whole = width.is_multiple_of(kind.lanes()) && aligned(tensors);
    let mut arguments: Vec<Argument> = tensors.iter().map(|&tensor| tensor.into()).collect();
    arguments.extend([Argument::U64(rows as u64), Argument::U32(width as u32)]);
    arguments.push(u32::from(whole).into());
    let call = Call {
        module,
        function,
        blocks: blocks_for(rows, gpu.multiprocessors() as usize * BLOCKS),
        threads: threads_for(width.div_ceil(kind.lanes()), THREADS_MAX),
        stream,
        arguments: &arguments,
    };
    // SAFETY: the caller's; the kernel touches no value at or beyond `rows` and `width`.
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
