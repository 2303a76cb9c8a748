//! Losses, one by one for the state of the training and thinned out for people.

use crate::checkpoint::State;
use crate::learner::{Found, Update};
use crate::train::Observer;
use proto::TrainSpec;
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tch::Device;

/// Shortest time between two reports: a bar on a screen does not move faster, and a million steps
/// of a millisecond shall not become a million points.
const REPORT_EVERY: Duration = Duration::from_millis(100);
/// Losses behind the final `train_loss`.
const RECENT_LOSSES_MAX: usize = 100;
/// Updates whose losses nobody has read yet, on a GPU: reading one waits for it. A loss that is not
/// finite is seen at most this many updates late.
const PENDING_ON_GPU_MAX: usize = 64;
/// Updates that a GPU always has before it: it works on the newest one while the losses before are
/// read, and does not stand still.
const AHEAD_ON_GPU: usize = 1;

/// Reads the losses of updates and reports some of them.
#[derive(Debug)]
pub(crate) struct Log {
    pending: VecDeque<Update>,
    pending_max: usize,
    /// Updates that are left unread, but for the last one of all.
    ahead: usize,
    last_step: u64,
    tokens_per_update: u64,
    reported: Option<Reported>,
}

/// What reading found.
#[derive(Debug)]
enum Read {
    /// The newest that was read, if there was one.
    Fine(Option<Found>),
    /// Step of the first loss that is not finite.
    Broken(u64),
}

#[derive(Debug)]
struct Reported {
    at: Instant,
    step: u64,
    seconds: f64,
}

/// The clock of the training: for reports and for the time of the next checkpoint, never for a
/// number that decides a loss.
#[expect(clippy::disallowed_methods, reason = "the training loop is the driver that owns the time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

impl Log {
    pub(crate) fn new(spec: &TrainSpec, device: Device) -> Self {
        // On the processor the loss is there already, and reading it costs nothing.
        let [pending_max, ahead] = match device.is_cuda() {
            true => [PENDING_ON_GPU_MAX, AHEAD_ON_GPU],
            false => [1, 0],
        };
        Self {
            pending: VecDeque::new(),
            pending_max,
            ahead,
            last_step: spec.steps_max() - 1,
            tokens_per_update: spec.tokens_per_step(),
            reported: None,
        }
    }

    /// Takes the update that began at `begun` into `state`. Returns the step whose loss is not
    /// finite, if there is one.
    pub(crate) fn record(
        &mut self,
        update: Update,
        begun: Instant,
        state: &mut State,
        observer: &mut dyn Observer,
    ) -> tch::Result<Option<u64>> {
        let is_last = update.step == self.last_step;
        self.pending.push_back(update);
        let report = is_last || self.is_due();
        let found = match report || self.pending.len() >= self.pending_max {
            true => self.read(if is_last { 0 } else { self.ahead }, state, observer)?,
            false => Read::Fine(None),
        };
        Ok(self.take(found, (begun, report), state, observer))
    }

    /// Reads every loss that is still on the device, whose waiting counts as time of the updates.
    /// Returns the step of the first that is not finite, after reporting it.
    pub(crate) fn settle(
        &mut self,
        state: &mut State,
        observer: &mut dyn Observer,
    ) -> tch::Result<Option<u64>> {
        if self.pending.is_empty() {
            return Ok(None);
        }
        let (begun, report) = (now(), self.is_due());
        let found = self.read(0, state, observer)?;
        Ok(self.take(found, (begun, report), state, observer))
    }

    /// Whether the time has come for a report.
    fn is_due(&self) -> bool {
        let is_due = |last: &Reported| now().duration_since(last.at) >= REPORT_EVERY;
        self.reported.as_ref().is_none_or(is_due)
    }

    /// Counts the time since `begun`, and tells the newest of what was read if there shall be a
    /// report. Returns the step whose loss is not finite, if there is one.
    fn take(
        &mut self,
        found: Read,
        (begun, report): (Instant, bool),
        state: &mut State,
        observer: &mut dyn Observer,
    ) -> Option<u64> {
        let at = now();
        state.seconds += at.duration_since(begun).as_secs_f64();
        let newest = match found {
            Read::Broken(step) => return Some(step),
            Read::Fine(newest) => newest.filter(|_| report),
        };
        let Found { step, loss, gradient_norm, learning_rate } = newest?;
        observer.metric(step, "loss", loss);
        observer.metric(step, "learning_rate", learning_rate);
        observer.metric(step, "gradient_norm", gradient_norm);
        if let Some(before) = &self.reported {
            let tokens = (step - before.step) * self.tokens_per_update;
            let seconds = state.seconds - before.seconds;
            observer.metric(step, "tokens_per_second", tokens as f64 / seconds);
        }
        self.reported = Some(Reported { at, step, seconds: state.seconds });
        None
    }

