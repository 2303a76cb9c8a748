//! The launchers.

use super::{Centring, LAYER, RMS};
use crate::KernelError;
use crate::columns;
use crate::launch::{Argument, Call, Launch, Module, Stream, blocks_for, threads_for, variant};
use crate::memory::{DevicePtr, DeviceValues, Kind, aligned, checked_option};

/// As in norm.cu: packs of a thread where rows are wide.
const OWNED: usize = 4;
const THREADS_MAX: usize = 512;
/// Blocks of a multiprocessor that loop over rows forward: at least as many as run there at once.
const FORWARD_BLOCKS: usize = 32;
/// Threads of a multiprocessor backward, with narrow rows and wide ones. Each has up to 64 and 128
/// registers, so more would have to wait, and each block costs a row of partial sums.
const BACKWARD_THREADS: [usize; 2] = [1_024, 512];

/// The tensors of a forward pass.
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    /// x (rows, width), float32 or bfloat16; all below are of its kind if not said otherwise.
    pub x: DeviceValues,
    /// The second summand (rows, width), and where the sum s goes (rows, width).
    pub residual: Option<[DeviceValues; 2]>,
    /// w (width).
    pub weight: Option<DeviceValues>,
    /// b (width).
    pub bias: Option<DeviceValues>,
    /// y (rows, width); written.
    pub y: DeviceValues,
    /// m (rows), float32; written. None for RMSNorm.
    pub means: Option<DeviceValues>,
    /// r (rows), float32; written.
    pub scales: DeviceValues,
}

/// The tensors of a backward pass.
#[derive(Debug, Clone, Copy)]
pub struct Backward {
    /// dy (rows, width), float32 or bfloat16; all below are of its kind if not said otherwise.
    pub y_gradient: DeviceValues,
    /// What was normalised: s (rows, width), or x where nothing was added.
    pub s: DeviceValues,
    /// w (width).
    pub weight: Option<DeviceValues>,
    /// (rows, width), added to ds.
    pub passed: Option<DeviceValues>,
    /// ds (rows, width); written. May be `passed` itself.
    pub s_gradient: DeviceValues,
    /// As the forward pass left them.
    pub means: Option<DeviceValues>,
    /// As the forward pass left them.
    pub scales: DeviceValues,
    /// dw (width), written, and a place for its partial sums: float32, [`partial_len`] values.
    pub weight_gradient: Option<[DeviceValues; 2]>,
    /// db (width), written, and a place for its partial sums. None for RMSNorm.
    pub bias_gradient: Option<[DeviceValues; 2]>,
}

/// Widest row of this kind.
pub fn width_max(kind: Kind) -> usize {
    OWNED * THREADS_MAX * kind.lanes()
}

/// Values of the partial sums of one weight.
pub fn partial_len(gpu: &impl Launch, kind: Kind, rows: usize, width: usize) -> usize {
    backward_blocks(gpu, kind, rows, width) as usize * width
}

/// Queues one forward pass over rows of `width`; does not wait for it.
///
/// # Errors
/// Tensors have other lengths or kinds than said above, rows are wider than [`width_max`] or have
/// no values, or the driver refuses.
///
/// # Safety
/// The tensors are contiguous, do not overlap, lie in the memory of `gpu`, and stay there until
/// `stream` has passed.
#[expect(unsafe_code, reason = "the tensors are addresses")]
pub unsafe fn forward(
    gpu: &impl Launch,
    stream: Stream,
    centring: Centring,
    tensors: &Forward,
    width: usize,
    epsilon: f32,
) -> Result<(), KernelError> {
    let Forward { x, residual, weight, bias, y, means, scales } = tensors;
    let kind = x.kind;
    let module = module(centring, kind, width)?;
    let (rows, width_argument) = shape(kind, x.len, width)?;
    let [added, sum] = pair(*residual);
    let added = checked_option(added.as_ref(), "the second summand", kind, x.len)?;
    let sum = checked_option(sum.as_ref(), "the sum", kind, x.len)?;
    let weight = checked_option(weight.as_ref(), "the weight", kind, width)?;
    let bias = checked_option(bias.as_ref(), "the bias", kind, width)?;
    let y = y.checked("y", kind, x.len)?;
    let means = check_means(centring, means.as_ref(), rows)?;
    let scales = scales.checked("the scales", Kind::Float32, rows)?;
    if rows == 0 {
        return Ok(());
    }
    let whole = whole(kind, width, &[x.pointer, added, sum, weight, bias, y]);
    let arguments: [Argument; 12] = [
        x.pointer.into(),
        added.into(),
        weight.into(),
        bias.into(),
        sum.into(),
        y.into(),
        means.into(),
        scales.into(),
        (rows as u64).into(),
        width_argument.into(),
        whole.into(),
        epsilon.into(),
    ];
    let call = Call {
        module,
        function: "norm_forward",
        blocks: blocks_for(rows, gpu.multiprocessors() as usize * FORWARD_BLOCKS),
        threads: threads(kind, width),
        stream,
        arguments: &arguments,
    };
    // SAFETY: these are the kernel's arguments, of the lengths checked above, and a thread has at
    // most OWNED packs of a row. The rest is the caller's.
    unsafe { gpu.launch(&call) }
}

