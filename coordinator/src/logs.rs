//! What trials print, in `<data folder>/logs/<trial>/<attempt>.log`; of a gang's member of rank
//! r > 0, in `<attempt>.<r>.log` beside it.
//!
//! All of them together stay below a limit: [`rotation`] removes old ones, which [`choice`] names.
//! A removed log leaves an empty `<attempt>.removed`, so that whoever asks for it hears why it is
//! gone, and so that a late piece does not bring it back.

mod choice;
pub(crate) mod rotation;

use proto::{Attempt, AttemptKey, TrialId};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Bytes of log that one attempt may leave here; the agent keeps the rest of a longer one.
pub(crate) const LOG_BYTES_MAX: u64 = 4 << 20;
/// File systems give a file whole blocks; of most this is the size of one.
const BLOCK_BYTES: u64 = 4 << 10;
/// How the file of a log ends.
const LOG: &str = "log";
/// How the file of one ends that was removed.
const REMOVED: &str = "removed";

/// The folder of logs. Clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Logs(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    /// Bytes on disk that all logs together may have.
    limit: u64,
    /// Those that they have, as far as it is known. Never less than what was written by this
    /// process, and after each [`Logs::scan`] never less than the truth.
    bytes: AtomicU64,
    /// Writers share it; a removal has it alone, so that nobody writes into a log that is being
    /// emptied.
    removal: RwLock<()>,
    /// A piece went beyond the limit.
    exceeded: Notify,
}

/// A part of a log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Empty at the end of the log, or without one.
    Text(Vec<u8>),
    /// The log was removed.
    Removed,
}

/// A log on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stored {
    key: AttemptKey,
    /// On disk, in whole blocks.
    bytes: u64,
    /// When its last piece came, in milliseconds since the epoch.
    changed_ms: i64,
}

impl Logs {
    pub(crate) fn new(folder: &Path, limit: u64) -> Self {
        Self(Arc::new(Shared {
            folder: folder.to_owned(),
            limit,
            bytes: AtomicU64::new(0),
            removal: RwLock::new(()),
            exceeded: Notify::new(),
        }))
    }

    /// Bytes on disk that all logs together may have.
    pub(crate) fn limit(&self) -> u64 {
        self.0.limit
    }

