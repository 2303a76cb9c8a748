//! One model with its optimiser on one device.

use crate::checkpoint::{Snapshot, State};
use crate::data::{Share, Text, Windows};
use crate::download::{Download, Downloads};
use crate::error::TrainError;
use crate::model::{Cache, Model};
use crate::operations::cross_entropy;
use crate::optimizer::Optimizer;
use crate::parallel::{Group, SumError};
use crate::parameters::{Layout, Parameters};
use crate::writer::Taken;
use proto::{Scoring, TrainSpec};
use tch::{Device, Kind, Reduction, TchError, Tensor, no_grad};

/// A model, its optimiser, and the specification of both.
#[derive(Debug)]
pub(crate) struct Learner<'a> {
    spec: &'a TrainSpec,
    parameters: Parameters,
    model: Model,
    optimizer: Optimizer,
    average: Option<Average>,
    device: Device,
    downloads: Downloads,
}

/// The running mean of the weights: `mean <- decay mean + (1 - decay) weights` after every update,
/// from the initial weights on.
#[derive(Debug)]
struct Average {
    decay: f64,
    parameters: Parameters,
    model: Model,
}

/// An update that the device may not have come to yet.
#[derive(Debug)]
pub(crate) struct Update {
    /// Number of the update, from 0.
    pub(crate) step: u64,
    /// Loss and norm of the gradient.
    numbers: Download,
    learning_rate: f64,
}

/// What one update found.
#[derive(Debug)]
pub(crate) struct Found {
    /// Number of the update, from 0.
    pub(crate) step: u64,
    /// Mean loss of its batch in nats per token, before the update.
    pub(crate) loss: f64,
    /// Norm of the whole gradient before clipping.
    pub(crate) gradient_norm: f64,
    /// Learning rate.
    pub(crate) learning_rate: f64,
}

impl Update {
    /// Update number `step` of these numbers, scalars, at `learning_rate`.
    ///
    /// # Errors
    /// There is no memory for a copy of them.
    pub(crate) fn new(
        downloads: &Downloads,
        step: u64,
        numbers: [&Tensor; 2],
        learning_rate: f64,
    ) -> tch::Result<Self> {
        Ok(Self { step, numbers: downloads.begin(numbers)?, learning_rate })
    }

    /// Waits for its numbers, not for anything that the device was asked to do afterwards.
    ///
    /// # Errors
    /// The device failed.
    pub(crate) fn finish(self) -> tch::Result<Found> {
        let Self { step, numbers, learning_rate } = self;
        let (numbers, _) = numbers.finish()?;
        let numbers = numbers.iter().map(|number| number.f_double_value(&[]));
        let numbers = numbers.collect::<tch::Result<Vec<_>>>()?;
        let [loss, gradient_norm] = numbers[..] else { unreachable!("an update has two numbers") };
        Ok(Found { step, loss, gradient_norm, learning_rate })
    }
}

impl<'a> Learner<'a> {
    /// An untrained model with the initial values that belong to `seed`.
    pub(crate) fn new(
        spec: &'a TrainSpec,
        layout: Layout,
        seed: u64,
        device: Device,
    ) -> Result<Self, TrainError> {
        let values = layout
            .initial_values(seed)
            .map_err(|_| TrainError::out_of_memory(spec, "making the initial values"))?;
        Self::build(spec, layout, &values, device)
            .map_err(|source| TrainError::torch(spec, "making the model", source))
    }

    /// The model and optimiser of `snapshot`, whose tensors have `layout`.
    pub(crate) fn restored(
        spec: &'a TrainSpec,
        layout: Layout,
        snapshot: &Snapshot,
        device: Device,
    ) -> Result<Self, TrainError> {
        let restore = || {
            let mut learner = Self::build(spec, layout, &snapshot.parameters, device)?;
            learner.optimizer.set_moments(&snapshot.moments)?;
            if let (Some(average), Some(values)) = (&mut learner.average, &snapshot.second) {
                let layout = learner.parameters.layout().clone();
                *average = Average::new(spec, average.decay, layout, values, device)?;
            }
            Ok(learner)
        };
        restore().map_err(|source| TrainError::torch(spec, "restoring the model", source))
    }

    fn build(
        spec: &'a TrainSpec,
        layout: Layout,
        values: &[u8],
        device: Device,
    ) -> tch::Result<Self> {
        let average =
            spec.ema.map(|decay| Average::new(spec, decay, layout.clone(), values, device));
        let parameters = Parameters::new(layout, values, spec.precision, device)?;
        Ok(Self {
            spec,
            model: Model::new(&spec.model, &parameters)?,
            optimizer: Optimizer::new(&spec.optimizer, &parameters)?,
            average: average.transpose()?,
            parameters,
            device,
            downloads: Downloads::of(device)?,
        })
    }

