//! Kernels on the processor, for tests where there is no GPU: the CUDA source is compiled by the
//! system's C++ compiler behind `emulator/cuda.h` and called by the real launchers. Each CUDA
//! thread is a fiber. Thousands of times slower than a GPU; what it can not see is in this crate's
//! README.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a tool of tests: what goes wrong ends one")]

use crate::KernelError;
use crate::launch::{Argument, Call, Launch, Module};
use libloading::{Library, Symbol};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsString, c_char, c_void};
use std::fmt::Write as _;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Undefined behaviour that a processor would forgive ends the test.
const OPTIONS: [&str; 12] = [
    "-x",
    "c++",
    "-std=c++17",
    "-O1",
    "-shared",
    "-fPIC",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-U_FORTIFY_SOURCE",
    "-fsanitize=alignment,bounds,shift,integer-divide-by-zero,null",
    "-fsanitize-undefined-trap-on-error",
    "-Wno-psabi",
];

type Emulated =
    unsafe extern "C" fn(u32, u32, u64, *const c_char, *mut *mut c_void) -> *const c_char;

/// A GPU of few multiprocessors, so that small grids loop.
#[derive(Debug)]
pub struct Emulator {
    multiprocessors: u32,
    seed: AtomicU64,
}

impl Emulator {
    /// With so many multiprocessors, and an order of threads that `seed` decides.
    pub fn new(multiprocessors: u32, seed: u64) -> Self {
        Self { multiprocessors, seed: AtomicU64::new(seed) }
    }

    /// Runs `call`.
    ///
    /// # Errors
    /// What the kernel did wrong.
    ///
    /// # Panics
    /// There is no C++ compiler, or it refuses the source.
    ///
    /// # Safety
    /// As [`Launch::launch`].
    #[expect(unsafe_code, reason = "arguments are untyped pointers")]
    pub unsafe fn run(&self, call: &Call<'_>) -> Result<(), String> {
        let library = library(call.module);
        let name = format!("emulate_{}", call.function);
        let types: String = call.arguments.iter().map(letter).collect();
        let types = CString::new(types).map_err(|error| error.to_string())?;
        let mut arguments: Vec<_> = call.arguments.iter().map(Argument::address).collect();
        let seed = self.seed.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        // A library runs one grid at a time.
        let library = library.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the function has this type by the macro EMULATE of cuda.h, which compares the
        // types of the arguments; the pointers are the caller's.
        let fault = unsafe {
            let run: Symbol<'_, Emulated> =
                library.get(name.as_bytes()).map_err(|error| error.to_string())?;
            let (types, arguments) = (types.as_ptr(), arguments.as_mut_ptr());
            let fault = run(call.blocks, call.threads, seed, types, arguments);
            (!fault.is_null()).then(|| CStr::from_ptr(fault).to_string_lossy().into_owned())
        };
        fault.map_or(Ok(()), Err)
    }
}

impl Launch for Emulator {
    fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    #[expect(unsafe_code, reason = "arguments are untyped pointers")]
    unsafe fn launch(&self, call: &Call<'_>) -> Result<(), KernelError> {
        // SAFETY: the caller's.
        if let Err(fault) = unsafe { self.run(call) } {
            panic!("{} of {:?}: {fault}", call.function, call.module.name);
        }
        Ok(())
    }
}

fn letter(argument: &Argument) -> char {
    match argument {
        Argument::Pointer(_) => 'p',
        Argument::U32(_) => 'u',
        Argument::U64(_) => 'U',
        Argument::I64(_) => 'I',
        Argument::F32(_) => 'f',
        Argument::F64(_) => 'd',
    }
}

/// Compiled once per process.
fn library(module: &'static Module) -> Arc<Mutex<Library>> {
    type Compiled = Arc<OnceLock<Arc<Mutex<Library>>>>;
    static LIBRARIES: Mutex<BTreeMap<Module, Compiled>> = Mutex::new(BTreeMap::new());
    let mut libraries = LIBRARIES.lock().unwrap_or_else(PoisonError::into_inner);
    let compiled = Arc::clone(libraries.entry(*module).or_default());
    drop(libraries);
    Arc::clone(compiled.get_or_init(|| Arc::new(Mutex::new(compile(module)))))
}

#[expect(unsafe_code, reason = "opening a library runs its initialisers")]
fn compile(module: &Module) -> Library {
    let folder = tempfile::tempdir().unwrap();
    let [source, library] = ["kernel.cpp", "kernel.so"].map(|name| folder.path().join(name));
    let mut text = format!("{}\n{}\n", include_str!("emulator/cuda.h"), module.text());
    for function in module.functions {
        writeln!(text, "EMULATE({function})").unwrap();
    }
    std::fs::write(&source, text).unwrap();
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| OsString::from("c++"));
    let output = Command::new(&compiler)
        .args(OPTIONS)
        .args(module.options)
        .arg(&source)
        .arg("-o")
        .arg(&library)
        .output()
        .unwrap_or_else(|error| panic!("cannot start {}: {error}", compiler.display()));
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} as C++: {messages}", module.name);
    // SAFETY: the library has no initialisers but the compiler's own.
    unsafe { Library::new(&library) }.unwrap()
}
