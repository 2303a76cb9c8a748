//! Reads a pipe until it ends, or until it is empty after the program has ended.

use crate::clock;
use agent_core::Moment;
use rustix::event::{PollFd, PollFlags, Timespec};
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// How long one wait for input lasts before the end of the program is noticed.
const WAIT_MS: i64 = 50;
/// How long a pipe is drained after the program has ended. A process that the program left behind
/// may write for ever.
const DRAIN_MS: u64 = 2_000;
const BUFFER_BYTES: usize = 64 << 10;

/// A thread that reads a pipe.
#[derive(Debug)]
pub(crate) struct Pump {
    program_ended: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    held_open: Option<File>,
}

impl Pump {
    /// Reads `pipe` and gives every piece to `sink`.
    pub(crate) fn start(mut pipe: File, mut sink: impl FnMut(&[u8]) + Send + 'static) -> Self {
        let program_ended = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&program_ended);
        let thread = std::thread::spawn(move || {
            if let Err(error) = pump(&mut pipe, &ended, &mut sink) {
                tracing::warn!(%error, "a pipe of the program cannot be read");
            }
        });
        Self { program_ended, thread, held_open: None }
    }

    /// Keeps `writer`, the pipe's other end, until [`Pump::finish`]: the pipe does not end while
    /// nobody else has it open.
    pub(crate) fn holding(self, writer: File) -> Self {
        Self { held_open: Some(writer), ..self }
    }

    /// Takes in what the program wrote before it ended.
    pub(crate) fn finish(self) {
        self.program_ended.store(true, Ordering::Release);
        drop(self.held_open);
        if let Err(panic) = self.thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

fn pump(pipe: &mut File, ended: &AtomicBool, sink: &mut impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut drained_at: Option<Moment> = None;
    loop {
        // Read before waiting, so that what was written before the end is seen by the wait.
        let had_ended = ended.load(Ordering::Acquire);
        let ready = wait(pipe)?;
        if ready {
            match pipe.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => sink(&buffer[..length]),
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        if had_ended {
            let until = *drained_at.get_or_insert_with(|| clock::now().plus_ms(DRAIN_MS));
            if !ready || clock::now() >= until {
                return Ok(());
            }
        }
    }
}

fn wait(pipe: &File) -> io::Result<bool> {
    let timeout = Timespec { tv_sec: 0, tv_nsec: WAIT_MS * 1_000_000 };
    let mut wanted = [PollFd::new(pipe, PollFlags::IN)];
    match rustix::event::poll(&mut wanted, Some(&timeout)) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}
