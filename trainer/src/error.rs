//! Why a training did not run to its end.

use crate::checkpoint::CheckpointError;
use crate::data::DataError;
use crate::device::DeviceError;
use crate::generate::GenerateError;
use crate::parallel::ParallelError;
use proto::{FailureClass, GrpoSpec, ModelSpec, TrainSpec};
use std::error::Error;
use tch::TchError;

/// Why a training did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The trial was planned for other arithmetic; its result would not be comparable.
    #[error(
        "the trial was planned for version {planned} of the trainer's numerics, this one has \
        {ours}; use agents of the version that planned it, or plan it again"
    )]
    Numerics {
        /// What the trial wants.
        planned: u32,
        /// What this build computes.
        ours: u32,
    },
    /// A number in the specification or the setting is out of its range.
    #[error("{field} is {found}, it must be {wanted}")]
    Spec {
        /// Which one, as in the specification.
        field: &'static str,
        /// Its value.
        found: String,
        /// What is allowed.
        wanted: String,
    },
    /// The text can not be trained on.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A checkpoint can not be written, or the one to resume from is of another trial.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The device can not be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The members of a training can not go on together.
    #[error(transparent)]
    Parallel(#[from] ParallelError),
    /// The model does not fit.
    #[error(
        "out of memory {doing}: {parameters} parameters with their gradient and moments take \
        {state_bytes} bytes, and a step adds the activations of {batch} sequences of {sequence} \
        tokens; use a smaller model or batch, or a device with more memory"
    )]
    OutOfMemory {
        /// What was tried.
        doing: String,
        /// N.
        parameters: u64,
        /// Bytes of parameters, gradient and two moments.
        state_bytes: u64,
        /// B.
        batch: u32,
        /// S.
        sequence: u32,
    },
    /// A policy can not write.
    #[error("cannot write completions {doing}")]
    Generate {
        /// What for.
        doing: String,
        /// Why not.
        source: GenerateError,
    },
    /// libtorch refused.
    #[error("libtorch failed {doing}")]
    Torch {
        /// What was tried.
        doing: String,
        /// What it said.
        source: TchError,
    },
}

/// Bytes per parameter that stay for the whole training: value, gradient, two moments.
const STATE_BYTES_PER_PARAMETER: u64 = 4 * 4;

impl TrainError {
    /// Who has to act, and whether trying again can help.
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Numerics { .. } | Self::Spec { .. } => FailureClass::Invalid,
            Self::Data(error) => error.class(),
            Self::Checkpoint(error) => error.class(),
            Self::Device(_) => FailureClass::Infrastructure,
            Self::Parallel(error) => error.class(),
            Self::OutOfMemory { .. } | Self::Generate { .. } | Self::Torch { .. } => {
                FailureClass::Trial
            }
        }
    }

    pub(crate) fn out_of_memory<'a>(load: impl Into<Load<'a>>, doing: impl Into<String>) -> Self {
        let Load { model, batch } = load.into();
        let parameters = model.parameters();
        Self::OutOfMemory {
            doing: doing.into(),
            parameters,
            state_bytes: parameters * STATE_BYTES_PER_PARAMETER,
            batch,
            sequence: model.sequence,
        }
    }

    /// An error of libtorch while `doing`; says so with numbers when memory ran out, which
    /// libtorch tells only in its text.
    pub(crate) fn torch<'a>(
        load: impl Into<Load<'a>>,
        doing: impl Into<String>,
        source: TchError,
    ) -> Self {
        let text = source.to_string();
        // The last one is cuBLAS's and cuDNN's.
        let memory =
            ["out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED"];
        if memory.iter().any(|words| text.contains(words)) {
            return Self::out_of_memory(load, doing);
        }
        Self::Torch { doing: doing.into(), source }
    }
}

/// An error with all its causes, on one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// What fills the memory of a training.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load<'a> {
    model: &'a ModelSpec,
    /// Sequences per update.
    batch: u32,
}

impl<'a> From<&'a TrainSpec> for Load<'a> {
    fn from(spec: &'a TrainSpec) -> Self {
        Self { model: &spec.model, batch: spec.batch }
    }
}

impl<'a> From<&'a GrpoSpec> for Load<'a> {
    fn from(spec: &'a GrpoSpec) -> Self {
        let rollouts = spec.policy.prompts.saturating_mul(spec.policy.rollouts);
        Self { model: &spec.model, batch: rollouts.max(spec.supervised.batch) }
    }
}
