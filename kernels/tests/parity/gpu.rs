//! A real GPU, where there is one.

use crate::lab::Machine;
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr};
use kernels::launch::{Call, Launch};
use kernels::{Gpu, KernelError};
use std::sync::Arc;

/// The first GPU.
pub(crate) struct Card {
    gpu: Gpu,
    stream: Arc<CudaStream>,
}

/// Runs `cases` there. Without a driver it says that it was skipped, unless `BRINE_REQUIRE_GPU=1`.
pub(crate) fn on_gpu(cases: impl Fn(&Card)) {
    if !kernels::driver_present() {
        let required = std::env::var_os("BRINE_REQUIRE_GPU").is_some_and(|value| value == "1");
        assert!(!required, "BRINE_REQUIRE_GPU is set, but libcuda.so cannot be loaded");
        eprintln!("skipped: no driver");
        return;
    }
    let gpu = Gpu::open(0, None).unwrap();
    let stream = gpu.default_stream();
    cases(&Card { gpu, stream });
}

impl Launch for Card {
    fn multiprocessors(&self) -> u32 {
        self.gpu.multiprocessors()
    }

    unsafe fn launch(&self, call: &Call<'_>) -> Result<(), KernelError> {
        // SAFETY: the caller's.
        unsafe { self.gpu.launch(call) }
    }
}

impl Machine for Card {
    type Memory = CudaSlice<u8>;

    fn upload(&self, bytes: &[u8]) -> Self::Memory {
        self.stream.clone_htod(bytes).unwrap()
    }

    fn address(&self, memory: &Self::Memory) -> u64 {
        memory.device_ptr(&self.stream).0
    }

    fn download(&self, memory: &Self::Memory) -> Vec<u8> {
        self.stream.clone_dtoh(memory).unwrap()
    }
}
