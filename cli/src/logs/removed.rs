//! Logs that the coordinator removed, and how that is said.

use crate::number;
use crate::output::Printer;
use proto::wire::LogChunk;

/// What has been heard of removed logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Removed {
    /// How many are gone.
    logs: u64,
    /// The coordinator's limit for all logs.
    above_bytes: u64,
}

impl Removed {
    /// Whether a piece of a log says that it is gone, which is counted.
    pub(super) fn take(&mut self, chunk: &LogChunk) -> bool {
        let is_removed = chunk.removed_above_bytes > 0;
        if is_removed {
            self.logs += 1;
            self.above_bytes = chunk.removed_above_bytes;
        }
        is_removed
    }

    /// Adds what somebody else has heard.
    pub(super) fn add(&mut self, other: Self) {
        self.logs += other.logs;
        self.above_bytes = self.above_bytes.max(other.above_bytes);
    }

    /// Says it of several trials, if there is anything to say.
    pub(super) fn say(&self, printer: &Printer) {
        if let Some(text) = self.of_several() {
            printer.status(&text);
        }
    }

    fn of_several(&self) -> Option<String> {
        let logs = match self.logs {
            0 => return None,
            1 => "1 log was".to_owned(),
            several => format!("{several} logs were"),
        };
        Some(format!("{logs} removed {}", self.why()))
    }

    /// `to keep the coordinator's logs below 8.0 GiB`.
    pub(super) fn why(&self) -> String {
        let limit = match self.above_bytes {
            // Nobody serves the folder, so nobody knows the number.
            u64::MAX => "their limit".to_owned(),
            bytes => number::bytes(bytes),
        };
        format!("to keep the coordinator's logs below {limit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_logs_are_counted_and_said() {
        for (chunks, expected) in [
            (vec![], None),
            (vec![0, 0], None),
            (
                vec![0, 8 << 30],
                Some("1 log was removed to keep the coordinator's logs below 8.0 GiB"),
            ),
            (
                vec![u64::MAX, u64::MAX],
                Some("2 logs were removed to keep the coordinator's logs below their limit"),
            ),
        ] {
            let mut removed = Removed::default();
            for removed_above_bytes in chunks {
                let mut one = Removed::default();
                let chunk = LogChunk { removed_above_bytes, ..LogChunk::default() };
                assert_eq!(one.take(&chunk), removed_above_bytes > 0);
                removed.add(one);
            }
            assert_eq!(removed.of_several().as_deref(), expected);
        }
    }
}
