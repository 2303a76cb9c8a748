//! Checkpoints written on a thread of their own, while the training goes on.

use crate::checkpoint::{Bytes, Contents, Snapshot, State, save};
use crate::download::{Download, Downloads};
use crate::error::TrainError;
use crate::optimizer::Optimizer;
use crate::parameters::Parameters;
use crate::train::{Observer, Setting};
use proto::Checkpoint;
use std::mem;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::Scope;
use std::time::Duration;

/// A state on its way from the device to the host.
#[derive(Debug)]
pub(crate) struct Taken {
    state: State,
    /// How many of the copies are moments; parameters before them, a second set behind them.
    moments: usize,
    download: Download,
}

impl Taken {
    /// Begins to copy everything that the rest of a training depends on.
    ///
    /// # Errors
    /// There is no memory for it.
    pub(crate) fn begin(
        downloads: &Downloads,
        state: &State,
        parameters: &Parameters,
        optimizer: &Optimizer,
        second: Option<&Parameters>,
    ) -> tch::Result<Self> {
        let sets = [parameters.flat()].into_iter().chain(optimizer.moments());
        let sets = sets.chain(second.map(Parameters::flat));
        let moments = optimizer.moments().count();
        Ok(Self { state: state.clone(), moments, download: downloads.begin(sets)? })
    }

    /// Waits until all of it is there; gives the time for which the device did nothing else, too.
    ///
    /// # Errors
    /// The device failed.
    pub(crate) fn finish(self) -> Result<(Snapshot, Duration), TrainError> {
        let doing = "copying the state to the host";
        let failed = |source| TrainError::Torch { doing: doing.to_owned(), source };
        let (copies, time) = self.download.finish().map_err(failed)?;
        let mut copies = copies.into_iter().map(Bytes::of);
        let parameters = copies.next().transpose().map_err(failed)?;
        let moments = copies.by_ref().take(self.moments).collect::<tch::Result<_>>();
        let snapshot = Snapshot {
            state: self.state,
            parameters: parameters.unwrap_or_else(|| Vec::new().into()),
            moments: moments.map_err(failed)?,
            second: copies.next().transpose().map_err(failed)?,
        };
        Ok((snapshot, time))
    }
}

/// Writes one snapshot at a time. Its thread ends when this is dropped and the last one is written.
#[derive(Debug)]
pub(crate) struct Writer {
    snapshots: Sender<Taken>,
    written: Receiver<Result<(Checkpoint, Duration), TrainError>>,
    busy: bool,
    copied_in: Duration,
}

impl Writer {
    /// A writer of snapshots that hold `contents`.
    pub(crate) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        setting: &'scope Setting<'_>,
        contents: Contents<'scope>,
    ) -> Self {
        let (snapshots, orders) = channel::<Taken>();
        let (reports, written) = channel();
        scope.spawn(move || {
            let Setting { checkpoints, attempt, agent, .. } = *setting;
            for taken in orders {
                let saved = taken.finish().and_then(|(snapshot, time)| {
                    Ok((save(checkpoints, attempt, agent, &contents, &snapshot)?, time))
                });
                if reports.send(saved).is_err() {
                    break; // Nobody listens: the training panicked.
                }
            }
        });
        Self { snapshots, written, busy: false, copied_in: Duration::ZERO }
    }

    /// Whether a snapshot can be taken. Tells the observer of the one before when it is on disk.
    ///
    /// # Errors
    /// It could not be written.
    pub(crate) fn is_free(&mut self, observer: &mut dyn Observer) -> Result<bool, TrainError> {
        match self.written.try_recv() {
            Ok(saved) => {
                self.busy = false;
                self.report(saved?, observer);
                Ok(true)
            }
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => Ok(!self.busy),
        }
    }

    /// Begins to write `taken`. The writer is free: never are there two in memory.
    pub(crate) fn write(&mut self, taken: Taken) {
        debug_assert!(!self.busy);
        // It fails only if the thread panicked, which the scope passes on.
        self.busy = self.snapshots.send(taken).is_ok();
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
        Ok(Some(self.report(saved, observer)))
    }

    fn report(
        &mut self,
        (saved, time): (Checkpoint, Duration),
        observer: &mut dyn Observer,
    ) -> Checkpoint {
        self.copied_in += time;
        observer.checkpoint(saved.clone());
        saved
    }

    /// Time for which the device stood still to copy what was written since the last question.
    pub(crate) fn copied_in(&mut self) -> Duration {
        mem::take(&mut self.copied_in)
    }
}
