//! The journal and the metric series on disk: the only file of this crate that knows sled.
//!
//! `journal`: sequence (u64, big endian) of a chunk's first record -> chunk ([`journal`]).
//! `metrics` and `metric_notes`: the series ([`metrics`](crate::metrics)). A record counts once
//! [`Store::append`] returned.

use crate::journal::{self, Chunk, Damage, Log};
use crate::measures::Measures;
use crate::metrics::{BadPoint, Metrics, Note, Tree};
use crate::series::Sample;
use database::OpenError;
use proto::{FORMAT_VERSION, MetricPoint, Record, TrialId};
use std::convert::Infallible;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tokio::sync::oneshot;

/// Records that one read of the journal returns at most, so that a slow reader holds little.
pub const READ_MAX: usize = 1_024;
/// Bytes of `journal.end`: 20 digits and a line's end.
const MARK_BYTES: usize = 21;
/// sled's page cache. The journal is written once and rarely read, so little is enough.
const CACHE_BYTES: u64 = 64 << 20;

/// What can be wrong with a data folder.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the lock.
    #[error(
        "the data folder {} is in use by another coordinator{holder}; use `brine submit`, \
         `brine watch` and `brine results` with the same --data-dir to talk to it, or choose \
         another --data-dir",
        .folder.display()
    )]
    Locked {
        /// Which folder.
        folder: PathBuf,
        /// Who, as ` (process 12)`; empty when it is not known.
        holder: String,
    },
    /// The folder was written by a newer Brine.
    #[error(
        "the data folder {} has format {found}, and this version of Brine reads up to \
         {FORMAT_VERSION}; nothing was changed: use the newer Brine, or another --data-dir",
        .folder.display()
    )]
    Newer {
        /// Which folder.
        folder: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The file that tells the version is not one.
    #[error(
        "{} does not hold a format version; is this a data folder of Brine? nothing was changed",
        .0.display()
    )]
    NotOurs(PathBuf),
    /// The journal is damaged.
    #[error(
        "the journal in {} is damaged: {detail}; restore the folder from a \
         copy, or move it away to begin anew",
        .folder.display()
    )]
    Damaged {
        /// Which folder.
        folder: PathBuf,
        /// What was found.
        detail: String,
    },
    /// The disk or the file system failed.
    #[error("{action} {}: {source}", .path.display())]
    Io {
        /// What was tried, as in "cannot create".
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// sled failed.
    #[error("the store in {}: {source}", .folder.display())]
    Sled {
        /// Which folder.
        folder: PathBuf,
        /// Why.
        source: sled::Error,
    },
}

/// An open data folder. Dropping it releases the lock.
pub struct Store {
    folder: PathBuf,
    db: sled::Db,
    journal: sled::Tree,
    metrics: Metrics<sled::Tree>,
    measures: Measures,
    /// `journal.end`: the last sequence number that was flushed, as 20 digits.
    mark: File,
    _lock: File,
    /// Dropped after the lock; see [`Store::telling`].
    _unlocked: Option<oneshot::Sender<Infallible>>,
}

