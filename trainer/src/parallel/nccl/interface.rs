//! What of `nccl.h` is used. Nothing here waits: a communicator is made nonblocking, so its calls
//! answer [`IN_PROGRESS`] at once, and [`Functions::state`] says later what became of them.

use super::{NcclError, Refusal};
use crate::library::{self, Opened};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

pub(super) const LIBRARY: &str = "libnccl.so.2";
/// `NCCL_UNIQUE_ID_BYTES`.
pub(crate) const ID_BYTES: usize = 128;
/// `ncclFloat32`.
pub(super) const FLOAT32: c_int = 7;
/// `ncclSuccess`.
pub(super) const SUCCESS: c_int = 0;
/// `ncclInProgress`: not an error.
pub(super) const IN_PROGRESS: c_int = 7;

/// A communicator, which is a pointer.
pub(super) type Comm = *mut c_void;

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct UniqueId(pub(super) [u8; ID_BYTES]);

/// `ncclConfig_t` as version 2.14 had it. Later versions added fields at its end and read no more
/// than the size that it says.
#[repr(C)]
pub(super) struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    pub(super) blocking: c_int,
}

impl Config {
    const VERSION: c_uint = 21_400;
    const MAGIC: c_uint = 0xcafe_beef;

    pub(super) const NONBLOCKING: Self =
        Self { size: size_of::<Self>(), magic: Self::MAGIC, version: Self::VERSION, blocking: 0 };
}

/// The functions that are used, with the types of nccl.h.
pub(super) struct Functions {
    pub(super) get_version: unsafe extern "C" fn(*mut c_int) -> c_int,
    pub(super) get_unique_id: unsafe extern "C" fn(*mut UniqueId) -> c_int,
    pub(super) init_rank:
        unsafe extern "C" fn(*mut Comm, c_int, UniqueId, c_int, *mut Config) -> c_int,
    pub(super) get_async_error: unsafe extern "C" fn(Comm, *mut c_int) -> c_int,
    pub(super) abort: unsafe extern "C" fn(Comm) -> c_int,
    pub(super) group_start: unsafe extern "C" fn() -> c_int,
    pub(super) group_end: unsafe extern "C" fn() -> c_int,
    pub(super) send: SendTo,
    pub(super) receive: ReceiveFrom,
    pub(super) error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    pub(super) last_error: unsafe extern "C" fn(Comm) -> *const c_char,
}

/// Data, number of values, their type, the other rank, communicator, stream.
type SendTo = unsafe extern "C" fn(*const c_void, usize, c_int, c_int, Comm, *mut c_void) -> c_int;
type ReceiveFrom =
    unsafe extern "C" fn(*mut c_void, usize, c_int, c_int, Comm, *mut c_void) -> c_int;

/// The library's functions, looked for once per process.
pub(super) fn functions() -> Result<&'static Functions, NcclError> {
    static FOUND: OnceLock<Result<Functions, String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| library::open(LIBRARY).and_then(look_up));
    found.as_ref().map_err(|reason| NcclError::Missing { reason: reason.clone() })
}

fn look_up(library: Opened) -> Result<Functions, String> {
    // SAFETY: the types are those that nccl.h gives to these names, the same since version 2.14,
    // and the size of a configuration says which of its versions is meant.
    #[expect(unsafe_code, reason = "functions found by their names")]
    unsafe {
        Ok(Functions {
            get_version: library.function("ncclGetVersion")?,
            get_unique_id: library.function("ncclGetUniqueId")?,
            init_rank: library.function("ncclCommInitRankConfig")?,
            get_async_error: library.function("ncclCommGetAsyncError")?,
            abort: library.function("ncclCommAbort")?,
            group_start: library.function("ncclGroupStart")?,
            group_end: library.function("ncclGroupEnd")?,
            send: library.function("ncclSend")?,
            receive: library.function("ncclRecv")?,
            error_string: library.function("ncclGetErrorString")?,
            last_error: library.function("ncclGetLastError")?,
        })
    }
}

impl Functions {
    /// # Errors
    /// `code` says neither success nor that it goes on.
    pub(super) fn check(&self, doing: &'static str, code: c_int) -> Result<(), Refusal> {
        if matches!(code, SUCCESS | IN_PROGRESS) {
            return Ok(());
        }
        // SAFETY: both give a text that is part of the library or of this thread; the second one
        // is about the last error of the process.
        #[expect(unsafe_code, reason = "NCCL is a C library")]
        let texts = unsafe { [(self.error_string)(code), (self.last_error)(std::ptr::null_mut())] };
        let texts = texts.into_iter().filter(|text| !text.is_null()).map(|text| {
            // SAFETY: as above; not null.
            #[expect(unsafe_code, reason = "NCCL is a C library")]
            let text = unsafe { CStr::from_ptr(text) };
            text.to_string_lossy().trim().to_owned()
        });
        let texts: Vec<String> = texts.filter(|text| !text.is_empty()).collect();
        Err(Refusal { doing, reason: texts.join(": ") })
    }

    /// Whether what was asked of `comm` is under way; `false` when it is done.
    ///
    /// # Errors
    /// It failed.
    pub(super) fn is_in_progress(&self, doing: &'static str, comm: Comm) -> Result<bool, Refusal> {
        let mut state = SUCCESS;
        // SAFETY: the caller has `comm`, which nobody gave up; `state` is a place for the answer.
        #[expect(unsafe_code, reason = "NCCL is a C library")]
        let code = unsafe { (self.get_async_error)(comm, &raw mut state) };
        self.check(doing, code)?;
        self.check(doing, state)?;
        Ok(state == IN_PROGRESS)
    }
}
