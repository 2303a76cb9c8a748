//! Where an agent keeps what: one data folder, locked by one agent.

use crate::checkpoints::create_numbered;
use crate::order::Folders;
use proto::AttemptKey;
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Attempts of one trial whose folders (log, working folder, output) are kept. A trial that is
/// repeated for ever must not fill the disk.
const ATTEMPTS_KEPT: usize = 8;
/// Ended attempts of all trials whose folders are kept; the oldest go first. Their logs are bounded
/// each, so this bounds the logs of an agent that lives for years.
const ENDED_KEPT: usize = 10_000;

/// An agent that was killed holds its lock until the kernel has ended it, so the next one tries
/// again for 2 s.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// Why the data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderError {
    /// The disk refuses.
    #[error("cannot use the folder {}", path.display())]
    Disk {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another agent lives there.
    #[error(
        "the data folder {} is in use by another agent (process {owner}): give each agent its own --data-dir", path.display()
    )]
    InUse {
        /// Which.
        path: PathBuf,
        /// The process that has it, as it wrote itself down.
        owner: String,
    },
}

/// The folders of one agent, as absolute paths.
#[derive(Debug)]
pub(crate) struct DataFolders {
    /// Sled's folder.
    pub(crate) records: PathBuf,
    /// Files known by their content.
    pub(crate) blobs: PathBuf,
    /// Checkpoints: those of the trainer by agent, those of programs under `programs`.
    pub(crate) checkpoints: PathBuf,
    trials: PathBuf,
    /// Held while the agent lives; the kernel releases it whatever the agent dies of.
    _lock: File,
}

impl DataFolders {
    /// Makes the folders and locks `data`. `blobs` and `checkpoints` may be shared with other
    /// agents and are inside `data` by default.
    ///
    /// # Errors
    /// Another agent has the folder, or the disk refuses.
    pub(crate) fn open(
        data: &Path,
        blobs: Option<&Path>,
        checkpoints: Option<&Path>,
    ) -> Result<Self, FolderError> {
        let data = make(data)?;
        let lock = lock(&data)?;
        Ok(Self {
            records: make(&data.join("records"))?,
            blobs: make(blobs.unwrap_or(&data.join("blobs")))?,
            checkpoints: make(checkpoints.unwrap_or(&data.join("checkpoints")))?,
            trials: make(&data.join("trials"))?,
            _lock: lock,
        })
    }

    /// The folders of attempts, those of an earlier life included.
    ///
    /// # Errors
    /// The disk refuses.
    pub(crate) fn attempts(&self) -> Result<AttemptFolders, FolderError> {
        let ended = ended_before(&self.trials)
            .map_err(|source| FolderError::Disk { path: self.trials.clone(), source })?;
        Ok(AttemptFolders {
            blobs: self.blobs.clone(),
            programs: self.checkpoints.join("programs"),
            trials: self.trials.clone(),
            running: BTreeMap::new(),
            ended,
            ended_max: ENDED_KEPT,
        })
    }
}

/// Makes the folders of attempts and removes the oldest.
#[derive(Debug)]
pub(crate) struct AttemptFolders {
    blobs: PathBuf,
    programs: PathBuf,
    trials: PathBuf,
    running: BTreeMap<AttemptKey, PathBuf>,
    /// Oldest first.
    ended: VecDeque<PathBuf>,
    ended_max: usize,
}

impl AttemptFolders {
    /// Makes the folders of an attempt; `checkpoints` is where the trainer puts its own.
    ///
    /// # Errors
    /// The disk refuses.
    pub(crate) fn create(&mut self, key: &AttemptKey, checkpoints: PathBuf) -> io::Result<Folders> {
        let trial = self.trials.join(member(key));
        let attempt = create_numbered(&trial, &key.attempt.to_string())?;
        remove_oldest(&trial)?;
        // No agent in its name: whichever agent of this disk has the trial next, goes on from it.
        let program_checkpoints = self.programs.join(member(key));
        fs::create_dir_all(&program_checkpoints)?;
        self.running.insert(key.clone(), attempt.clone());
        Ok(Folders { blobs: self.blobs.clone(), attempt, checkpoints, program_checkpoints })
    }

    /// The attempt's process is gone. Its folder stays until enough others have ended.
    pub(crate) fn ended(&mut self, key: &AttemptKey) {
        self.ended.extend(self.running.remove(key));
        while self.ended.len() > self.ended_max {
            let Some(oldest) = self.ended.pop_front() else { return };
            if let Err(error) = remove_attempt(&oldest) {
                tracing::warn!(%error, path = %oldest.display(), "an old attempt was not removed");
            }
        }
    }
}

/// The name under which a member of a trial keeps its files. Only the members of a gang but the
/// first have a rank in it, so that those on one machine keep apart.
pub(crate) fn member(key: &AttemptKey) -> String {
    match key.rank {
        0 => key.trial.to_string(),
        rank => format!("{}.{rank}", key.trial),
    }
}

fn remove_attempt(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let Some(trial) = path.parent() else { return Ok(()) };
    match fs::remove_dir(trial) {
        // Other attempts of the trial are still there, or it went with an earlier one.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound
            ) =>
        {
            Ok(())
        }
        removed => removed,
    }
}

