//! A real GPU, where there is one.

use crate::lab::{Lab, Machine};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr};
use kernels::activation::cuda::{self as activation, Pointwise};
use kernels::launch::{Call, Launch, Stream};
use kernels::memory::Kind;
use kernels::{Gpu, KernelError};
use std::path::Path;
use std::sync::Arc;

/// The first GPU.
pub(crate) struct Card {
    gpu: Gpu,
    stream: Arc<CudaStream>,
}

impl Card {
    fn open(cache: Option<&Path>) -> Self {
        let gpu = Gpu::open(0, cache).unwrap();
        let stream = gpu.default_stream();
        Self { gpu, stream }
    }
}

/// Runs `cases` there. Without a driver it says that it was skipped, unless `BRINE_REQUIRE_GPU=1`.
pub(crate) fn on_gpu(cases: impl Fn(&Card)) {
    if driver_or_skip() {
        // Beside this program, so that code is compiled once and not once per test.
        let kept = std::env::current_exe().unwrap().with_file_name("kept");
        cases(&Card::open(Some(&kept)));
    }
}

fn driver_or_skip() -> bool {
    if kernels::driver_present() {
        return true;
    }
    let required = std::env::var_os("BRINE_REQUIRE_GPU").is_some_and(|value| value == "1");
    assert!(!required, "BRINE_REQUIRE_GPU is set, but libcuda.so cannot be loaded");
    eprintln!("skipped: no driver");
    false
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

// Goal: a second process, here a second `Gpu`, takes the code from the disk and computes the same.
#[test]
fn compiled_kernels_are_kept_on_gpu() {
    if !driver_or_skip() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = || -> Vec<_> {
        let entries = std::fs::read_dir(folder.path()).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let sums = || {
        let card = Card::open(Some(folder.path()));
        let lab = Lab::new(&card, Kind::Float32, 0);
        let (x, y) = (lab.floats(Kind::Float32, &[-1.0, 3.0]), lab.output(2));
        let (x, y_values) = (x.values(), y.values());
        // SAFETY: the tensors are contiguous, of this machine, and alive.
        unsafe {
            let (stream, which) = (Stream::DEFAULT, Pointwise::ReluSquared);
            activation::forward(&card, stream, which, &x, &y_values).unwrap();
        }
        y.read()
    };
    assert_eq!(sums(), [0.0, 9.0]);
    let first = path();
    assert_eq!(first.len(), 1, "{first:?}");
    let written = std::fs::metadata(&first[0]).unwrap().modified().unwrap();
    assert_eq!(sums(), [0.0, 9.0]);
    assert_eq!(path(), first);
    assert_eq!(std::fs::metadata(&first[0]).unwrap().modified().unwrap(), written);
}
