//! A policy over bytes: supervised fine-tuning on pairs, then GRPO on verified completions.
//!
//! * [`train_policy`]: the loop over both phases, resumable to the same bits.
//! * [`loss`]: advantages and losses of tokens; [`verifier`]: which completions are right.
//! * `problems`: what is learned and what is only measured; `policy`: the model with its optimiser.
//!
//! A step is an update of the supervised phase, or the rollouts of a batch of prompts and the
//! updates from them. Which problems a step has and what its rollouts draw are functions of the
//! seed and the step, so a state between two steps is all that a resumed training needs.

mod check;
pub mod loss;
mod policy;
mod problems;
pub mod verifier;

use crate::checkpoint::{self, Contents, Second, State};
use crate::device;
use crate::error::TrainError;
use crate::generate::GenerateError;
use crate::interval::Saves;
use crate::log::now;
use crate::operations::gpu::prepare;
use crate::optimizer::moment_places;
use crate::parameters::Layout;
use crate::start::check_belongs;
use crate::train::{End, KERNELS, Observer, Setting};
use crate::writer::Writer;
use policy::{Measured, Trainee};
use problems::{ProblemSet, identity};
use proto::{Checkpoint, GrpoSpec, Optimizer, Precision};
use std::thread;
use std::time::{Duration, Instant};

/// Shortest time between two reports of the supervised phase, as in a training.
const REPORT_EVERY: Duration = Duration::from_millis(100);

/// Trains the policy of `spec`, from the first whole checkpoint of `resume` (newest first) or from
/// scratch. The result has the same bits as in [`train`](crate::train()).
///
/// Reports per step: `loss`, `gradient_norm` and `learning_rate`; with rewards also `reward` (mean
/// over the rollouts), `entropy` (nats per token), `response_tokens` (mean), `kl` (from the
/// reference, nats per token) and `clipped` (share of the tokens). `accuracy` is the share of
/// held-out problems that are solved greedily after that many steps.
///
/// The final metrics are the last of these, and `supervised_accuracy` (before the first reward),
/// `held_out_problems` (those measured), `parameters` and `training_seconds`.
///
/// # Errors
/// [`TrainError::class`] says who has to act.
pub fn train_policy(
    spec: &GrpoSpec,
    setting: &Setting<'_>,
    resume: &[Checkpoint],
    observer: &mut dyn Observer,
) -> Result<End, TrainError> {
    check::check(spec, setting)?;
    let device = device::open(setting.device, setting.threads)?;
    let cache = setting.kept.join(KERNELS);
    let kernels = prepare(&(&spec.model).into(), Precision::Float32, device, &cache)?;
    kernels.iter().for_each(|problem| observer.note(problem));
    let problems = ProblemSet::open(spec, setting.data)?;
    let layout = Layout::of(&spec.model);
    let moments = moment_places(&Optimizer::AdamW(spec.policy.optimizer.clone()), &layout);
    let second = Some(Second::Reference);
    let contents = Contents { layout: &layout, moments: &moments, second };
    let mut note = |text: &str| observer.note(text);
    let snapshot = checkpoint::first_intact(resume, &contents, &mut note)?;
    let data = identity(&spec.problems);
    let (trainee, state) = match snapshot {
        Some(snapshot) => {
            check_belongs(&snapshot.state, setting, &data, spec.steps())?;
            let trainee = Trainee::restored(spec, &problems, layout.clone(), &snapshot, device)?;
            observer.note(&format!("resumed from the checkpoint at step {}", snapshot.state.step));
            (trainee, snapshot.state)
        }
        None => {
            if !resume.is_empty() {
                observer.note("no checkpoint is whole; starting from step 0");
            }
            let trainee = Trainee::new(spec, &problems, layout.clone(), setting.seed, device)?;
            (trainee, State::new(setting.seed, data))
        }
    };
    thread::scope(|scope| {
        let mut writer = Writer::start(scope, setting, contents);
        let end = steps(spec, setting, &mut writer, trainee, state, observer);
        // What is being written when a training diverges or fails still counts.
        let written = writer.finish(observer);
        let end = end?;
        written.map(|_| end)
    })
}

