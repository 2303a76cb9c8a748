//! The training loop, on one page, and what it tells its caller.

use crate::check::{check, within};
use crate::checkpoint::{self, CheckpointError, Contents, Second, State};
use crate::data::{Encoding, FromFile, Text, Windows, batches};
use crate::device::{self, Device, THREADS_MAX};
use crate::error::TrainError;
use crate::interval::{CheckpointEvery, Saves};
use crate::learner::Learner;
use crate::log::{Log, now};
use crate::operations::gpu::prepare;
use crate::optimizer::moment_places;
use crate::parameters::Layout;
use crate::schedule::rate_share;
use crate::writer::Writer;
use proto::{AgentId, Attempt, BlobId, Budget, Checkpoint, Scoring, TokenFormat, TrainSpec};
use std::collections::BTreeMap;
use std::f64::consts::LN_2;
use std::path::Path;
use std::sync::mpsc::Receiver;
use std::thread;

/// Folder of compiled kernels within that of kept things.
pub(crate) const KERNELS: &str = "kernels";

/// Everything about one training that is not part of what it computes, and the seed.
#[derive(Debug, Clone, Copy)]
pub struct Setting<'a> {
    /// Decides the initial values and the order of the data.
    pub seed: u64,
    /// Where to compute.
    pub device: Device,
    /// Threads of libtorch on the processor, at least 1. Another number of threads sums in another
    /// order, so the same bits need the same number.
    pub threads: u32,
    /// The text, or the pairs of a policy that learns from some. Must not change while the training
    /// reads it.
    pub data: &'a Path,
    /// The specification's tokenizer, where it has one.
    pub tokenizer: Option<&'a Path>,
    /// Folder in which the tokens that it makes, and the kernels that it compiles, are kept for the
    /// next training.
    pub kept: &'a Path,
    /// Folder of this attempt's checkpoints; it exists.
    pub checkpoints: &'a Path,
    /// Time between two checkpoints.
    pub checkpoint_every: CheckpointEvery,
    /// Which try this is; part of the checkpoints' names.
    pub attempt: Attempt,
    /// Who writes the checkpoints.
    pub agent: &'a AgentId,
}

/// What a training tells while it goes on.
pub trait Observer {
    /// A number at a step: `loss`, `learning_rate`, `gradient_norm` and `tokens_per_second` for the
    /// update of that number, from 0; `validation_loss`, `validation_loss_ema` and
    /// `validation_bits_per_byte` after that many updates. At most about ten times a second, and
    /// for the first and the last update (not for the last one within a budget of time).
    fn metric(&mut self, step: u64, name: &str, value: f64);
    /// A checkpoint is whole on disk. Older ones are not needed any more once this is recorded.
    fn checkpoint(&mut self, checkpoint: Checkpoint);
    /// A sentence for the trial's log.
    fn note(&mut self, text: &str);
    /// Whether to save and end at the next step. Asked before every step.
    fn stop_requested(&self) -> bool;
}

/// How a training ended.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// All steps are done.
    Completed {
        /// Final values. Unless a budget of time ended it, the same for every undisturbed or
        /// resumed training of the same specification, seed and number of threads:
        /// `validation_loss` (nats per token), `validation_loss_ema` (of the running mean of the
        /// weights, where the trial keeps one), `validation_bits_per_byte` (text of bytes only),
        /// `train_loss` (mean over the last 100 updates), `training_flops`, `steps`, `tokens`,
        /// `parameters`. Measured times: `tokens_per_second`, `training_seconds`, `step_seconds`,
        /// and `seconds_to_target`, the time in updates before the held-out loss was first measured
        /// at its target.
        metrics: BTreeMap<String, f64>,
        /// The trained model.
        checkpoint: Option<Checkpoint>,
    },
    /// A number stopped being finite.
    Diverged {
        /// Which one.
        metric: String,
        /// At which step.
        step: u64,
    },
    /// Ended early because the observer wished it; a checkpoint of this step is on disk.
    Stopped {
        /// Updates done.
        step: u64,
    },
}