/// Queues one backward pass over rows of `width`; does not wait for it.
///
/// # Errors
/// As [`forward`].
///
/// # Safety
/// As [`forward`], except that `s_gradient` may be `passed`.
#[expect(unsafe_code, reason = "the tensors are addresses")]
pub unsafe fn backward(
    gpu: &impl Launch,
    stream: Stream,
    centring: Centring,
    tensors: &Backward,
    width: usize,
) -> Result<(), KernelError> {
    let Backward { y_gradient, s, weight, passed, s_gradient, means, scales, .. } = tensors;
    let kind = y_gradient.kind;
    let module = module(centring, kind, width)?;
    let (rows, width_argument) = shape(kind, y_gradient.len, width)?;
    let s = s.checked("s", kind, y_gradient.len)?;
    let weight = checked_option(weight.as_ref(), "the weight", kind, width)?;
    let passed = checked_option(passed.as_ref(), "the passed gradient", kind, y_gradient.len)?;
    let s_gradient = s_gradient.checked("the gradient of s", kind, y_gradient.len)?;
    let means = check_means(centring, means.as_ref(), rows)?;
    let scales = scales.checked("the scales", Kind::Float32, rows)?;
    let bias_gradient = match centring {
        Centring::None => None,
        Centring::Mean => tensors.bias_gradient,
    };
    let partial_len = partial_len(gpu, kind, rows, width);
    let mut partial = [DevicePtr::NULL; 2];
    let gradients = [tensors.weight_gradient, bias_gradient];
    for (place, gradient) in partial.iter_mut().zip(gradients) {
        let [gradient, sums] = pair(gradient);
        checked_option(gradient.as_ref(), "the gradient of a weight", kind, width)?;
        *place = checked_option(sums.as_ref(), "the partial sums", Kind::Float32, partial_len)?;
    }
    let blocks = backward_blocks(gpu, kind, rows, width);
    if rows > 0 {
        let whole = whole(kind, width, &[y_gradient.pointer, s, weight, passed, s_gradient]);
        let arguments: [Argument; 12] = [
            y_gradient.pointer.into(),
            s.into(),
            weight.into(),
            passed.into(),
            s_gradient.into(),
            means.into(),
            scales.into(),
            partial[0].into(),
            partial[1].into(),
            (rows as u64).into(),
            width_argument.into(),
            whole.into(),
        ];
        let threads = threads(kind, width);
        let function = "norm_backward";
        let call = Call { module, function, blocks, threads, stream, arguments: &arguments };
        // SAFETY: these are the kernel's arguments, of the lengths checked above, and a thread has
        // at most OWNED packs of a row. The rest is the caller's.
        unsafe { gpu.launch(&call) }?;
    }
    for [gradient, sums] in gradients.into_iter().flatten() {
        // SAFETY: every block has written its row of the partial sums; without rows there are none.
        unsafe { columns::sum(gpu, stream, sums.pointer, &gradient, blocks) }?;
    }
    Ok(())
}

fn module(centring: Centring, kind: Kind, width: usize) -> Result<&'static Module, KernelError> {
    let variants = match centring {
        Centring::None => &RMS,
        Centring::Mean => &LAYER,
    };
    variant(&variants[usize::from(is_wide(kind, width))], "the activations", kind)
}

/// Whether a thread needs more than one pack of a row.
fn is_wide(kind: Kind, width: usize) -> bool {
    width.div_ceil(kind.lanes()) > THREADS_MAX
}

/// Rows, and the width as the kernels take it.
fn shape(kind: Kind, len: usize, width: usize) -> Result<(usize, u32), KernelError> {
    let most = width_max(kind);
    if width > most {
        return Err(KernelError::Limit { name: "the width", found: width, most });
    }
    if width == 0 {
        return Err(KernelError::Size { name: "the width", found: 0, wanted: "at least 1" });
    }
    let rows = len / width;
    if !len.is_multiple_of(width) {
        return Err(KernelError::Length { name: "x", found: len, wanted: rows * width });
    }
    Ok((rows, width as u32))
}

fn check_means(
    centring: Centring,
    means: Option<&DeviceValues>,
    rows: usize,
) -> Result<DevicePtr, KernelError> {
    match (centring, means) {
        (Centring::None, _) => Ok(DevicePtr::NULL),
        (Centring::Mean, Some(means)) => means.checked("the means", Kind::Float32, rows),
        (Centring::Mean, None) => {
            Err(KernelError::Length { name: "the means", found: 0, wanted: rows })
        }
    }
}

fn pair(tensors: Option<[DeviceValues; 2]>) -> [Option<DeviceValues>; 2] {
    tensors.map_or([None; 2], |tensors| tensors.map(Some))
}

fn whole(kind: Kind, width: usize, pointers: &[DevicePtr]) -> u32 {
    u32::from(width.is_multiple_of(kind.lanes()) && aligned(pointers))
}

fn threads(kind: Kind, width: usize) -> u32 {
    threads_for(width.div_ceil(kind.lanes()), THREADS_MAX)
}

/// 0 for no rows.
fn backward_blocks(gpu: &impl Launch, kind: Kind, rows: usize, width: usize) -> u32 {
    let threads_of_all = BACKWARD_THREADS[usize::from(is_wide(kind, width))];
    let each = threads_of_all / threads(kind, width) as usize;
    blocks_for(rows, gpu.multiprocessors() as usize * each)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_has_the_same_constants() {
        for constant in [format!("OWNED = {OWNED},"), format!("THREADS_MAX = {THREADS_MAX} ")] {
            assert!(RMS[0][0].source.contains(&constant), "{constant}");
        }
    }
}
