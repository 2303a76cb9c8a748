//! A GPU with the kernels that were used on it.

use crate::KernelError;
use crate::cache::{Cache, Key};
use crate::compile::{Arch, Cubin, compile};
use crate::driver;
use crate::launch::{Argument, Call, Launch, Module, Stream};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};
use cudarc::driver::{CudaContext, CudaFunction, CudaStream, result};
use cudarc::nvrtc::Ptx;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// One GPU. To be made once per process and GPU; kernels are compiled, or read from the cache, when
/// they are first used.
#[derive(Debug)]
pub struct Gpu {
    context: Arc<CudaContext>,
    arch: Arch,
    driver_version: i32,
    multiprocessors: u32,
    cache: Option<Cache>,
    /// The functions of a module come together.
    functions: Mutex<BTreeMap<Name, CudaFunction>>,
}

/// A module's name and options, and a function's name. Looked up for every launch, so without the
/// source.
type Name = (&'static str, &'static [&'static str], &'static str);

/// What a GPU can do at most.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Name of the card.
    pub name: String,
    /// Bytes that its memory moves in a second: clock times width, twice per clock.
    pub bytes_per_second: f64,
}

impl Gpu {
    /// Opens the GPU with this index. It shares the primary context with libtorch. `cache` is a
    /// folder for compiled kernels, which is made when it is not there.
    ///
    /// # Errors
    /// There is no driver or no such GPU.
    pub fn open(index: u32, cache: Option<&Path>) -> Result<Self, KernelError> {
        let context = driver::context(index)?;
        let (major, minor) = context.compute_capability()?;
        let arch = Arch { major: major.unsigned_abs(), minor: minor.unsigned_abs() };
        let multiprocessors =
            context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        Ok(Self {
            arch,
            driver_version: driver::version()?,
            multiprocessors: multiprocessors.unsigned_abs().max(1),
            cache: cache.map(Cache::at),
            functions: Mutex::default(),
            context,
        })
    }

    /// The card's name and the speed of its memory.
    ///
    /// # Errors
    /// The driver refuses.
    pub fn limits(&self) -> Result<Limits, KernelError> {
        let number =
            |attribute| Ok::<_, KernelError>(f64::from(self.context.attribute(attribute)?));
        let kilohertz = number(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?;
        let bits = number(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?;
        let bytes_per_second = 2.0 * kilohertz * 1e3 * bits / 8.0;
        Ok(Limits { name: self.context.name()?, bytes_per_second })
    }

    /// The default stream through cudarc, for memory and events of tests and measurements.
    pub fn default_stream(&self) -> Arc<CudaStream> {
        self.context.default_stream()
    }

    fn function(
        &self,
        module: &'static Module,
        name: &'static str,
    ) -> Result<CudaFunction, KernelError> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = functions.get(&(module.name, module.options, name)) {
            return Ok(function.clone());
        }
        let code = self.code(module)?;
        let loaded = self.context.load_module(Ptx::from_binary(code.as_bytes().to_vec()))?;
        for &name in module.functions {
            let function = loaded.load_function(name)?;
            functions.insert((module.name, module.options, name), function);
        }
        Ok(loaded.load_function(name)?)
    }

    fn code(&self, module: &Module) -> Result<Cubin, KernelError> {
        let source = module.text();
        let key = Key {
            source: &source,
            options: module.options,
            arch: self.arch,
            driver_version: self.driver_version,
        };
        if let Some(code) = self.cache.as_ref().and_then(|cache| cache.read(&key)) {
            return Ok(code);
        }
        let code = compile(&source, module.options, self.arch)?.cubin;
        if let Some(cache) = &self.cache {
            // What can not be kept is compiled again next time.
            drop(cache.write(&key, &code));
        }
        Ok(code)
    }
}

impl Launch for Gpu {
    fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    #[expect(unsafe_code, reason = "a launch passes untyped pointers")]
    unsafe fn launch(&self, call: &Call<'_>) -> Result<(), KernelError> {
        let function = self.function(call.module, call.function)?;
        self.context.bind_to_thread()?;
        let mut arguments: Vec<_> = call.arguments.iter().map(Argument::address).collect();
        let (blocks, threads) = ((call.blocks, 1, 1), (call.threads, 1, 1));
        let Stream(stream) = call.stream;
        // SAFETY: the function's module stays loaded while `functions` holds it; the rest is what
        // the caller guarantees.
        unsafe {
            let stream = stream as sys::CUstream;
            result::launch_kernel(
                function.cu_function(),
                blocks,
                threads,
                0,
                stream,
                &mut arguments,
            )
        }?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_that_is_not_there_is_an_error_and_not_a_panic() {
        let error = Gpu::open(4_000, None).map(drop);
        match driver::driver_present() {
            true => assert!(matches!(error, Err(KernelError::Driver(_)))),
            false => assert!(matches!(error, Err(KernelError::NoDriver))),
        }
    }

    #[test]
    fn one_gpu_serves_all_threads() {
        fn check<T: Send + Sync>() {}
        check::<Gpu>();
    }
}
