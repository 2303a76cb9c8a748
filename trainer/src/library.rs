//! Shared libraries that are looked for while the program runs, because not every machine has them.

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::ffi::c_void;
use std::sync::OnceLock;

/// Loads a library for all others to see, for as long as the process lives.
///
/// # Errors
/// What the loader said.
pub(crate) fn open(name: &str) -> Result<Opened, String> {
    // SAFETY: the libraries that are opened here are those of CUDA, whose initialisers only
    // register what they have with the libraries that are there.
    #[expect(unsafe_code, reason = "loading a library runs its initialisers")]
    let opened = unsafe { Library::open(Some(name), RTLD_NOW | RTLD_GLOBAL) };
    // Others keep pointers into it until the process ends.
    opened.map(|library| Opened(Box::leak(Box::new(library)))).map_err(|error| error.to_string())
}

/// A library that stays.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opened(&'static Library);

impl Opened {
    /// The function named `name`, or what the loader said.
    ///
    /// # Safety
    /// The function has the type `F`, a function pointer.
    #[expect(unsafe_code, reason = "nobody checks the type of a function found by its name")]
    pub(crate) unsafe fn function<F: Copy>(self, name: &str) -> Result<F, String> {
        // SAFETY: the caller's promise; the library is never closed.
        let found = unsafe { self.0.get::<F>(name.as_bytes()) };
        found.map(|function| *function).map_err(|error| error.to_string())
    }
}

/// Calls a function with a pointer in so many threads at once, and returns when all have returned.
pub(crate) type Parallel =
    unsafe extern "C" fn(unsafe extern "C" fn(*mut c_void), *mut c_void, u32, u32);

/// How libtorch's own threads are called: by the OpenMP that it is linked to. Others beside them
/// would wait for a core, because those stay awake for a while after their work.
pub(crate) fn openmp() -> Option<Parallel> {
    static FOUND: OnceLock<Option<Parallel>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let program = Library::this();
        // SAFETY: a function of libgomp's interface with compilers, which has this type. It stays
        // as long as libtorch, which is linked to it.
        #[expect(unsafe_code, reason = "a function found by its name")]
        let found = unsafe { program.get::<Parallel>(b"GOMP_parallel\0") };
        found.ok().map(|function| *function)
    })
}
