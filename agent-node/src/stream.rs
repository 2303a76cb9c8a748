//! What flows beside the core: metric points and log text on their way to the coordinator, in
//! bounded buffers. Neither can hold up a trial or a heartbeat.

use agent_keeper::log::Log;
use agent_keeper::order::Metric;
use proto::AttemptKey;
use proto::wire::{self, LOG_CHUNK_BYTES, METRIC_BATCH_MAX};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Metric points that wait while the coordinator is away or behind, some 10 MB. Beyond that the
/// older half of whichever attempt has the most is dropped, and its log says so; the final values
/// travel in the outcome.
const METRICS_MAX: usize = 65_536;
/// Most of one attempt's log that is sent to the coordinator; the rest stays on this machine.
pub(crate) const LOG_BYTES_MAX: u64 = 1 << 20;

/// Metric points that wait to be sent.
#[derive(Debug, Default)]
pub(crate) struct MetricBuffer {
    /// By attempt, each oldest first, none empty: one that reports without end does not push out
    /// what the others say.
    waiting: BTreeMap<AttemptKey, VecDeque<Metric>>,
    len: usize,
    dropped: BTreeMap<AttemptKey, u64>,
}

impl MetricBuffer {
    pub(crate) fn push(&mut self, key: &AttemptKey, metric: Metric) {
        if self.len == METRICS_MAX {
            self.make_room();
        }
        self.len += 1;
        match self.waiting.get_mut(key) {
            Some(points) => points.push_back(metric),
            None => drop(self.waiting.insert(key.clone(), VecDeque::from([metric]))),
        }
    }

    fn make_room(&mut self) {
        let longest = self.waiting.iter_mut().max_by_key(|(_, points)| points.len());
        let Some((key, points)) = longest else { return };
        let count = points.len().div_ceil(2);
        points.drain(..count);
        self.len -= count;
        *self.dropped.entry(key.clone()).or_default() += count as u64;
        if points.is_empty() {
            let key = key.clone();
            self.waiting.remove(&key);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// How many points were dropped of each attempt since the last time.
    pub(crate) fn take_dropped(&mut self) -> BTreeMap<AttemptKey, u64> {
        std::mem::take(&mut self.dropped)
    }

    /// The next batch, of as many attempts as it can; `None` when nothing waits.
    pub(crate) fn batch(&mut self) -> Option<wire::MetricBatch> {
        let mut points = Vec::new();
        while self.len > 0 && points.len() < METRIC_BATCH_MAX {
            let share = (METRIC_BATCH_MAX - points.len()).div_ceil(self.waiting.len().max(1));
            for (key, own) in &mut self.waiting {
                let count = own.len().min(share).min(METRIC_BATCH_MAX - points.len());
                points.extend(own.drain(..count).map(|metric| on_the_wire(key, metric)));
                self.len -= count;
            }
            self.waiting.retain(|_, own| !own.is_empty());
        }
        (!points.is_empty()).then(|| wire::MetricBatch { points, ..Default::default() })
    }
}

/// Says in an attempt's log, in `folder`, that metrics of it are lost; answers where the log is.
pub(crate) fn note_dropped(folder: &Path, points: u64) -> Option<PathBuf> {
    let mut log = Log::new(folder);
    log.note(&format!(
        "{points} metric points are not kept: they came quicker than the coordinator takes them, \
         or it was away; report fewer steps"
    ));
    log.path()
}

fn on_the_wire(key: &AttemptKey, Metric { metric, step, value }: Metric) -> wire::MetricPoint {
    let (trial, attempt, rank) = (key.trial.to_string(), key.attempt.0, key.rank);
    wire::MetricPoint { trial, attempt, metric, step, value, rank }
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

    fn member(rank: u32) -> AttemptKey {
        AttemptKey { rank, ..key() }
    }

    fn push(buffer: &mut MetricBuffer, rank: u32, steps: std::ops::Range<u64>) {
        for step in steps {
            buffer.push(&member(rank), Metric { metric: "loss".into(), step, value: 1.0 });
        }
    }

    // Goal: one attempt that reports without end loses its own older points and nobody else's, and
    // what is lost is counted.
    #[test]
    fn who_reports_the_most_loses_its_older_points() {
        let mut buffer = MetricBuffer::default();
        push(&mut buffer, 1, 0..10);
        let flood = 3 * METRICS_MAX as u64;
        push(&mut buffer, 0, 0..flood);
        assert!(buffer.len() <= METRICS_MAX);
        let points: Vec<_> =
            std::iter::from_fn(|| buffer.batch()).flat_map(|batch| batch.points).collect();
        let of = |rank| points.iter().filter(move |point| point.rank == rank);
        assert!(of(1).map(|point| point.step).eq(0..10));
        let kept = of(0).count() as u64;
        assert!(of(0).map(|point| point.step).eq(flood - kept..flood), "the newest, in order");
        assert_eq!(buffer.take_dropped(), BTreeMap::from([(member(0), flood - kept)]));
        assert_eq!(buffer.take_dropped(), BTreeMap::new());
        assert_eq!((buffer.len(), buffer.batch()), (0, None));
    }

    #[test]
    fn a_batch_is_full_and_has_a_share_of_everybody() {
        let mut buffer = MetricBuffer::default();
        let most = METRIC_BATCH_MAX as u64;
        push(&mut buffer, 0, 0..2 * most);
        push(&mut buffer, 1, 0..3);
        push(&mut buffer, 2, 0..most);
        let batch = buffer.batch().unwrap();
        assert_eq!(batch.points.len(), METRIC_BATCH_MAX);
        let counts = [0, 1, 2].map(|rank| batch.points.iter().filter(|p| p.rank == rank).count());
        assert_eq!(counts[1], 3);
        assert!(counts[0].abs_diff(counts[2]) <= 3, "{counts:?}");
        let sent = std::iter::from_fn(|| buffer.batch()).map(|batch| batch.points.len());
        assert_eq!(sent.sum::<usize>(), 2 * METRIC_BATCH_MAX + 3);
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
