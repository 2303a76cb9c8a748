//! A checked `spec.study.train`.

use super::planner::TrainStudy;
use crate::recipe::{Needs, StudyError, TrialSettings, Wanted};
use crate::study::Study;
use crate::training::{Data, Optimizer, TrainingSettings};
use proto::{Budget, Inputs, ModelSpec, Validation};
use serde::Serialize;

/// What to train. Valid by construction.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainStudySpec {
    /// The text.
    pub data: Data,
    /// Shape of the model.
    pub model: ModelSpec,
    /// Sequences per step.
    pub batch: u32,
    /// How long.
    pub length: Length,
    /// What ends a training in the middle of its schedule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// Peak learning rates to compare.
    pub learning_rates: Vec<f64>,
    /// Decay of the second moment.
    pub beta2: f64,
    /// The optimiser's other constants.
    pub optimizer: Box<Optimizer>,
    /// How a step is computed.
    pub training: TrainingSettings,
    /// How the held-out loss is measured.
    pub validation: Validation,
    /// Every learning rate is tried once with each.
    pub seeds: Vec<u64>,
}

/// How long a training is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Length {
    /// So many optimiser steps.
    Steps(u64),
    /// As many steps as come nearest to so many counted training FLOPs.
    Flops(f64),
}

impl TrainStudySpec {
    /// Optimiser steps of every training.
    pub fn steps(&self) -> u64 {
        match self.length {
            Length::Steps(steps) => steps,
            Length::Flops(flops) => (flops / self.step_flops()).round() as u64,
        }
    }

    /// Tokens of one step.
    pub(super) fn tokens_per_step(&self) -> u64 {
        u64::from(self.batch) * u64::from(self.model.sequence)
    }

    /// Counted training operations of one step.
    pub(super) fn step_flops(&self) -> f64 {
        self.model.training_flops(self.tokens_per_step())
    }

    /// The files that the client has to read.
    pub fn wanted(&self) -> Wanted {
        self.data.wanted()
    }

    /// What executes the trials.
    pub(crate) fn needs(&self) -> Needs {
        Needs::Trainer { batch_min: self.batch }
    }

    /// The planner.
    ///
    /// # Errors
    /// [`StudyError`] when a file is missing, or the text is too short for one sequence of training
    /// and one of held-out text.
    pub fn study(
        &self,
        trial: TrialSettings,
        inputs: &Inputs,
    ) -> Result<Box<dyn Study>, StudyError> {
        let data = self.data.spec(inputs, self.model.sequence)?;
        Ok(Box::new(TrainStudy { spec: self.clone(), settings: trial, data }))
    }
}
