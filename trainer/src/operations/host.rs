//! The memory of libtorch's tensors as slices, and work on them by all threads.

use kernels::KernelError;
use std::thread;
use tch::{Device, Kind, TchError, Tensor, no_grad};

/// Values that one thread works on at a time: enough to be worth a thread.
pub(super) const PIECE_VALUES: usize = 1 << 17;

/// Whether the values of `tensor` are a slice of float32 in this process's memory.
pub(super) fn is_slice(tensor: &Tensor) -> bool {
    is_host(tensor, Kind::Float) && tensor.is_contiguous()
}

fn is_host(tensor: &Tensor, kind: Kind) -> bool {
    tensor.device() == Device::Cpu && tensor.kind() == kind && tensor.numel() > 0
}

#[expect(unsafe_code, reason = "libtorch's memory as a slice")]
pub(super) fn values(tensor: &Tensor) -> &[f32] {
    assert!(is_slice(tensor), "the caller asked first");
    // SAFETY: checked above; nobody writes to it meanwhile: one thread trains.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast(), tensor.numel()) }
}

/// For a tensor whose memory nobody else reads or writes meanwhile.
#[expect(unsafe_code, reason = "libtorch's memory as a slice")]
pub(super) fn values_mut(tensor: &mut Tensor) -> &mut [f32] {
    assert!(is_slice(tensor), "the caller asked first");
    // SAFETY: checked above; the tensor is the caller's own.
    unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast(), tensor.numel()) }
}

/// The values of `tensor` from its first to its last, and the steps of each dimension between
/// them. Its last dimension must lie in one piece.
#[expect(unsafe_code, reason = "libtorch's memory as a slice")]
pub(super) fn strided(tensor: &Tensor) -> (&[f32], Vec<usize>) {
    let strides: Vec<usize> = tensor.stride().into_iter().map(|by| by as usize).collect();
    assert!(is_host(tensor, Kind::Float) && strides.last() == Some(&1), "the caller asked first");
    let steps = tensor.size().into_iter().zip(&strides).map(|(n, by)| (n as usize - 1) * by);
    let len = steps.sum::<usize>() + 1;
    // SAFETY: from the first value to the last one of the tensor's own; strides are not negative.
    (unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast(), len) }, strides)
}

/// The targets as a slice, if they are one.
#[expect(unsafe_code, reason = "libtorch's memory as a slice")]
pub(super) fn whole_numbers(tensor: &Tensor) -> Option<&[i64]> {
    let is_slice = is_host(tensor, Kind::Int64) && tensor.is_contiguous();
    // SAFETY: checked; nobody writes to it meanwhile.
    is_slice
        .then(|| unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast(), tensor.numel()) })
}

/// A new tensor of `shape` whose values are arbitrary.
pub(super) fn empty(shape: &[i64]) -> tch::Result<Tensor> {
    no_grad(|| Tensor::f_empty(shape, (Kind::Float, Device::Cpu)))
}

/// `tensor` in one piece, as a slice.
pub(super) fn contiguous(tensor: &Tensor) -> tch::Result<Tensor> {
    no_grad(|| tensor.f_contiguous())
}

/// Does `work` on each of `parts`, shared out between as many threads as libtorch may use.
pub(super) fn each<T: Send>(
    parts: Vec<T>,
    work: impl Fn(T) -> Result<(), KernelError> + Sync,
) -> tch::Result<()> {
    let threads = usize::try_from(tch::get_num_threads()).unwrap_or(1).clamp(1, parts.len().max(1));
    let share = parts.len().div_ceil(threads).max(1);
    let mut parts = parts.into_iter();
    let work = &work;
    let done = thread::scope(|scope| {
        let mut shares = std::iter::from_fn(|| {
            let share: Vec<T> = parts.by_ref().take(share).collect();
            (!share.is_empty()).then_some(move || share.into_iter().try_for_each(work))
        });
        let own = shares.next();
        let others: Vec<_> = shares.map(|share| scope.spawn(share)).collect();
        let own = own.map_or(Ok(()), |own| own());
        let others = others
            .into_iter()
            .map(|other| other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        others.fold(own, Result::and)
    });
    done.map_err(|error| TchError::Torch(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_worked_on_and_the_first_failure_is_told() {
        for count in [0, 1, 2, 7] {
            let mut values = vec![0; count];
            let parts = values.iter_mut().enumerate().collect();
            each(parts, |(index, value)| {
                *value = index + 1;
                Ok(())
            })
            .unwrap();
            assert_eq!(values, (1..=count).collect::<Vec<_>>());
        }
        let failed =
            each(vec![1, 2, 3], |part| if part == 2 { Err(KernelError::NoDriver) } else { Ok(()) });
        assert!(failed.unwrap_err().to_string().contains("no CUDA driver"));
    }

    #[test]
    fn a_part_of_a_tensor_is_seen_with_its_steps() {
        let whole = Tensor::arange(24, (Kind::Float, Device::Cpu)).view([2, 3, 4]);
        let part = whole.narrow(1, 1, 2).transpose(0, 1);
        let (values, strides) = strided(&part);
        assert_eq!(strides, [4, 12, 1]);
        assert_eq!((values[0], values.len()), (4.0, 4 + 12 + 3 + 1));
        assert!(!is_slice(&part));
    }
}
