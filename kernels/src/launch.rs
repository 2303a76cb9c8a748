//! The call of a kernel as data, and what can carry it out: a [`Gpu`](crate::Gpu), or the emulator
//! of the tests. Launchers are written for both, so that their grids, their arguments and the order
//! of these are tested where there is no GPU.

use crate::KernelError;
use crate::memory::{DevicePtr, Kind};
use std::ffi::c_void;

/// The order in which a GPU works: the raw handle of a CUDA stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream(pub u64);

impl Stream {
    /// The legacy default stream, PyTorch's unless it is told otherwise.
    pub const DEFAULT: Self = Self(0);
}

/// Source and options that become machine code together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Module {
    /// Name of its source's file; with the options it is the module's own.
    pub name: &'static str,
    /// CUDA C without the common beginning; see [`text`](Self::text).
    pub source: &'static str,
    /// Options for the compiler, of the form `-DNAME`.
    pub options: &'static [&'static str],
    /// Its kernels.
    pub functions: &'static [&'static str],
}

impl Module {
    /// The whole source; the compiler's messages count the lines of each part on its own.
    pub fn text(&self) -> String {
        let (name, source) = (self.name, self.source);
        let prelude = include_str!("prelude.cuh");
        format!("#line 1 \"prelude.cuh\"\n{prelude}\n#line 1 \"{name}.cu\"\n{source}")
    }
}

/// The two modules of a source: for float32, and for bfloat16.
pub(crate) const fn variants(
    name: &'static str,
    source: &'static str,
    functions: &'static [&'static str],
) -> [Module; 2] {
    let module = Module { name, source, options: &[], functions };
    [module, Module { options: &["-DBF16"], ..module }]
}

/// The one of `variants` for values of `kind`; `name` is for the error.
pub(crate) fn variant(
    variants: &'static [Module; 2],
    name: &'static str,
    kind: Kind,
) -> Result<&'static Module, KernelError> {
    match kind {
        Kind::Float32 => Ok(&variants[0]),
        Kind::BFloat16 => Ok(&variants[1]),
        Kind::Float64 | Kind::Int64 => {
            Err(KernelError::Kind { name, found: kind, wanted: Kind::Float32 })
        }
    }
}

/// One argument of a kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Argument {
    /// A pointer to values.
    Pointer(DevicePtr),
    /// `unsigned`.
    U32(u32),
    /// `unsigned long long`.
    U64(u64),
    /// `long long`.
    I64(i64),
    /// `float`.
    F32(f32),
    /// `double`.
    F64(f64),
}

impl Argument {
    /// Where the value is, as the driver wants it. Valid as long as `self` is not moved.
    pub fn address(&self) -> *mut c_void {
        let address: *const c_void = match self {
            Self::Pointer(DevicePtr(value)) | Self::U64(value) => std::ptr::from_ref(value).cast(),
            Self::U32(value) => std::ptr::from_ref(value).cast(),
            Self::I64(value) => std::ptr::from_ref(value).cast(),
            Self::F32(value) => std::ptr::from_ref(value).cast(),
            Self::F64(value) => std::ptr::from_ref(value).cast(),
        };
        address.cast_mut()
    }
}

impl From<DevicePtr> for Argument {
    fn from(value: DevicePtr) -> Self {
        Self::Pointer(value)
    }
}

impl From<u32> for Argument {
    fn from(value: u32) -> Self {
        Self::U32(value)
    }
}

impl From<u64> for Argument {
    fn from(value: u64) -> Self {
        Self::U64(value)
    }
}

impl From<i64> for Argument {
    fn from(value: i64) -> Self {
        Self::I64(value)
    }
}

impl From<f32> for Argument {
    fn from(value: f32) -> Self {
        Self::F32(value)
    }
}

impl From<f64> for Argument {
    fn from(value: f64) -> Self {
        Self::F64(value)
    }
}

/// A kernel, its grid and its arguments.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Where the kernel is.
    pub module: &'static Module,
    /// One of the module's functions.
    pub function: &'static str,
    /// Blocks, at least 1.
    pub blocks: u32,
    /// Threads of a block, a multiple of 32, at most 1024.
    pub threads: u32,
    /// In whose order it runs.
    pub stream: Stream,
    /// In the order of the kernel's parameters.
    pub arguments: &'a [Argument],
}

/// What runs kernels.
pub trait Launch {
    /// Multiprocessors of the GPU, by which grids that loop are measured.
    fn multiprocessors(&self) -> u32;

    /// Queues `call`; does not wait for it.
    ///
    /// # Errors
    /// The kernel can not be compiled or loaded, or the driver refuses.
    ///
    /// # Safety
    /// The arguments are those of the kernel in their order and types, its pointers are good for
    /// what it reads and writes, and stay so until the stream has passed it.
    #[expect(unsafe_code, reason = "a launch passes untyped pointers")]
    unsafe fn launch(&self, call: &Call<'_>) -> Result<(), KernelError>;
}

/// Lanes of a warp.
pub(crate) const WARP: usize = 32;

/// Whole warps with a thread for each of `items`, within `most`, itself a multiple of 32.
pub(crate) fn threads_for(items: usize, most: usize) -> u32 {
    let threads = items.clamp(1, most).next_multiple_of(WARP);
    u32::try_from(threads).unwrap_or(u32::MAX)
}

/// One block for each of `items`, within `most` and the driver's limit.
pub(crate) fn blocks_for(items: usize, most: usize) -> u32 {
    const DRIVER_MAX: usize = i32::MAX as usize;
    u32::try_from(items.min(most).min(DRIVER_MAX)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_that_is_none_of_activations_is_refused() {
        static VARIANTS: [Module; 2] = variants("x", "", &["f"]);
        assert_eq!(variant(&VARIANTS, "x", Kind::Float32).unwrap().options.len(), 0);
        assert_eq!(variant(&VARIANTS, "x", Kind::BFloat16).unwrap().options, ["-DBF16"]);
        let error = variant(&VARIANTS, "x", Kind::Int64).unwrap_err();
        assert_eq!(error.to_string(), "x holds Int64 instead of Float32");
    }

    #[test]
    fn an_argument_s_address_is_its_value_s() {
        let pointer = Argument::from(DevicePtr(0x1234_5678_9abc));
        let float = Argument::from(1.5_f32);
        // SAFETY: the addresses are those of the values above, of these types.
        #[expect(unsafe_code, reason = "reads back what the driver would read")]
        unsafe {
            assert_eq!(*pointer.address().cast::<u64>(), 0x1234_5678_9abc);
            assert_eq!(*float.address().cast::<f32>(), 1.5);
        }
    }

    #[test]
    fn blocks_are_whole_warps_and_grids_end_at_the_driver_s_limit() {
        assert_eq!([0, 1, 32, 33, 4_000].map(|n| threads_for(n, 512)), [32, 32, 32, 64, 512]);
        assert_eq!([1, 7, 9].map(|n| blocks_for(n, 8)), [1, 7, 8]);
        assert_eq!(blocks_for(usize::MAX, usize::MAX), i32::MAX as u32);
    }
}