/// What an earlier life of the agent left, oldest first.
fn ended_before(trials: &Path) -> io::Result<VecDeque<PathBuf>> {
    let mut found = Vec::new();
    for trial in fs::read_dir(trials)? {
        for attempt in fs::read_dir(trial?.path())? {
            let attempt = attempt?;
            found.push((attempt.metadata()?.modified()?, attempt.path()));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

fn make(path: &Path) -> Result<PathBuf, FolderError> {
    let made = fs::create_dir_all(path).and_then(|()| path.canonicalize());
    made.map_err(|source| FolderError::Disk { path: path.to_owned(), source })
}

fn lock(data: &Path) -> Result<File, FolderError> {
    let path = data.join("lock");
    let disk = |source| FolderError::Disk { path: path.clone(), source };
    let options = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = options.map_err(disk)?;
    let mut locked = file.try_lock();
    for _ in 0..LOCK_TRIES {
        if !matches!(locked, Err(TryLockError::WouldBlock)) {
            break;
        }
        std::thread::sleep(LOCK_PAUSE);
        locked = file.try_lock();
    }
    match locked {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let owner = fs::read_to_string(&path).map_err(disk)?;
            let owner = owner.trim().to_owned();
            return Err(FolderError::InUse { path: data.to_owned(), owner });
        }
        Err(TryLockError::Error(error)) => return Err(disk(error)),
    }
    file.set_len(0).map_err(disk)?;
    writeln!(file, "{}", std::process::id()).map_err(disk)?;
    Ok(file)
}

fn remove_oldest(trial: &Path) -> io::Result<()> {
    let mut attempts = Vec::new();
    for entry in fs::read_dir(trial)? {
        let entry = entry?;
        attempts.push((entry.metadata()?.modified()?, entry.path()));
    }
    attempts.sort();
    let excess = attempts.len().saturating_sub(ATTEMPTS_KEPT);
    let oldest: Vec<(SystemTime, PathBuf)> = attempts.drain(..excess).collect();
    for (_, path) in oldest {
        fs::remove_dir_all(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{Attempt, TrialId};

    #[test]
    fn a_second_agent_on_a_data_folder_is_told_who_has_it() {
        let folder = tempfile::TempDir::new().unwrap();
        let first = DataFolders::open(folder.path(), None, None).unwrap();
        let second = DataFolders::open(folder.path(), None, None).unwrap_err();
        let pid = std::process::id().to_string();
        assert!(matches!(&second, FolderError::InUse { owner, .. } if *owner == pid), "{second}");
        drop(first);
        DataFolders::open(folder.path(), None, None).unwrap();
    }

    #[test]
    fn folders_of_old_attempts_are_removed() {
        let folder = tempfile::TempDir::new().unwrap();
        let data = DataFolders::open(folder.path(), None, None).unwrap();
        let mut attempts = data.attempts().unwrap();
        for attempt in 1..=ATTEMPTS_KEPT as u32 + 3 {
            let made = attempts.create(&key(FIRST, attempt, 0), PathBuf::new()).unwrap();
            assert!(made.attempt.is_dir());
        }
        let kept = fs::read_dir(folder.path().join("trials").join(FIRST)).unwrap().count();
        assert_eq!(kept, ATTEMPTS_KEPT);
    }

    #[test]
    fn the_oldest_ended_attempts_go_first_and_running_ones_stay() {
        let folder = tempfile::TempDir::new().unwrap();
        let data = DataFolders::open(folder.path(), None, None).unwrap();
        let mut attempts = data.attempts().unwrap();
        attempts.create(&key(FIRST, 1, 0), PathBuf::new()).unwrap();
        attempts.ended(&key(FIRST, 1, 0));
        let mut attempts = AttemptFolders { ended_max: 1, ..data.attempts().unwrap() };
        let running = attempts.create(&key(SECOND, 1, 0), PathBuf::new()).unwrap();
        let ended = attempts.create(&key(SECOND, 2, 0), PathBuf::new()).unwrap();
        attempts.ended(&key(SECOND, 2, 0));
        assert!(!folder.path().join("trials").join(FIRST).exists(), "of the life before");
        assert!(running.attempt.exists() && ended.attempt.exists());
        attempts.ended(&key(SECOND, 1, 0));
        assert!(running.attempt.exists() && !ended.attempt.exists());
    }

    #[test]
    fn members_of_a_gang_keep_apart() {
        let folder = tempfile::TempDir::new().unwrap();
        let data = DataFolders::open(folder.path(), None, None).unwrap();
        let mut attempts = data.attempts().unwrap();
        let mut make = |rank| attempts.create(&key(FIRST, 1, rank), PathBuf::new()).unwrap();
        let (first, second) = (make(0), make(1));
        assert!(!second.attempt.starts_with(&first.attempt), "{second:?}");
        assert_ne!(first.program_checkpoints, second.program_checkpoints);
    }

    const FIRST: &str = "0123456789abcdef";
    const SECOND: &str = "fedcba9876543210";

    fn key(trial: &str, attempt: u32, rank: u32) -> AttemptKey {
        AttemptKey { trial: TrialId::new(trial).unwrap(), attempt: Attempt(attempt), rank }
    }
}
