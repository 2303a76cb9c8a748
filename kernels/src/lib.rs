//! CUDA kernels, one folder per operation: `mod.rs` (formula, shapes, constants), `cpu.rs` (the
//! reference that says what is right), `<operation>.cu` and `cuda.rs` (its launcher).
//!
//! * [`adamw`]: the fused update of AdamW.
//! * [`compile`](mod@compile): CUDA C to machine code by NVRTC, with or without a GPU.
//! * [`driver`]: whether there is a GPU, and its context.
//!
//! Builds without CUDA. The driver and NVRTC are opened at run time; everything here asks first
//! whether they are there, because cudarc panics when they are not.

pub mod adamw;
pub mod compile;
pub mod driver;
mod error;

pub use driver::driver_present;
pub use error::KernelError;
