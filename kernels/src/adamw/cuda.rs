//! The launcher. Compiled and checked against its source in CI; its speed and its results on a GPU
//! have not been measured yet.

use super::{Constants, SOURCE, check_lengths};
use crate::KernelError;
use crate::compile::{Arch, compile};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::Ptx;
use std::sync::Arc;

/// Name of the kernel in its source.
pub(crate) const FUNCTION: &str = "adamw_update";

/// Threads per block. Eight warps hide the latency of memory; the kernel shares nothing between
/// threads, so nothing asks for more.
const BLOCK: u32 = 256;

/// The kernel, compiled for one GPU.
#[derive(Debug)]
pub struct Kernel {
    function: CudaFunction,
}

impl Kernel {
    /// Compiles the kernel for the GPU of `context` and loads it.
    ///
    /// # Errors
    /// NVRTC is missing or refuses, or the driver does.
    pub fn new(context: &Arc<CudaContext>) -> Result<Self, KernelError> {
        let (major, minor) = context.compute_capability()?;
        let arch = Arch { major: major.unsigned_abs(), minor: minor.unsigned_abs() };
        let cubin = compile(SOURCE, arch)?;
        let module = context.load_module(Ptx::from_binary(cubin.as_bytes().to_vec()))?;
        let function = module.load_function(FUNCTION)?;
        Ok(Self { function })
    }

    /// Queues one update in place on `stream`; does not wait for it.
    ///
    /// # Errors
    /// The tensors have different lengths, or the driver refuses.
    pub fn update(
        &self,
        stream: &CudaStream,
        parameters: &mut CudaSlice<f32>,
        gradient: &CudaSlice<f32>,
        first_moment: &mut CudaSlice<f32>,
        second_moment: &mut CudaSlice<f32>,
        constants: &Constants,
    ) -> Result<(), KernelError> {
        let len = parameters.len();
        check_lengths(len, gradient.len(), first_moment.len(), second_moment.len())?;
        if len == 0 {
            return Ok(()); // A grid of no blocks is an error to the driver.
        }
        let n = len as u64;
        // A GPU's memory ends long before 2^31 blocks of floats.
        let blocks = u32::try_from(n.div_ceil(u64::from(BLOCK))).unwrap_or(u32::MAX);
        let grid = LaunchConfig {
            grid_dim: (blocks, 1, 1),
            block_dim: (BLOCK, 1, 1),
            shared_mem_bytes: 0,
        };
        let mut launch = stream.launch_builder(&self.function);
        launch.arg(parameters).arg(gradient);
        launch.arg(first_moment).arg(second_moment).arg(&n);
        launch.arg(&constants.gradient_scale);
        launch.arg(&constants.one_minus_beta1);
        launch.arg(&constants.one_minus_beta2);
        launch.arg(&constants.root_scale);
        launch.arg(&constants.epsilon);
        launch.arg(&constants.keep);
        launch.arg(&constants.step_size);
        // SAFETY: the arguments are those of `adamw_update` in their order and types, each tensor
        // has `n` values, and the kernel touches no value at or beyond `n`.
        #[expect(unsafe_code, reason = "a launch passes untyped pointers")]
        unsafe { launch.launch(grid) }?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adamw::{Config, cpu};
    use crate::driver::{context, driver_present};

    // Goal: the GPU gives what the CPU reference gives. One value more than whole blocks, so that
    // the guard of the last block is tried too.
    #[test]
    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    fn the_gpu_agrees_with_the_reference() {
        if !driver_present() {
            eprintln!("skipped: no CUDA driver");
            return;
        }
        let context = context(0).unwrap();
        let stream = context.default_stream();
        let kernel = Kernel::new(&context).unwrap();
        let n = 4 * BLOCK as usize + 1;
        let wave = |scale: f32| -> Vec<f32> { (0..n).map(|i| (i as f32 * scale).sin()).collect() };
        let (mut p, gradient) = (wave(0.1), wave(0.7));
        let (mut m, mut v) = (vec![0.0; n], vec![0.0; n]);
        let on_gpu = |values: &[f32]| stream.clone_htod(values).unwrap();
        let (mut gpu_p, mut gpu_m, mut gpu_v) = (on_gpu(&p), on_gpu(&m), on_gpu(&v));
        let gpu_gradient = on_gpu(&gradient);
        let config = Config {
            learning_rate: 1e-2,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            gradient_scale: 0.5,
        };
        for t in 1..=10 {
            let constants = Constants::new(&config, t);
            cpu::update(&mut p, &gradient, &mut m, &mut v, &constants).unwrap();
            kernel
                .update(&stream, &mut gpu_p, &gpu_gradient, &mut gpu_m, &mut gpu_v, &constants)
                .unwrap();
        }
        for (name, wanted, found) in [("p", p, gpu_p), ("m", m, gpu_m), ("v", v, gpu_v)] {
            let found = stream.clone_dtoh(&found).unwrap();
            for (i, (wanted, found)) in wanted.iter().zip(&found).enumerate() {
                let error = (wanted - found).abs();
                assert!(
                    error <= 1e-6 + 1e-6 * wanted.abs(),
                    "{name}[{i}]: {found} is not {wanted}"
                );
            }
        }
    }
}
