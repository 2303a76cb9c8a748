//! Sums between GPUs, by NCCL: the library that PyTorch brings with its part for CUDA. It is
//! opened by the name that it has there, `libnccl.so.2`, for which nobody else looks.

use super::part;
use crate::library::{self, Opened};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::{Mutex, OnceLock, PoisonError};
use tch::{Kind, TchError, Tensor};

const LIBRARY: &str = "libnccl.so.2";
/// `ncclFloat32` of nccl.h.
const FLOAT32: c_int = 7;
/// `NCCL_UNIQUE_ID_BYTES` of nccl.h.
pub(super) const ID_BYTES: usize = 128;
/// libtorch computes on the default stream unless somebody changes that, and nobody here does; a
/// call of NCCL on it comes after what was asked before and before what is asked next.
const STREAM: *mut c_void = std::ptr::null_mut();

/// Why GPUs can not be joined. Another machine may have what is missing.
#[derive(Debug, thiserror::Error)]
pub enum NcclError {
    /// The library can not be loaded.
    #[error(
        "members with GPUs need NCCL, and {LIBRARY} cannot be loaded: {reason}; it comes with \
        PyTorch for CUDA (the package nvidia-nccl-cu13): put its `lib` folder on LD_LIBRARY_PATH"
    )]
    Missing {
        /// What the loader said.
        reason: String,
    },
    /// It refused.
    #[error("NCCL failed {doing}: {reason}")]
    Refused {
        /// What was tried.
        doing: &'static str,
        /// What it said.
        reason: String,
    },
    /// libtorch refused what goes with it.
    #[error("libtorch failed adding the parts of a gradient")]
    Torch(#[from] TchError),
    /// The other end of a sum is gone.
    #[error("the connection between the GPUs was given up because a member is gone")]
    Aborted,
}

/// As nccl.h has it: a communicator, which is a pointer.
type Comm = *mut c_void;

#[repr(C)]
#[derive(Clone, Copy)]
struct UniqueId([u8; ID_BYTES]);

/// The functions that are used, with the types of nccl.h.
#[derive(Clone, Copy)]
struct Functions {
    get_version: unsafe extern "C" fn(*mut c_int) -> c_int,
    get_unique_id: unsafe extern "C" fn(*mut UniqueId) -> c_int,
    init_rank: unsafe extern "C" fn(*mut Comm, c_int, UniqueId, c_int) -> c_int,
    abort: unsafe extern "C" fn(Comm) -> c_int,
    destroy: unsafe extern "C" fn(Comm) -> c_int,
    group_start: unsafe extern "C" fn() -> c_int,
    group_end: unsafe extern "C" fn() -> c_int,
    send: unsafe extern "C" fn(*const c_void, usize, c_int, c_int, Comm, *mut c_void) -> c_int,
    receive: unsafe extern "C" fn(*mut c_void, usize, c_int, c_int, Comm, *mut c_void) -> c_int,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
}

/// The library's functions, looked for once per process.
fn functions() -> Result<&'static Functions, NcclError> {
    static FOUND: OnceLock<Result<Functions, String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| library::open(LIBRARY).and_then(look_up));
    found.as_ref().map_err(|reason| NcclError::Missing { reason: reason.clone() })
}

fn look_up(library: Opened) -> Result<Functions, String> {
    // SAFETY: the types are those that nccl.h gives to these names, the same since version 2.7.
    #[expect(unsafe_code, reason = "functions found by their names")]
    unsafe {
        Ok(Functions {
            get_version: library.function("ncclGetVersion")?,
            get_unique_id: library.function("ncclGetUniqueId")?,
            init_rank: library.function("ncclCommInitRank")?,
            abort: library.function("ncclCommAbort")?,
            destroy: library.function("ncclCommDestroy")?,
            group_start: library.function("ncclGroupStart")?,
            group_end: library.function("ncclGroupEnd")?,
            send: library.function("ncclSend")?,
            receive: library.function("ncclRecv")?,
            error_string: library.function("ncclGetErrorString")?,
        })
    }
}

impl Functions {
    fn check(&self, doing: &'static str, code: c_int) -> Result<(), NcclError> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: gives a text that is part of the library, for every number.
        #[expect(unsafe_code, reason = "NCCL is a C library")]
        let reason = unsafe { CStr::from_ptr((self.error_string)(code)) };
        Err(NcclError::Refused { doing, reason: reason.to_string_lossy().into_owned() })
    }
}

/// A number that one member makes and all others get before they [join](Communicator::join).
///
/// # Errors
/// NCCL is missing or refuses.
pub(super) fn unique_id() -> Result<[u8; ID_BYTES], NcclError> {
    let functions = functions()?;
    let mut id = UniqueId([0; ID_BYTES]);
    // SAFETY: `id` is a place for the answer.
    #[expect(unsafe_code, reason = "NCCL is a C library")]
    let code = unsafe { (functions.get_unique_id)(&raw mut id) };
    functions.check("making an id", code)?;
    Ok(id.0)
}

/// The version of NCCL, for example 22807.
///
/// # Errors
/// It can not be loaded.
pub fn version() -> Result<i32, NcclError> {
    let functions = functions()?;
    let mut version = 0;
    // SAFETY: `version` is a place for the answer.
    #[expect(unsafe_code, reason = "NCCL is a C library")]
    let code = unsafe { (functions.get_version)(&raw mut version) };
    functions.check("telling its version", code)?;
    Ok(version)
}

/// The GPUs of all members, each of its process's first.
pub(crate) struct Communicator {
    functions: &'static Functions,
    /// `None` when it was given up.
    comm: Mutex<Option<Pointer>>,
    rank: u32,
    world_size: u32,
}

