//! What works on this machine, for `brine-agent doctor` and, through it, `brine doctor`.

use crate::devices;
use crate::nvml::{self, Gpu};
use serde::Serialize;

/// One finding.
#[derive(Debug, Serialize)]
pub(crate) struct Check {
    /// What was looked at.
    pub(crate) name: &'static str,
    /// How it is.
    pub(crate) state: State,
    /// What was found.
    pub(crate) found: String,
    /// What to do; empty when there is nothing to do.
    pub(crate) advice: &'static str,
}

/// How a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// It works.
    Works,
    /// It is not there, and trials on the CPU do without.
    Absent,
    /// It does not work.
    Broken,
}

impl State {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Works => "works",
            Self::Absent => "absent",
            Self::Broken => "broken",
        }
    }
}

/// All findings, as `--output json` prints them.
#[derive(Debug, Serialize)]
pub(crate) struct Findings {
    /// Version of this program.
    pub(crate) version: String,
    /// What was looked at.
    pub(crate) checks: Vec<Check>,
}

impl Findings {
    /// Whether anything is broken.
    pub(crate) fn broken(&self) -> bool {
        self.checks.iter().any(|check| check.state == State::Broken)
    }
}

/// Looks at everything. Loads libtorch's CUDA part when there is a driver, which takes a second.
pub(crate) fn examine(version: String) -> Findings {
    let torch = trainer::environment();
    let mut checks = vec![libtorch(&torch), cpus(), memory(), driver(), gpus()];
    checks.push(cuda_in_libtorch(&torch));
    checks.push(nvrtc());
    checks.push(nccl());
    Findings { version, checks }
}

fn libtorch(torch: &trainer::Environment) -> Check {
    let library = torch.library.as_ref().map(|path| path.display().to_string());
    let version = torch.version.as_deref().unwrap_or("of unknown version");
    Check {
        name: "libtorch",
        // A program that could not load it would not run.
        state: State::Works,
        found: format!(
            "{version} from {}, {} threads{}",
            library.as_deref().unwrap_or("an unknown place"),
            torch.threads,
            if torch.mkl { ", with MKL" } else { "" }
        ),
        advice: "",
    }
}

fn cpus() -> Check {
    match std::thread::available_parallelism() {
        Ok(count) => {
            Check { name: "cpus", state: State::Works, found: count.to_string(), advice: "" }
        }
        Err(error) => Check {
            name: "cpus",
            state: State::Broken,
            found: error.to_string(),
            advice: "give brine-agent the number of CPU slots with --cpus",
        },
    }
}

fn memory() -> Check {
    let bytes = devices::memory_bytes();
    let found = format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
    if bytes > 0 {
        return Check { name: "memory", state: State::Works, found, advice: "" };
    }
    let advice = "/proc/meminfo cannot be read; mount /proc";
    Check { name: "memory", state: State::Broken, found: "unknown".into(), advice }
}

fn driver() -> Check {
    let name = "nvidia_driver";
    match nvml::versions() {
        Ok(Some((version, cuda))) => {
            let found = format!("{version}, serves CUDA {cuda}");
            Check { name, state: State::Works, found, advice: "" }
        }
        Ok(None) => {
            let advice = "trials that want GPUs run on other machines, or install NVIDIA's driver";
            Check { name, state: State::Absent, found: "no driver".into(), advice }
        }
        Err(error) => broken_driver(name, &error),
    }
}

fn gpus() -> Check {
    let name = "gpus";
    match nvml::gpus() {
        Ok(gpus) if gpus.is_empty() => {
            Check { name, state: State::Absent, found: "none".into(), advice: "" }
        }
        Ok(gpus) => {
            let gpus = gpus.iter().map(|gpu| {
                let gib = gpu.memory_bytes as f64 / f64::from(1 << 30);
                let Gpu { index, name, capability, .. } = gpu;
                format!("{index}: {name}, {gib:.0} GiB, compute capability {capability}")
            });
            let found = gpus.collect::<Vec<_>>().join("; ");
            Check { name, state: State::Works, found, advice: "" }
        }
        Err(error) => broken_driver(name, &error),
    }
}

fn broken_driver(name: &'static str, error: &nvml::NvmlError) -> Check {
    let found = trainer::chain(error);
    let advice = "see whether nvidia-smi works; after an update of the driver, restart the machine";
    Check { name, state: State::Broken, found, advice }
}

fn cuda_in_libtorch(torch: &trainer::Environment) -> Check {
    let name = "libtorch_cuda";
    match &torch.gpus {
        Ok(count) if *count > 0 => {
            let found = format!("sees {count} GPUs");
            Check { name, state: State::Works, found, advice: "" }
        }
        Ok(_) => Check {
            name,
            state: State::Broken,
            found: "loaded, but sees no GPU".into(),
            advice: "look at CUDA_VISIBLE_DEVICES, and whether the driver serves CUDA 13.0",
        },
        Err(error) if !kernels::driver_present() => {
            Check { name, state: State::Absent, found: error.to_string(), advice: "" }
        }
        Err(error) => Check {
            name,
            state: State::Broken,
            found: error.to_string(),
            advice: "put the lib folder of PyTorch 2.11 with CUDA on LD_LIBRARY_PATH",
        },
    }
}

fn nccl() -> Check {
    let name = "nccl";
    match trainer::parallel::nccl_version() {
        Ok(version) => Check { name, state: State::Works, found: version.to_string(), advice: "" },
        Err(error) => Check {
            name,
            state: State::Absent,
            found: error.to_string(),
            advice: "only trainings by several GPUs together need it",
        },
    }
}

fn nvrtc() -> Check {
    let name = "nvrtc";
    match kernels::compile::compiler_version() {
        Ok((major, minor)) => {
            let found = format!("{major}.{minor}");
            Check { name, state: State::Works, found, advice: "" }
        }
        Err(kernels::compile::CompileError::NoCompiler) => Check {
            name,
            state: State::Absent,
            found: "the library does not open".into(),
            advice: "only Brine's own CUDA kernels need it: pip install nvidia-cuda-nvrtc==13.0.88 \
                     and put its lib folder on LD_LIBRARY_PATH",
        },
        Err(error) => Check {
            name,
            state: State::Broken,
            found: trainer::chain(&error),
            advice: "install the wheel nvidia-cuda-nvrtc==13.0.88 again",
        },
    }
}
