//! Losses, one by one for the state of the training and thinned out for people.

use crate::checkpoint::State;
use crate::learner::Update;
use crate::train::Observer;
use proto::TrainSpec;
use std::time::{Duration, Instant};
use tch::Device;

/// Shortest time between two reports: a bar on a screen does not move faster, and a million steps
/// of a millisecond shall not become a million points.
const REPORT_EVERY: Duration = Duration::from_millis(100);
/// Losses behind the final `train_loss`.
const RECENT_LOSSES_MAX: usize = 100;
/// Updates that a GPU may be ahead of its losses: reading one waits for it. A loss that is not
/// finite is seen at most this many updates late.
const PENDING_ON_GPU_MAX: usize = 64;

/// Reads the losses of updates and reports some of them.
#[derive(Debug)]
pub(crate) struct Log {
    pending: Vec<Update>,
    pending_max: usize,
    last_step: u64,
    tokens_per_update: u64,
    reported: Option<Reported>,
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
        Self {
            pending: Vec::new(),
            // On the processor the loss is there already, and reading it costs nothing.
            pending_max: if device.is_cuda() { PENDING_ON_GPU_MAX } else { 1 },
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
        let step = update.step;
        let norm = update.gradient_norm.shallow_clone();
        let rate = update.learning_rate;
        self.pending.push(update);
        let report = step == self.last_step
            || self
                .reported
                .as_ref()
                .is_none_or(|reported| now().duration_since(reported.at) >= REPORT_EVERY);
        let mut broken = None;
        if report || self.pending.len() >= self.pending_max {
            broken = self.read(state, observer)?;
        }
        let at = now();
        state.seconds += at.duration_since(begun).as_secs_f64();
        if !report || broken.is_some() {
            return Ok(broken);
        }
        if let Some(&loss) = state.recent_losses.back() {
            observer.metric(step, "loss", loss);
        }
        observer.metric(step, "learning_rate", rate);
        observer.metric(step, "gradient_norm", norm.f_double_value(&[])?);
        if let Some(before) = &self.reported {
            let tokens = (step - before.step) * self.tokens_per_update;
            let seconds = state.seconds - before.seconds;
            observer.metric(step, "tokens_per_second", tokens as f64 / seconds);
        }
        let seconds = state.seconds;
        self.reported = Some(Reported { at, step, seconds });
        Ok(None)
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
        let begun = now();
        let broken = self.read(state, observer);
        state.seconds += now().duration_since(begun).as_secs_f64();
        broken
    }

    fn read(&mut self, state: &mut State, observer: &mut dyn Observer) -> tch::Result<Option<u64>> {
        for update in self.pending.drain(..) {
            let loss = update.loss.f_double_value(&[])?;
            if !loss.is_finite() {
                observer.metric(update.step, "loss", loss);
                return Ok(Some(update.step));
            }
            if state.recent_losses.len() == RECENT_LOSSES_MAX {
                state.recent_losses.pop_front();
            }
            state.recent_losses.push_back(loss);
        }
        Ok(None)
    }
}
