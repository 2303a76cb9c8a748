//! Checkpoints written on a thread of their own, while the training goes on.

use crate::checkpoint::{Contents, Snapshot, save};
use crate::error::TrainError;
use crate::train::{Observer, Setting};
use proto::Checkpoint;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::Scope;

/// Writes one snapshot at a time. Its thread ends when this is dropped and the last one is written.
#[derive(Debug)]
pub(crate) struct Writer {
    snapshots: Sender<Snapshot>,
    written: Receiver<Result<Checkpoint, TrainError>>,
    busy: bool,
}

impl Writer {
    /// A writer of snapshots that hold `contents`.
    pub(crate) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        setting: &'scope Setting<'_>,
        contents: Contents<'scope>,
    ) -> Self {
        let (snapshots, orders) = channel::<Snapshot>();
        let (reports, written) = channel();
        scope.spawn(move || {
            let Setting { checkpoints, attempt, agent, .. } = *setting;
            for snapshot in orders {
                let saved = save(checkpoints, attempt, agent, &contents, &snapshot);
                if reports.send(saved.map_err(TrainError::from)).is_err() {
                    break; // Nobody listens: the training panicked.
                }
            }
        });
        Self { snapshots, written, busy: false }
    }

    /// Whether a snapshot can be taken. Tells the observer of the one before when it is on disk.
    ///
    /// # Errors
    /// It could not be written.
    pub(crate) fn is_free(&mut self, observer: &mut dyn Observer) -> Result<bool, TrainError> {
        match self.written.try_recv() {
            Ok(saved) => {
                self.busy = false;
                observer.checkpoint(saved?);
                Ok(true)
            }
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => Ok(!self.busy),
        }
    }

    /// Begins to write `snapshot`. The writer is free: never are there two in memory.
    pub(crate) fn write(&mut self, snapshot: Snapshot) {
        debug_assert!(!self.busy);
        // It fails only if the thread panicked, which the scope passes on.
        self.busy = self.snapshots.send(snapshot).is_ok();
    }

    /// Waits for the snapshot that is being written, if there is one.
    ///
    /// # Errors
    /// It could not be written.
    pub(crate) fn finish(
        &mut self,
        observer: &mut dyn Observer,
    ) -> Result<Option<Checkpoint>, TrainError> {
        if !self.busy {
            return Ok(None);
        }
        self.busy = false;
        let Ok(saved) = self.written.recv() else { return Ok(None) };
        let saved = saved?;
        observer.checkpoint(saved.clone());
        Ok(Some(saved))
    }
}
