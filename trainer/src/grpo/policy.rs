//! The policy with its optimiser and its reference on one device.

use super::loss::{Tokens, advantages, clipped_share, k3, loss};
use super::problems::{ProblemSet, number};
use crate::checkpoint::{Snapshot, State};
use crate::data::NOT_SCORED;
use crate::download::Downloads;
use crate::error::TrainError;
use crate::generate::{Request, Sampler, generate};
use crate::model::Model;
use crate::optimizer::Optimizer;
use crate::parameters::{Layout, Parameters};
use crate::permutation::Permutation;
use crate::writer::Taken;
use proto::grpo::{END_OF_TEXT, Variant};
use proto::{AdamW, GrpoSpec, Precision};
use tch::{Device, Kind, Reduction, Tensor, no_grad};

/// Held-out prompts that are answered at once.
const MEASURED_AT_ONCE: usize = 512;

/// A policy that learns.
#[derive(Debug)]
pub(super) struct Trainee<'a> {
    spec: &'a GrpoSpec,
    problems: &'a ProblemSet,
    seed: u64,
    parameters: Parameters,
    model: Model,
    optimizer: Optimizer,
    reference: Parameters,
    reference_model: Model,
    device: Device,
    downloads: Downloads,
}

/// What one step found, by name.
#[derive(Debug)]
pub(super) struct Measured(pub(super) Vec<(&'static str, f64)>);

impl Measured {
    pub(super) fn is_finite(&self) -> bool {
        self.0.iter().all(|(_, value)| value.is_finite())
    }
}

/// Texts side by side, padded behind: B rows of the longest one's length less one.
#[derive(Debug)]
struct Rows {
    /// (B, S).
    inputs: Tensor,
    /// (B*S): each the token after its input, or -100 where none is scored.
    targets: Tensor,
    /// Places of the scored targets among all, (n).
    places: Tensor,
    /// Scored targets of each row.
    scored: Vec<usize>,
}

impl<'a> Trainee<'a> {
    /// An untrained policy with the initial values that belong to `seed`.
    pub(super) fn new(
        spec: &'a GrpoSpec,
        problems: &'a ProblemSet,
        layout: Layout,
        seed: u64,
        device: Device,
    ) -> Result<Self, TrainError> {
        let values = layout
            .initial_values(seed)
            .map_err(|_| TrainError::out_of_memory(spec, "making the initial values"))?;
        let optimizer = &spec.supervised.optimizer;
        Self::build((spec, problems, seed), layout, [&values, &values], optimizer, device)
            .map_err(|source| TrainError::torch(spec, "making the model", source))
    }

    /// The policy, optimiser and reference of `snapshot`, whose tensors have `layout`.
    pub(super) fn restored(
        spec: &'a GrpoSpec,
        problems: &'a ProblemSet,
        layout: Layout,
        snapshot: &Snapshot,
        device: Device,
    ) -> Result<Self, TrainError> {
        let rewarded = snapshot.state.step > spec.supervised.steps;
        let optimizer = if rewarded { &spec.policy.optimizer } else { &spec.supervised.optimizer };
        let values = &snapshot.parameters;
        let values = [&**values, snapshot.second.as_ref().unwrap_or(values)];
        let of = (spec, problems, snapshot.state.seed);
        let restore = || {
            let mut trainee = Self::build(of, layout, values, optimizer, device)?;
            trainee.optimizer.set_moments(&snapshot.moments)?;
            Ok(trainee)
        };
        restore().map_err(|source| TrainError::torch(spec, "restoring the model", source))
    }

    fn build(
        (spec, problems, seed): (&'a GrpoSpec, &'a ProblemSet, u64),
        layout: Layout,
        [values, reference]: [&[u8]; 2],
        optimizer: &AdamW,
        device: Device,
    ) -> tch::Result<Self> {
        let reference = Parameters::new(layout.clone(), reference, Precision::Float32, device)?;
        let parameters = Parameters::new(layout, values, Precision::Float32, device)?;
        Ok(Self {
            spec,
            problems,
            seed,
            model: Model::new(&spec.model, &parameters)?,
            reference_model: Model::new(&spec.model, &reference)?,
            optimizer: adamw(optimizer, &parameters)?,
            parameters,
            reference,
            device,
            downloads: Downloads::of(device)?,
        })
    }

    /// Begins the phase of rewards: the policy becomes the reference, and the optimiser forgets.
    pub(super) fn begin_rewards(&mut self) -> Result<(), TrainError> {
        let begin = || {
            no_grad(|| {
                let mut reference = self.reference.flat().shallow_clone();
                reference.f_copy_(self.parameters.flat())
            })?;
            adamw(&self.spec.policy.optimizer, &self.parameters)
        };
        let optimizer = begin().map_err(|source| self.torch("beginning the rewards", source))?;
        self.optimizer = optimizer;
        Ok(())
    }

    /// Step number `step` of the supervised phase.
    pub(super) fn imitate(&mut self, step: u64) -> Result<Measured, TrainError> {
        let spec = &self.spec.supervised;
        let share = warmup(step, spec.warmup_steps);
        let numbers = self.learned(b"brine pairs", step, spec.batch);
        let prompts = self.prompts(&numbers);
        let answers: Vec<_> = numbers.iter().map(|n| self.problems.completion(*n)).collect();
        let learning_rate = spec.optimizer.learning_rate * share;
        let mut update = || {
            let rows = Rows::new(&prompts, &answers, self.device)?;
            let loss = self.model.loss(&rows.inputs, &rows.targets, Reduction::Mean)?;
            let gradient = self.parameters.gradient(&loss)?;
            let norm = self.optimizer.step(&self.parameters, gradient, share, step + 1)?;
            Ok(Measured(vec![
                ("loss", loss.f_double_value(&[])?),
                ("gradient_norm", norm.f_double_value(&[])?),
                ("learning_rate", learning_rate),
            ]))
        };
        update().map_err(|source| {
            TrainError::torch(self.spec, format!("supervised step {step}"), source)
        })
    }

    /// Step number `step`, counted from the first of the supervised phase: rollouts, rewards and
    /// the updates from them.
    pub(super) fn reinforce(&mut self, step: u64) -> Result<Measured, TrainError> {
        let spec = &self.spec.policy;
        let (prompts, group) = (spec.prompts, spec.rollouts);
        let rewarded = step - self.spec.supervised.steps;
        let numbers = self.learned(b"brine prompts", rewarded, prompts);
        let numbers: Vec<u32> =
            numbers.iter().flat_map(|n| std::iter::repeat_n(*n, group as usize)).collect();
        let sampler = Sampler::Random { temperature: spec.temperature, top_k: None, top_p: None };
        let seed = seed(self.seed, rewarded);
        let prompts = self.prompts(&numbers);
        let texts = self.write(&prompts, sampler, seed, step)?;
        let rewards: Vec<f64> =
            numbers.iter().zip(&texts).map(|(n, text)| self.problems.reward(*n, text)).collect();
        let updates = self
            .learn(&prompts, &texts, &rewards, rewarded)
            .map_err(|source| self.torch(&format!("policy step {step}"), source))?;
        let mean =
            |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / rewards.len() as f64;
        let mut measured = vec![
            ("reward", mean(&mut rewards.iter().copied())),
            ("response_tokens", mean(&mut texts.iter().map(|text| text.len() as f64))),
        ];
        measured.extend(updates);
        Ok(Measured(measured))
    }

    /// The updates from the rollouts of one step.
    fn learn(
        &mut self,
        prompts: &[Vec<u32>],
        texts: &[Vec<u32>],
        rewards: &[f64],
        step: u64,
    ) -> tch::Result<Vec<(&'static str, f64)>> {
        let spec = &self.spec.policy;
        let rows = Rows::new(prompts, texts, self.device)?;
        let weights = match spec.variant {
            Variant::NoBaseline => rewards.to_vec(),
            Variant::ReinforceWithBaseline | Variant::GrpoClip => {
                advantages(rewards, spec.rollouts as usize)
            }
        };
        let each = weights.iter().zip(&rows.scored);
        let weight: Vec<f32> =
            each.flat_map(|(weight, n)| std::iter::repeat_n(*weight as f32, *n)).collect();
        let weight = Tensor::f_from_slice(&weight)?.f_to_device(self.device)?;
        let temperature = spec.temperature;
        let reference = no_grad(|| {
            let all = rows.log_probabilities(&self.reference_model, temperature)?;
            rows.drawn(&all)
        })?;
        let share = warmup(step, spec.warmup_steps);
        let mut first: Option<(Tensor, f64, f64)> = None;
        let (mut losses, mut norm, mut clipped) = (0.0, 0.0, 0.0);
        for update in 0..u64::from(spec.updates) {
            let all = rows.log_probabilities(&self.model, temperature)?;
            let log_p = rows.drawn(&all)?;
            let (old, ..) = match &mut first {
                Some(first) => first,
                None => first.insert(no_grad(|| {
                    let entropy = all.f_exp()?.f_mul(&all)?.f_sum(None::<Kind>)?;
                    let kl = k3(&log_p, &reference)?.f_mean(None::<Kind>)?.f_double_value(&[])?;
                    let tokens = log_p.numel() as f64;
                    let entropy = -entropy.f_double_value(&[])? / tokens;
                    Ok::<_, tch::TchError>((log_p.f_detach()?, entropy, kl))
                })?),
            };
            let tokens = Tokens { log_p: &log_p, old, reference: &reference, weight: &weight };
            let loss = loss(&tokens, spec.variant, spec.clip, spec.kl)?;
            if spec.variant == Variant::GrpoClip {
                clipped += no_grad(|| clipped_share(&tokens, spec.clip))?.f_double_value(&[])?;
            }
            losses += loss.f_double_value(&[])?;
            let gradient = self.parameters.gradient(&loss)?;
            let t = step * u64::from(spec.updates) + update + 1;
            norm +=
                self.optimizer.step(&self.parameters, gradient, share, t)?.f_double_value(&[])?;
        }
        let (entropy, kl) = first.map_or((0.0, 0.0), |(_, entropy, kl)| (entropy, kl));
        let updates = f64::from(spec.updates);
        Ok(vec![
            ("entropy", entropy),
            ("kl", kl),
            ("loss", losses / updates),
            ("gradient_norm", norm / updates),
            ("clipped", clipped / updates),
            ("learning_rate", spec.optimizer.learning_rate * share),
        ])
    }

    /// Share of the measured held-out problems that are solved greedily after `step` steps.
    pub(super) fn accuracy(&self, step: u64) -> Result<f64, TrainError> {
        let numbers = &self.problems.held_out[..self.measured_problems()];
        let mut right = 0.0;
        for part in numbers.chunks(MEASURED_AT_ONCE) {
            let texts = self.write(&self.prompts(part), Sampler::Greedy, 0, step)?;
            let rewards = part.iter().zip(&texts).map(|(n, text)| self.problems.reward(*n, text));
            right += rewards.sum::<f64>();
        }
        Ok(right / numbers.len() as f64)
    }

    /// Held-out problems of a measurement.
    pub(super) fn measured_problems(&self) -> usize {
        self.problems.held_out.len().min(self.spec.evaluation.problems as usize)
    }

    fn prompts(&self, numbers: &[u32]) -> Vec<Vec<u32>> {
        numbers.iter().map(|number| self.problems.prompt(*number)).collect()
    }

    /// What the policy writes after each prompt.
    fn write(
        &self,
        prompts: &[Vec<u32>],
        sampler: Sampler,
        seed: u64,
        step: u64,
    ) -> Result<Vec<Vec<u32>>, TrainError> {
        let request = Request {
            tokens_max: self.spec.completion_tokens_max,
            sampler,
            seed,
            stop_tokens: vec![END_OF_TEXT],
        };
        let mut ended = |_: usize, _: &[u32]| Ok(false);
        generate(&self.model, self.device, prompts, &request, &mut ended)
            .map_err(|source| TrainError::Generate { doing: format!("at step {step}"), source })
    }

    /// Problems of batch number `step` of a phase: without replacement within an epoch.
    fn learned(&self, phase: &[u8], step: u64, count: u32) -> Vec<u32> {
        let all = &self.problems.training;
        let len = all.len() as u64;
        let first = step * u64::from(count);
        let mut order: Option<(u64, Permutation)> = None;
        let numbers = (first..first + u64::from(count)).map(|index| {
            let epoch = index / len;
            let permutation = match order {
                Some((of, permutation)) if of == epoch => permutation,
                Some(_) | None => Permutation::new(self.epoch_key(phase, epoch), len),
            };
            order = Some((epoch, permutation));
            all[permutation.at(index % len) as usize]
        });
        numbers.collect()
    }

    fn epoch_key(&self, phase: &[u8], epoch: u64) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(phase);
        hasher.update(&self.seed.to_le_bytes());
        hasher.update(&epoch.to_le_bytes());
        *hasher.finalize().as_bytes()
    }

    /// Everything that the rest of the training depends on, as it is now.
    pub(super) fn snapshot(&self, state: &State) -> Result<Taken, TrainError> {
        let second = Some(&self.reference);
        Taken::begin(&self.downloads, state, &self.parameters, &self.optimizer, second)
            .map_err(|source| self.torch("copying the state", source))
    }

    fn torch(&self, doing: &str, source: tch::TchError) -> TrainError {
        TrainError::torch(self.spec, doing, source)
    }
}

fn adamw(config: &AdamW, parameters: &Parameters) -> tch::Result<Optimizer> {
    Optimizer::new(&proto::Optimizer::AdamW(config.clone()), parameters)
}

/// Share of the learning rate in update number `step`, from 0.
fn warmup(step: u64, steps: u64) -> f64 {
    if step >= steps { 1.0 } else { (step + 1) as f64 / steps as f64 }
}

/// What the rollouts of a step draw from.
fn seed(seed: u64, step: u64) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"brine rollouts");
    hasher.update(&seed.to_le_bytes());
    hasher.update(&step.to_le_bytes());
    number(&hasher)
}

