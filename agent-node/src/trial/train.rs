//! The runners `train` and `grpo`: Brine's own trainer, in this process.

use super::{Lifeline, Records, chain};
use agent_core::TrialEnd;
use agent_keeper::environment;
use agent_keeper::log::Log;
use agent_keeper::order::{Order, TrialRecord};
use agent_keeper::stop::StopCause;
use proto::{Checkpoint, Outcome};
use std::cell::Cell;
use std::time::Duration;
use trainer::{Device, End, Observer, Setting, TrainError};

/// Trains to the end, by `train`.
pub(crate) fn run(
    order: &Order,
    lifeline: &Lifeline,
    records: &Records,
    train: impl FnOnce(&Setting<'_>, &mut dyn Observer) -> Result<End, TrainError>,
) -> TrialEnd {
    let log = Log::new(&order.folders.attempt);
    // Without a file there is nothing to read in that folder.
    let blobs = &order.folders.blobs;
    let file = order.spec.runner.data();
    let data = file.map_or_else(|| blobs.clone(), |file| blobs.join(file.blob.as_str()));
    let tokenizer = order.spec.runner.tokenizer();
    let tokenizer = tokenizer.map(|file| blobs.join(file.blob.as_str()));
    let setting = Setting {
        seed: order.spec.seed,
        // The supervisor lets this process see only the leased GPUs, so the first is the right one.
        device: if order.devices.gpus.is_empty() { Device::Cpu } else { Device::Cuda(0) },
        threads: environment::threads(&order.devices),
        data: &data,
        tokenizer: tokenizer.as_deref(),
        kept: blobs,
        checkpoints: &order.folders.checkpoints,
        checkpoint_every: Duration::from_millis(order.spec.checkpoint_every_ms),
        attempt: order.key.attempt,
        agent: &order.agent,
    };
    let mut observer = Watched { lifeline, records, log, cause: Cell::new(None) };
    match train(&setting, &mut observer) {
        Ok(End::Completed { metrics, checkpoint }) => {
            TrialEnd::Outcome(Outcome::Completed { metrics, checkpoint })
        }
        Ok(End::Diverged { metric, step }) => TrialEnd::Outcome(Outcome::Diverged { metric, step }),
        Ok(End::Stopped { step }) => {
            observer.log.note(&format!("stopped at step {step}"));
            lifeline.stopped(observer.cause.get().unwrap_or(StopCause::Asked))
        }
        Err(error) => {
            let message = chain(&error);
            observer.log.note(&message);
            TrialEnd::Outcome(Outcome::failed(error.class(), message))
        }
    }
}

struct Watched<'a> {
    lifeline: &'a Lifeline,
    records: &'a Records,
    log: Log,
    /// Why the trainer was told to stop, so that its obedience is not read as another cause.
    cause: Cell<Option<StopCause>>,
}

impl Observer for Watched<'_> {
    fn metric(&mut self, step: u64, name: &str, value: f64) {
        self.records.metric(name, step, value);
    }

    fn checkpoint(&mut self, checkpoint: Checkpoint) {
        self.records.write(&TrialRecord::Checkpoint(checkpoint));
    }

    fn note(&mut self, text: &str) {
        self.log.note(text);
    }

    fn stop_requested(&self) -> bool {
        let cause = self.cause.get().or_else(|| self.lifeline.stop_cause());
        self.cause.set(cause);
        cause.is_some()
    }
}
