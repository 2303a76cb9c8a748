//! Pieces of a log to whole lines with a name before each.

/// Longest line that is held back until its end comes; a longer one is broken.
const LINE_BYTES_MAX: usize = 64 << 10;

/// Puts a name before every line of one attempt's log.
#[derive(Debug)]
pub(super) struct Lines {
    prefix: String,
    held: Vec<u8>,
}

impl Lines {
    /// Lines begin with `prefix`.
    pub(super) fn new(prefix: String) -> Self {
        Self { prefix, held: Vec::new() }
    }

    /// The lines that `piece` completes.
    pub(super) fn take(&mut self, piece: &[u8]) -> Vec<u8> {
        let mut lines = Vec::with_capacity(piece.len());
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            self.held.extend_from_slice(part);
            if part.ends_with(b"\n") || self.held.len() >= LINE_BYTES_MAX {
                self.move_held(&mut lines);
            }
        }
        lines
    }

    /// What came after the last line's end, as a line.
    pub(super) fn end(mut self) -> Vec<u8> {
        let mut lines = Vec::new();
        if !self.held.is_empty() {
            self.move_held(&mut lines);
        }
        lines
    }

    fn move_held(&mut self, lines: &mut Vec<u8>) {
        lines.extend_from_slice(self.prefix.as_bytes());
        lines.append(&mut self.held);
        if !lines.ends_with(b"\n") {
            lines.push(b'\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pieces: &[&str], during: &str, end: &str) {
        let mut lines = Lines::new("ab | ".to_owned());
        let taken: Vec<u8> = pieces.iter().flat_map(|piece| lines.take(piece.as_bytes())).collect();
        assert_eq!(String::from_utf8(taken).unwrap(), during);
        assert_eq!(String::from_utf8(lines.end()).unwrap(), end);
    }

    #[test]
    fn every_line_begins_with_the_name_however_it_was_cut() {
        check(&["one\ntwo\n"], "ab | one\nab | two\n", "");
        check(&["o", "ne", "\ntw", "o\n"], "ab | one\nab | two\n", "");
        check(&["one\n\nthree"], "ab | one\nab | \n", "ab | three\n");
        check(&[], "", "");
    }

    #[test]
    fn a_line_without_end_is_broken() {
        let mut lines = Lines::new("> ".to_owned());
        let long = vec![b'x'; LINE_BYTES_MAX];
        let taken = lines.take(&long);
        assert_eq!(taken.len(), LINE_BYTES_MAX + 3);
        assert_eq!(lines.end(), b"");
    }
}