impl Rows {
    /// Prompts with their completions, whose tokens alone are scored.
    fn new(prompts: &[Vec<u32>], completions: &[Vec<u32>], device: Device) -> tch::Result<Self> {
        let pairs = || prompts.iter().zip(completions);
        let width = pairs().map(|(p, c)| p.len() + c.len() - 1).max().unwrap_or(0);
        let (mut inputs, mut targets, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for (row, (prompt, completion)) in (1..).zip(pairs()) {
            let text = || prompt.iter().chain(completion).copied().map(i64::from);
            let tokens = prompt.len() + completion.len();
            inputs.extend(text().take(tokens - 1));
            targets.extend(std::iter::repeat_n(NOT_SCORED, prompt.len() - 1));
            places.extend((0..completion.len()).map(|i| (targets.len() + i) as i64));
            targets.extend(completion.iter().copied().map(i64::from));
            // What stands behind a text is seen by none of its tokens.
            inputs.resize(row * width, 0);
            targets.resize(row * width, NOT_SCORED);
        }
        let tensor = |values: &[i64]| Tensor::f_from_slice(values)?.f_to_device(device);
        Ok(Self {
            inputs: tensor(&inputs)?.f_view([prompts.len() as i64, width as i64])?,
            targets: tensor(&targets)?,
            places: tensor(&places)?,
            scored: completions.iter().map(Vec::len).collect(),
        })
    }

    /// Log-probability of every token at every scored place, (n, V).
    fn log_probabilities(&self, model: &Model, temperature: f64) -> tch::Result<Tensor> {
        let scores = model.logits(&self.inputs)?.f_index_select(0, &self.places)?;
        scores.f_div_scalar(temperature)?.f_log_softmax(-1, Kind::Float)
    }

    /// Those of the tokens that stand there, (n).
    fn drawn(&self, all: &Tensor) -> tch::Result<Tensor> {
        let tokens = self.targets.f_index_select(0, &self.places)?.f_unsqueeze(1)?;
        all.f_gather(1, &tokens, false)?.f_view(-1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_completions_are_scored() {
        let prompts = [vec![1, 2, 3], vec![4]];
        let completions = [vec![5], vec![6, 7]];
        let rows = Rows::new(&prompts, &completions, Device::Cpu).unwrap();
        let list = |tensor: &Tensor| Vec::<i64>::try_from(tensor.view(-1)).unwrap();
        assert_eq!(rows.inputs.size(), [2, 3]);
        assert_eq!(list(&rows.inputs), [1, 2, 3, 4, 6, 0]);
        let no = NOT_SCORED;
        assert_eq!(list(&rows.targets), [no, no, 5, 6, 7, no]);
        assert_eq!(list(&rows.places), [2, 3, 4]);
        assert_eq!(rows.scored, [1, 2]);
    }

    #[test]
    fn the_rate_rises_and_stays() {
        assert_eq!([0, 1, 2, 3, 9].map(|step| warmup(step, 4)), [0.25, 0.5, 0.75, 1.0, 1.0]);
        assert_eq!(warmup(0, 0), 1.0);
    }
}