/// Trains the model of `spec`, from the first whole checkpoint of `resume` (newest first) or from
/// scratch. On one machine's processor the result has the same bits whether or not the training
/// was interrupted, at whatever step.
///
/// # Errors
/// [`TrainError::class`] says who has to act.
pub fn train(
    spec: &TrainSpec,
    setting: &Setting<'_>,
    resume: &[Checkpoint],
    observer: &mut dyn Observer,
) -> Result<End, TrainError> {
    check(spec)?;
    within("threads", setting.threads, 1..=THREADS_MAX)?;
    let device = device::open(setting.device, setting.threads)?;
    let kernels =
        prepare(&(&spec.model).into(), spec.precision, device, &setting.kept.join(KERNELS));
    kernels.iter().for_each(|problem| observer.note(problem));
    let [vocabulary, sequence] = [spec.model.vocabulary, spec.model.sequence];
    let from_file = tokenizer(spec, setting)?;
    let encoding = match &from_file {
        None => Encoding::BYTES,
        Some(tokenizer) => Encoding { tokenizer, kept: Some(setting.kept) },
    };
    let text = Text::open(setting.data, &spec.data, &encoding, vocabulary, sequence, setting.seed)?;
    let layout = Layout::of(&spec.model);
    let moments = moment_places(&spec.optimizer, &layout);
    let second = spec.ema.map(|_| Second::Average);
    let contents = Contents { layout: &layout, moments: &moments, second };
    let (learner, state) = start(spec, setting, device, (resume, &contents), observer)?;
    let log = Log::new(spec, device);
    thread::scope(|scope| {
        let batches = batches(scope, &text, state.step..spec.steps_max(), spec.batch);
        let mut writer = Writer::start(scope, setting, contents);
        let ends = (&text, &batches, &mut writer);
        let end = steps(spec, setting, ends, learner, state, log, observer);
        // What is being written when a training diverges or fails still counts.
        let written = writer.finish(observer);
        let end = end?;
        written.map(|_| end)
    })
}

/// The tokenizer that the specification names, if it names one.
fn tokenizer(spec: &TrainSpec, setting: &Setting<'_>) -> Result<Option<FromFile>, TrainError> {
    let wanted = spec.data.tokenizer.as_ref();
    match (wanted, setting.tokenizer) {
        (None, _) => Ok(None),
        (Some(wanted), Some(path)) => {
            Ok(Some(FromFile::open(path, wanted, spec.model.vocabulary)?))
        }
        (Some(_), None) => Err(TrainError::Spec {
            field: "data.tokenizer",
            found: "a file".to_owned(),
            wanted: "absent: the setting has none".to_owned(),
        }),
    }
}

/// The loop. `batches` are those of the steps that are left. A checkpoint that comes due while the
/// one before is still being written waits for it; the loop does not.
fn steps(
    spec: &TrainSpec,
    setting: &Setting<'_>,
    (text, batches, writer): (&Text, &Receiver<Windows>, &mut Writer),
    mut learner: Learner<'_>,
    mut state: State,
    mut log: Log,
    observer: &mut dyn Observer,
) -> Result<End, TrainError> {
    let mut saves = Saves::new(setting.checkpoint_every);
    let (first, most) = (state.step, spec.steps_max());
    for step in first..=most {
        // One more pass after the last update, so that the end is measured and saved too.
        let last = step == most || is_spent(spec, &state);
        let every = spec.validation.every_steps;
        if last || (step > first && every > 0 && step.is_multiple_of(every)) {
            let broken = log.settle(&mut state, observer);
            if let Some(step) = broken.map_err(|source| reading(spec, source))? {
                return Ok(diverged("loss", step));
            }
            if last && spec.validation.scoring == Scoring::TokenByToken {
                // It takes so long that losing the training to it would be a pity.
                writer.finish(observer)?;
                writer.write(learner.snapshot(&state)?);
            }
            let loss = learner.validation_loss(text, step)?;
            report_validation(spec, &mut state, loss, observer);
            if !loss.is_finite() {
                return Ok(diverged("validation_loss", step));
            }
            let average = learner.average_loss(text, step)?;
            if let Some(loss) = average {
                observer.metric(step, "validation_loss_ema", loss);
                if !loss.is_finite() {
                    return Ok(diverged("validation_loss_ema", step));
                }
            }
            if last {
                writer.finish(observer)?;
                writer.write(learner.snapshot(&state)?);
                let checkpoint = writer.finish(observer)?;
                return Ok(completed(spec, state, loss, average, checkpoint));
            }
        }

        let stop = observer.stop_requested();
        let free = writer.is_free(observer)?;
        if stop || (free && saves.is_due()) {
            let broken = log.settle(&mut state, observer);
            if let Some(step) = broken.map_err(|source| reading(spec, source))? {
                return Ok(diverged("loss", step));
            }
            if stop {
                writer.finish(observer)?;
                writer.write(learner.snapshot(&state)?);
                writer.finish(observer)?;
                return Ok(End::Stopped { step });
            }
            saves.make(observer, || learner.snapshot(&state).map(|taken| writer.write(taken)))?;
        }

        let begun = now();
        let Ok(batch) = batches.recv() else {
            unreachable!("the reader sends one batch for every step")
        };
        let share = rate_share(&spec.schedule, step, spec.steps);
        let update = learner.update(&batch, share, step)?;
        state.step = step + 1;
        let broken = log.record(update, begun, &mut state, observer);
        if let Some(step) = broken.map_err(|source| reading(spec, source))? {
            return Ok(diverged("loss", step));
        }
    }
    unreachable!("the pass after the last update ends the training")
}

