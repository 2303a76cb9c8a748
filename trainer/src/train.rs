//! The training loop, on one page, and what it tells its caller.

use crate::check::{check, within};
use crate::checkpoint::{Contents, Second, State};
use crate::data::{Encoding, FromFile, Share, Text, batches};
use crate::device::{self, Device, THREADS_MAX};
use crate::error::TrainError;
use crate::interval::{CheckpointEvery, Saves};
use crate::learner::Learner;
use crate::log::{Log, now};
use crate::operations::gpu::prepare;
use crate::optimizer::moment_places;
use crate::parallel::{Group, Membership, ParallelError, Wish};
use crate::parameters::Layout;
use crate::schedule::rate_share;
use crate::start::start;
use crate::writer::Writer;
use proto::{AgentId, Attempt, Budget, Checkpoint, Scoring, TokenFormat, TrainSpec};
use std::collections::BTreeMap;
use std::f64::consts::LN_2;
use std::path::Path;
use std::sync::mpsc::Receiver;
use std::thread;

/// Folder of compiled kernels within that of kept things.
pub(crate) const KERNELS: &str = "kernels";

/// Updates between two comparisons of the members' weights. A comparison hashes all of them, which
/// takes about as long as an update; machines that compute differently do so from the first one on.
const COMPARED_EVERY: u64 = 1_000;

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
    /// Which of several processes this is that train one model; `None` where it is alone.
    pub membership: Option<Membership<'a>>,
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
    /// Whether to save and end at the next step. Asked before every step. Of several members that
    /// train one model, all end at the same step when one of them is asked.
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
    /// Ended early because the observer wished it; a checkpoint of this step is on disk. Only if
    /// not all members had come yet, it is the newest one there was, and step 0 needs none.
    Stopped {
        /// Updates done.
        step: u64,
    },
}

/// Trains the model of `spec`, from the first whole checkpoint of `resume` (newest first) or from
/// scratch. On one machine's processor the result has the same bits whether or not the training
/// was interrupted, at whatever step.
///
/// Several members train one model together: all end alike, and only that of rank 0 measures, saves
/// and tells. As many members give the same bits, whatever happens to them; another number of them
/// differs in the rounding of the gradient's sums.
///
/// # Errors
/// [`TrainError::class`] says who has to act.
pub fn train(
    spec: &TrainSpec,
    setting: &Setting<'_>,
    resume: &[Checkpoint],
    observer: &mut dyn Observer,
) -> Result<End, TrainError> {
    let members = setting.membership.map_or(1, |membership| membership.world_size);
    check(spec, members)?;
    within("rank", setting.membership.map_or(0, |membership| membership.rank), 0..members)?;
    within("threads", setting.threads, 1..=THREADS_MAX)?;
    let device = device::open(setting.device, setting.threads)?;
    device::slowness(device, spec.precision).into_iter().for_each(|why| observer.note(why));
    // One more than the values: their gradient and the loss are added up together.
    let values = Layout::of(&spec.model).len() + 1;
    let stop = || observer.stop_requested();
    let mut group = match Group::join(setting.membership.as_ref(), device, values, &stop) {
        Err(ParallelError::Stopped) => {
            let step = resume.first().map_or(0, |checkpoint| checkpoint.step);
            return Ok(End::Stopped { step });
        }
        joined => joined?,
    };
    if members > 1 {
        observer.note(&format!("rank {} of {members}: all members have come", group.rank()));
    }
    let end = train_in(&mut group, spec, setting, (device, resume), observer);
    end.map_err(|error| group.fail(error))
}

/// Trains as one of `group`.
fn train_in(
    group: &mut Group,
    spec: &TrainSpec,
    setting: &Setting<'_>,
    (device, resume): (tch::Device, &[Checkpoint]),
    observer: &mut dyn Observer,
) -> Result<End, TrainError> {
    let kernels =
        prepare(&(&spec.model).into(), spec.precision, device, &setting.kept.join(KERNELS))?;
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
    let (learner, state) = start(spec, setting, device, (resume, &contents), group, observer)?;
    let log = Log::new(spec, device);
    let mut unheard = Unheard(observer);
    let observer: &mut dyn Observer = if group.is_first() { unheard.0 } else { &mut unheard };
    thread::scope(|scope| {
        let share = (group.rank(), group.size());
        let batches = batches(scope, &text, state.step..spec.steps_max(), spec.batch, share);
        let mut writer = Writer::start(scope, setting, contents);
        let ends = (&text, &batches, &mut writer);
        let end = steps(spec, setting, ends, (learner, state, log), group, observer);
        // What is being written when a training diverges or fails still counts.
        let written = writer.finish(observer);
        let end = end?;
        written?;
        group.finish()?;
        Ok(end)
    })
}

/// What a member tells that is not the first: nothing, because the first tells the same.
struct Unheard<'a>(&'a mut dyn Observer);

impl Observer for Unheard<'_> {
    fn metric(&mut self, _: u64, _: &str, _: f64) {}

    fn checkpoint(&mut self, _: Checkpoint) {}

    fn note(&mut self, _: &str) {}

    fn stop_requested(&self) -> bool {
        self.0.stop_requested()
    }
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

