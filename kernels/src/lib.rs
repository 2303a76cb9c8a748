//! Kernels, one folder per operation: `mod.rs` (formula, shapes, constants), `<operation>.cu` and
//! `cuda.rs` (its launcher), `cpu.rs` (the plain reference that says what is right on a GPU), and
//! `processor.rs` where the processor has a kernel of its own, written for its vectors.
//!
//! * [`activation`]: GELU, squared ReLU and SwiGLU; for GPUs.
//! * [`adamw`]: the fused update of AdamW.
//! * [`attention`]: causal attention with its backward pass; on the processor.
//! * [`gelu`]: GELU with its derivative; on the processor.
//! * [`logits`]: cross-entropy over a piece of the logits, which become their gradient.
//! * [`norm`]: RMSNorm and LayerNorm with the residual addition.
//! * [`rotary`]: rotary positions, with the normalisation of queries and keys.
//! * [`sampling`]: the next token of each row of scores.
//! * [`memory`]: tensors of other libraries, as addresses.
//! * [`launch`]: the call of a kernel as data, and what can carry it out.
//! * [`Gpu`]: a GPU with the kernels that were used on it, and their cache on disk.
//! * [`compile`](mod@compile): CUDA C to machine code by NVRTC, with or without a GPU;
//!   [`resources`]: what a kernel then needs.
//! * `emulator`, a feature: kernels on the processor, for tests.
//! * [`driver`]: whether there is a GPU, and its context.
//!
//! Builds without CUDA. The driver and NVRTC are opened at run time; everything here asks first
//! whether they are there, because cudarc panics when they are not.

pub mod activation;
pub mod adamw;
pub mod attention;
mod cache;
mod columns;
pub mod compile;
pub mod driver;
#[cfg(feature = "emulator")]
pub mod emulator;
mod error;
pub mod gelu;
mod gpu;
pub mod launch;
pub mod logits;
pub mod memory;
pub mod norm;
pub mod resources;
pub mod rotary;
pub mod sampling;
mod simd;

pub use driver::driver_present;
pub use error::KernelError;
pub use gpu::{Gpu, Limits};
use launch::Module;

/// Everything that is compiled for a GPU.
pub fn modules() -> impl Iterator<Item = &'static Module> {
    let all: [&'static [Module]; 10] = [
        &activation::MODULES,
        &adamw::MODULES,
        &columns::MODULES,
        &logits::MODULES,
        &norm::LAYER[0],
        &norm::LAYER[1],
        &norm::RMS[0],
        &norm::RMS[1],
        &rotary::MODULES,
        &sampling::MODULES,
    ];
    all.into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_module_has_a_name_of_its_own_and_every_function_is_in_its_source() {
        let names: BTreeSet<_> = modules().map(|module| (module.name, module.options)).collect();
        assert_eq!(names.len(), modules().count());
        for module in modules() {
            for function in module.functions {
                // Some are made by a macro, from the part before the last underscore.
                let stem = function.rsplit_once('_').map_or(*function, |(stem, _)| stem);
                assert!(module.source.contains(stem), "{function} of {}", module.name);
            }
        }
    }
}
