//! Which checkpoints exist on this agent. The only file that knows sled.
//!
//! A checkpoint's files are complete before its record is written, and the flushed record is the
//! commit point: a folder that no record names never counts. Records of a trial are one sled
//! value, so that naming a new checkpoint and dropping old ones is one atomic write. The members
//! of a gang count as trials of their own here.

use crate::folders::member;
use agent_keeper::work;
use database::OpenError;
use proto::{AgentId, AttemptKey, Checkpoint, FORMAT_VERSION, Outcome};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Checkpoints kept of a trial: the newest, and the one before it in case its files turn out torn.
pub(crate) const KEEP: usize = 2;
/// Checkpoints kept of a trial while the coordinator does not answer. Its lease is over before it
/// saves more; a trial that saves faster loses some of those between.
const KEEP_UNHEARD: usize = 32;
/// sled's page cache: the records of some thousand checkpoints.
const CACHE_BYTES: u64 = 64 << 20;

const FORMAT_KEY: &[u8] = b"format";
const TRIALS_TREE: &str = "trials";

/// Why checkpoints could not be recorded or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckpointError {
    /// The store on disk does not open, read or write.
    #[error("cannot use the checkpoint records in {}", folder.display())]
    Store {
        /// Where they are.
        folder: PathBuf,
        /// Why.
        source: sled::Error,
    },
    /// A newer Brine wrote the store.
    #[error(
        "the checkpoint records in {} have format {found}, this agent knows up to {FORMAT_VERSION}: use the newer brine-agent", folder.display()
    )]
    Newer {
        /// Where they are.
        folder: PathBuf,
        /// Their format.
        found: u32,
    },
    /// A record is not what was written.
    #[error(
        "the checkpoint records in {} are damaged at {at}: move the folder away to start without them", folder.display()
    )]
    Damaged {
        /// Where they are.
        folder: PathBuf,
        /// Which record.
        at: String,
    },
    /// A folder of checkpoints does not list, or is not removed.
    #[error("cannot clean {}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The records and the folders that they name.
#[derive(Debug)]
pub(crate) struct CheckpointStore {
    database: sled::Db,
    trials: sled::Tree,
    folder: PathBuf,
    agent: AgentId,
    /// Folder of this agent's own checkpoints: `<trial>/<attempt>/<checkpoint>`.
    own: PathBuf,
    /// Folder of the newest checkpoint that the coordinator has, by trial.
    acknowledged: BTreeMap<String, String>,
}

impl CheckpointStore {
    /// Opens the records in `folder` and removes what an earlier life left unfinished under
    /// `<root>/<agent>`. Other agents may share `root`; their folders are not touched.
    ///
    /// # Errors
    /// The store is newer, damaged, in use, or the disk refuses.
    pub(crate) fn open(
        folder: &Path,
        root: &Path,
        agent: &AgentId,
    ) -> Result<Self, CheckpointError> {
        let store_error = |source| CheckpointError::Store { folder: folder.to_owned(), source };
        let database = database::open(folder, CACHE_BYTES).map_err(|error| match error {
            OpenError::Unreadable => {
                CheckpointError::Damaged { folder: folder.to_owned(), at: "the first page".into() }
            }
            OpenError::Sled(source) => store_error(source),
        })?;
        check_format(&database, folder)?;
        let trials = database.open_tree(TRIALS_TREE).map_err(store_error)?;
        let store = Self {
            database,
            trials,
            folder: folder.to_owned(),
            agent: agent.clone(),
            own: root.join(agent.as_str()),
            acknowledged: BTreeMap::new(),
        };
        store.remove_orphans()?;
        Ok(store)
    }

    /// A new empty folder for the checkpoints of one attempt. A second start of the same attempt
    /// gets another one, because files of a checkpoint are never written twice.
    ///
    /// # Errors
    /// The disk refuses.
    pub(crate) fn attempt_folder(&self, key: &AttemptKey) -> io::Result<PathBuf> {
        let wanted = self.own.join(member(key)).join(key.attempt.to_string());
        work::numbered(&wanted, |path| fs::create_dir(path))
    }

    /// The coordinator has this checkpoint and names none that is older.
    pub(crate) fn acknowledge(&mut self, key: &AttemptKey, checkpoint: &Checkpoint) {
        if checkpoint.agent == self.agent {
            self.acknowledged.insert(member(key), self.rebased(&checkpoint.folder));
        }
    }

