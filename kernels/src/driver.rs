//! The CUDA driver, which may be absent.

use crate::KernelError;
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, sys};
use std::sync::Arc;
use std::time::Duration;

/// Whether the CUDA driver's library can be opened.
pub fn driver_present() -> bool {
    // SAFETY: opens a library by the names under which NVIDIA installs it and closes it again;
    // its initialisers have no precondition.
    #[expect(unsafe_code, reason = "loading a library runs its initialisers")]
    unsafe {
        sys::is_culib_present()
    }
}

/// The primary context of the GPU with this index, which other libraries of the process share.
///
/// # Errors
/// There is no driver or no such GPU.
pub fn context(index: u32) -> Result<Arc<CudaContext>, KernelError> {
    if !driver_present() {
        return Err(KernelError::NoDriver);
    }
    Ok(CudaContext::new(index as usize)?)
}

/// The stream of a GPU that libtorch queues on.
#[derive(Debug)]
pub struct DefaultStream(Arc<CudaStream>);

impl DefaultStream {
    /// That of the GPU with this index.
    ///
    /// # Errors
    /// There is no driver or no such GPU.
    pub fn of(index: u32) -> Result<Self, KernelError> {
        Ok(Self(context(index)?.default_stream()))
    }

    /// Marks the end of what is queued by now.
    ///
    /// # Errors
    /// The driver refuses.
    pub fn mark(&self) -> Result<Mark, KernelError> {
        // Who waits sleeps: the processor has other threads to run.
        let flags = sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC;
        Ok(Mark(self.0.record_event(Some(flags))?))
    }
}

/// A place in the order of a stream.
#[derive(Debug)]
pub struct Mark(CudaEvent);

impl Mark {
    /// Waits until the GPU has done all that is before it; gives the time that it took from
    /// `before` to here.
    ///
    /// # Errors
    /// Something of that failed.
    pub fn since(&self, before: &Self) -> Result<Duration, KernelError> {
        let milliseconds = f64::from(before.0.elapsed_ms(&self.0)?);
        Ok(Duration::try_from_secs_f64(milliseconds / 1e3).unwrap_or_default())
    }
}

/// The newest CUDA that the driver knows, for example 13000.
///
/// # Errors
/// There is no driver.
pub(crate) fn version() -> Result<i32, KernelError> {
    if !driver_present() {
        return Err(KernelError::NoDriver);
    }
    let mut version = 0;
    // SAFETY: the driver is there, and `version` is a place for its answer.
    #[expect(unsafe_code, reason = "the driver is a C library")]
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result()?;
    Ok(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_that_is_not_there_is_an_error_and_not_a_panic() {
        for error in [context(4_000).map(drop), DefaultStream::of(4_000).map(drop)] {
            match driver_present() {
                true => assert!(matches!(error, Err(KernelError::Driver(_)))),
                false => assert!(matches!(error, Err(KernelError::NoDriver))),
            }
        }
    }
}
