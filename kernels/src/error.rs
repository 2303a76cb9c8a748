//! Why a kernel can not be used.

use crate::compile::CompileError;
use cudarc::driver::DriverError;

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
    /// The driver refused.
    #[error("the CUDA driver refused")]
    Driver(#[from] DriverError),
}