    /// Names a checkpoint, durably, and removes those that are too old. What the coordinator has
    /// and what is newer stays, because another agent may be told to go on from it. Naming the
    /// same one again changes nothing.
    ///
    /// # Errors
    /// Nothing was recorded: the store is damaged or the disk refuses.
    pub(crate) fn commit(
        &self,
        key: &AttemptKey,
        checkpoint: &Checkpoint,
    ) -> Result<(), CheckpointError> {
        let trial = member(key);
        let mut records = self.of(&trial)?;
        if records.first() == Some(checkpoint) {
            return Ok(());
        }
        records.retain(|old| old.folder != checkpoint.folder);
        records.insert(0, checkpoint.clone());
        let heard = self.acknowledged.get(&trial);
        let oldest = heard.and_then(|heard| records.iter().position(|one| one.folder == *heard));
        let needed = oldest.map_or(records.len(), |oldest| oldest + 1);
        let mut dropped = records.split_off(needed.max(KEEP).min(records.len()));
        if records.len() > KEEP_UNHEARD {
            dropped.push(records.remove(records.len() - 2));
        }
        self.write(&trial, &records, &dropped)
    }

    /// States from which a trial may go on, the one with the most steps first: this agent's own
    /// and `known`, the one that the coordinator knows, which another agent may have written. Those
    /// whose folder is not on this machine are left out.
    ///
    /// # Errors
    /// The store is damaged or the disk refuses.
    pub(crate) fn candidates(
        &self,
        key: &AttemptKey,
        known: Option<&Checkpoint>,
    ) -> Result<Vec<Checkpoint>, CheckpointError> {
        let mut found = self.of(&member(key))?;
        if let Some(known) = known
            && !found.iter().any(|own| own.folder == known.folder)
        {
            found.push(known.clone());
        }
        found.retain(|checkpoint| Path::new(&checkpoint.folder).is_dir());
        found.sort_by_key(|checkpoint| std::cmp::Reverse((checkpoint.step, checkpoint.attempt)));
        Ok(found)
    }

    /// The coordinator has the outcome of an attempt: keeps the last checkpoint of a completed
    /// trial, which is the trained model, and none of a trial that can never go on. Any other
    /// outcome may be followed by another attempt, so its checkpoints stay.
    ///
    /// # Errors
    /// The store is damaged or the disk refuses.
    pub(crate) fn settle(
        &mut self,
        key: &AttemptKey,
        outcome: &Outcome,
    ) -> Result<(), CheckpointError> {
        use proto::FailureClass::{
            Cancelled, Cheated, Infrastructure, Invalid, Pruned, Timeout, Trial,
        };
        let keep = match outcome {
            Outcome::Completed { .. } => 1,
            Outcome::Diverged { .. } => 0,
            Outcome::Failed { class, .. } => match class {
                Invalid | Cheated | Pruned => 0,
                Infrastructure | Trial | Timeout | Cancelled => KEEP,
            },
        };
        let trial = member(key);
        self.acknowledged.remove(&trial);
        let mut records = self.of(&trial)?;
        if records.len() <= keep {
            return Ok(());
        }
        let dropped = records.split_off(keep);
        self.write(&trial, &records, &dropped)
    }

    fn of(&self, trial: &str) -> Result<Vec<Checkpoint>, CheckpointError> {
        let stored = self.trials.get(trial).map_err(|error| self.store_error(error))?;
        stored.map_or(Ok(Vec::new()), |bytes| self.parse(trial, &bytes))
    }

    fn parse(&self, trial: &str, bytes: &[u8]) -> Result<Vec<Checkpoint>, CheckpointError> {
        let mut records: Vec<Checkpoint> =
            serde_json::from_slice(bytes).map_err(|_| self.damaged(trial))?;
        for own in records.iter_mut().filter(|record| record.agent == self.agent) {
            own.folder = self.rebased(&own.folder);
        }
        Ok(records)
    }

    /// Where a recorded folder of this agent is now: the records keep whole paths, and the data
    /// folder may have been moved since.
    fn rebased(&self, recorded: &str) -> String {
        let parts: Vec<_> = Path::new(recorded).components().rev().take(3).collect();
        let moved = self.own.join(parts.into_iter().rev().collect::<PathBuf>());
        moved.into_os_string().into_string().unwrap_or_else(|_| recorded.to_owned())
    }

