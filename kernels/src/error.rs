//! Why a kernel can not be used.

use crate::compile::CompileError;
use crate::memory::Kind;
use cudarc::driver::DriverError;
use std::io;
use std::path::PathBuf;

/// Why a kernel can not be made or started.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// There is no CUDA driver.
    #[error("this machine has no CUDA driver (libcuda.so)")]
    NoDriver,
    /// The source does not compile.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// Tensors that must have one length do not.
    #[error("{name} has {found} values instead of {wanted}")]
    Length {
        /// Which tensor.
        name: &'static str,
        /// Its values.
        found: usize,
        /// Values wanted.
        wanted: usize,
    },
    /// A target is no token of the vocabulary.
    #[error("target {target} is not in a vocabulary of {vocabulary} tokens")]
    Target {
        /// The target.
        target: i64,
        /// Number of tokens.
        vocabulary: usize,
    },
    /// A tensor holds something else.
    #[error("{name} holds {found:?} instead of {wanted:?}")]
    Kind {
        /// Which tensor.
        name: &'static str,
        /// What it holds.
        found: Kind,
        /// What it must hold.
        wanted: Kind,
    },
    /// Larger than the kernel can do.
    #[error("{name} is {found}, more than the {most} that this kernel can do")]
    Limit {
        /// Which size.
        name: &'static str,
        /// Its value.
        found: usize,
        /// The largest that works.
        most: usize,
    },
    /// Sizes that do not fit each other, or no sizes at all.
    #[error("{name} is {found}, it must be {wanted}")]
    Size {
        /// Which size.
        name: &'static str,
        /// Its value.
        found: usize,
        /// What is allowed.
        wanted: &'static str,
    },
    /// A number of a sampler that means nothing.
    #[error("{fault}")]
    Sampler {
        /// Which, and what it must be.
        fault: String,
    },
    /// The folder for compiled kernels can not be written.
    #[error("cannot keep a compiled kernel at {}; choose another folder, or none", path.display())]
    Cache {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        error: io::Error,
    },
    /// The driver refused.
    #[error("the CUDA driver refused")]
    Driver(#[from] DriverError),
}