    /// Update number `step`, from 0, by the mean gradient of the batch of which this member of
    /// `group` has `share`, at `rate_share` of the peak learning rate.
    pub(crate) fn update(
        &mut self,
        share: &Share,
        rate_share: f64,
        step: u64,
        group: &mut Group,
    ) -> Result<Update, TrainError> {
        let update = self.try_update(share, rate_share, step, group);
        update.map_err(|error| self.summing(format!("training step {step}"), error))
    }

    fn summing(&self, doing: impl Into<String>, error: SumError) -> TrainError {
        match error {
            SumError::Torch(source) => TrainError::torch(self.spec, doing, source),
            SumError::Parallel(error) => error.into(),
        }
    }

    fn try_update(
        &mut self,
        share: &Share,
        rate_share: f64,
        step: u64,
        group: &mut Group,
    ) -> Result<Update, SumError> {
        let (mut loss, mut gradient) = self.gradient(share)?;
        if group.size() > 1 {
            let count = gradient.numel() as i64;
            let sum = group.sum(Tensor::f_cat(&[gradient, loss.f_view(1i64)?], 0)?)?;
            gradient = sum.f_narrow(0, 0, count)?;
            loss = sum.f_select(0, count)?;
        }
        let gradient_norm =
            self.optimizer.step(&self.parameters, gradient, rate_share, step + 1)?;
        if let Some(average) = &self.average {
            let mut mean = average.parameters.flat().shallow_clone();
            let _ = no_grad(|| mean.f_lerp_(self.parameters.flat(), 1.0 - average.decay))?;
        }
        let learning_rate = self.spec.optimizer.learning_rate() * rate_share;
        Ok(Update::new(&self.downloads, step, [&loss, &gradient_norm], learning_rate)?)
    }

    /// This share's part of its batch's mean loss over the scored tokens, and of its gradient (N).
    /// Of several parts, each one's sum is divided by the whole batch's number of scored tokens, so
    /// that parts with fewer of them weigh less, as they do in one part.
    fn gradient(&self, share: &Share) -> tch::Result<(Tensor, Tensor)> {
        let batch = &share.windows;
        let (inputs, targets) = self.tensors(batch)?;
        let is_whole = batch.sequences == u64::from(self.spec.batch);
        if self.spec.accumulation == 1 && is_whole {
            let loss = self.model.loss(&inputs, &targets, Reduction::Mean)?;
            let gradient = self.parameters.gradient(&loss)?;
            return Ok((loss.f_detach()?, gradient));
        }
        let sequence = i64::from(self.spec.model.sequence);
        let sequences = batch.sequences as i64;
        let rows = self.rows(batch.sequences) as i64;
        let mut whole = Vec::new();
        for first in (0..sequences).step_by(rows as usize) {
            let rows = rows.min(sequences - first);
            let inputs = inputs.f_narrow(0, first, rows)?;
            let targets = targets.f_narrow(0, first * sequence, rows * sequence)?;
            let loss = self.model.loss(&inputs, &targets, Reduction::Sum)?;
            let loss = loss.f_div_scalar(share.batch_scored as f64)?;
            let part = [self.parameters.gradient(&loss)?, loss.f_detach()?];
            if whole.is_empty() {
                whole.extend(part);
                continue;
            }
            for (sum, part) in whole.iter_mut().zip(&part) {
                let _ = sum.f_add_(part)?;
            }
        }
        let [gradient, loss] = <[Tensor; 2]>::try_from(whole).map_err(|_| no_sequence())?;
        Ok((loss, gradient))
    }

    /// Sequences of one pass, of `sequences` in a step.
    fn rows(&self, sequences: u64) -> u64 {
        sequences.div_ceil(u64::from(self.spec.accumulation)).max(1)
    }

    /// Mean loss in nats per token over the specification's held-out windows, after `step`
    /// updates. Batch by batch in the text's order, summed in 64 bits: the same sum every time.
    pub(crate) fn validation_loss(&self, text: &Text, step: u64) -> Result<f64, TrainError> {
        self.held_out_loss(&self.model, text, step)
    }

    /// As [`validation_loss`](Self::validation_loss), of the running mean of the weights.
    pub(crate) fn average_loss(&self, text: &Text, step: u64) -> Result<Option<f64>, TrainError> {
        let loss = |average: &Average| {
            average.parameters.changed().map_err(|source| self.measuring(step, source))?;
            self.held_out_loss(&average.model, text, step)
        };
        self.average.as_ref().map(loss).transpose()
    }

