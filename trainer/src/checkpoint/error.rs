//! What can go wrong with a state on disk.

use super::FORMAT;
use proto::FailureClass;
use safetensors::tensor::SafeTensorError;
use std::io;
use std::path::PathBuf;

/// Why a checkpoint can not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The disk refused, perhaps because it is full.
    #[error("cannot write the checkpoint {path}")]
    Write {
        /// What was written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The folder's name is not Unicode and so can not be recorded.
    #[error("the checkpoint folder {path} is not valid Unicode; choose another data folder")]
    Name {
        /// Which folder.
        path: PathBuf,
    },
    /// Tensors can not be put into a file.
    #[error("cannot encode {file}")]
    Encode {
        /// Which file.
        file: &'static str,
        /// What the encoder said.
        source: SafeTensorError,
    },
    /// A file is missing, cut short or altered. An older checkpoint may be whole.
    #[error("file {file}: {damage}")]
    Damaged {
        /// Which file of the checkpoint.
        file: &'static str,
        /// What is wrong with it.
        damage: Damage,
    },
    /// A file has the recorded hash, but is not what this trainer writes.
    #[error("{path} is not a file of safetensors")]
    Decode {
        /// Which file.
        path: PathBuf,
        /// What the decoder said.
        source: SafeTensorError,
    },
    /// A file has the recorded hash, but is not what this trainer writes.
    #[error("{path} is not a training state of format {FORMAT}")]
    State {
        /// Which file.
        path: PathBuf,
        /// What the decoder said.
        source: serde_json::Error,
    },
    /// A tensor that the model needs is not there.
    #[error("{path} has no tensor {name}")]
    MissingTensor {
        /// Which file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor has another shape or type than the model's.
    #[error("{path}: tensor {name} is {found}, the model wants {wanted}")]
    Shape {
        /// Which file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type and shape.
        found: String,
        /// The model's.
        wanted: String,
    },
    /// The state belongs to another trial.
    #[error("the checkpoint is of another trial: its {field} is {found}, this trial's is {wanted}")]
    OtherTrial {
        /// What differs.
        field: &'static str,
        /// Value in the file.
        found: String,
        /// Value of this trial.
        wanted: String,
    },
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// It can not be read.
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    /// It has another length.
    #[error("has {found} bytes, recorded were {recorded}")]
    Length {
        /// Bytes of the file.
        found: u64,
        /// Bytes in the record.
        recorded: u64,
    },
    /// Its content is other than recorded.
    #[error("hash differs")]
    Hash,
    /// The record does not name it.
    #[error("is not in the record")]
    NotRecorded,
}

impl CheckpointError {
    /// Who has to act.
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Write { .. } | Self::Damaged { .. } => FailureClass::Infrastructure,
            Self::Encode { .. } => FailureClass::Trial,
            Self::Name { .. }
            | Self::Decode { .. }
            | Self::State { .. }
            | Self::MissingTensor { .. }
            | Self::Shape { .. }
            | Self::OtherTrial { .. } => FailureClass::Invalid,
        }
    }
}
