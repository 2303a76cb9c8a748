//! What flows beside the core: metric points and log text on their way to the coordinator, in
//! bounded buffers. Neither can hold up a trial or a heartbeat.

use agent_keeper::order::Metric;
use proto::AttemptKey;
use proto::wire::{self, LOG_CHUNK_BYTES, METRIC_BATCH_MAX};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Metric points that wait while the coordinator is away, some 10 MB. Beyond that the oldest are
/// dropped and counted; the final values travel in the outcome.
const METRICS_MAX: usize = 65_536;
/// Most of one attempt's log that is sent to the coordinator; the rest stays on this machine.
pub(crate) const LOG_BYTES_MAX: u64 = 1 << 20;

/// Metric points that wait to be sent.
#[derive(Debug, Default)]
pub(crate) struct MetricBuffer {
    points: VecDeque<wire::MetricPoint>,
    dropped: u64,
}

impl MetricBuffer {
    pub(crate) fn push(&mut self, key: &AttemptKey, Metric { metric, step, value }: Metric) {
        if self.points.len() == METRICS_MAX {
            self.points.pop_front();
            self.dropped += 1;
        }
        let (trial, attempt, rank) = (key.trial.to_string(), key.attempt.0, key.rank);
        self.points.push_back(wire::MetricPoint { trial, attempt, metric, step, value, rank });
    }

    pub(crate) fn len(&self) -> usize {
        self.points.len()
    }

    /// The next batch, oldest first; `None` when nothing waits.
    pub(crate) fn batch(&mut self) -> Option<wire::MetricBatch> {
        if self.dropped > 0 {
            tracing::warn!(dropped = self.dropped, "metric points were dropped while away");
            self.dropped = 0;
        }
        let count = self.points.len().min(METRIC_BATCH_MAX);
        (count > 0).then(|| wire::MetricBatch {
            points: self.points.drain(..count).collect(),
            ..wire::MetricBatch::default()
        })
    }
}

/// Follows one attempt's log.
#[derive(Debug)]
pub(crate) struct LogTail {
    path: PathBuf,
    file: Option<File>,
    offset: u64,
    ended: bool,
}

impl LogTail {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, file: None, offset: 0, ended: false }
    }

    /// Begins again: chunks are not acknowledged, so a new session gets them from the start. Their
    /// offsets make that harmless.
    pub(crate) fn rewind(&mut self) {
        self.offset = 0;
    }

    /// Nothing more will be written.
    pub(crate) fn end(&mut self) {
        self.ended = true;
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// The next piece; `None` when all that is there was read.
    pub(crate) fn chunk(&mut self, key: &AttemptKey) -> io::Result<Option<wire::LogChunk>> {
        if self.offset > LOG_BYTES_MAX {
            return Ok(None);
        }
        let room = LOG_BYTES_MAX - self.offset;
        let mut text = if room == 0 { Vec::new() } else { self.read(room)? };
        let offset = self.offset;
        if room == 0 && self.has_more()? {
            text = cut_note(&self.path).into_bytes();
        }
        if text.is_empty() {
            return Ok(None);
        }
        self.offset += text.len() as u64;
        let (trial, attempt, rank) = (key.trial.to_string(), key.attempt.0, key.rank);
        Ok(Some(wire::LogChunk { trial, attempt, offset, text, rank, removed_above_bytes: 0 }))
    }

    fn read(&mut self, room: u64) -> io::Result<Vec<u8>> {
        let offset = self.offset;
        let mut text = Vec::new();
        let file = self.open()?;
        file.seek(SeekFrom::Start(offset))?;
        file.take(room.min(LOG_CHUNK_BYTES as u64)).read_to_end(&mut text)?;
        Ok(text)
    }

    fn has_more(&mut self) -> io::Result<bool> {
        let offset = self.offset;
        Ok(self.open()?.metadata()?.len() > offset)
    }

    fn open(&mut self) -> io::Result<&mut File> {
        let file = match self.file.take() {
            Some(file) => file,
            None => File::open(&self.path)?,
        };
        Ok(self.file.insert(file))
    }
}

fn cut_note(path: &Path) -> String {
    format!("\nbrine: the rest of this log is on the agent's machine: {}\n", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{Attempt, TrialId};

    fn key() -> AttemptKey {
        let trial = TrialId::new("0123456789abcdef").unwrap();
        AttemptKey { trial, attempt: Attempt(2), rank: 0 }
    }

    #[test]
    fn the_oldest_metrics_are_dropped_when_the_coordinator_stays_away() {
        let mut buffer = MetricBuffer::default();
        for step in 0..METRICS_MAX as u64 + 5 {
            buffer.push(&key(), Metric { metric: "loss".into(), step, value: 1.0 });
        }
        let batch = buffer.batch().unwrap();
        assert_eq!(batch.points.len(), METRIC_BATCH_MAX);
        assert_eq!(batch.points[0].step, 5);
        let sent = std::iter::from_fn(|| buffer.batch()).map(|batch| batch.points.len());
        assert_eq!(sent.sum::<usize>(), METRICS_MAX - METRIC_BATCH_MAX);
    }

    fn all(tail: &mut LogTail) -> Vec<u8> {
        let mut text = Vec::new();
        while let Some(chunk) = tail.chunk(&key()).unwrap() {
            assert_eq!(chunk.offset, text.len() as u64);
            text.extend(chunk.text);
        }
        text
    }

    #[test]
    fn a_log_is_sent_in_pieces_and_again_from_the_start_after_a_rewind() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("log.txt");
        let text: Vec<u8> = (0..LOG_CHUNK_BYTES * 2 + 7).map(|index| index as u8).collect();
        std::fs::write(&path, &text).unwrap();
        let mut tail = LogTail::new(path);
        assert_eq!(all(&mut tail), text);
        assert!(tail.chunk(&key()).unwrap().is_none());
        tail.rewind();
        assert_eq!(all(&mut tail), text);
    }

    #[test]
    fn a_log_that_is_too_long_ends_with_the_place_of_the_rest() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("log.txt");
        std::fs::write(&path, vec![b'x'; LOG_BYTES_MAX as usize + 1]).unwrap();
        let mut tail = LogTail::new(path.clone());
        let text = String::from_utf8(all(&mut tail)).unwrap();
        assert!(text.ends_with(&cut_note(&path)));
        assert_eq!(text.len(), LOG_BYTES_MAX as usize + cut_note(&path).len());
    }
}
