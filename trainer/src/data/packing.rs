//! Where windows begin, and how much of each is scored.

use std::ops::Range;

/// The windows of one part of a text.
#[derive(Debug)]
pub(super) enum Windowing {
    /// All of the same length, one after the other.
    Stream { start: u64, len: u64, sequence: u64 },
    /// First token and number of scored targets of each.
    Documents(Vec<(u64, u64)>),
}

/// Where the held-out text begins: at `wanted`, or where there are documents at the end of the one
/// that `wanted` lies in; at its start if it is the last.
pub(super) fn split(wanted: u64, ends: &[u64]) -> u64 {
    let next = ends.partition_point(|end| *end < wanted);
    match ends.get(next) {
        Some(&end) if next + 1 < ends.len() => end,
        Some(_) => next.checked_sub(1).map_or(0, |before| ends[before]),
        None => wanted,
    }
}

impl Windowing {
    /// Windows of `sequence` targets in the tokens of `part`, which has one more at least.
    pub(super) fn stream(part: Range<u64>, sequence: u64) -> Self {
        Self::Stream { start: part.start, len: (part.end - part.start - 1) / sequence, sequence }
    }

    /// As many whole documents as fit, of those that end at `ends` in `part`. A longer one is cut
    /// as a stream is, and its last piece shares its window with no other document.
    pub(super) fn documents(part: Range<u64>, ends: &[u64], sequence: u64) -> Self {
        let fits = sequence + 1;
        let mut windows = Vec::new();
        let mut push = |start: u64, end: u64| {
            // A single token has no target.
            if end > start + 1 {
                windows.push((start, end - start - 1));
            }
        };
        let (mut start, mut end) = (part.start, part.start);
        for &next in ends.iter().filter(|next| (part.start + 1..=part.end).contains(next)) {
            if next - start > fits {
                push(start, end);
                start = end;
            }
            end = next;
            if end - start > fits {
                while end - start > fits {
                    push(start, start + fits);
                    start += sequence;
                }
                push(start, end);
                start = end;
            }
        }
        push(start, end);
        Self::Documents(windows)
    }

    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Stream { len, .. } => *len,
            Self::Documents(windows) => windows.len() as u64,
        }
    }

    /// First token and number of scored targets of window `index`.
    pub(super) fn at(&self, index: u64) -> (u64, u64) {
        match self {
            Self::Stream { start, sequence, .. } => (start + index * sequence, *sequence),
            Self::Documents(windows) => windows[index as usize],
        }
    }
}