struct Pointer(Comm);

// SAFETY: NCCL may be called from every thread, one at a time, for which the mutex around it sees.
#[expect(unsafe_code, reason = "a pointer says nothing about threads")]
unsafe impl Send for Pointer {}

/// One way of a tensor's part: with whom, its first value, and how many.
type Way = (u32, Tensor);

impl Communicator {
    /// Waits until all members are here. Which GPU it is was decided before: the process sees the
    /// one that it leased.
    ///
    /// # Errors
    /// NCCL is missing or refuses.
    pub(super) fn join(id: [u8; ID_BYTES], rank: u32, world_size: u32) -> Result<Self, NcclError> {
        let functions = functions()?;
        let mut comm = std::ptr::null_mut();
        let (ranks, own) = (world_size as c_int, rank as c_int);
        // SAFETY: `comm` is a place for the answer, and `id` is one that NCCL made.
        #[expect(unsafe_code, reason = "NCCL is a C library")]
        let code = unsafe { (functions.init_rank)(&raw mut comm, ranks, UniqueId(id), own) };
        functions.check("joining the GPUs", code)?;
        Ok(Self { functions, comm: Mutex::new(Some(Pointer(comm))), rank, world_size })
    }

    /// Sum of all members' `vector` (N), float32, in its place, added in the order of ranks. Every
    /// member ends with the same bits.
    ///
    /// # Errors
    /// NCCL or libtorch refuses, or a member is gone.
    pub(super) fn sum(&self, vector: Tensor) -> Result<Tensor, NcclError> {
        let vector = vector.f_contiguous()?;
        let length = vector.numel() as u64;
        let of = |rank: u32| {
            let part = part(length, rank, self.world_size);
            vector.f_narrow(0, part.start as i64, (part.end - part.start) as i64)
        };
        let own = of(self.rank)?;
        let others = || (0..self.world_size).filter(|rank| *rank != self.rank);
        let sends = others().map(|rank| Ok((rank, of(rank)?))).collect::<tch::Result<Vec<_>>>()?;
        let received = others()
            .map(|rank| Ok((rank, own.f_empty_like()?)))
            .collect::<tch::Result<Vec<_>>>()?;
        self.exchange(&sends, &received)?;
        let mut whole: Option<Tensor> = None;
        let mut received = received.into_iter();
        for rank in 0..self.world_size {
            let next = match rank == self.rank {
                true => own.f_detach_copy()?,
                false => received.next().map(|(_, part)| part).ok_or(NcclError::Aborted)?,
            };
            whole = Some(match whole {
                None => next,
                Some(mut sum) => sum.f_add_(&next)?,
            });
        }
        if let Some(whole) = whole {
            own.shallow_clone().f_copy_(&whole)?;
        }
        let sends: Vec<Way> = others().map(|rank| (rank, own.shallow_clone())).collect();
        let receives =
            others().map(|rank| Ok((rank, of(rank)?))).collect::<tch::Result<Vec<_>>>()?;
        self.exchange(&sends, &receives)?;
        Ok(vector)
    }

    /// Sends and receives all of these at once, after what the stream has to do before.
    pub(super) fn exchange(&self, sends: &[Way], receives: &[Way]) -> Result<(), NcclError> {
        let comm = self.comm.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Pointer(comm)) = &*comm else { return Err(NcclError::Aborted) };
        let functions = self.functions;
        debug_assert!(sends.iter().chain(receives).all(|(_, t)| t.kind() == Kind::Float));
        // SAFETY: the tensors are neighbouring float32 values on the communicator's GPU; memory
        // that libtorch frees is used again on the same stream only, so after this.
        #[expect(unsafe_code, reason = "NCCL is a C library")]
        unsafe {
            functions.check("beginning an exchange", (functions.group_start)())?;
            let mut result = Ok(());
            for (rank, tensor) in sends.iter().filter(|(_, tensor)| tensor.numel() > 0) {
                let (data, count) = (tensor.data_ptr().cast_const(), tensor.numel());
                let code = (functions.send)(data, count, FLOAT32, *rank as c_int, *comm, STREAM);
                result = result.and(functions.check("sending", code));
            }
            for (rank, tensor) in receives.iter().filter(|(_, tensor)| tensor.numel() > 0) {
                let (data, count) = (tensor.data_ptr(), tensor.numel());
                let code = (functions.receive)(data, count, FLOAT32, *rank as c_int, *comm, STREAM);
                result = result.and(functions.check("receiving", code));
            }
            // Also after a refusal: what was begun has to end.
            result.and(functions.check("exchanging", (functions.group_end)()))
        }
    }

    /// Whether it was given up, so that a sum which was under way then is none.
    pub(super) fn is_given_up(&self) -> bool {
        self.comm.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Gives up what is under way, because a member is gone that it would wait for for ever.
    pub(super) fn abort(&self) {
        let mut comm = self.comm.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Pointer(comm)) = comm.take() {
            // SAFETY: made by `join`, and nobody has it any more.
            #[expect(unsafe_code, reason = "NCCL is a C library")]
            let code = unsafe { (self.functions.abort)(comm) };
            debug_assert_eq!(code, 0);
        }
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        let comm = self.comm.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(Pointer(comm)) = comm.take() {
            // SAFETY: made by `join`, and nobody has it any more.
            #[expect(unsafe_code, reason = "NCCL is a C library")]
            let code = unsafe { (self.functions.destroy)(comm) };
            debug_assert_eq!(code, 0);
        }
    }
}