/// The loop over both phases.
fn steps(
    spec: &GrpoSpec,
    setting: &Setting<'_>,
    writer: &mut Writer,
    mut trainee: Trainee<'_>,
    mut state: State,
    observer: &mut dyn Observer,
) -> Result<End, TrainError> {
    let mut saves = Saves::new(setting.checkpoint_every);
    let mut reported_at: Option<Instant> = None;
    for step in state.step..=spec.steps() {
        let stop = observer.stop_requested();
        let free = writer.is_free(observer)?;
        if stop {
            writer.finish(observer)?;
            writer.write(trainee.snapshot(&state)?);
            writer.finish(observer)?;
            return Ok(End::Stopped { step });
        }
        if free && saves.is_due(writer.copied_in(), observer) {
            saves.make(|| trainee.snapshot(&state).map(|taken| writer.write(taken)))?;
        }

        // After the snapshot: a training that resumes here changes its phase and measures itself.
        let last = step == spec.steps();
        let first_reward = step == spec.supervised.steps;
        if first_reward {
            trainee.begin_rewards()?;
        }
        let every = spec.evaluation.every_steps;
        let rewarded = step.checked_sub(spec.supervised.steps);
        let due = rewarded.is_some_and(|done| every > 0 && done.is_multiple_of(every));
        if last || first_reward || due {
            let accuracy = match diverged(trainee.accuracy(step))? {
                Ok(accuracy) => accuracy,
                Err(metric) => return Ok(End::Diverged { metric, step }),
            };
            observer.metric(step, "accuracy", accuracy);
            state.measured.insert("accuracy".to_owned(), accuracy);
            if first_reward {
                state.measured.insert("supervised_accuracy".to_owned(), accuracy);
            }
        }
        if last {
            writer.finish(observer)?;
            writer.write(trainee.snapshot(&state)?);
            let checkpoint = writer.finish(observer)?;
            return Ok(completed(spec, &trainee, state, checkpoint));
        }

        let begun = now();
        let measured = match rewarded {
            None => trainee.imitate(step)?,
            Some(_) => match diverged(trainee.reinforce(step))? {
                Ok(measured) => measured,
                Err(metric) => return Ok(End::Diverged { metric, step }),
            },
        };
        let at = now();
        state.seconds += at.duration_since(begun).as_secs_f64();
        state.step = step + 1;
        let quick = reported_at.is_some_and(|before| at.duration_since(before) < REPORT_EVERY);
        if rewarded.is_none() && quick && step + 1 < spec.supervised.steps && measured.is_finite() {
            continue;
        }
        reported_at = Some(at);
        if let Some(metric) = report(measured, step, &mut state, observer) {
            return Ok(End::Diverged { metric, step });
        }
    }
    unreachable!("the pass after the last step ends the training")
}

/// Tells the numbers of a step, and gives the name of the first that is not finite.
fn report(
    measured: Measured,
    step: u64,
    state: &mut State,
    observer: &mut dyn Observer,
) -> Option<String> {
    for (name, value) in measured.0 {
        observer.metric(step, name, value);
        if !value.is_finite() {
            return Some(name.to_owned());
        }
        state.measured.insert(name.to_owned(), value);
    }
    None
}

/// Scores that are not finite are a divergence, not a mistake.
fn diverged<T>(result: Result<T, TrainError>) -> Result<Result<T, String>, TrainError> {
    match result {
        Err(TrainError::Generate { source: GenerateError::NotFinite { .. }, .. }) => {
            Ok(Err("scores".to_owned()))
        }
        Err(error) => Err(error),
        Ok(value) => Ok(Ok(value)),
    }
}

fn completed(
    spec: &GrpoSpec,
    trainee: &Trainee<'_>,
    state: State,
    checkpoint: Option<Checkpoint>,
) -> End {
    let mut metrics = state.measured;
    let more = [
        ("held_out_problems", trainee.measured_problems() as f64),
        ("parameters", spec.model.parameters() as f64),
        ("training_seconds", state.seconds),
    ];
    metrics.extend(more.map(|(name, value)| (name.to_owned(), value)));
    End::Completed { metrics, checkpoint }
}

#[cfg(test)]
pub(crate) mod tests {
    use proto::grpo::{Evaluation, POLICY_VOCABULARY, Policy, Problems, Supervised, Variant};
    use proto::{AdamW, GrpoSpec, Mlp, ModelSpec, Norm, Positions, train::NUMERICS_VERSION};

    /// A policy small enough for a test.
    pub(crate) fn spec() -> GrpoSpec {
        let optimizer = AdamW {
            learning_rate: 1e-2,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.0,
            clip: Some(1.0),
        };
        GrpoSpec {
            numerics: NUMERICS_VERSION,
            model: ModelSpec {
                vocabulary: POLICY_VOCABULARY,
                sequence: 12,
                width: 16,
                layers: 1,
                heads: 2,
                mlp_width: 32,
                mlp: Mlp::Gelu,
                tied: false,
                positions: Positions::Learned,
                norm: Norm::RmsNorm,
            },
            problems: Problems::Addition { digits: 2 },
            held_out: 0.2,
            completion_tokens_max: 4,
            supervised: Supervised {
                steps: 3,
                batch: 8,
                optimizer: optimizer.clone(),
                warmup_steps: 2,
            },
            policy: Policy {
                steps: 3,
                prompts: 3,
                rollouts: 4,
                temperature: 1.0,
                updates: 2,
                variant: Variant::GrpoClip,
                clip: 0.2,
                kl: 0.05,
                optimizer,
                warmup_steps: 0,
            },
            evaluation: Evaluation { every_steps: 1, problems: 16 },
        }
    }
}
