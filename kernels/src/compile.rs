//! CUDA C to machine code by NVRTC. Needs no GPU and no driver, only `libnvrtc.so`.

use cudarc::nvrtc::result::{self, NvrtcError};
use cudarc::nvrtc::sys;
use std::ffi::{CStr, CString};

/// A generation of GPUs, by its compute capability: (9, 0) is an H100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arch {
    /// Before the point.
    pub major: u32,
    /// After the point.
    pub minor: u32,
}

/// Machine code for one [`Arch`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cubin(Vec<u8>);

impl Cubin {
    /// Code that was compiled before.
    pub(crate) fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The code, an ELF file.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What the compiler gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    /// The machine code.
    pub cubin: Cubin,
    /// The compiler's words, with what each kernel needs; see [`resources`](crate::resources).
    pub log: String,
}

/// Why a source did not become machine code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// The compiler is not there.
    #[error(
        "cannot load NVRTC (libnvrtc.so.13); install the CUDA 13 toolkit or the wheel \
        `nvidia-cuda-nvrtc`, and put its `lib` folder on LD_LIBRARY_PATH"
    )]
    NoCompiler,
    /// A C string ends at its first zero byte.
    #[error("the source holds a zero byte at {0}")]
    ZeroByte(usize),
    /// The source is wrong, or the compiler does not know the architecture.
    #[error("NVRTC cannot compile for sm_{}{}:\n{log}", arch.major, arch.minor)]
    Source {
        /// What it was to be compiled for.
        arch: Arch,
        /// The compiler's words, with line numbers of the source.
        log: String,
    },
    /// The compiler failed otherwise.
    #[error("NVRTC failed")]
    Compiler(#[from] NvrtcError),
}

/// NVRTC's version, such as (13, 0).
///
/// # Errors
/// The library is not there, or does not answer.
pub fn compiler_version() -> Result<(i32, i32), CompileError> {
    if !compiler_present() {
        return Err(CompileError::NoCompiler);
    }
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the library is there, and both are places for its answer.
    #[expect(unsafe_code, reason = "NVRTC is a C library")]
    unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) }.result()?;
    Ok((major, minor))
}

/// Whether NVRTC's library can be opened.
pub fn compiler_present() -> bool {
    // SAFETY: opens a library by the names under which NVIDIA installs it and closes it again;
    // its initialisers have no precondition.
    #[expect(unsafe_code, reason = "loading a library runs its initialisers")]
    unsafe {
        sys::is_culib_present()
    }
}

/// Options that every source is compiled with.
pub(crate) const OPTIONS: [&str; 2] = ["--fmad=false", "--ptxas-options=-v"];

/// Compiles `source`, CUDA C whose kernels are `extern "C"`, for `arch`, with `options` besides
/// those that every source has.
///
/// Multiplication and addition are not contracted into one rounding, so that a kernel rounds like
/// its CPU reference.
///
/// # Errors
/// [`CompileError`]; a mistake in the source comes with the compiler's log.
pub fn compile(source: &str, options: &[&str], arch: Arch) -> Result<Compiled, CompileError> {
    if !compiler_present() {
        return Err(CompileError::NoCompiler);
    }
    let source = CString::new(source).map_err(|e| CompileError::ZeroByte(e.nul_position()))?;
    let program = Program(result::create_program(&source, None)?);
    let architecture = format!("--gpu-architecture=sm_{}{}", arch.major, arch.minor);
    let mut all = vec![architecture];
    all.extend(OPTIONS.iter().chain(options).map(|&option| option.to_owned()));
    // SAFETY: the program was made above and lives until the end of this function, and so does
    // the source that it refers to.
    #[expect(unsafe_code, reason = "NVRTC is a C library")]
    let compiled = unsafe { result::compile_program(program.0, &all) };
    match compiled {
        Ok(()) => Ok(Compiled { cubin: program.cubin()?, log: program.log()? }),
        Err(_) => Err(CompileError::Source { arch, log: program.log()? }),
    }
}

/// Owns a program of NVRTC.
struct Program(sys::nvrtcProgram);

impl Program {
    fn log(&self) -> Result<String, CompileError> {
        // SAFETY: the program is alive.
        #[expect(unsafe_code, reason = "NVRTC is a C library")]
        let log = unsafe { result::get_program_log(self.0) }?;
        let bytes: Vec<u8> = log.into_iter().map(|c| c.to_ne_bytes()[0]).collect();
        let text = CStr::from_bytes_until_nul(&bytes).unwrap_or_default();
        Ok(text.to_string_lossy().trim_end().to_owned())
    }

    fn cubin(&self) -> Result<Cubin, CompileError> {
        let mut bytes = 0;
        // SAFETY: the program is alive and compiled, and `bytes` is a place for its answer.
        #[expect(unsafe_code, reason = "NVRTC is a C library")]
        unsafe { sys::nvrtcGetCUBINSize(self.0, &raw mut bytes) }.result()?;
        let mut code = vec![0u8; bytes];
        // SAFETY: as above, and `code` has the length that the compiler asked for.
        #[expect(unsafe_code, reason = "NVRTC is a C library")]
        unsafe { sys::nvrtcGetCUBIN(self.0, code.as_mut_ptr().cast()) }.result()?;
        Ok(Cubin(code))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: the program is alive, and nothing uses it after this.
        #[expect(unsafe_code, reason = "NVRTC is a C library")]
        let destroyed = unsafe { result::destroy_program(self.0) };
        // Fails only for a program that is not valid, which this one is.
        debug_assert!(destroyed.is_ok());
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const AMPERE: Arch = Arch { major: 8, minor: 0 };
    pub(crate) const HOPPER: Arch = Arch { major: 9, minor: 0 };

    /// Whether to go on with a test that needs NVRTC. `BRINE_REQUIRE_NVRTC=1` makes its absence a
    /// failure, so that CI, which brings NVRTC, can not pass by doing nothing.
    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    pub(crate) fn compiler_or_skip() -> bool {
        if compiler_present() {
            return true;
        }
        let required = std::env::var_os("BRINE_REQUIRE_NVRTC").is_some_and(|value| value == "1");
        assert!(!required, "BRINE_REQUIRE_NVRTC is set, but libnvrtc.so.13 cannot be loaded");
        eprintln!("skipped: no NVRTC");
        false
    }

    #[test]
    fn a_mistake_in_the_source_comes_with_its_line() {
        if !compiler_or_skip() {
            return;
        }
        let error = compile("\n\nextern \"C\" __global__ void k() { oops; }", &[], HOPPER);
        let Err(CompileError::Source { log, .. }) = error else {
            panic!("expected a mistake, found {error:?}")
        };
        assert!(log.contains("(3)") && log.contains("oops"), "{log}");
    }

    #[test]
    fn an_unknown_architecture_is_an_error() {
        if !compiler_or_skip() {
            return;
        }
        let arch = Arch { major: 1, minor: 0 };
        let error = compile("extern \"C\" __global__ void k() {}", &[], arch);
        assert!(matches!(error, Err(CompileError::Source { .. })), "{error:?}");
    }

    #[test]
    fn the_version_is_that_which_the_driver_interface_is_written_for() {
        match compiler_version() {
            Ok((major, _)) => assert_eq!(major, 13),
            Err(error) => {
                assert_eq!((error, compiler_or_skip()), (CompileError::NoCompiler, false));
            }
        }
    }

    #[test]
    fn a_zero_byte_is_an_error() {
        if !compiler_or_skip() {
            return;
        }
        assert_eq!(compile("a\0b", &[], HOPPER), Err(CompileError::ZeroByte(1)));
    }
}
