//! Where an agent keeps what: one data folder, locked by one agent.

use agent_keeper::order::Folders;
use agent_keeper::work;
use proto::AttemptKey;
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Ended attempts of one trial whose folders (log, working folder, output) are kept. A trial that
/// is repeated for ever must not fill the disk.
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

    /// Where the keeper has its pipes and spare folders.
    pub(crate) fn keeper(&self) -> PathBuf {
        self.trials.with_file_name("keeper")
    }

    /// Where attempts' folders should be.
    pub(crate) fn names(&self) -> AttemptNames {
        AttemptNames {
            blobs: self.blobs.clone(),
            programs: self.checkpoints.join("programs"),
            trials: self.trials.clone(),
        }
    }

    /// The folders of attempts, those of an earlier life included.
    ///
    /// # Errors
    /// The disk refuses.
    pub(crate) fn attempts(&self) -> Result<AttemptFolders, FolderError> {
        let ended = ended_before(&self.trials)
            .map_err(|source| FolderError::Disk { path: self.trials.clone(), source })?;
        Ok(AttemptFolders {
            names: self.names(),
            running: BTreeMap::new(),
            ended,
            ended_max: ENDED_KEPT,
        })
    }
}

/// Makes the folders of attempts and removes the oldest.
#[derive(Debug)]
pub(crate) struct AttemptFolders {
    names: AttemptNames,
    running: BTreeMap<AttemptKey, PathBuf>,
    /// Oldest first.
    ended: VecDeque<PathBuf>,
    ended_max: usize,
}

impl AttemptFolders {
    /// Makes the folders of a training; `checkpoints` is where it puts its own.
    ///
    /// # Errors
    /// The disk refuses.
    pub(crate) fn create(&mut self, key: &AttemptKey, checkpoints: PathBuf) -> io::Result<Folders> {
        let wanted = Folders { checkpoints, ..self.names.of(key) };
        let attempt = work::numbered(&wanted.attempt, |path| fs::create_dir(path))?;
        self.running.insert(key.clone(), attempt.clone());
        Ok(Folders { attempt, ..wanted })
    }

    /// The training's process is gone.
    pub(crate) fn ended(&mut self, key: &AttemptKey) {
        if let Some(path) = self.running.remove(key) {
            self.keep(path);
        }
    }

    /// The folder of an attempt that ended. It stays until enough others have ended, of its trial
    /// or
    /// of all.
    pub(crate) fn keep(&mut self, path: PathBuf) {
        let trial = trial_of(&path).to_owned();
        self.ended.push_back(path);
        let same: Vec<usize> = self.of_trial(&trial);
        let excess = same.len().saturating_sub(ATTEMPTS_KEPT);
        for position in same.into_iter().take(excess).rev() {
            self.ended.remove(position).iter().for_each(|path| remove_attempt(path));
        }
        while self.ended.len() > self.ended_max {
            self.ended.pop_front().iter().for_each(|path| remove_attempt(path));
        }
    }

    fn of_trial(&self, trial: &str) -> Vec<usize> {
        let ended = self.ended.iter().enumerate();
        ended.filter(|(_, path)| trial_of(path) == trial).map(|(position, _)| position).collect()
    }
}

/// The folders that an attempt's get their names from.
#[derive(Debug, Clone)]
pub(crate) struct AttemptNames {
    blobs: PathBuf,
    programs: PathBuf,
    trials: PathBuf,
}

impl AttemptNames {
    /// Where an attempt's folders should be.
    pub(crate) fn of(&self, key: &AttemptKey) -> Folders {
        Folders {
            blobs: self.blobs.clone(),
            attempt: self.trials.join(format!("{}-{}", member(key), key.attempt)),
            // No agent in its name: whichever agent of this disk has the trial next, goes on from
            // it.
            program_checkpoints: self.programs.join(member(key)),
            checkpoints: PathBuf::new(),
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

/// The trial, and member of it, whose attempt has this folder.
fn trial_of(path: &Path) -> &str {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.split_once('-').map_or(name, |(trial, _)| trial)
}

fn remove_attempt(path: &Path) {
    match fs::remove_dir_all(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "an old attempt was not removed");
        }
    }
}

/// What an earlier life of the agent left, oldest first.
fn ended_before(trials: &Path) -> io::Result<VecDeque<PathBuf>> {
    let mut found = Vec::new();
    for attempt in fs::read_dir(trials)? {
        let attempt = attempt?;
        found.push((attempt.metadata()?.modified()?, attempt.path()));
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

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{Attempt, TrialId};
    use std::collections::BTreeSet;

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
            let key = key(FIRST, attempt, 0);
            assert!(attempts.create(&key, PathBuf::new()).unwrap().attempt.is_dir());
            attempts.ended(&key);
        }
        let mut kept: Vec<_> = fs::read_dir(folder.path().join("trials")).unwrap().collect();
        assert_eq!(kept.len(), ATTEMPTS_KEPT);
        let oldest = kept.drain(..).map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert!(oldest.into_iter().all(|name| name != format!("{FIRST}-3")), "the oldest went");
    }

    #[test]
    fn the_oldest_ended_attempts_go_first_and_running_ones_stay() {
        let folder = tempfile::TempDir::new().unwrap();
        let data = DataFolders::open(folder.path(), None, None).unwrap();
        let mut attempts = data.attempts().unwrap();
        let before = attempts.create(&key(FIRST, 1, 0), PathBuf::new()).unwrap();
        attempts.ended(&key(FIRST, 1, 0));
        let mut attempts = AttemptFolders { ended_max: 1, ..data.attempts().unwrap() };
        let running = attempts.create(&key(SECOND, 1, 0), PathBuf::new()).unwrap();
        let ended = attempts.create(&key(SECOND, 2, 0), PathBuf::new()).unwrap();
        attempts.ended(&key(SECOND, 2, 0));
        assert!(!before.attempt.exists(), "of the life before");
        assert!(running.attempt.exists() && ended.attempt.exists());
        attempts.ended(&key(SECOND, 1, 0));
        assert!(running.attempt.exists() && !ended.attempt.exists());
    }

    #[test]
    fn members_of_a_gang_keep_apart_and_so_do_starts() {
        let folder = tempfile::TempDir::new().unwrap();
        let data = DataFolders::open(folder.path(), None, None).unwrap();
        let mut attempts = data.attempts().unwrap();
        let mut make = |rank| attempts.create(&key(FIRST, 1, rank), PathBuf::new()).unwrap();
        let (first, second, again) = (make(0), make(1), make(0));
        let paths = BTreeSet::from([&first, &second, &again].map(|made| &made.attempt));
        assert_eq!(paths.len(), 3, "{paths:?}");
        assert_ne!(first.program_checkpoints, second.program_checkpoints);
        assert_eq!(trial_of(&second.attempt), format!("{FIRST}.1"));
        assert_eq!(trial_of(&again.attempt), FIRST);
    }

    const FIRST: &str = "0123456789abcdef";
    const SECOND: &str = "fedcba9876543210";

    fn key(trial: &str, attempt: u32, rank: u32) -> AttemptKey {
        AttemptKey { trial: TrialId::new(trial).unwrap(), attempt: Attempt(attempt), rank }
    }
}
