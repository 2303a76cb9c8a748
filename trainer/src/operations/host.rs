//! The memory of libtorch's tensors as slices, and work on them by all threads.

use crate::device::openmp;
use kernels::KernelError;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use tch::{Device, Kind, TchError, Tensor, no_grad};

/// Values that one thread works on at a time: enough to be worth a thread.
pub(super) const PIECE_VALUES: usize = 1 << 15;

/// Whether the values of `tensor` are a slice of float32 in this process's memory.
pub(super) fn is_slice(tensor: &Tensor) -> bool {
    is_host(tensor, Kind::Float) && tensor.is_contiguous()
}

/// Whether `tensor` has values of `kind`, in this process's memory.
pub(super) fn is_host(tensor: &Tensor, kind: Kind) -> bool {
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

/// Whether the values of the last dimension are neighbours.
pub(super) fn last_is_whole(tensor: &Tensor) -> bool {
    tensor.size().last() == Some(&1) || tensor.stride().last() == Some(&1)
}

/// The values of `tensor` from its first to its last, and the steps of each dimension between
/// them. Its last dimension must lie in one piece.
#[expect(unsafe_code, reason = "libtorch's memory as a slice")]
pub(super) fn strided(tensor: &Tensor) -> (&[f32], Vec<usize>) {
    let strides: Vec<usize> = tensor.stride().into_iter().map(|by| by as usize).collect();
    assert!(is_host(tensor, Kind::Float) && last_is_whole(tensor), "the caller asked first");
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

/// Does `work` on each of `parts`, with as many of libtorch's threads as it may use.
///
/// # Errors
/// One of those of `work`, or one of them panicked.
pub(super) fn each<T, W>(parts: Vec<T>, work: W) -> tch::Result<()>
where
    T: Send,
    W: Fn(T) -> Result<(), KernelError> + Sync,
{
    let failed = |error: KernelError| TchError::Torch(error.to_string());
    let threads = u32::try_from(tch::get_num_threads()).unwrap_or(1);
    let Some(parallel) = openmp().filter(|_| threads > 1 && parts.len() > 1) else {
        return parts.into_iter().try_for_each(work).map_err(failed);
    };
    let threads = threads.min(u32::try_from(parts.len()).unwrap_or(u32::MAX));
    let shared = Shared { parts: Mutex::new(parts.into_iter()), work, failure: Mutex::new(None) };
    let pointer = std::ptr::from_ref(&shared).cast_mut().cast();
    // SAFETY: the function takes a `Shared` of these types, which lives until all threads have
    // returned; what they share of it may be shared: parts are `Send`, and the work is `Sync`.
    #[expect(unsafe_code, reason = "OpenMP's interface with compilers")]
    unsafe {
        parallel(take_parts::<T, W>, pointer, threads, 0);
    }
    let failure = shared.failure.into_inner().unwrap_or_else(PoisonError::into_inner);
    failure.map_or(Ok(()), |problem| Err(TchError::Torch(problem)))
}

/// What the threads share.
struct Shared<T, W> {
    parts: Mutex<std::vec::IntoIter<T>>,
    work: W,
    failure: Mutex<Option<String>>,
}

/// One thread's share: the next part as long as there is one.
#[expect(unsafe_code, reason = "called by OpenMP with what `each` gave to it")]
unsafe extern "C" fn take_parts<T, W>(shared: *mut c_void)
where
    W: Fn(T) -> Result<(), KernelError>,
{
    // SAFETY: the caller's pointer is that of `each`, which waits.
    let shared = unsafe { &*shared.cast::<Shared<T, W>>() };
    let next = || shared.parts.lock().unwrap_or_else(PoisonError::into_inner).next();
    // A panic must not cross the boundary.
    let done = catch_unwind(AssertUnwindSafe(|| {
        while let Some(part) = next() {
            (shared.work)(part)?;
        }
        Ok::<_, KernelError>(())
    }));
    let problem = match done {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "an operation panicked".to_owned(),
    };
    *shared.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(problem);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

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
        let (before, seen) = (tch::get_num_threads(), Mutex::new(BTreeSet::new()));
        tch::set_num_threads(2);
        each((0..8).collect(), |_| {
            seen.lock().unwrap().insert(format!("{:?}", std::thread::current().id()));
            std::thread::sleep(std::time::Duration::from_millis(5));
            Ok(())
        })
        .unwrap();
        assert_eq!(seen.into_inner().unwrap().len(), 2, "libtorch's threads are found");
        let panicked = each(vec![1, 2], |_| panic!("oops"));
        tch::set_num_threads(before);
        assert!(panicked.unwrap_err().to_string().contains("panicked"));
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
