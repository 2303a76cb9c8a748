//! One model with its optimiser on one device.

use crate::checkpoint::{Snapshot, State};
use crate::data::{Text, Windows};
use crate::error::TrainError;
use crate::model::Model;
use crate::optimizer::Optimizer;
use crate::parameters::{Layout, Parameters};
use proto::TrainSpec;
use tch::{Device, Kind, Reduction, TchError, Tensor, no_grad};

/// A model, its optimiser, and the specification of both.
#[derive(Debug)]
pub(crate) struct Learner<'a> {
    spec: &'a TrainSpec,
    parameters: Parameters,
    model: Model,
    optimizer: Optimizer,
    device: Device,
}

/// What one update found. The numbers stay on the device until somebody needs them.
#[derive(Debug)]
pub(crate) struct Update {
    /// Number of the update, from 0.
    pub(crate) step: u64,
    /// Mean loss of its batch in nats per token, before the update.
    pub(crate) loss: Tensor,
    /// Norm of the whole gradient before clipping.
    pub(crate) gradient_norm: Tensor,
    /// Learning rate.
    pub(crate) learning_rate: f64,
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
            let moments = [&snapshot.first_moment, &snapshot.second_moment];
            learner.optimizer.set_moments(moments.map(Vec::as_slice))?;
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
        let parameters = Parameters::new(layout, values, device)?;
        Ok(Self {
            spec,
            model: Model::new(&spec.model, &parameters)?,
            optimizer: Optimizer::new(&spec.optimizer, &parameters)?,
            parameters,
            device,
        })
    }

    /// Update number `step`, from 0, by the mean gradient of `batch`.
    pub(crate) fn update(
        &mut self,
        batch: &Windows,
        learning_rate: f64,
        step: u64,
    ) -> Result<Update, TrainError> {
        self.try_update(batch, learning_rate, step)
            .map_err(|source| TrainError::torch(self.spec, format!("training step {step}"), source))
    }

    fn try_update(
        &mut self,
        batch: &Windows,
        learning_rate: f64,
        step: u64,
    ) -> tch::Result<Update> {
        let (inputs, targets) = self.tensors(batch)?;
        let loss = self.model.loss(&inputs, &targets, Reduction::Mean)?;
        let gradient = self.parameters.gradient(&loss)?;
        let gradient_norm =
            self.optimizer.step(&self.parameters, gradient, learning_rate, step + 1)?;
        Ok(Update { step, loss: loss.f_detach()?, gradient_norm, learning_rate })
    }

    /// Mean loss in nats per token over the specification's held-out windows, after `step`
    /// updates. Batch by batch in the text's order, summed in 64 bits: the same sum every time.
    pub(crate) fn validation_loss(&self, text: &Text, step: u64) -> Result<f64, TrainError> {
        let sequence = u64::from(self.spec.model.sequence);
        let windows = (self.spec.validation.tokens / sequence).clamp(1, text.held_out_windows());
        let batch = u64::from(self.spec.batch);
        let mut sum = 0.0;
        for first in (0..windows).step_by(self.spec.batch as usize) {
            let part = text.held_out(first, batch.min(windows - first));
            sum += no_grad(|| self.loss_sum(&part)).map_err(|source| {
                let doing = format!("measuring the held-out loss after step {step}");
                TrainError::torch(self.spec, doing, source)
            })?;
        }
        Ok(sum / (windows * sequence) as f64)
    }

    fn loss_sum(&self, part: &Windows) -> tch::Result<f64> {
        let (inputs, targets) = self.tensors(part)?;
        let sum = self.model.loss(&inputs, &targets, Reduction::Sum)?;
        sum.f_double_value(&[])
    }

    /// Everything that the rest of the training depends on, on the host.
    pub(crate) fn snapshot(&self, state: &State) -> Result<Snapshot, TrainError> {
        let copy = |tensor: &Tensor| -> tch::Result<Vec<u8>> {
            let mut bytes = vec![0; tensor.numel() * Kind::Float.elt_size_in_bytes()];
            tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
            Ok(bytes)
        };
        let [first, second] = self.optimizer.moments();
        let snapshot = || {
            Ok::<_, TchError>(Snapshot {
                state: state.clone(),
                parameters: copy(self.parameters.flat())?,
                first_moment: copy(first)?,
                second_moment: copy(second)?,
            })
        };
        snapshot().map_err(|source| TrainError::torch(self.spec, "copying the state", source))
    }

    /// Names and places of the parameters.
    pub(crate) fn layout(&self) -> &Layout {
        self.parameters.layout()
    }

    fn tensors(&self, windows: &Windows) -> tch::Result<(Tensor, Tensor)> {
        let shape = [windows.sequences as i64, i64::from(self.spec.model.sequence)];
        let inputs = Tensor::f_from_slice(&windows.inputs)?.f_view(shape)?;
        let targets = Tensor::f_from_slice(&windows.targets)?;
        Ok((inputs.f_to_device(self.device)?, targets.f_to_device(self.device)?))
    }
}
