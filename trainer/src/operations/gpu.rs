//! Operations by kernels on a GPU. They read and write libtorch's memory, and are queued on the
//! stream that libtorch uses, so nothing is copied and nothing waits.

mod activation;
mod adamw;
mod check;
mod heads;
mod norm;
mod output;
mod sampling;

pub(crate) use activation::{relu_squared, swiglu};
pub(super) use adamw::adamw;
pub(super) use check::is_checking;
pub(crate) use check::prepare;
pub(super) use heads::heads;
pub(super) use norm::norm;
pub(super) use output::loss;
pub(super) use sampling::choose_tokens;

use crate::error::chain;
use kernels::KernelError;
use kernels::launch::{Call, Launch, Stream};
use kernels::memory::{DevicePtr, DeviceValues, Kind as KernelKind};
use std::sync::{PoisonError, RwLock};
use tch::{Device, Kind, TchError, Tensor, no_grad};

/// libtorch's stream: nothing here ever chooses another.
const STREAM: Stream = Stream::DEFAULT;

/// What runs kernels on the memory of some tensors: a GPU, or the emulator of the tests.
pub(crate) struct Machine(Box<dyn Launch + Send + Sync>);

impl Machine {
    pub(super) fn new(launch: impl Launch + Send + Sync + 'static) -> Self {
        Self(Box::new(launch))
    }
}

impl Launch for Machine {
    fn multiprocessors(&self) -> u32 {
        self.0.multiprocessors()
    }

    #[expect(unsafe_code, reason = "a launch passes untyped pointers")]
    unsafe fn launch(&self, call: &Call<'_>) -> Result<(), KernelError> {
        // SAFETY: the caller's.
        unsafe { self.0.launch(call) }
    }
}

/// The GPU of this process, and its number: a process trains on one.
static GPU: RwLock<Option<(usize, &'static Machine)>> = RwLock::new(None);

/// Which machine operations on a GPU use from now on; `None` leaves them to libtorch.
fn set_machine(machine: Option<(usize, Machine)>) {
    // What is recorded for a backward pass refers to it, and a process has few.
    let machine = machine.map(|(index, machine)| (index, &*Box::leak(Box::new(machine))));
    *GPU.write().unwrap_or_else(PoisonError::into_inner) = machine;
}

/// What runs kernels where `tensor` is, if anything does.
pub(crate) fn machine_of(tensor: &Tensor) -> Option<&'static Machine> {
    match tensor.device() {
        Device::Cuda(index) => {
            let gpu = *GPU.read().unwrap_or_else(PoisonError::into_inner);
            gpu.filter(|(own, _)| *own == index).map(|(_, machine)| machine)
        }
        #[cfg(test)]
        Device::Cpu => super::emulated::machine(),
        #[cfg(not(test))]
        Device::Cpu => None,
        Device::Mps | Device::Vulkan => None,
    }
}

/// Whether kernels can take all of these: in one piece each, floating-point numbers of one kind.
pub(super) fn are_usable(tensors: &[&Tensor]) -> bool {
    let kind = tensors.first().map_or(Kind::Int64, |tensor| tensor.kind());
    let usable = |tensor: &&Tensor| tensor.kind() == kind && tensor.is_contiguous();
    matches!(kind, Kind::Float | Kind::BFloat16) && tensors.iter().all(usable)
}

/// The address of a tensor that is in one piece.
fn values(tensor: &Tensor) -> tch::Result<DeviceValues> {
    let known = [
        (Kind::Float, KernelKind::Float32),
        (Kind::BFloat16, KernelKind::BFloat16),
        (Kind::Double, KernelKind::Float64),
        (Kind::Int64, KernelKind::Int64),
    ];
    let Some((_, kind)) = known.into_iter().find(|(kind, _)| *kind == tensor.kind()) else {
        return Err(TchError::Kind(format!("no kernel takes values of {:?}", tensor.kind())));
    };
    if !tensor.is_contiguous() {
        return Err(TchError::Shape("a kernel's tensor is not in one piece".to_owned()));
    }
    let pointer = DevicePtr(tensor.data_ptr() as u64);
    Ok(DeviceValues { pointer, len: tensor.numel(), kind })
}

fn maybe_values(tensor: Option<&Tensor>) -> tch::Result<Option<DeviceValues>> {
    tensor.map(values).transpose()
}

/// libtorch's errors are texts.
pub(crate) fn failed(error: KernelError) -> TchError {
    TchError::Torch(chain(&error))
}

/// A new tensor of `shape` beside `tensor`, of its kind, whose values are arbitrary.
fn empty_beside(tensor: &Tensor, shape: &[i64]) -> tch::Result<Tensor> {
    no_grad(|| Tensor::f_empty(shape, (tensor.kind(), tensor.device())))
}

/// Likewise of float32.
fn floats_beside(tensor: &Tensor, shape: &[i64]) -> tch::Result<Tensor> {
    no_grad(|| Tensor::f_empty(shape, (Kind::Float, tensor.device())))
}