/// The learner and the state to go on from.
fn start<'a>(
    spec: &'a TrainSpec,
    setting: &Setting<'_>,
    device: tch::Device,
    (resume, contents): (&[Checkpoint], &Contents<'_>),
    observer: &mut dyn Observer,
) -> Result<(Learner<'a>, State), TrainError> {
    let layout = contents.layout.clone();
    let mut note = |text: &str| observer.note(text);
    let snapshot = checkpoint::first_intact(resume, contents, &mut note)?;
    let Some(snapshot) = snapshot else {
        if !resume.is_empty() {
            observer.note("no checkpoint is whole; starting from step 0");
        }
        let learner = Learner::new(spec, layout, setting.seed, device)?;
        return Ok((learner, State::new(setting.seed, spec.data.text.blob.clone())));
    };
    check_belongs(&snapshot.state, setting, &spec.data.text.blob, spec.steps_max())?;
    let learner = Learner::restored(spec, layout, &snapshot, device)?;
    observer.note(&format!("resumed from the checkpoint at step {}", snapshot.state.step));
    Ok((learner, snapshot.state))
}

/// Whether a state is of the training of `steps` updates on `data`.
pub(crate) fn check_belongs(
    state: &State,
    setting: &Setting<'_>,
    data: &BlobId,
    steps: u64,
) -> Result<(), CheckpointError> {
    let limit = format!("at most {steps}");
    let facts = [
        ("seed", state.seed == setting.seed, state.seed.to_string(), setting.seed.to_string()),
        ("data", state.data == *data, state.data.to_string(), data.to_string()),
        ("step", state.step <= steps, state.step.to_string(), limit),
    ];
    match facts.into_iter().find(|(_, fits, ..)| !fits) {
        None => Ok(()),
        Some((field, _, found, wanted)) => {
            Err(CheckpointError::OtherTrial { field, found, wanted })
        }
    }
}

/// Whether the time in updates has reached the budget.
fn is_spent(spec: &TrainSpec, state: &State) -> bool {
    match spec.budget {
        Some(Budget::WallMs(limit)) => state.seconds * 1e3 >= limit as f64,
        // Counted before it begins, in `TrainSpec::steps_max`.
        Some(Budget::Flops(_)) | None => false,
    }
}

fn report_validation(spec: &TrainSpec, state: &mut State, loss: f64, observer: &mut dyn Observer) {
    let (step, steps) = (state.step, spec.steps_max());
    observer.metric(step, "validation_loss", loss);
    if let Some(bits) = bits_per_byte(spec, loss) {
        observer.metric(step, "validation_bits_per_byte", bits);
    }
    // The line that speed runs of nanoGPT write, and that their tools read.
    let milliseconds = state.seconds * 1e3;
    observer
        .note(&format!("step:{step}/{steps} val_loss:{loss:.4} train_time:{milliseconds:.0}ms"));
    if spec.validation.target.is_some_and(|target| loss <= target) {
        let seconds = state.seconds;
        state.measured.entry("seconds_to_target".to_owned()).or_insert(seconds);
    }
}

/// Bits per byte of text. Only where a token is a byte: the bytes behind other tokens are unknown.
fn bits_per_byte(spec: &TrainSpec, nats_per_token: f64) -> Option<f64> {
    match spec.data.format {
        TokenFormat::Bytes => Some(nats_per_token / LN_2),
        TokenFormat::U16 | TokenFormat::Shards | TokenFormat::Text | TokenFormat::Jsonl => None,
    }
}

fn completed(
    spec: &TrainSpec,
    state: State,
    validation_loss: f64,
    average_loss: Option<f64>,
    checkpoint: Option<Checkpoint>,
) -> End {
    let tokens = spec.tokens_per_step() * state.step;
    let losses = &state.recent_losses;
    let train_loss = losses.iter().sum::<f64>() / losses.len() as f64;
    let mut metrics = BTreeMap::from([
        ("validation_loss", validation_loss),
        ("train_loss", train_loss),
        ("training_flops", spec.model.training_flops(tokens)),
        ("steps", state.step as f64),
        ("tokens", tokens as f64),
        ("parameters", spec.model.parameters() as f64),
        ("training_seconds", state.seconds),
        ("step_seconds", state.seconds / state.step as f64),
        ("tokens_per_second", tokens as f64 / state.seconds),
    ]);
    metrics.extend(average_loss.map(|loss| ("validation_loss_ema", loss)));
    metrics.extend(bits_per_byte(spec, validation_loss).map(|b| ("validation_bits_per_byte", b)));
    let named = metrics.into_iter().map(|(name, value)| (name.to_owned(), value));
    End::Completed { metrics: named.chain(state.measured).collect(), checkpoint }
}

fn diverged(metric: &str, step: u64) -> End {
    End::Diverged { metric: metric.to_owned(), step }
}

fn reading(spec: &TrainSpec, source: tch::TchError) -> TrainError {
    TrainError::torch(spec, "reading a loss", source)
}
