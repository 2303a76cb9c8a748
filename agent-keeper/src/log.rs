//! The log of one attempt: what its program prints, and lines of Brine between. Its beginning and
//! its end are kept; a program that prints without end must neither fill the disk nor lose its
//! last words.

use crate::order::LOG_NAME;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Most bytes in the log itself, which is the beginning of the output.
pub const HEAD_BYTES_MAX: u64 = 16 << 20;
/// Most bytes in the file of the newest output; as many may be in the one before it.
pub const NEWEST_BYTES_MAX: u64 = 16 << 20;
/// Where the output goes on when the log is full, beside it.
pub const NEWEST_NAME: &str = "log.newest.txt";
/// The file of the newest output before it was full; the one that was here is gone then.
pub const OLDER_NAME: &str = "log.older.txt";
/// Most of Brine's own lines in one log, so that a flood of malformed metric lines stays bounded.
const NOTES_MAX: u32 = 1_000;
/// How much of the last output goes into a failure's message.
const TAIL_BYTES: usize = 1_500;

/// Appends to an attempt's log.
#[derive(Debug)]
pub struct Log {
    folder: PathBuf,
    /// None before there is something to write.
    file: Option<File>,
    /// Bytes of output in `file`, and how many it may have.
    bytes: u64,
    bytes_max: u64,
    newest_bytes_max: u64,
    /// Whether `file` is the log itself and not the newest output.
    is_head: bool,
    notes: u32,
    at_line_start: bool,
    tail: VecDeque<u8>,
}

impl Log {
    /// The log in `folder`. There is no file before there is something to write.
    pub fn new(folder: &Path) -> Self {
        Self::with_limits(folder, HEAD_BYTES_MAX, NEWEST_BYTES_MAX)
    }

    fn with_limits(folder: &Path, bytes_max: u64, newest_bytes_max: u64) -> Self {
        Self {
            folder: folder.to_owned(),
            file: None,
            bytes: 0,
            bytes_max,
            newest_bytes_max,
            is_head: true,
            notes: 0,
            at_line_start: true,
            tail: VecDeque::new(),
        }
    }

    /// Where the log is, when something was written.
    pub fn path(&self) -> Option<PathBuf> {
        self.file.as_ref().map(|_| self.folder.join(LOG_NAME))
    }

    /// Appends what the program printed.
    pub fn output(&mut self, text: &[u8]) {
        self.remember(text);
        let mut rest = text;
        while !rest.is_empty() {
            let room = usize::try_from(self.bytes_max - self.bytes).unwrap_or(usize::MAX);
            let (kept, later) = rest.split_at(rest.len().min(room));
            rest = later;
            self.bytes += kept.len() as u64;
            self.append(kept);
            if self.bytes == self.bytes_max {
                self.turn_over();
            }
        }
    }

    /// Appends a line of Brine's own.
    pub fn note(&mut self, text: &str) {
        self.notes = self.notes.saturating_add(1);
        match self.notes.cmp(&NOTES_MAX) {
            std::cmp::Ordering::Less => self.write_note(text),
            std::cmp::Ordering::Equal => self.write_note("further notes are left out"),
            std::cmp::Ordering::Greater => {}
        }
    }

    /// The last lines that the program printed.
    pub fn tail(&self) -> String {
        let bytes: Vec<u8> = self.tail.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        // The first line is probably cut.
        let whole = match text.split_once('\n') {
            Some((_, rest)) if bytes.len() == TAIL_BYTES && !rest.is_empty() => rest,
            Some(_) | None => text.as_ref(),
        };
        whole.trim_end().to_owned()
    }

    /// Goes on in a new file of the newest output; the full one becomes the older one.
    fn turn_over(&mut self) {
        if self.is_head {
            let newest = self.newest_bytes_max;
            self.write_note(&format!(
                "the log is full; the newest output, {newest} bytes or more, is in {NEWEST_NAME} \
                 and {OLDER_NAME} beside it"
            ));
        }
        let path = self.folder.join(NEWEST_NAME);
        let renamed = match self.is_head {
            true => Ok(()),
            false => std::fs::rename(&path, self.folder.join(OLDER_NAME)),
        };
        match renamed.and_then(|()| File::options().append(true).create(true).open(&path)) {
            Ok(file) => self.file = Some(file),
            // What follows overruns this file, as far as the next turn.
            Err(error) => tracing::warn!(%error, "the log cannot be turned over"),
        }
        self.is_head = false;
        self.bytes = 0;
        self.bytes_max = self.newest_bytes_max;
    }

    fn write_note(&mut self, text: &str) {
        let start = if self.at_line_start { "" } else { "\n" };
        self.append(format!("{start}brine: {text}\n").as_bytes());
    }

    fn append(&mut self, bytes: &[u8]) {
        if let Some(last) = bytes.last() {
            self.at_line_start = *last == b'\n';
        }
        // A full disk must not end a trial that may need no more of it; its result is elsewhere.
        let written = self.open().and_then(|mut file| file.write_all(bytes));
        if let Err(error) = written {
            tracing::warn!(%error, "the log cannot be written");
        }
    }

    fn open(&mut self) -> io::Result<&File> {
        let file = match self.file.take() {
            Some(file) => file,
            None => File::options().append(true).create(true).open(self.folder.join(LOG_NAME))?,
        };
        Ok(self.file.insert(file))
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
    fn the_beginning_and_the_newest_output_are_kept_and_the_log_says_where() {
        let folder = tempfile::TempDir::new().unwrap();
        let mut log = Log::with_limits(folder.path(), 10, 6);
        assert!(log.path().is_none(), "nothing was written");
        for piece in ["1234\n5", "678901234", "abcdefghij\n"] {
            log.output(piece.as_bytes());
        }
        log.note("later");
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let head = read("log.txt");
        assert!(head.starts_with("1234\n56789\nbrine: the log is full;"), "{head}");
        assert_eq!(head.lines().count(), 3, "it says so once: {head}");
        assert_eq!(read(OLDER_NAME), "bcdefg");
        assert_eq!(read(NEWEST_NAME), "hij\nbrine: later\n");
        assert!(log.tail().ends_with("01234abcdefghij"), "the end is remembered all the same");
    }

    #[test]
    fn the_tail_is_bounded_and_begins_with_a_whole_line() {
        let folder = tempfile::TempDir::new().unwrap();
        let mut log = Log::new(folder.path());
        for index in 0..1_000 {
            log.output(format!("line {index:04}\n").as_bytes());
        }
        let tail = log.tail();
        assert!(tail.len() <= TAIL_BYTES);
        assert!(tail.starts_with("line 0") && tail.ends_with("line 0999"), "{tail}");
    }
}