    fn measuring(&self, step: u64, source: TchError) -> TrainError {
        let doing = format!("measuring the held-out loss after step {step}");
        TrainError::torch(self.spec, doing, source)
    }

    fn held_out_loss(&self, model: &Model, text: &Text, step: u64) -> Result<f64, TrainError> {
        let sequence = u64::from(self.spec.model.sequence);
        let windows = (self.spec.validation.tokens / sequence).clamp(1, text.held_out_windows());
        let rows = match self.spec.validation.scoring {
            // As many as a pass of the training has, for which there is memory.
            Scoring::Parallel => self.rows(u64::from(self.spec.batch)),
            // One more row costs almost nothing, and the keys and values of four are less than what
            // a pass of the training leaves of one.
            Scoring::TokenByToken => {
                (4 * self.rows(u64::from(self.spec.batch))).min(u64::from(self.spec.batch))
            }
        };
        let (mut sum, mut scored) = (0.0, 0);
        for first in (0..windows).step_by(rows as usize) {
            let part = text.held_out(first, rows.min(windows - first));
            sum += no_grad(|| self.loss_sum(model, &part))
                .map_err(|source| self.measuring(step, source))?;
            scored += part.scored;
        }
        Ok(sum / scored as f64)
    }

    fn loss_sum(&self, model: &Model, part: &Windows) -> tch::Result<f64> {
        let (inputs, targets) = self.tensors(part)?;
        let sum = match self.spec.validation.scoring {
            Scoring::Parallel => model.loss(&inputs, &targets, Reduction::Sum)?,
            Scoring::TokenByToken => token_by_token(model, &inputs, &targets)?,
        };
        sum.f_double_value(&[])
    }

    /// Whether all members of `group` hold the same weights after `step` updates.
    pub(crate) fn check_same(&self, step: u64, group: &mut Group) -> Result<(), TrainError> {
        let same = group.check_same(step, self.parameters.flat());
        same.map_err(|error| self.summing("comparing the members' weights", error))
    }

    /// Everything that the rest of the training depends on, as it is now.
    pub(crate) fn snapshot(&self, state: &State) -> Result<Taken, TrainError> {
        let average = self.average.as_ref().map(|average| &average.parameters);
        Taken::begin(&self.downloads, state, &self.parameters, &self.optimizer, average)
            .map_err(|source| TrainError::torch(self.spec, "copying the state", source))
    }

    fn tensors(&self, windows: &Windows) -> tch::Result<(Tensor, Tensor)> {
        let shape = [windows.sequences as i64, i64::from(self.spec.model.sequence)];
        let inputs = Tensor::f_from_slice(&windows.inputs)?.f_view(shape)?;
        let targets = Tensor::f_from_slice(&windows.targets)?;
        let carry = |tensor: Tensor| match self.device {
            // From memory that the GPU reads by itself, so that nobody waits until it comes to it.
            Device::Cuda(_) => {
                let pinned = tensor.f_internal_pin_memory(self.device)?;
                pinned.f_to_device_(self.device, pinned.kind(), true, false)
            }
            Device::Cpu | Device::Mps | Device::Vulkan => Ok(tensor),
        };
        Ok((carry(inputs)?, carry(targets)?))
    }
}

impl Average {
    fn new(
        spec: &TrainSpec,
        decay: f64,
        layout: Layout,
        values: &[u8],
        device: Device,
    ) -> tch::Result<Self> {
        let parameters = Parameters::new(layout, values, spec.precision, device)?;
        Ok(Self { decay, model: Model::new(&spec.model, &parameters)?, parameters })
    }
}

/// Summed cross-entropy of `targets` (B*S) after `tokens` (B, S), a scalar of 64 bits. The model
/// is given one column at a time, so no score can depend on a later token, whatever it computes.
fn token_by_token(model: &Model, tokens: &Tensor, targets: &Tensor) -> tch::Result<Tensor> {
    let (batch, sequence) = tokens.size2()?;
    let targets = targets.f_view([batch, sequence])?;
    let mut cache = Cache::new(model, &vec![0; batch as usize], sequence)?;
    let mut sum = Tensor::f_zeros([0i64; 0], (Kind::Double, tokens.device()))?;
    for column in 0..sequence {
        let scores = model.next_logits(&tokens.f_narrow(1, column, 1)?, &mut cache)?;
        let targets = targets.f_select(1, column)?;
        let _ = sum.f_add_(&cross_entropy(&scores, &targets, Reduction::Sum)?)?;
    }
    Ok(sum)
}

/// The specification's check leaves no batch without a sequence.
fn no_sequence() -> TchError {
    TchError::Torch("the batch has no sequence".to_owned())
}
