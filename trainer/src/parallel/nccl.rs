//! Sums between GPUs, by NCCL: the library that PyTorch brings with its part for CUDA. It is
//! opened by the name that it has there, `libnccl.so.2`, for which nobody else looks.
//!
//! No call of it is waited for in a way that can not be given up: members that wait for one that
//! is gone would wait for ever.

mod interface;

pub(super) use interface::ID_BYTES;

use super::rendezvous::Patience;
use super::{ParallelError, part};
use interface::{Comm, Config, FLOAT32, Functions, UniqueId, functions};
use std::ffi::{c_int, c_void};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;
use tch::{Kind, TchError, Tensor};

/// libtorch computes on the default stream unless somebody changes that, and nobody here does; a
/// call of NCCL on it comes after what was asked before and before what is asked next.
const STREAM: *mut c_void = std::ptr::null_mut();
/// Longest time in which the GPUs of all members find each other, who are all there by then. It
/// takes seconds, and a minute for thousands of them.
pub(super) const JOIN_WITHIN: Duration = Duration::from_secs(300);
/// How often NCCL is asked for errors that belong to no call, such as a broken network.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// How often it is asked at once whether it has done its part, which takes microseconds usually;
/// and the pause between later questions.
const ASKED_AT_ONCE: u32 = 1_000;
const ASK_EVERY: Duration = Duration::from_micros(200);

const EXCHANGING: &str = "exchanging";

/// Why GPUs can not be joined. Another machine may have what is missing.
#[derive(Debug, thiserror::Error)]
pub enum NcclError {
    /// The library can not be loaded.
    #[error(
        "members with GPUs need NCCL, and {} cannot be loaded: {reason}; it comes with PyTorch for \
        CUDA (the package nvidia-nccl-cu13): put its `lib` folder on LD_LIBRARY_PATH",
        interface::LIBRARY
    )]
    Missing {
        /// What the loader said.
        reason: String,
    },
    /// It refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The GPUs did not find each other.
    #[error(
        "the members' GPUs did not find each other in {waited_s} s; NCCL connects all members by \
        itself: NCCL_SOCKET_IFNAME in the agents' environment names the network to use, and \
        NCCL_DEBUG=INFO makes the log say more"
    )]
    Apart {
        /// How long this one waited, in seconds.
        waited_s: u64,
    },
    /// libtorch refused what goes with it.
    #[error("libtorch failed adding the parts of a gradient")]
    Torch(#[from] TchError),
    /// The other end of a sum is gone.
    #[error("the connection between the GPUs was given up because a member is gone")]
    Aborted,
}

/// What NCCL said no to.
#[derive(Debug, Clone, thiserror::Error)]
#[error("NCCL failed {doing}: {reason}")]
pub struct Refusal {
    /// What was tried.
    pub doing: &'static str,
    /// What it said.
    pub reason: String,
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
    rank: u32,
    world_size: u32,
    state: Mutex<State>,
    /// Set first when it is given up, so that who waits with `state` in hands lets go.
    given_up: AtomicBool,
}

enum State {
    /// Not joined yet.
    Apart,
    Joined(&'static Functions, Pointer),
    /// Given up; where NCCL had an error, what it said.
    GivenUp(Option<Refusal>),
}

impl State {
    /// Why it can not be used.
    fn why(&self) -> NcclError {
        match self {
            Self::GivenUp(Some(refusal)) => refusal.clone().into(),
            Self::Apart | Self::Joined(..) | Self::GivenUp(None) => NcclError::Aborted,
        }
    }
}

#[derive(Clone, Copy)]
struct Pointer(Comm);

// SAFETY: NCCL may be called from every thread, one at a time, for which the mutex around it sees.
#[expect(unsafe_code, reason = "a pointer says nothing about threads")]
unsafe impl Send for Pointer {}

/// A rank, and what goes to it or comes from it.
type Way = (u32, Tensor);

impl Communicator {
    /// That of member `rank`, before it is joined. Whoever is afraid for the others may
    /// [give it up](Self::abort) from now on.
    pub(super) fn new(rank: u32, world_size: u32) -> Self {
        let state = Mutex::new(State::Apart);
        Self { rank, world_size, state, given_up: AtomicBool::new(false) }
    }

    /// Waits until all members are here. Which GPU it is was decided before: the process sees the
    /// one that it leased.
    ///
    /// # Errors
    /// NCCL is missing, refuses or takes too long, a member is gone, or somebody asked to stop.
    pub(super) fn join(
        self: &Arc<Self>,
        id: [u8; ID_BYTES],
        patience: &Patience<'_>,
    ) -> Result<(), ParallelError> {
        self.join_by(functions()?, id, patience)?;
        Ok(self.watch().map_err(NcclError::from)?)
    }

    fn join_by(
        &self,
        functions: &'static Functions,
        id: [u8; ID_BYTES],
        patience: &Patience<'_>,
    ) -> Result<(), ParallelError> {
        let doing = "joining the GPUs";
        let mut comm = std::ptr::null_mut();
        let mut config = Config::NONBLOCKING;
        let (ranks, own) = (self.world_size as c_int, self.rank as c_int);
        let mut state = self.state();
        if self.is_given_up() {
            return Err(state.why().into());
        }
        // SAFETY: `comm` is a place for the answer, `id` is one that NCCL made, and `config` is as
        // long as it says.
        #[expect(unsafe_code, reason = "NCCL is a C library")]
        let code = unsafe {
            (functions.init_rank)(&raw mut comm, ranks, UniqueId(id), own, &raw mut config)
        };
        functions.check(doing, code).map_err(NcclError::from)?;
        *state = State::Joined(functions, Pointer(comm));
        self.wait(doing, functions, comm, || {
            if patience.is_stopped() {
                return Err(ParallelError::Stopped);
            }
            match patience.is_over() {
                true => Err(NcclError::Apart { waited_s: patience.waited().as_secs() }.into()),
                false => Ok(()),
            }
        })
    }

