//! The log of one attempt: what its program prints, and lines of Brine between.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Most bytes of a program's output that are kept; a program that prints without end must not fill
/// the disk. What comes later is read and dropped, so that the program does not block.
pub(crate) const OUTPUT_BYTES_MAX: u64 = 64 << 20;
/// Most of Brine's own lines in one log, so that a flood of malformed metric lines stays bounded.
const NOTES_MAX: u32 = 1_000;
/// How much of the last output goes into a failure's message.
const TAIL_BYTES: usize = 1_500;

/// Appends to an attempt's log.
#[derive(Debug)]
pub(crate) struct Log {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: File,
    output_bytes: u64,
    output_bytes_max: u64,
    notes: u32,
    at_line_start: bool,
    tail: VecDeque<u8>,
}

impl Log {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Self::with_limit(path, OUTPUT_BYTES_MAX)
    }

    fn with_limit(path: &Path, output_bytes_max: u64) -> io::Result<Self> {
        let file = File::options().append(true).create(true).open(path)?;
        Ok(Self {
            state: Mutex::new(State {
                file,
                output_bytes: 0,
                output_bytes_max,
                notes: 0,
                at_line_start: true,
                tail: VecDeque::new(),
            }),
        })
    }

    /// Appends what the program printed.
    pub(crate) fn output(&self, text: &[u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.remember(text);
        let room = state.output_bytes_max - state.output_bytes;
        if room == 0 {
            return;
        }
        let kept = &text[..text.len().min(usize::try_from(room).unwrap_or(usize::MAX))];
        state.output_bytes += kept.len() as u64;
        state.append(kept);
        if state.output_bytes == state.output_bytes_max {
            let bytes = state.output_bytes_max;
            state.note(&format!("the output is cut here, after {bytes} bytes"));
        }
    }

    /// Appends a line of Brine's own.
    pub(crate) fn note(&self, text: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.notes = state.notes.saturating_add(1);
        match state.notes.cmp(&NOTES_MAX) {
            std::cmp::Ordering::Less => state.note(text),
            std::cmp::Ordering::Equal => state.note("further notes are left out"),
            std::cmp::Ordering::Greater => {}
        }
    }

    /// The last lines that the program printed.
    pub(crate) fn tail(&self) -> String {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: Vec<u8> = state.tail.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        // The first line is probably cut.
        let whole = match text.split_once('\n') {
            Some((_, rest)) if bytes.len() == TAIL_BYTES && !rest.is_empty() => rest,
            Some(_) | None => text.as_ref(),
        };
        whole.trim_end().to_owned()
    }
}

impl State {
    fn note(&mut self, text: &str) {
        let start = if self.at_line_start { "" } else { "\n" };
        self.append(format!("{start}brine: {text}\n").as_bytes());
    }

    fn append(&mut self, bytes: &[u8]) {
        if let Some(last) = bytes.last() {
            self.at_line_start = *last == b'\n';
        }
        // A full disk must not end a trial that may need no more of it; its result is elsewhere.
        if let Err(error) = self.file.write_all(bytes) {
            tracing::warn!(%error, "the log cannot be written");
        }
    }

    fn remember(&mut self, text: &[u8]) {
        let text = &text[text.len().saturating_sub(TAIL_BYTES)..];
        let excess = (self.tail.len() + text.len()).saturating_sub(TAIL_BYTES);
        self.tail.drain(..excess);
        self.tail.extend(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_beyond_the_limit_is_dropped_and_the_log_says_so_once() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("log.txt");
        let log = Log::with_limit(&path, 10).unwrap();
        for _ in 0..4 {
            log.output(b"1234\n56");
        }
        log.note("later");
        let text = std::fs::read_to_string(path).unwrap();
        let cut = "1234\n56123\nbrine: the output is cut here, after 10 bytes\nbrine: later\n";
        assert_eq!(text, cut);
        assert!(log.tail().ends_with("1234\n56"), "the end is remembered all the same");
    }

    #[test]
    fn the_tail_is_bounded_and_begins_with_a_whole_line() {
        let folder = tempfile::TempDir::new().unwrap();
        let log = Log::open(&folder.path().join("log.txt")).unwrap();
        for index in 0..1_000 {
            log.output(format!("line {index:04}\n").as_bytes());
        }
        let tail = log.tail();
        assert!(tail.len() <= TAIL_BYTES);
        assert!(tail.starts_with("line 0") && tail.ends_with("line 0999"), "{tail}");
    }
}
