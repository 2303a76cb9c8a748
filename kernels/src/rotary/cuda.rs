//! The launchers.

use super::MODULES;
use crate::KernelError;
use crate::columns;
use crate::launch::{Argument, Call, Launch, Stream, WARP, blocks_for, variant};
use crate::memory::{DevicePtr, DeviceValues, Kind, aligned, checked_option};

/// As in rotary.cu.
const OWNED: usize = 2;
const THREADS: usize = 256;
/// Blocks of a multiprocessor that loop over heads: forward some times as many as run there at
/// once, so that none waits long for the last; backward just as many, because each costs a row of
/// partial sums.
const FORWARD_BLOCKS: usize = 32;
const BACKWARD_BLOCKS: usize = 2;

/// Sizes of the heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Heads that are queries.
    pub queries: usize,
    /// Heads that are keys, after them.
    pub keys: usize,
    /// Values of a head, even, at most [`width_max`].
    pub width: usize,
    /// Values from one row of x to the next, at least those of its heads.
    pub stride: usize,
}

/// The weights of the normalisation.
#[derive(Debug, Clone, Copy)]
pub struct Weights {
    /// For queries (width).
    pub query: DeviceValues,
    /// For keys (width).
    pub key: DeviceValues,
}

/// Where gradients of weights go.
#[derive(Debug, Clone, Copy)]
pub struct WeightGradients {
    /// Written.
    pub gradients: Weights,
    /// A place for partial sums, float32, each of [`partial_len`] values.
    pub partial: Weights,
}

/// The tensors of a forward pass.
#[derive(Debug, Clone, Copy)]
pub struct Forward {
    /// x (rows, stride), float32 or bfloat16; all below are of its kind if not said otherwise.
    pub x: DeviceValues,
    /// w, where the normalisation has weights.
    pub weights: Option<Weights>,
    /// (positions, width), float32: cosine and sine of each pair's angle in turn.
    pub table: DeviceValues,
    /// y (rows, heads, width); written.
    pub y: DeviceValues,
    /// r (rows, heads), float32, written; None: heads are not normalised.
    pub scales: Option<DeviceValues>,
}

/// The tensors of a backward pass.
#[derive(Debug, Clone, Copy)]
pub struct Backward {
    /// dy (rows, heads, width), float32 or bfloat16; all below are of its kind if not said
    /// otherwise.
    pub y_gradient: DeviceValues,
    /// x (rows, stride) and r (rows, heads), float32, as the forward pass left it; None: heads were
    /// not normalised.
    pub normed: Option<[DeviceValues; 2]>,
    /// w, where the normalisation has weights.
    pub weights: Option<Weights>,
    /// As forward.
    pub table: DeviceValues,
    /// dx (rows, stride); of each row the values of its heads are written.
    pub x_gradient: DeviceValues,
    /// None where there are no weights, or nobody asks.
    pub weight_gradients: Option<WeightGradients>,
}

/// Widest head of this kind.
pub fn width_max(kind: Kind) -> usize {
    WARP * OWNED * kind.lanes()
}

/// Values of the partial sums of one weight.
pub fn partial_len(gpu: &impl Launch, kind: Kind, rows: usize, shape: Shape) -> usize {
    let heads = rows.saturating_mul(shape.queries + shape.keys);
    blocks(gpu, kind, heads, shape.width, BACKWARD_BLOCKS) as usize * shape.width
}

