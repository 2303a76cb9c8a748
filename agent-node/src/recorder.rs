//! The thread that owns what is on disk about attempts: their folders, and the records of their
//! checkpoints. A disk that stalls holds up this thread and no lease.

use crate::checkpoints::{CheckpointError, CheckpointStore};
use crate::folders::AttemptFolders;
use agent_core::{Lease, TrialEnd};
use agent_keeper::order::Folders;
use proto::{AttemptKey, Checkpoint, FailureClass, Outcome};
use std::io;
use std::path::PathBuf;
use tokio::sync::mpsc;

/// Requests that wait for the disk. An agent has at most 4,096 CPU slots, and an attempt that ends
/// and the next one on its slots need a few each.
const REQUESTS_MAX: usize = 32_768;
/// Answers that wait for the driver, which takes them at once.
const ANSWERS_MAX: usize = 64;

/// What the recorder does, in the order of the requests.
#[derive(Debug)]
pub(crate) enum Request {
    /// Makes the folders of a training and finds the states from which it may go on.
    Prepare(Box<Lease>),
    /// Records a checkpoint.
    Commit(AttemptKey, Checkpoint),
    /// The coordinator has this checkpoint, so older ones may go.
    Acknowledged(AttemptKey, Checkpoint),
    /// The process is gone. Comes back after everything that the attempt saved was recorded.
    Exited { key: AttemptKey, end: Option<TrialEnd>, how: String },
    /// A program ended and left something in its folder.
    Kept(PathBuf),
    /// The coordinator has this outcome, so what can never be used again may go.
    Settled(AttemptKey, Outcome),
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The folders, or why there are none.
    Prepared(Box<Lease>, Result<Prepared, String>),
    /// The checkpoint is recorded, durably.
    Saved(AttemptKey, Checkpoint),
    /// As it was asked. A completed trial whose last checkpoint was not recorded has failed.
    Exited { key: AttemptKey, end: Option<TrialEnd>, how: String },
}

/// Where an attempt works and from where it goes on.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) folders: Folders,
    pub(crate) resume: Vec<Checkpoint>,
}

/// The disk is too far behind for another request.
#[derive(Debug, thiserror::Error)]
#[error("the agent's disk is too far behind: {REQUESTS_MAX} requests wait for it")]
pub(crate) struct Behind;

/// The way to the thread.
#[derive(Debug)]
pub(crate) struct Recorder(mpsc::Sender<Request>);

impl Recorder {
    /// Starts the thread; it ends with this value.
    ///
    /// # Errors
    /// The system refuses threads.
    pub(crate) fn start(
        store: CheckpointStore,
        folders: AttemptFolders,
    ) -> io::Result<(Self, mpsc::Receiver<Answer>)> {
        let (requests, mut asked) = mpsc::channel(REQUESTS_MAX);
        let (answers, answered) = mpsc::channel(ANSWERS_MAX);
        let mut disk = Disk { store, folders };
        std::thread::Builder::new().name("recorder".into()).spawn(move || {
            while let Some(request) = asked.blocking_recv() {
                if let Some(answer) = disk.serve(request)
                    && answers.blocking_send(answer).is_err()
                {
                    // The agent is ending; what it did not hear it never said.
                    return;
                }
            }
        })?;
        Ok((Self(requests), answered))
    }

    /// Asks without waiting.
    ///
    /// # Errors
    /// Too many requests wait already.
    pub(crate) fn ask(&self, request: Request) -> Result<(), Behind> {
        self.0.try_send(request).map_err(|_| Behind)
    }
}

struct Disk {
    store: CheckpointStore,
    folders: AttemptFolders,
}

impl Disk {
    fn serve(&mut self, request: Request) -> Option<Answer> {
        match request {
            Request::Prepare(lease) => {
                let prepared = self.prepare(&lease);
                Some(Answer::Prepared(lease, prepared))
            }
            Request::Commit(key, checkpoint) => match self.store.commit(&key, &checkpoint) {
                Ok(()) => Some(Answer::Saved(key, checkpoint)),
                Err(error) => {
                    tracing::error!(%error, attempt = %key, "a checkpoint was not recorded");
                    None
                }
            },
            Request::Acknowledged(key, checkpoint) => {
                self.store.acknowledge(&key, &checkpoint);
                None
            }
            Request::Exited { key, end, how } => {
                self.folders.ended(&key);
                let end = end.map(|end| self.with_recorded_checkpoint(&key, end));
                Some(Answer::Exited { key, end, how })
            }
            Request::Kept(path) => {
                self.folders.keep(path);
                None
            }
            Request::Settled(key, outcome) => {
                if let Err(error) = self.store.settle(&key, &outcome) {
                    tracing::error!(%error, attempt = %key, "old checkpoints were not removed");
                }
                None
            }
        }
    }

    fn prepare(&mut self, lease: &Lease) -> Result<Prepared, String> {
        let disk = |error: io::Error| format!("cannot make the trial's folders: {error}");
        let resume = self.store.candidates(&lease.key, lease.checkpoint.as_ref());
        let resume = resume.map_err(|error: CheckpointError| trainer::chain(&error))?;
        if let Some(known) = &lease.checkpoint {
            self.store.acknowledge(&lease.key, known);
        }
        let checkpoints = self.store.attempt_folder(&lease.key).map_err(disk)?;
        let folders = self.folders.create(&lease.key, checkpoints).map_err(disk)?;
        Ok(Prepared { folders, resume })
    }

    /// A completed trial's checkpoint is its result, so it is complete only when that is recorded.
    fn with_recorded_checkpoint(&mut self, key: &AttemptKey, end: TrialEnd) -> TrialEnd {
        let TrialEnd::Outcome(Outcome::Completed { checkpoint: Some(checkpoint), .. }) = &end
        else {
            return end;
        };
        match self.store.commit(key, checkpoint) {
            Ok(()) => end,
            Err(error) => unrecorded(&error),
        }
    }
}

/// The outcome of a completed trial whose final checkpoint is not recorded.
pub(crate) fn unrecorded(error: &dyn std::error::Error) -> TrialEnd {
    let message = format!("the final checkpoint was not recorded: {}", trainer::chain(error));
    TrialEnd::Outcome(Outcome::failed(FailureClass::Infrastructure, message))
}