impl Store {
    /// Opens `folder`, creating it when it is missing.
    ///
    /// # Errors
    /// [`StoreError`]: locked, newer, damaged, or the disk failed. A refused folder is untouched.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Io { action, path, source }
        };
        fs::create_dir_all(folder).map_err(io("cannot create the data folder", folder))?;
        let lock = lock(folder)?;
        check_format(folder)?;
        let path = folder.join("journal");
        let sled = |source| sled_error(folder, source);
        let db = database::open(&path, CACHE_BYTES).map_err(|error| match error {
            OpenError::Unreadable => damaged(folder, error.to_string()),
            OpenError::Sled(source) => sled(source),
        })?;
        let journal = db.open_tree("journal").map_err(sled)?;
        let points = db.open_tree("metrics").map_err(sled)?;
        let notes = db.open_tree("metric_notes").map_err(sled)?;
        let path = folder.join("journal.end");
        let mark = open_or_create(&path).map_err(io("cannot open", &path))?;
        Ok(Self {
            folder: folder.to_owned(),
            db,
            journal,
            metrics: Metrics::new(points, notes),
            measures: Measures::default(),
            mark,
            _lock: lock,
            _unlocked: None,
        })
    }

    /// The same store; `unlocked` is dropped when the folder is unlocked.
    #[must_use]
    pub fn telling(self, unlocked: oneshot::Sender<Infallible>) -> Self {
        Self { _unlocked: Some(unlocked), ..self }
    }

    /// Calls `each` with every record in order and returns the last sequence number.
    ///
    /// # Errors
    /// A record is missing or unreadable: [`StoreError::Damaged`].
    pub fn replay(&self, each: impl FnMut(&Record)) -> Result<u64, StoreError> {
        journal::replay(self, each).map_err(|error| self.in_folder(error))
    }

    /// Records from `sequence` on, at most `most`.
    ///
    /// # Errors
    /// A record cannot be read.
    pub fn read(&self, sequence: u64, most: usize) -> Result<Vec<Record>, StoreError> {
        journal::read(self, sequence, most).map_err(|error| self.in_folder(error))
    }

    /// Writes records and waits until the disk has them: the commit point of everything.
    ///
    /// # Errors
    /// The disk failed; then nothing of the turn may be acknowledged.
    #[expect(clippy::disallowed_methods, reason = "how long a disk takes decides nothing")]
    pub fn append(&self, records: &[Record]) -> Result<(), StoreError> {
        let start = Instant::now();
        journal::append(self, records).map_err(|error| self.in_folder(error))?;
        self.measures.appended(records, start.elapsed());
        Ok(())
    }

    /// What is counted of this folder and its coordinator since the start.
    pub(crate) fn measures(&self) -> &Measures {
        &self.measures
    }

    /// Bytes of journal and series on disk.
    ///
    /// # Errors
    /// The disk failed.
    pub(crate) fn disk_bytes(&self) -> Result<u64, StoreError> {
        self.db.size_on_disk().map_err(|source| sled_error(&self.folder, source))
    }

    fn in_folder(&self, error: LogError) -> StoreError {
        match error {
            LogError::Damage(damage) => damaged(&self.folder, damage.to_string()),
            LogError::Store(error) => error,
        }
    }

    fn mark_error(&self, source: std::io::Error) -> StoreError {
        let path = self.folder.join("journal.end");
        StoreError::Io { action: "cannot use", path, source }
    }

    /// Stores metric points. They become durable with the next flush; a trial that loses some
    /// also resumes from an older checkpoint and sends them again.
    ///
    /// # Errors
    /// The disk failed.
    pub fn put_metrics(&self, points: &[MetricPoint]) -> Result<(), StoreError> {
        self.metrics.put(points).map_err(|error| self.of_metrics(error))
    }

    /// The ranks of a trial's processes that have series, ascending.
    ///
    /// # Errors
    /// The disk failed.
    pub fn metric_ranks(&self, trial: &TrialId) -> Result<Vec<u32>, StoreError> {
        self.metrics.ranks(trial).map_err(|error| self.of_metrics(error))
    }

    /// Calls `each` with the series of a trial's process, or with one of them, ordered by metric
    /// and step; of several attempts at one step the newest counts.
    ///
    /// # Errors
    /// The disk failed.
    pub fn metrics(
        &self,
        trial: &TrialId,
        rank: u32,
        metric: Option<&str>,
        each: impl FnMut(&str, Sample),
    ) -> Result<(), StoreError> {
        self.metrics.read(trial, rank, metric, each).map_err(|error| self.of_metrics(error))
    }

    /// What is not kept of the metrics of a trial's process.
    ///
    /// # Errors
    /// The disk failed.
    pub fn metric_notes(&self, trial: &TrialId, rank: u32) -> Result<Vec<Note>, StoreError> {
        self.metrics.notes(trial, rank).map_err(|error| self.of_metrics(error))
    }

    fn of_metrics(&self, error: TreeError) -> StoreError {
        match error {
            TreeError::BadPoint(bad) => damaged(&self.folder, bad.to_string()),
            TreeError::Sled(source) => sled_error(&self.folder, source),
        }
    }

    /// Waits until the disk has everything.
    ///
    /// # Errors
    /// The disk failed.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.db.flush().map(|_| ()).map_err(|source| sled_error(&self.folder, source))
    }
}