/// The loop. `batches` are this member's shares of those of the steps that are left. A checkpoint
/// that comes due while the one before is still being written waits for it; the loop does not.
///
/// All members of `group` come by the same places at the same steps, whatever their clocks say.
fn steps(
    spec: &TrainSpec,
    setting: &Setting<'_>,
    (text, batches, writer): (&Text, &Receiver<Share>, &mut Writer),
    (mut learner, mut state, mut log): (Learner<'_>, State, Log),
    group: &mut Group,
    observer: &mut dyn Observer,
) -> Result<End, TrainError> {
    let mut saves = Saves::new(setting.checkpoint_every);
    let (first, most) = (state.step, spec.steps_max());
    let mut broken = None;
    for step in first..=most {
        let stop = observer.stop_requested();
        let spent = is_spent(spec, &state);
        let asked = now();
        let agreed = group.agree(Wish { stop, broken: broken.is_some(), spent })?;
        if step > first {
            // An update takes as long as it takes the slowest member.
            state.seconds += now().duration_since(asked).as_secs_f64();
        }
        // One more pass after the last update, so that the end is measured and saved too.
        let last = step == most || agreed.spent;
        let every = spec.validation.every_steps;
        let measures = last || (step > first && every > 0 && step.is_multiple_of(every));
        let saves_now = group.is_first()
            && writer.is_free(observer)?
            && saves.is_due(writer.copied_in(), observer);
        if measures || saves_now || agreed.stop || agreed.broken {
            broken = broken.or(settle(spec, &mut log, &mut state, observer)?);
            group.check_whole()?;
        }
        if agreed.broken || ((measures || agreed.stop) && broken.is_some()) {
            return Ok(diverged("loss", broken.unwrap_or(step)));
        }
        if is_compared(step, first, last) {
            learner.check_same(step, group)?;
        }
        if measures && last {
            return finish(spec, (text, writer), &learner, state, group, observer);
        }
        if measures {
            let found = group.by_first(|| measure(spec, text, &learner, &mut state, observer))?;
            if let Some(end) = unmeasurable(step, found) {
                return Ok(end);
            }
        }
        if agreed.stop {
            group.by_first(|| save(writer, &learner, &state, observer).map(|_| []))?;
            return Ok(End::Stopped { step });
        }
        if saves_now && broken.is_none() {
            saves.make(|| learner.snapshot(&state).map(|taken| writer.write(taken)))?;
        }

        let begun = now();
        let Ok(batch) = batches.recv() else {
            unreachable!("the reader sends one batch for every step")
        };
        let share = rate_share(&spec.schedule, step, spec.steps);
        let update = learner.update(&batch, share, step, group)?;
        state.step = step + 1;
        let found = log.record(update, begun, &mut state, observer);
        broken = broken.or(found.map_err(|source| reading(spec, source))?);
    }
    unreachable!("the pass after the last update ends the training")
}

/// Reads every loss that is still on the device. Returns the step of the first that is not finite.
fn settle(
    spec: &TrainSpec,
    log: &mut Log,
    state: &mut State,
    observer: &mut dyn Observer,
) -> Result<Option<u64>, TrainError> {
    log.settle(state, observer).map_err(|source| reading(spec, source))
}

/// Whether members compare their weights before the update of this number: after the first update,
/// at the end, and now and then.
fn is_compared(step: u64, first: u64, last: bool) -> bool {
    last || step == first + 1 || (step > first && step.is_multiple_of(COMPARED_EVERY))
}

/// Measures the held-out loss of the weights, and that of their running mean or 0, and tells them.
fn measure(
    spec: &TrainSpec,
    text: &Text,
    learner: &Learner<'_>,
    state: &mut State,
    observer: &mut dyn Observer,
) -> Result<[f64; 2], TrainError> {
    let step = state.step;
    let loss = learner.validation_loss(text, step)?;
    report_validation(spec, state, loss, observer);
    if !loss.is_finite() {
        return Ok([loss, 0.0]);
    }
    let average = learner.average_loss(text, step)?;
    if let Some(average) = average {
        observer.metric(step, "validation_loss_ema", average);
    }
    Ok([loss, average.unwrap_or(0.0)])
}

/// How a training ends whose held-out losses are no numbers.
fn unmeasurable(step: u64, [loss, average]: [f64; 2]) -> Option<End> {
    let losses = [("validation_loss", loss), ("validation_loss_ema", average)];
    let (metric, _) = losses.into_iter().find(|(_, loss)| !loss.is_finite())?;
    Some(diverged(metric, step))
}

/// Writes a checkpoint and waits until it is on disk.
fn save(
    writer: &mut Writer,
    learner: &Learner<'_>,
    state: &State,
    observer: &mut dyn Observer,
) -> Result<Option<Checkpoint>, TrainError> {
    writer.finish(observer)?;
    writer.write(learner.snapshot(state)?);
    writer.finish(observer)
}

/// Measures and saves what all steps have led to.
fn finish(
    spec: &TrainSpec,
    (text, writer): (&Text, &mut Writer),
    learner: &Learner<'_>,
    mut state: State,
    group: &mut Group,
    observer: &mut dyn Observer,
) -> Result<End, TrainError> {
    let (step, mut checkpoint) = (state.step, None);
    let found = group.by_first(|| {
        if spec.validation.scoring == Scoring::TokenByToken {
            // It takes so long that losing the training to it would be a pity.
            save(writer, learner, &state, observer)?;
        }
        let found = measure(spec, text, learner, &mut state, observer)?;
        if unmeasurable(step, found).is_none() {
            checkpoint = save(writer, learner, &state, observer)?;
        }
        Ok(found)
    })?;
    if let Some(end) = unmeasurable(step, found) {
        return Ok(end);
    }
    let [loss, average] = found;
    Ok(completed(spec, state, loss, spec.ema.map(|_| average), checkpoint))
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
