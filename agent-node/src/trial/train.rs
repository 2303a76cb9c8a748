//! The runners `train` and `grpo`: Brine's own trainer, in this process.

use super::{Lifeline, Records};
use crate::mfu::{self, Scale};
use crate::nvml;
use agent_core::{Gang, TrialEnd};
use agent_keeper::environment;
use agent_keeper::log::Log;
use agent_keeper::order::{Order, TrialRecord};
use agent_keeper::stop::StopCause;
use proto::{Checkpoint, FailureClass, Outcome, Runner};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;
use trainer::{CheckpointEvery, Device, End, Membership, Observer, Setting, TrainError};

/// Mean time between failures when the coordinator does not say one: a failure a day, which is what
/// a coordinator believes that has seen none.
const MTBF_UNKNOWN: Duration = Duration::from_secs(24 * 3_600);

/// How long a member of a gang that was asked to stop waits before it says that it did, if it is
/// not the first. The coordinator takes the first end that it hears for that of the attempt, and
/// shall have heard of the first member's checkpoint before. Several times what a report takes,
/// and short against the grace that a stop has.
const LEADER_FIRST: Duration = Duration::from_secs(1);
/// How long a member waits before it says that it failed because another did, so that the one who
/// knows why is heard first: a process that an error of its GPU ended is told as failed two seconds
/// after its end. Only where that one's agent is gone too does anybody wait so long.
const CULPRIT_FIRST: Duration = Duration::from_secs(5);
/// How often a member that nobody has asked yet looks whether somebody has.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The trainer's name of its rate.
const RATE: &str = "tokens_per_second";
const MFU: &str = "mfu";

/// Trains to the end, by `train`.
pub(crate) fn run(
    order: &Order,
    lifeline: &Lifeline,
    records: &Records,
    train: impl FnOnce(&Setting<'_>, &mut dyn Observer) -> Result<End, TrainError>,
) -> TrialEnd {
    let mut log = Log::new(&order.folders.attempt);
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
        checkpoint_every: checkpoint_every(order.spec.checkpoint_every_ms, order.mtbf_ms),
        attempt: order.key.attempt,
        agent: &order.agent,
        membership: order.gang.as_ref().map(|gang| membership(order, gang)),
    };
    let scale = scale(order, &mut log);
    let (is_first, cause) = (order.key.rank == 0, Cell::new(None));
    let mut observer = Watched { lifeline, records, log, scale, is_first, cause };
    match train(&setting, &mut observer) {
        // What a gang found, its first member tells.
        Ok(End::Completed { .. }) if order.key.rank > 0 => {
            TrialEnd::Outcome(Outcome::Completed { metrics: BTreeMap::new(), checkpoint: None })
        }
        Ok(End::Completed { mut metrics, checkpoint }) => {
            let rate = metrics.get(RATE).copied();
            let mfu = scale.zip(rate).map(|(scale, rate)| (MFU.to_owned(), scale.mfu(rate)));
            metrics.extend(mfu);
            let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
            let peak = peak_memory_bytes(&status);
            metrics.extend(peak.map(|bytes| ("peak_memory_bytes".to_owned(), bytes)));
            TrialEnd::Outcome(Outcome::Completed { metrics, checkpoint })
        }
        Ok(End::Diverged { metric, step }) => TrialEnd::Outcome(Outcome::Diverged { metric, step }),
        Ok(End::Stopped { step }) => {
            observer.log.note(&format!("stopped at step {step}"));
            stopped(order, lifeline, observer.cause.get())
        }
        Err(error) => {
            let message = trainer::chain(&error);
            observer.log.note(&message);
            if matches!(&error, TrainError::Parallel(error) if error.is_anothers()) {
                until_asked(lifeline, CULPRIT_FIRST);
            }
            TrialEnd::Outcome(Outcome::failed(error.class(), message))
        }
    }
}