/// Why the series cannot be used, before the folder is named.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TreeError {
    #[error(transparent)]
    BadPoint(#[from] BadPoint),
    #[error(transparent)]
    Sled(#[from] sled::Error),
}

impl Tree for sled::Tree {
    type Error = TreeError;
    type Bytes = sled::IVec;

    fn range(
        &self,
        from: &[u8],
        to: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<(sled::IVec, sled::IVec), TreeError>> {
        sled::Tree::range(self, from..to).map(|entry| Ok(entry?))
    }

    fn write(&self, entries: Vec<(Vec<u8>, Option<Vec<u8>>)>) -> Result<(), TreeError> {
        let mut batch = sled::Batch::default();
        for (key, value) in entries {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        Ok(self.apply_batch(batch)?)
    }
}

/// Why the journal cannot be used, before the folder is named.
#[derive(Debug)]
pub enum LogError {
    /// Its content.
    Damage(Damage),
    /// What keeps it.
    Store(StoreError),
}

impl From<Damage> for LogError {
    fn from(damage: Damage) -> Self {
        Self::Damage(damage)
    }
}

impl From<StoreError> for LogError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Log for Store {
    type Error = LogError;

    fn append(&self, chunks: Vec<Chunk>, last: u64) -> Result<(), LogError> {
        let mut batch = sled::Batch::default();
        let bytes: usize = chunks.iter().map(|(_, chunk)| chunk.len()).sum();
        for (first, chunk) in chunks {
            batch.insert(&first.to_be_bytes(), chunk);
        }
        let sled = |source| sled_error(&self.folder, source);
        self.journal.apply_batch(batch).map_err(sled)?;
        self.journal.flush().map_err(sled)?;
        self.measures.wrote(bytes as u64);
        // Written after the flush and not synced itself: it must never be ahead of the journal.
        let mark = format!("{last:020}\n");
        let written = self.mark.write_all_at(mark.as_bytes(), 0);
        Ok(written.map_err(|source| self.mark_error(source))?)
    }

    fn read(&self, sequence: u64, most: usize) -> Result<Vec<Chunk>, LogError> {
        let sled = |source| sled_error(&self.folder, source);
        let before = self.journal.range(..=sequence.to_be_bytes()).next_back().transpose();
        let first = before
            .map_err(sled)?
            .map_or_else(|| sequence.to_be_bytes().to_vec(), |(key, _)| key.to_vec());
        let chunk = |entry: sled::Result<(sled::IVec, sled::IVec)>| {
            let (key, value) = entry.map_err(sled)?;
            let key = <[u8; 8]>::try_from(&*key)
                .map_err(|_| damaged(&self.folder, format!("{key:?} is no sequence number")))?;
            Ok((u64::from_be_bytes(key), value.to_vec()))
        };
        self.journal.range(first..).take(most).map(chunk).collect()
    }

    /// The mark that each append leaves beside sled, which recovers a cut file to its last whole
    /// segment: that must not pass for the truth.
    fn end(&self) -> Result<u64, LogError> {
        let mut text = [0; MARK_BYTES];
        let length = self.mark.read_at(&mut text, 0).map_err(|source| self.mark_error(source))?;
        // A new file is empty: nothing was appended yet.
        if length == 0 {
            return Ok(0);
        }
        let number = std::str::from_utf8(&text[..length]).ok().and_then(|t| t.trim().parse().ok());
        let detail = "journal.end does not hold a number";
        Ok(number.ok_or_else(|| damaged(&self.folder, detail))?)
    }
}

fn lock(folder: &Path) -> Result<File, StoreError> {
    let path = folder.join("lock");
    let io = |source| StoreError::Io { action: "cannot open", path: path.clone(), source };
    let mut file = open_or_create(&path).map_err(io)?;
    let operation = rustix::fs::FlockOperation::NonBlockingLockExclusive;
    if rustix::fs::flock(&file, operation).is_err() {
        let holder = fs::read_to_string(&path).unwrap_or_default();
        let holder = holder.trim();
        let is_number = !holder.is_empty() && holder.chars().all(|c| c.is_ascii_digit());
        let holder = if is_number { format!(" (process {holder})") } else { String::new() };
        return Err(StoreError::Locked { folder: folder.to_owned(), holder });
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(io)?;
    Ok(file)
}

fn open_or_create(path: &Path) -> std::io::Result<File> {
    File::options().create(true).truncate(false).read(true).write(true).open(path)
}

/// Reads the version before sled touches anything, and writes it into a new folder.
fn check_format(folder: &Path) -> Result<(), StoreError> {
    let path = folder.join("format");
    match fs::read_to_string(&path) {
        Ok(text) => match text.trim().parse::<u32>() {
            Ok(found) if found > FORMAT_VERSION => {
                Err(StoreError::Newer { folder: folder.to_owned(), found })
            }
            Ok(FORMAT_VERSION) => Ok(()),
            // Everything older is read; what is written from now on is not for older programs.
            Ok(_) => write_format(path),
            Err(_) => Err(StoreError::NotOurs(path)),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => write_format(path),
        Err(source) => Err(StoreError::Io { action: "cannot read", path, source }),
    }
}

fn write_format(path: PathBuf) -> Result<(), StoreError> {
    write_synced(&path, format!("{FORMAT_VERSION}\n").as_bytes()).map_err(|source| StoreError::Io {
        action: "cannot write",
        path,
        source,
    })
}

/// Writes a whole file so that after a crash it is either absent or complete.
pub(crate) fn write_synced(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn damaged(folder: &Path, detail: impl Into<String>) -> StoreError {
    StoreError::Damaged { folder: folder.to_owned(), detail: detail.into() }
}

fn sled_error(folder: &Path, source: sled::Error) -> StoreError {
    match source {
        sled::Error::Corruption { .. } => damaged(folder, "a page's checksum is wrong"),
        sled::Error::CollectionNotFound(_)
        | sled::Error::Unsupported(_)
        | sled::Error::ReportableBug(_)
        | sled::Error::Io(_) => StoreError::Sled { folder: folder.to_owned(), source },
    }
}

#[cfg(test)]
mod tests;
