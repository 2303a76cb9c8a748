//! The keeper's side of the two pipes to the agent. Neither waits.

use crate::order::LINE_BYTES_MAX;
use crate::places::Source;
use crate::process;
use crate::say::{Ask, Say};
use rustix::event::epoll::{self, EventFlags};
use std::io;
use std::os::fd::OwnedFd;

/// What may wait for the agent before metrics do. Ends of programs wait in any case: there are at
/// most as many as programs.
const WAITING_BYTES_MAX: usize = 1 << 20;

/// What the agent asked and nobody has looked at.
#[derive(Debug, Default)]
pub(super) struct Ears {
    heard: Vec<u8>,
    /// Where the next line begins.
    start: usize,
}

impl Ears {
    /// Reads what there is. The end of the pipe ends this process and all that it started.
    ///
    /// # Errors
    /// The pipe broke, or a line is too long.
    pub(super) fn fill(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.heard.drain(..self.start);
        self.start = 0;
        match rustix::io::read(rustix::stdio::stdin(), &mut *buffer) {
            Ok(0) => {
                tracing::warn!("the agent is gone; ending its programs");
                process::kill_self_and_descendants();
            }
            Ok(length) => self.heard.extend_from_slice(buffer.get(..length).unwrap_or_default()),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
        if self.heard.len() > LINE_BYTES_MAX {
            return Err(io::Error::other("a line of the agent is too long"));
        }
        Ok(())
    }

    /// The next whole line.
    ///
    /// # Errors
    /// It is not what an agent says.
    pub(super) fn next(&mut self) -> io::Result<Option<Ask>> {
        let rest = self.heard.get(self.start..).unwrap_or_default();
        let Some(length) = rest.iter().position(|byte| *byte == b'\n') else {
            return Ok(None);
        };
        let line = rest.get(..length).unwrap_or_default();
        let ask = serde_json::from_slice(line)?;
        self.start += length + 1;
        Ok(Some(ask))
    }
}

/// What the agent has not read yet.
#[derive(Debug)]
pub(super) struct Voice {
    waiting: Vec<u8>,
    listens: bool,
}

impl Voice {
    /// # Errors
    /// The system refuses.
    pub(super) fn new(epoll: &OwnedFd) -> io::Result<Self> {
        let stdout = rustix::stdio::stdout();
        rustix::io::ioctl_fionbio(stdout, true)?;
        epoll::add(epoll, stdout, Source::Room.data(), EventFlags::empty())?;
        Ok(Self { waiting: Vec::new(), listens: false })
    }

    pub(super) fn say(&mut self, said: &Say) {
        let length = self.waiting.len();
        if let Err(error) = serde_json::to_writer(&mut self.waiting, said) {
            tracing::error!(%error, "something cannot be said");
            self.waiting.truncate(length);
            return;
        }
        self.waiting.push(b'\n');
    }

    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() > WAITING_BYTES_MAX
    }

    /// Writes what the pipe takes. Without a reader this process ends with all that it started.
    ///
    /// # Errors
    /// The system refuses to wait for the pipe.
    pub(super) fn flush(&mut self, epoll: &OwnedFd) -> io::Result<()> {
        let stdout = rustix::stdio::stdout();
        let mut written = 0;
        while let Some(rest) = self.waiting.get(written..).filter(|rest| !rest.is_empty()) {
            match rustix::io::write(stdout, rest) {
                Ok(length) => written += length,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(error) => {
                    tracing::warn!(%error, "the agent does not listen; ending its programs");
                    process::kill_self_and_descendants();
                }
            }
        }
        self.waiting.drain(..written);
        let listens = !self.waiting.is_empty();
        if listens != self.listens {
            self.listens = listens;
            let flags = if listens { EventFlags::OUT } else { EventFlags::empty() };
            epoll::modify(epoll, stdout, Source::Room.data(), flags)?;
        }
        Ok(())
    }
}
