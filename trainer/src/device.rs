//! Where tensors live, and what libtorch found on this machine.

use crate::library;
use proto::Precision;
use std::fs;
use std::path::PathBuf;
use std::sync::{Once, OnceLock};

pub(crate) use crate::library::openmp;

/// Most threads that one training may ask for: more than any machine has cores, and few enough that
/// a slip of the pen does not start a million.
pub(crate) const THREADS_MAX: u32 = 4_096;

/// Variable of the environment that, set to `off`, has libtorch do the work of the GPU's kernels.
pub const KERNELS: &str = "BRINE_GPU_KERNELS";

/// Where a training computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The processor.
    Cpu,
    /// The GPU of this index among those that the process sees.
    Cuda(u32),
}

/// Why a device can not be used. Another machine may have it, so the class is infrastructure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// There is no CUDA driver.
    #[error("this machine has no CUDA driver (libcuda.so), which a trial on a GPU needs")]
    NoDriver,
    /// The part of libtorch that knows CUDA can not be loaded.
    #[error(
        "cannot load libtorch_cuda.so: {reason}; put the `lib` folder of a PyTorch 2.11 with CUDA \
        on LD_LIBRARY_PATH"
    )]
    NoCudaLibrary {
        /// What the loader said.
        reason: String,
    },
    /// A GPU took a kernel badly.
    #[error(
        "the GPU does not compute any more after Brine's kernels were tried on it ({problem}): \
        {reason}; {KERNELS}=off in the agent's environment leaves its work to libtorch; please \
        tell Brine's developers the card and this line"
    )]
    Broken {
        /// What the trial of the kernels found.
        problem: String,
        /// What libtorch says since.
        reason: String,
    },
    /// libtorch has CUDA, but sees no such GPU.
    #[error("the trial wants GPU {index}, but libtorch sees {count} GPUs")]
    NoSuchGpu {
        /// The GPU wanted.
        index: u32,
        /// GPUs that are there.
        count: i64,
    },
}

/// What libtorch found on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// Path of the loaded `libtorch_cpu.so`, where the system tells it.
    pub library: Option<PathBuf>,
    /// Version written beside the library, for example `2.11.0+cu130`.
    pub version: Option<String>,
    /// Threads that libtorch would use if it were not told.
    pub threads: i32,
    /// Whether matrix products use Intel's MKL.
    pub mkl: bool,
    /// Number of GPUs, or why there is none.
    pub gpus: Result<i64, DeviceError>,
}

/// What libtorch found on this machine. Loads its CUDA part when there is a driver, which takes a
/// second or more.
pub fn environment() -> Environment {
    let library = loaded_library();
    let version = library.as_ref().and_then(|path| {
        // lib/libtorch_cpu.so lies beside version.py (wheel) or build-version (C++ archive).
        let root = path.parent()?.parent()?;
        let text = fs::read_to_string(root.join("version.py"))
            .or_else(|_| fs::read_to_string(root.join("build-version")))
            .ok()?;
        version_in(&text)
    });
    Environment {
        library,
        version,
        threads: tch::get_num_threads(),
        mkl: tch::utils::has_mkl(),
        gpus: open_cuda().map(|()| tch::Cuda::device_count()),
    }
}

/// Prepares libtorch for one training and gives its name of `device`.
pub(crate) fn open(device: Device, threads: u32) -> Result<tch::Device, DeviceError> {
    static INTEROP_THREADS: Once = Once::new();
    // libtorch accepts this number once. Nothing here uses that pool; one thread keeps it small.
    INTEROP_THREADS.call_once(|| {
        if tch::get_num_interop_threads() != 1 {
            tch::set_num_interop_threads(1);
        }
    });
    tch::set_num_threads(threads.min(THREADS_MAX) as i32);
    match device {
        Device::Cpu => Ok(tch::Device::Cpu),
        Device::Cuda(index) => {
            open_cuda()?;
            let count = tch::Cuda::device_count();
            if i64::from(index) >= count {
                return Err(DeviceError::NoSuchGpu { index, count });
            }
            Ok(tch::Device::Cuda(index as usize))
        }
    }
}

/// What makes a training in `precision` on `device` slower than people expect, if something does.
pub(crate) fn slowness(device: tch::Device, precision: Precision) -> Option<&'static str> {
    match (device, precision) {
        (tch::Device::Cpu, Precision::Bf16) if !has_bf16() => Some(
            "this processor has no instructions for bfloat16 (avx512_bf16): its products take 30 \
             to 40 times as long as in float32; `precision: float32` is the quick one here",
        ),
        _ => None,
    }
}

fn has_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        true // Not known to be slow.
    }
}

/// Loads `libtorch_cuda.so`, once per process and only where a driver is, so that one program
/// serves machines with and without GPUs. Must come before anything else asks libtorch about CUDA,
/// and before the first backward pass of the process: it remembers the first answer, and how many
/// devices there were then.
fn open_cuda() -> Result<(), DeviceError> {
    static OPENED: OnceLock<Result<(), DeviceError>> = OnceLock::new();
    OPENED
        .get_or_init(|| {
            if !kernels::driver_present() {
                return Err(DeviceError::NoDriver);
            }
            load_cuda_library()
        })
        .clone()
}

fn load_cuda_library() -> Result<(), DeviceError> {
    // It and the libtorch that this program is linked to come from one folder and so one build.
    let opened = library::open("libtorch_cuda.so");
    opened.map(drop).map_err(|reason| DeviceError::NoCudaLibrary { reason })
}

fn loaded_library() -> Option<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with("/libtorch_cpu.so"))?;
    Some(PathBuf::from(&line[line.find('/')?..]))
}

/// The first word of `text` that begins with a digit, out of its quotation marks.
fn version_in(text: &str) -> Option<String> {
    let mut words = text.split(|c: char| c.is_whitespace() || c == '\'' || c == '"');
    let word = words.find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    Some(word.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bfloat16_without_its_instructions_is_said_to_be_slow() {
        assert_eq!(slowness(tch::Device::Cpu, Precision::Float32), None);
        assert_eq!(slowness(tch::Device::Cuda(0), Precision::Bf16), None);
        assert_eq!(slowness(tch::Device::Cpu, Precision::Bf16).is_some(), !has_bf16());
    }

    #[test]
    fn the_version_is_read_from_both_kinds_of_file() {
        let wheel = "from typing import Optional\n__version__ = '2.11.0+cu130'\ndebug = False\n";
        assert_eq!(version_in(wheel).as_deref(), Some("2.11.0+cu130"));
        assert_eq!(version_in("2.11.0+cpu\n").as_deref(), Some("2.11.0+cpu"));
        assert_eq!(version_in("debug = False"), None);
    }

    #[test]
    fn the_environment_names_the_library_and_its_version() {
        let environment = environment();
        let version = environment.version.unwrap_or_default();
        assert!(version.starts_with("2.11."), "found version {version:?}");
        assert!(environment.library.is_some_and(|path| path.is_file()));
    }

    #[test]
    fn a_gpu_that_is_not_there_is_an_error_and_not_a_panic() {
        let error = open(Device::Cuda(4_000), 1);
        assert!(matches!(
            error,
            Err(DeviceError::NoDriver
                | DeviceError::NoCudaLibrary { .. }
                | DeviceError::NoSuchGpu { .. })
        ));
    }
}