/// Waits until the agent asks to stop, for at most `longest`.
fn until_asked(lifeline: &Lifeline, longest: Duration) {
    let looks = longest.as_millis() / LOOK_EVERY.as_millis();
    for _ in 0..looks {
        if lifeline.is_asked_to_stop() {
            return;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// How an attempt ended that was stopped: for a `cause` of this process's own, or because another
/// member of its gang had one.
fn stopped(order: &Order, lifeline: &Lifeline, cause: Option<StopCause>) -> TrialEnd {
    match (cause, order.key.rank) {
        (Some(cause), 0) => lifeline.stopped(cause),
        (Some(cause), _) => {
            std::thread::sleep(LEADER_FIRST);
            lifeline.stopped(cause)
        }
        (None, 0) => {
            let message = "another member was asked to end; the trial goes on from its last \
                           checkpoint";
            TrialEnd::Outcome(Outcome::failed(FailureClass::Cancelled, message))
        }
        // The others have said it. This one is asked when that has been heard, or its lease passes.
        (None, _) => {
            until_asked(lifeline, Duration::MAX);
            lifeline.stopped(StopCause::Asked)
        }
    }
}

/// How the rate of this training becomes its MFU; `None` on the processor, for a policy, whose
/// operations do not follow from its tokens, and on a GPU whose peak is not known.
fn scale(order: &Order, log: &mut Log) -> Option<Scale> {
    let gpu = *order.devices.gpus.first()?;
    let Runner::Train(spec) = &order.spec.runner else { return None };
    let name = match nvml::name(gpu) {
        Ok(name) => name?,
        Err(error) => {
            log.note(&format!("no MFU: the driver does not name GPU {gpu} ({error})"));
            return None;
        }
    };
    let Some(peak) = mfu::peak(&name, spec.precision) else {
        log.note(&format!("no MFU: the peak of {name} is not known"));
        return None;
    };
    // The rate is that of all members.
    let peak = peak * f64::from(order.gang.as_ref().map_or(1, |gang| gang.world_size));
    Some(Scale { flops_per_token: spec.model.training_flops(1), peak })
}

/// Which member of `gang` this process is.
fn membership<'a>(order: &'a Order, gang: &'a Gang) -> Membership<'a> {
    Membership {
        rank: order.key.rank,
        world_size: gang.world_size,
        master_addr: &gang.master_addr,
        master_port: gang.master_port,
        name: order.key.trial.as_str(),
        attempt: order.key.attempt,
        come_within: Membership::COME_WITHIN,
    }
}

/// The most main memory that a process had, in bytes, by its `/proc/self/status`. The part of a
/// text that is mapped and in memory counts.
fn peak_memory_bytes(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(1_024.0 * kib)
}

/// What the recipe says, and otherwise what loses least.
fn checkpoint_every(every_ms: Option<u64>, mtbf_ms: u64) -> CheckpointEvery {
    match (every_ms, mtbf_ms) {
        (Some(every_ms), _) => CheckpointEvery::Fixed(Duration::from_millis(every_ms)),
        (None, 0) => CheckpointEvery::Best { mtbf: MTBF_UNKNOWN },
        (None, mtbf_ms) => CheckpointEvery::Best { mtbf: Duration::from_millis(mtbf_ms) },
    }
}

struct Watched<'a> {
    lifeline: &'a Lifeline,
    records: &'a Records,
    log: Log,
    scale: Option<Scale>,
    /// Whether it is the first member of its gang, or alone.
    is_first: bool,
    /// Why the trainer was told to stop, so that its obedience is not read as another cause.
    cause: Cell<Option<StopCause>>,
}

impl Observer for Watched<'_> {
    fn metric(&mut self, step: u64, name: &str, value: f64) {
        self.records.metric(name, step, value);
        if let (Some(scale), RATE) = (self.scale, name) {
            self.records.metric(MFU, step, scale.mfu(value));
        }
    }

    fn checkpoint(&mut self, checkpoint: Checkpoint) {
        self.records.write(&TrialRecord::Checkpoint(checkpoint));
    }

    fn note(&mut self, text: &str) {
        self.log.note(text);
    }

    fn stop_requested(&self) -> bool {
        let found = || match self.is_first {
            true => self.lifeline.stop_cause(),
            // A gang has one clock: its first member's.
            false => self.lifeline.is_asked_to_stop().then_some(StopCause::Asked),
        };
        let cause = self.cause.get().or_else(found);
        self.cause.set(cause);
        cause.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_where_the_system_tells_it() {
        let status = "Name:\tbrine\nVmPeak:\t  900 kB\nVmHWM:\t  123 kB\nVmRSS:\t   90 kB\n";
        assert_eq!(peak_memory_bytes(status), Some(125_952.0));
        assert_eq!(peak_memory_bytes("Name:\tbrine\n"), None);
        assert_eq!(peak_memory_bytes("VmHWM: many kB"), None);
    }

    #[test]
    fn what_the_recipe_says_wins() {
        let seconds = Duration::from_secs;
        for (every_ms, mtbf_ms, expected) in [
            (Some(5_000), 0, CheckpointEvery::Fixed(seconds(5))),
            (Some(5_000), 60_000, CheckpointEvery::Fixed(seconds(5))),
            (None, 60_000, CheckpointEvery::Best { mtbf: seconds(60) }),
            (None, 0, CheckpointEvery::Best { mtbf: seconds(86_400) }),
        ] {
            assert_eq!(checkpoint_every(every_ms, mtbf_ms), expected, "{every_ms:?} {mtbf_ms}");
        }
    }
}
