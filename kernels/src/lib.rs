//! Kernels, one folder per operation: `mod.rs` (formula, shapes, constants), `cpu.rs` (for the
//! processor, or the reference that says what is right on a GPU), `<operation>.cu` and `cuda.rs`
//! (its launcher).
//!
//! * [`adamw`]: the fused update of AdamW.
//! * [`cross_entropy`]: cross-entropy with its gradient in place.
//! * [`gelu`]: GELU with its derivative; for the processor.
//! * [`heads`]: rotary positions.
//! * [`rms_norm`]: RMSNorm and LayerNorm with the residual addition.
//! * [`compile`](mod@compile): CUDA C to machine code by NVRTC, with or without a GPU.
//! * [`driver`]: whether there is a GPU, and its context.
//!
//! Builds without CUDA. The driver and NVRTC are opened at run time; everything here asks first
//! whether they are there, because cudarc panics when they are not.

pub mod adamw;
pub mod compile;
pub mod cross_entropy;
pub mod driver;
mod error;
pub mod gelu;
pub mod heads;
pub mod rms_norm;
mod simd;

pub use driver::driver_present;
pub use error::KernelError;