    /// Reads all but the newest `ahead`; reports a loss that is not finite.
    fn read(
        &mut self,
        ahead: usize,
        state: &mut State,
        observer: &mut dyn Observer,
    ) -> tch::Result<Read> {
        let count = self.pending.len().saturating_sub(ahead);
        let mut newest = None;
        for update in self.pending.drain(..count) {
            let found = update.finish()?;
            if !found.loss.is_finite() {
                observer.metric(found.step, "loss", found.loss);
                return Ok(Read::Broken(found.step));
            }
            if state.recent_losses.len() == RECENT_LOSSES_MAX {
                state.recent_losses.pop_front();
            }
            state.recent_losses.push_back(found.loss);
            newest = Some(found);
        }
        Ok(Read::Fine(newest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::download::Downloads;
    use proto::{BlobId, Checkpoint};
    use tch::Tensor;

    #[derive(Default)]
    struct Told(Vec<(u64, String, f64)>);

    impl Observer for Told {
        fn metric(&mut self, step: u64, name: &str, value: f64) {
            self.0.push((step, name.to_owned(), value));
        }
        fn checkpoint(&mut self, _: Checkpoint) {}
        fn note(&mut self, _: &str) {}
        fn stop_requested(&self) -> bool {
            false
        }
    }

    /// What is told of updates with these losses, the losses that the state has in the end, and
    /// the step that ended it.
    fn run(losses: &[f64], ahead: usize) -> (Vec<(u64, f64)>, Vec<f64>, Option<u64>) {
        run_and(losses, ahead, |_, _, _| {})
    }

    /// As [`run`], with something after each update.
    fn run_and(
        losses: &[f64],
        ahead: usize,
        after: impl Fn(&mut Log, &mut State, &mut Told),
    ) -> (Vec<(u64, f64)>, Vec<f64>, Option<u64>) {
        let mut log = Log {
            pending: VecDeque::new(),
            pending_max: 64,
            ahead,
            last_step: losses.len() as u64 - 1,
            tokens_per_update: 1,
            reported: None,
        };
        let mut state = State::new(1, BlobId::from_hash(blake3::hash(b"text")));
        let (mut told, mut broken) = (Told::default(), None);
        let downloads = Downloads::of(Device::Cpu).unwrap();
        for (step, loss) in losses.iter().enumerate() {
            let [loss, norm] = [*loss, 0.5].map(|x| Tensor::from_slice(&[x]).view([0i64; 0]));
            let update = Update::new(&downloads, step as u64, [&loss, &norm], 0.1).unwrap();
            broken = broken.or(log.record(update, now(), &mut state, &mut told).unwrap());
            after(&mut log, &mut state, &mut told);
        }
        let of_loss = told.0.into_iter().filter(|(_, name, _)| name == "loss");
        let told = of_loss.map(|(step, _, loss)| (step, loss)).collect();
        (told, state.recent_losses.into(), broken)
    }

    // Goal: the first and the last update are told with their own numbers, whether a device works
    // ahead or not, and no loss is left out of the state. All in less than a report's time.
    #[test]
    fn every_loss_counts_and_the_first_and_the_last_are_told() {
        for ahead in [0, 1, 2] {
            let (told, losses, broken) = run(&[5.0, 4.0, 3.0, 2.0], ahead);
            assert_eq!(told, [(0, 5.0), (3, 2.0)], "{ahead}");
            assert_eq!((losses, broken), (vec![5.0, 4.0, 3.0, 2.0], None), "{ahead}");
            assert_eq!(run(&[5.0], ahead).0, [(0, 5.0)]);
        }
    }

    #[test]
    fn the_first_loss_that_is_none_ends_it() {
        for ahead in [0, 1] {
            let (told, losses, broken) = run(&[5.0, f64::INFINITY, 3.0, 2.0], ahead);
            assert_eq!((told.last().unwrap().0, broken), (1, Some(1)), "{ahead}");
            assert_eq!(losses[0], 5.0);
        }
    }

    // Goal: a training that measures itself after every update still tells its losses.
    #[test]
    fn what_is_read_before_a_measurement_is_told_when_a_report_is_due() {
        for ahead in [0, 1, 2] {
            let (told, losses, broken) = run_and(&[5.0, 4.0, 3.0], ahead, |log, state, told| {
                assert_eq!(log.settle(state, told).unwrap(), None);
                let late = now().checked_sub(REPORT_EVERY).unwrap();
                log.reported.as_mut().unwrap().at = late;
            });
            assert_eq!(told, [(0, 5.0), (1, 4.0), (2, 3.0)], "{ahead}");
            assert_eq!((losses, broken), (vec![5.0, 4.0, 3.0], None), "{ahead}");
        }
    }
}
