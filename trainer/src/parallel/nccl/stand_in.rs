//! A stand-in for NCCL's library: it joins threads instead of GPUs and exchanges main memory. As
//! NCCL's, its calls answer before the work is done, and what a call of one thread waits for,
//! another may give up. Unlike NCCL's its work is done by whoever asks about it.
#![expect(unsafe_code, reason = "it has the interface of a C library")]

use super::interface::{Comm, Config, Functions, IN_PROGRESS, SUCCESS, UniqueId};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::{c_char, c_int, c_void};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, Ordering};

/// `ncclRemoteError`.
const REMOTE_ERROR: c_int = 6;

/// The members who were given one id.
#[derive(Default)]
struct Hub {
    here: u32,
    /// What was sent and not received, by sender and receiver.
    sent: BTreeMap<(u32, u32), VecDeque<Vec<f32>>>,
}

static HUBS: Mutex<BTreeMap<u8, Hub>> = Mutex::new(BTreeMap::new());

struct Member {
    hub: u8,
    rank: u32,
    world_size: u32,
    /// Address and number of values to receive, and from whom.
    awaited: Mutex<Vec<(usize, usize, u32)>>,
    /// What the network says.
    error: AtomicI32,
}

thread_local! {
    /// Receives of the group that this thread has begun.
    static GROUP: RefCell<Vec<(Comm, usize, usize, u32)>> = const { RefCell::new(Vec::new()) };
}

unsafe extern "C" fn init_rank(
    comm: *mut Comm,
    world_size: c_int,
    id: UniqueId,
    rank: c_int,
    config: *mut Config,
) -> c_int {
    // SAFETY: the caller's.
    assert_eq!(unsafe { (*config).blocking }, 0);
    let (hub, rank) = (id.0[0], rank as u32);
    HUBS.lock().unwrap().entry(hub).or_default().here += 1;
    let member = Member {
        hub,
        rank,
        world_size: world_size as u32,
        awaited: Mutex::default(),
        error: AtomicI32::new(SUCCESS),
    };
    // SAFETY: the caller's.
    unsafe { *comm = Box::into_raw(Box::new(member)).cast() };
    IN_PROGRESS
}

unsafe extern "C" fn get_async_error(comm: Comm, state: *mut c_int) -> c_int {
    // SAFETY: made by `init_rank`, and not given up.
    let member = unsafe { &*comm.cast::<Member>() };
    let mut hubs = HUBS.lock().unwrap();
    let hub = hubs.get_mut(&member.hub).unwrap();
    let mut awaited = member.awaited.lock().unwrap();
    awaited.retain(|&(place, count, from)| {
        let Some(values) = hub.sent.entry((from, member.rank)).or_default().pop_front() else {
            return true;
        };
        assert_eq!(values.len(), count);
        // SAFETY: a tensor that its owner keeps until this has come to an end.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), place as *mut f32, count) };
        false
    });
    let is_done = hub.here >= member.world_size && awaited.is_empty();
    let error = member.error.load(Ordering::Acquire);
    let found = match error {
        SUCCESS if is_done => SUCCESS,
        SUCCESS => IN_PROGRESS,
        error => error,
    };
    // SAFETY: the caller's.
    unsafe { *state = found };
    SUCCESS
}

unsafe extern "C" fn abort(comm: Comm) -> c_int {
    // SAFETY: made by `init_rank`, and nobody has it any more.
    drop(unsafe { Box::from_raw(comm.cast::<Member>()) });
    SUCCESS
}

unsafe extern "C" fn group_start() -> c_int {
    GROUP.with_borrow_mut(Vec::clear);
    SUCCESS
}

unsafe extern "C" fn group_end() -> c_int {
    for (comm, place, count, from) in GROUP.take() {
        // SAFETY: made by `init_rank`, and not given up.
        let member = unsafe { &*comm.cast::<Member>() };
        member.awaited.lock().unwrap().push((place, count, from));
    }
    IN_PROGRESS
}

unsafe extern "C" fn send(
    data: *const c_void,
    count: usize,
    _kind: c_int,
    to: c_int,
    comm: Comm,
    _stream: *mut c_void,
) -> c_int {
    // SAFETY: made by `init_rank`, and not given up; the caller's values.
    let (member, values) =
        unsafe { (&*comm.cast::<Member>(), std::slice::from_raw_parts(data.cast::<f32>(), count)) };
    let mut hubs = HUBS.lock().unwrap();
    let sent = &mut hubs.get_mut(&member.hub).unwrap().sent;
    sent.entry((member.rank, to as u32)).or_default().push_back(values.to_vec());
    IN_PROGRESS
}

unsafe extern "C" fn receive(
    data: *mut c_void,
    count: usize,
    _kind: c_int,
    from: c_int,
    comm: Comm,
    _stream: *mut c_void,
) -> c_int {
    GROUP.with_borrow_mut(|group| group.push((comm, data as usize, count, from as u32)));
    IN_PROGRESS
}

unsafe extern "C" fn unused_id(_: *mut UniqueId) -> c_int {
    unreachable!("the tests make their own")
}

unsafe extern "C" fn unused_version(_: *mut c_int) -> c_int {
    unreachable!("a stand-in has none")
}

unsafe extern "C" fn error_string(code: c_int) -> *const c_char {
    assert_eq!(code, REMOTE_ERROR);
    c"remote process exited".as_ptr()
}

unsafe extern "C" fn last_error(_: Comm) -> *const c_char {
    c"Connection closed by 10.0.0.2\n".as_ptr()
}

pub(super) static STAND_IN: Functions = Functions {
    get_version: unused_version,
    get_unique_id: unused_id,
    init_rank,
    get_async_error,
    abort,
    group_start,
    group_end,
    send,
    receive,
    error_string,
    last_error,
};

/// Whether somebody wanted to join the members of this hub.
pub(super) fn was_asked(hub: u8) -> bool {
    HUBS.lock().unwrap().contains_key(&hub)
}

/// Tells this member that the network broke. Nobody gave `comm` up.
pub(super) fn break_network(comm: Comm) {
    // SAFETY: made by `init_rank`, and not given up.
    unsafe { &*comm.cast::<Member>() }.error.store(REMOTE_ERROR, Ordering::Release);
}