    /// Writes `records`, and removes the folders of the `dropped` ones after that.
    fn write(
        &self,
        trial: &str,
        records: &[Checkpoint],
        dropped: &[Checkpoint],
    ) -> Result<(), CheckpointError> {
        let written = if records.is_empty() {
            self.trials.remove(trial)
        } else {
            let text = serde_json::to_vec(records).map_err(|_| self.damaged(trial))?;
            self.trials.insert(trial, text)
        };
        written.map_err(|error| self.store_error(error))?;
        self.database.flush().map_err(|error| self.store_error(error))?;
        for checkpoint in dropped {
            let path = Path::new(&checkpoint.folder);
            // The record is gone already, so what stays here is removed at the next start.
            if path.starts_with(&self.own)
                && let Err(error) = remove_folder(path)
            {
                tracing::warn!(%error, path = %path.display(), "an old checkpoint was not removed");
            }
        }
        Ok(())
    }

    fn remove_orphans(&self) -> Result<(), CheckpointError> {
        let mut named = BTreeSet::new();
        let mut known = BTreeSet::new();
        for entry in &self.trials {
            let (key, value) = entry.map_err(|error| self.store_error(error))?;
            let trial = String::from_utf8_lossy(&key);
            let records = self.parse(&trial, &value)?;
            let own = records.into_iter().filter(|checkpoint| checkpoint.agent == self.agent);
            named.extend(own.map(|checkpoint| PathBuf::from(checkpoint.folder)));
            known.insert(self.own.join(&*trial));
        }
        for trial in subfolders(&self.own)? {
            for attempt in subfolders(&trial)? {
                for checkpoint in subfolders(&attempt)? {
                    // Without a record of the trial nothing says that a whole checkpoint is
                    // not wanted: the records may be lost, and another agent may know it.
                    let unfinished = checkpoint.extension().is_some_and(|e| e == "partial");
                    if unfinished || (known.contains(&trial) && !named.contains(&checkpoint)) {
                        tracing::info!(path = %checkpoint.display(), "removing an unfinished checkpoint");
                        remove(&checkpoint)?;
                    }
                }
                if subfolders(&attempt)?.is_empty() {
                    remove(&attempt)?;
                }
            }
            if subfolders(&trial)?.is_empty() {
                remove(&trial)?;
            }
        }
        Ok(())
    }

    fn store_error(&self, source: sled::Error) -> CheckpointError {
        CheckpointError::Store { folder: self.folder.clone(), source }
    }

    fn damaged(&self, at: &str) -> CheckpointError {
        CheckpointError::Damaged { folder: self.folder.clone(), at: at.to_owned() }
    }
}

fn check_format(database: &sled::Db, folder: &Path) -> Result<(), CheckpointError> {
    let store_error = |source| CheckpointError::Store { folder: folder.to_owned(), source };
    let damaged = || CheckpointError::Damaged {
        folder: folder.to_owned(),
        at: String::from_utf8_lossy(FORMAT_KEY).into_owned(),
    };
    match database.get(FORMAT_KEY).map_err(store_error)? {
        Some(bytes) => {
            let bytes = <[u8; 4]>::try_from(bytes.as_ref()).map_err(|_| damaged())?;
            match u32::from_le_bytes(bytes) {
                found if found > FORMAT_VERSION => {
                    Err(CheckpointError::Newer { folder: folder.to_owned(), found })
                }
                _ => Ok(()),
            }
        }
        None => {
            let version = FORMAT_VERSION.to_le_bytes();
            database.insert(FORMAT_KEY, version.as_slice()).map_err(store_error)?;
            database.flush().map_err(store_error)?;
            Ok(())
        }
    }
}

fn subfolders(folder: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let error = |source| CheckpointError::Folder { path: folder.to_owned(), source };
    match fs::read_dir(folder) {
        Ok(entries) => {
            let paths = entries.map(|entry| entry.map(|entry| entry.path()));
            paths.collect::<io::Result<_>>().map_err(error)
        }
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(error(source)),
    }
}

fn remove(path: &Path) -> Result<(), CheckpointError> {
    remove_folder(path).map_err(|source| CheckpointError::Folder { path: path.to_owned(), source })
}

fn remove_folder(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(()) | Err(_) => removed,
    }
}

#[cfg(test)]
mod tests;
