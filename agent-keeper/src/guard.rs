//! The thread that ends programs whose lease passed, and everything when the agent is gone. It
//! waits for nothing that the loop waits for, so neither a stalled disk nor a frozen agent keeps a
//! program alive.

use crate::clock;
use crate::process;
use agent_core::Moment;
use proto::AttemptKey;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::Pid;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How often the guard looks at the clock. A tenth of the shortest lease worth having.
const PERIOD_NS: i64 = 100_000_000;

/// The programs that live, shared with the guard's thread.
#[derive(Debug, Clone, Default)]
pub(crate) struct Guard(Arc<Mutex<BTreeMap<AttemptKey, Guarded>>>);

#[derive(Debug)]
struct Guarded {
    leader: Pid,
    until: Moment,
    expired: bool,
}

impl Guard {
    /// Starts the thread. It ends this process with its group when `stdin` is at its end.
    ///
    /// # Errors
    /// The system refuses threads.
    pub(crate) fn start() -> io::Result<Self> {
        let guard = Self::default();
        let watched = guard.clone();
        std::thread::Builder::new().name("guard".into()).spawn(move || {
            loop {
                watched.wait();
                watched.end_expired(clock::now());
            }
        })?;
        Ok(guard)
    }

    pub(crate) fn add(&self, key: AttemptKey, leader: Pid, until: Moment) {
        self.lock().insert(key, Guarded { leader, until, expired: false });
    }

    /// The lease was renewed. An older deadline that comes late takes nothing away.
    pub(crate) fn renew(&self, key: &AttemptKey, until: Moment) {
        if let Some(guarded) = self.lock().get_mut(key) {
            guarded.until = guarded.until.max(until);
        }
    }

    /// The program ended and is about to be reaped, after which its number may be another's.
    /// Answers whether its lease had passed.
    pub(crate) fn remove(&self, key: &AttemptKey) -> bool {
        self.lock().remove(key).is_some_and(|guarded| guarded.expired)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<AttemptKey, Guarded>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self) {
        let stdin = rustix::stdio::stdin();
        let period = Timespec { tv_sec: 0, tv_nsec: PERIOD_NS };
        // Only the pipe's end wakes it: that is told without being asked for.
        let mut wanted = [PollFd::new(&stdin, PollFlags::empty())];
        match rustix::event::poll(&mut wanted, Some(&period)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => {
                tracing::warn!("the agent is gone; ending its programs");
                process::kill_self_and_descendants();
            }
            Err(error) => {
                tracing::error!(%error, "the agent's pipe cannot be watched");
                process::kill_self_and_descendants();
            }
        }
    }

    fn end_expired(&self, now: Moment) {
        // Held meanwhile, so that the loop reaps none of them.
        let mut programs = self.lock();
        let passed = programs.iter_mut().filter(|(_, guarded)| guarded.until <= now);
        for (key, guarded) in passed {
            if !guarded.expired {
                tracing::warn!(attempt = %key, "the lease passed; ending the program");
            }
            guarded.expired = true;
            process::kill_tree(guarded.leader);
        }
    }
}