/// Queues one forward pass; does not wait for it.
///
/// # Errors
/// Tensors have other lengths or kinds than said above, the shape is none, or the driver refuses.
///
/// # Safety
/// The tensors are contiguous, do not overlap, lie in the memory of `gpu`, and stay there until
/// `stream` has passed.
#[expect(unsafe_code, reason = "the tensors are addresses")]
pub unsafe fn forward(
    gpu: &impl Launch,
    stream: Stream,
    tensors: &Forward,
    shape: Shape,
    epsilon: f32,
) -> Result<(), KernelError> {
    let Forward { x, weights, table, y, scales } = tensors;
    let kind = x.kind;
    let module = variant(&MODULES, "x", kind)?;
    let sizes = Sizes::new(kind, x, table, shape)?;
    let y = y.checked("y", kind, sizes.heads * shape.width)?;
    let scales = checked_option(scales.as_ref(), "the scales", Kind::Float32, sizes.heads)?;
    let [query, key] = check_weights(weights.as_ref(), "a weight", kind, shape.width)?;
    if sizes.heads == 0 {
        return Ok(());
    }
    let whole = sizes.whole(kind, shape, &[x.pointer, y, query, key, table.pointer]);
    let mut arguments: Vec<Argument> =
        [x.pointer, query, key, table.pointer, y, scales].map(Argument::from).to_vec();
    arguments.extend(sizes.arguments(kind, shape, whole));
    arguments.push(epsilon.into());
    let call = Call {
        module,
        function: "rotary_forward",
        blocks: blocks(gpu, kind, sizes.heads, shape.width, FORWARD_BLOCKS),
        threads: THREADS as u32,
        stream,
        arguments: &arguments,
    };
    // SAFETY: these are the kernel's arguments, of the lengths checked above, and a lane has at
    // most OWNED packs of a head. The rest is the caller's.
    unsafe { gpu.launch(&call) }
}

/// Queues one backward pass; does not wait for it.
///
/// # Errors
/// As [`forward`].
///
/// # Safety
/// As [`forward`].
#[expect(unsafe_code, reason = "the tensors are addresses")]
pub unsafe fn backward(
    gpu: &impl Launch,
    stream: Stream,
    tensors: &Backward,
    shape: Shape,
) -> Result<(), KernelError> {
    let Backward { y_gradient, normed, weights, table, x_gradient, weight_gradients } = tensors;
    let kind = y_gradient.kind;
    let module = variant(&MODULES, "the gradient of y", kind)?;
    let sizes = Sizes::new(kind, x_gradient, table, shape)?;
    let width = shape.width;
    y_gradient.checked("the gradient of y", kind, sizes.heads * width)?;
    let (x, scales) = match normed {
        None => (DevicePtr::NULL, DevicePtr::NULL),
        Some([x, scales]) => (
            x.checked("x", kind, x_gradient.len)?,
            scales.checked("the scales", Kind::Float32, sizes.heads)?,
        ),
    };
    let [query, key] = check_weights(weights.as_ref(), "a weight", kind, width)?;
    let blocks = blocks(gpu, kind, sizes.heads, width, BACKWARD_BLOCKS);
    let mut partial = [DevicePtr::NULL; 2];
    if let Some(WeightGradients { gradients, partial: sums }) = weight_gradients {
        check_weights(Some(gradients), "the gradient of a weight", kind, width)?;
        let len = blocks as usize * width;
        partial = check_weights(Some(sums), "the partial sums", Kind::Float32, len)?;
    }
    if sizes.heads > 0 {
        let pointers = [y_gradient.pointer, x, query, key, x_gradient.pointer, table.pointer];
        let whole = sizes.whole(kind, shape, &pointers);
        let pointers =
            [y_gradient.pointer, x, query, key, table.pointer, scales, x_gradient.pointer];
        let mut arguments: Vec<Argument> = pointers.map(Argument::from).to_vec();
        arguments.extend(partial.map(Argument::from));
        arguments.extend(sizes.arguments(kind, shape, whole));
        let (function, threads) = ("rotary_backward", THREADS as u32);
        let call = Call { module, function, blocks, threads, stream, arguments: &arguments };
        // SAFETY: these are the kernel's arguments, of the lengths checked above, and a lane has at
        // most OWNED packs of a head. The rest is the caller's.
        unsafe { gpu.launch(&call) }?;
    }
    let gradients =
        weight_gradients.iter().flat_map(|all| [all.gradients.query, all.gradients.key]);
    for (gradient, partial) in gradients.zip(partial) {
        // SAFETY: every block has written its row of the partial sums; without heads there are
        // none.
        unsafe { columns::sum(gpu, stream, partial, &gradient, blocks) }?;
    }
    Ok(())
}

