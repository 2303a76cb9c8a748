//! The launcher.

use super::{MODULES, Sampler};
use crate::KernelError;
use crate::launch::{Argument, Call, Launch, Stream, blocks_for, threads_for};
use crate::memory::{DevicePtr, DeviceValues, Kind, aligned};

/// As in sampling.cu.
const THREADS_MAX: usize = 512;
const VOCABULARY_MAX: usize = 1 << 24;
/// Blocks of a multiprocessor that loop over rows: as many as run there at once.
const BLOCKS: usize = 2;

/// Queues the choice of one token for each row of `scores` (rows, V), float32, by the random
/// numbers `uniforms` (rows), float64, to `tokens` (rows), int64; does not wait for it.
///
/// # Errors
/// Tensors have other lengths or kinds than said above, the sampler is none, there are more than
/// 2^24 scores in a row, or the driver refuses.
///
/// # Safety
/// The tensors are contiguous, do not overlap, lie in the memory of `gpu`, and stay there until
/// `stream` has passed.
#[expect(unsafe_code, reason = "the tensors are addresses")]
pub unsafe fn sample(
    gpu: &impl Launch,
    stream: Stream,
    sampler: &Sampler,
    scores: &DeviceValues,
    uniforms: &DeviceValues,
    tokens: &DeviceValues,
) -> Result<(), KernelError> {
    if let Some(fault) = sampler.fault() {
        return Err(KernelError::Sampler { fault });
    }
    let rows = tokens.len;
    let tokens = tokens.checked("the tokens", Kind::Int64, rows)?;
    let uniforms = uniforms.checked("the random numbers", Kind::Float64, rows)?;
    let width = scores.len.checked_div(rows).unwrap_or(0);
    let pointer = scores.checked("the scores", Kind::Float32, width * rows)?;
    if rows == 0 {
        return Ok(());
    }
    let (name, most) = ("the vocabulary", VOCABULARY_MAX);
    if width > most {
        return Err(KernelError::Limit { name, found: width, most });
    }
    if width == 0 {
        return Err(KernelError::Size { name, found: 0, wanted: "at least 1" });
    }
    let (uniforms, temperature, top_k, top_p) = match *sampler {
        Sampler::Greedy => (DevicePtr::NULL, 1.0, 1, 1.0),
        Sampler::Random { temperature, top_k, top_p } => {
            (uniforms, temperature, top_k.unwrap_or(u32::MAX), top_p.unwrap_or(1.0))
        }
    };
    let whole = width.is_multiple_of(Kind::Float32.lanes()) && aligned(&[pointer]);
    let arguments: [Argument; 9] = [
        pointer.into(),
        uniforms.into(),
        tokens.into(),
        (rows as u64).into(),
        (width as u32).into(),
        u32::from(whole).into(),
        top_k.into(),
        top_p.into(),
        (temperature as f32).into(),
    ];
    let call = Call {
        module: &MODULES[0],
        function: "sample",
        blocks: blocks_for(rows, gpu.multiprocessors() as usize * BLOCKS),
        threads: threads_for(width.div_ceil(Kind::Float32.lanes()), THREADS_MAX),
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
        assert!(source.contains(&format!("THREADS_MAX = {THREADS_MAX}, TOKEN_BITS = 24,")));
        assert_eq!(VOCABULARY_MAX, 1 << 24);
    }
}