    /// Waits until NCCL has done what `comm` was asked to, unless this is given up or `check`
    /// fails.
    fn wait<E: From<NcclError>>(
        &self,
        doing: &'static str,
        functions: &Functions,
        comm: Comm,
        check: impl Fn() -> Result<(), E>,
    ) -> Result<(), E> {
        for asked in 0_u64.. {
            // Given up is checked also when there is nothing to wait for.
            if self.is_given_up() {
                return Err(NcclError::Aborted.into());
            }
            if !functions.is_in_progress(doing, comm).map_err(NcclError::from)? {
                break;
            }
            check()?;
            match asked < u64::from(ASKED_AT_ONCE) {
                true => thread::yield_now(),
                false => thread::sleep(ASK_EVERY),
            }
        }
        Ok(())
    }

    /// Asks NCCL for errors in a thread of its own, for as long as somebody has this.
    fn watch(self: &Arc<Self>) -> Result<(), Refusal> {
        let watched = Arc::downgrade(self);
        let watch = move || {
            while watched.upgrade().is_some_and(|communicator| communicator.is_well()) {
                thread::sleep(WATCH_EVERY);
            }
        };
        let refused =
            |error: io::Error| Refusal { doing: "watching the GPUs", reason: error.to_string() };
        thread::Builder::new().name("nccl".to_owned()).spawn(watch).map(drop).map_err(refused)
    }

    /// Gives up where NCCL has an error to tell.
    fn is_well(&self) -> bool {
        let mut state = self.state();
        let State::Joined(functions, Pointer(comm)) = *state else { return false };
        let found = functions.is_in_progress(EXCHANGING, comm);
        if let Err(refusal) = &found {
            self.given_up.store(true, Ordering::Release);
            end(&mut state, Some(refusal.clone()));
        }
        found.is_ok()
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
    fn exchange(&self, sends: &[Way], receives: &[Way]) -> Result<(), NcclError> {
        let doing = EXCHANGING;
        let state = self.state();
        let State::Joined(functions, Pointer(comm)) = *state else { return Err(state.why()) };
        debug_assert!(sends.iter().chain(receives).all(|(_, t)| t.kind() == Kind::Float));
        // SAFETY: the tensors are neighbouring float32 values on the communicator's GPU; memory
        // that libtorch frees is used again on the same stream only, so after this.
        #[expect(unsafe_code, reason = "NCCL is a C library")]
        let asked = unsafe {
            functions.check(doing, (functions.group_start)())?;
            let mut result = Ok(());
            for (rank, tensor) in sends.iter().filter(|(_, tensor)| tensor.numel() > 0) {
                let (data, count) = (tensor.data_ptr().cast_const(), tensor.numel());
                let code = (functions.send)(data, count, FLOAT32, *rank as c_int, comm, STREAM);
                result = result.and(functions.check(doing, code));
            }
            for (rank, tensor) in receives.iter().filter(|(_, tensor)| tensor.numel() > 0) {
                let (data, count) = (tensor.data_ptr(), tensor.numel());
                let code = (functions.receive)(data, count, FLOAT32, *rank as c_int, comm, STREAM);
                result = result.and(functions.check(doing, code));
            }
            // Also after a refusal: what was begun has to end.
            result.and(functions.check(doing, (functions.group_end)()))
        };
        asked?;
        self.wait(doing, functions, comm, || Ok(()))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Errors
    /// It was given up, so a sum which was under way then is none.
    pub(super) fn check_whole(&self) -> Result<(), NcclError> {
        if self.is_given_up() { Err(self.state().why()) } else { Ok(()) }
    }

    fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Acquire)
    }

    /// Gives up what is under way, because a member is gone that it would wait for for ever.
    pub(super) fn abort(&self) {
        self.given_up.store(true, Ordering::Release);
        end(&mut self.state(), None);
    }
}

/// Ends it, whatever is under way, unless it has ended.
fn end(state: &mut State, why: Option<Refusal>) {
    let ended = match state {
        State::Apart => State::GivenUp(why),
        State::Joined(functions, Pointer(comm)) => {
            // SAFETY: made by `join`, and nobody has it any more.
            #[expect(unsafe_code, reason = "NCCL is a C library")]
            let code = unsafe { (functions.abort)(*comm) };
            debug_assert!(matches!(code, interface::SUCCESS | interface::IN_PROGRESS));
            State::GivenUp(why)
        }
        State::GivenUp(_) => return,
    };
    *state = ended;
}

impl Drop for Communicator {
    /// The members have come to their end together or failed; nothing is under way that counts.
    fn drop(&mut self) {
        end(self.state.get_mut().unwrap_or_else(PoisonError::into_inner), None);
    }
}

#[cfg(test)]
mod stand_in;
#[cfg(test)]
mod tests;