/// What the lengths say.
struct Sizes {
    rows: usize,
    /// Of all rows.
    heads: usize,
    positions: usize,
}

impl Sizes {
    fn new(
        kind: Kind,
        x: &DeviceValues,
        table: &DeviceValues,
        shape: Shape,
    ) -> Result<Self, KernelError> {
        let Shape { queries, keys, width, stride } = shape;
        let size = |name, found, wanted| Err(KernelError::Size { name, found, wanted });
        let most = width_max(kind);
        if width > most {
            return Err(KernelError::Limit { name: "the width of a head", found: width, most });
        }
        if width == 0 || !width.is_multiple_of(2) {
            return size("the width of a head", width, "even and at least 2");
        }
        let most = i32::MAX as usize;
        if stride > most {
            return Err(KernelError::Limit { name: "the stride", found: stride, most });
        }
        let heads = queries.saturating_add(keys);
        if heads == 0 || heads.saturating_mul(width) > stride {
            return size(
                "the stride",
                stride,
                "at least the values of its heads, and these more than none",
            );
        }
        let rows = x.len / stride;
        x.checked("x", kind, rows * stride)?;
        let positions = table.len / width;
        table.checked("the table", Kind::Float32, positions * width)?;
        if positions == 0 {
            return size("the table's length", table.len, "at least the width of a head");
        }
        // The kernels count heads, and where the next ones begin, in 32 bits.
        let (all, most) = (rows.saturating_mul(heads), i32::MAX as usize);
        if all > most {
            return Err(KernelError::Limit { name: "the number of heads", found: all, most });
        }
        // More positions than rows are not used.
        Ok(Self { rows, heads: all, positions: positions.min(most) })
    }

    fn whole(&self, kind: Kind, shape: Shape, pointers: &[DevicePtr]) -> bool {
        let packs = |values: usize| values.is_multiple_of(kind.lanes());
        packs(shape.width) && packs(shape.stride) && aligned(pointers)
    }

    /// From `rows` to `aligned`.
    fn arguments(&self, kind: Kind, shape: Shape, whole: bool) -> [Argument; 8] {
        [
            (self.rows as u32).into(),
            ((shape.queries + shape.keys) as u32).into(),
            (shape.queries as u32).into(),
            (shape.width as u32).into(),
            (shape.stride as u32).into(),
            (self.positions as u32).into(),
            (group(kind, shape.width) as u32).into(),
            u32::from(whole).into(),
        ]
    }
}

fn check_weights(
    weights: Option<&Weights>,
    name: &'static str,
    kind: Kind,
    len: usize,
) -> Result<[DevicePtr; 2], KernelError> {
    let Some(Weights { query, key }) = weights else { return Ok([DevicePtr::NULL; 2]) };
    Ok([query.checked(name, kind, len)?, key.checked(name, kind, len)?])
}

/// Lanes that take one head: a power of two, so that they can add up by shuffles.
fn group(kind: Kind, width: usize) -> usize {
    width.div_ceil(kind.lanes()).next_power_of_two().min(WARP)
}

/// 0 for no heads.
fn blocks(gpu: &impl Launch, kind: Kind, heads: usize, width: usize, each: usize) -> u32 {
    let in_block = THREADS / group(kind, width);
    blocks_for(heads.div_ceil(in_block), gpu.multiprocessors() as usize * each)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_has_the_same_constants() {
        let constants = format!("OWNED = {OWNED}, THREADS = {THREADS},");
        assert!(MODULES[0].source.contains(&constants));
    }
}