    /// Bytes on disk that all logs have together, as far as it is known.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    fn path(&self, key: &AttemptKey, end: &str) -> PathBuf {
        let attempt = key.attempt;
        let name = match key.rank {
            0 => format!("{attempt}.{end}"),
            rank => format!("{attempt}.{rank}.{end}"),
        };
        self.0.folder.join(key.trial.as_str()).join(name)
    }

    /// Puts `text` at its place in the attempt's log; a repeated piece changes nothing, and so does
    /// a piece of a log that was removed.
    pub(crate) fn write(&self, key: &AttemptKey, offset: u64, text: &[u8]) -> io::Result<()> {
        let room = LOG_BYTES_MAX.saturating_sub(offset).min(text.len() as u64) as usize;
        if room == 0 {
            return Ok(());
        }
        let _among_writers = self.0.removal.read().unwrap_or_else(PoisonError::into_inner);
        let Some(file) = self.open_or_create(key)? else {
            return Ok(());
        };
        let before = on_disk(file.metadata()?.len());
        file.write_all_at(&text[..room], offset)?;
        let grown = on_disk(offset + room as u64).saturating_sub(before);
        let bytes = self.0.bytes.fetch_add(grown, Ordering::Relaxed).saturating_add(grown);
        if bytes > self.0.limit {
            self.0.exceeded.notify_one();
        }
        Ok(())
    }

    /// `None` when the log was removed.
    fn open_or_create(&self, key: &AttemptKey) -> io::Result<Option<File>> {
        let path = self.path(key, LOG);
        match File::options().write(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return opened.map(Some),
        }
        if self.path(key, REMOVED).try_exists()? {
            return Ok(None);
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        File::options().create(true).truncate(false).write(true).open(path).map(Some)
    }

    /// Up to `most` bytes of the attempt's log from `offset`.
    pub(crate) fn read(&self, key: &AttemptKey, offset: u64, most: usize) -> io::Result<Piece> {
        let mut text = Vec::new();
        match File::open(self.path(key, LOG)) {
            Ok(file) => {
                text.resize(most, 0);
                let read = file.read_at(&mut text, offset)?;
                text.truncate(read);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        // One that is removed while it is read ends early.
        if text.is_empty() && self.path(key, REMOVED).try_exists()? {
            return Ok(Piece::Removed);
        }
        Ok(Piece::Text(text))
    }

    /// Removes a log. After a crash on the way it is there, or removed but not yet emptied, which
    /// the next [`scan`](Self::scan) makes up for.
    fn remove(&self, key: &AttemptKey) -> io::Result<()> {
        let _alone = self.0.removal.write().unwrap_or_else(PoisonError::into_inner);
        let (log, removed) = (self.path(key, LOG), self.path(key, REMOVED));
        let bytes = on_disk(fs::metadata(&log)?.len());
        fs::rename(log, &removed)?;
        empty(&removed)?;
        let less = |total: u64| Some(total.saturating_sub(bytes));
        // The closure always has an answer.
        let _known = self.0.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        Ok(())
    }

    /// Looks at every log, sets the known sum to theirs, and empties those whose removal was cut
    /// short. `None` when it was to stop.
    fn scan(&self, stop: &CancellationToken) -> io::Result<Option<Vec<Stored>>> {
        let before = self.bytes();
        let mut stored = Vec::new();
        for folder in entries(&self.0.folder)? {
            if stop.is_cancelled() {
                return Ok(None);
            }
            let folder = folder?;
            let Some(trial) = folder.file_name().to_str().and_then(|n| TrialId::new(n).ok()) else {
                continue;
            };
            for file in entries(&folder.path())? {
                self.look(&trial, &file?, &mut stored)?;
            }
        }
        let sum = stored.iter().map(|log| log.bytes).sum::<u64>();
        // What was written meanwhile counts, perhaps twice: never too little.
        self.0.bytes.fetch_add(sum.wrapping_sub(before), Ordering::Relaxed);
        Ok(Some(stored))
    }

    /// Files that are no logs are left alone.
    fn look(
        &self,
        trial: &TrialId,
        file: &fs::DirEntry,
        stored: &mut Vec<Stored>,
    ) -> io::Result<()> {
        let name = file.file_name();
        let Some((attempt, rank, end)) = name.to_str().and_then(parse) else {
            return Ok(());
        };
        let about = file.metadata()?;
        match end {
            REMOVED if about.len() > 0 => empty(&file.path())?,
            LOG => stored.push(Stored {
                key: AttemptKey { trial: trial.clone(), attempt: Attempt(attempt), rank },
                bytes: on_disk(about.len()),
                changed_ms: about.mtime().saturating_mul(1_000) + about.mtime_nsec() / 1_000_000,
            }),
            _emptied_or_foreign => {}
        }
        Ok(())
    }
}

/// Attempt, rank and end of a file's name.
fn parse(name: &str) -> Option<(u32, u32, &str)> {
    let (number, end) = name.rsplit_once('.')?;
    let (attempt, rank) = match number.split_once('.') {
        Some((attempt, rank)) => (attempt, rank.parse().ok()?),
        None => (number, 0),
    };
    Some((attempt.parse().ok()?, rank, end))
}

/// The entries of a folder; none of one that is not there.
fn entries(folder: &Path) -> io::Result<impl Iterator<Item = io::Result<fs::DirEntry>>> {
    match fs::read_dir(folder) {
        Ok(entries) => Ok(Some(entries).into_iter().flatten()),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(None.into_iter().flatten())
        }
        Err(error) => Err(error),
    }
}

fn empty(path: &Path) -> io::Result<()> {
    File::options().write(true).open(path)?.set_len(0)
}

fn on_disk(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK_BYTES)
}

#[cfg(test)]
mod tests;
