//! A disk that keeps what it promised, and of the rest whatever it likes.

use coordinator::journal::{Chunk, Damage, Log};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// What a crash leaves of a write that was under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remains {
    /// Nothing.
    Nothing,
    /// All of it, although nobody was told.
    Everything,
    /// All but the end of the last chunk.
    Torn,
}

/// The journal's disk.
#[derive(Debug, Default)]
pub struct Disk {
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    chunks: BTreeMap<u64, Vec<u8>>,
    end: u64,
    /// What the next write will come to, instead of success.
    next: Option<Remains>,
}

/// Why a write or a read failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// The write was cut short.
    #[error("the write failed")]
    Write,
    /// The content is not what was written.
    #[error(transparent)]
    Damage(#[from] Damage),
}

impl Disk {
    /// Lets the next write fail, leaving this.
    pub fn fail_next(&self, remains: Remains) {
        self.state.borrow_mut().next = Some(remains);
    }

    /// A disk that lied: takes the newest durable chunk away. Returns whether there was one.
    pub fn forget_newest(&self) -> bool {
        self.state.borrow_mut().chunks.pop_last().is_some()
    }
}

impl Log for Disk {
    type Error = DiskError;

    fn append(&self, mut chunks: Vec<Chunk>, last: u64) -> Result<(), DiskError> {
        let mut state = self.state.borrow_mut();
        let failure = state.next.take();
        match failure {
            Some(Remains::Nothing) => chunks.clear(),
            Some(Remains::Torn) => {
                if let Some((_, chunk)) = chunks.last_mut() {
                    chunk.truncate(chunk.len() / 2);
                }
            }
            Some(Remains::Everything) | None => {}
        }
        state.chunks.extend(chunks);
        if failure.is_some() {
            return Err(DiskError::Write);
        }
        state.end = last;
        Ok(())
    }

    fn read(&self, sequence: u64, most: usize) -> Result<Vec<Chunk>, DiskError> {
        let state = self.state.borrow();
        let first = state.chunks.range(..=sequence).next_back().map_or(sequence, |(key, _)| *key);
        let chunks = state.chunks.range(first..).take(most);
        Ok(chunks.map(|(key, chunk)| (*key, chunk.clone())).collect())
    }

    fn end(&self) -> Result<u64, DiskError> {
        Ok(self.state.borrow().end)
    }
}
