//! States of a training on disk.
//!
//! A checkpoint is one folder, `step-00000120-attempt-2`, with these files: the weights, the
//! optimiser's moments, a second set of weights where the trial keeps one (all safetensors,
//! float32) and `state.json`. It is written under another name, flushed file by file, and renamed
//! when it is complete, so a folder with a checkpoint's name is never half written and never
//! written twice. What makes it count is the caller's record of its hashes; a file that does not
//! match them is not read.

mod error;
mod read;
mod write;

pub use crate::download::Bytes;
pub use error::{CheckpointError, Damage};
pub use read::load;
pub use write::save;

use crate::parameters::Layout;
use proto::{BlobId, Checkpoint};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

/// Version of the files in a checkpoint.
const FORMAT: u32 = 1;

// Tensors are copied to files byte by byte, and safetensors is little endian.
const _: () = assert!(cfg!(target_endian = "little"));

/// Everything that the rest of a training depends on. Initial values, data order and nothing else
/// is random, and both are functions of the seed, so the seed and the step are the whole state of
/// randomness and of the position in the data.
#[derive(Debug, PartialEq)]
pub struct Snapshot {
    /// The small part.
    pub state: State,
    /// Bytes of all parameters, float32, in the layout's order.
    pub parameters: Bytes,
    /// The optimiser's moments, in its order.
    pub moments: Vec<Bytes>,
    /// Bytes of the second set of weights, like the parameters.
    pub second: Option<Bytes>,
}

/// A second set of weights beside the trained ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Second {
    /// Their running mean.
    Average,
    /// The policy that the trained one must not leave too far.
    Reference,
}

impl Second {
    fn file(self) -> &'static str {
        match self {
            Self::Average => "average.safetensors",
            Self::Reference => "reference.safetensors",
        }
    }
}

/// What the tensors of a [`Snapshot`] are.
#[derive(Debug, Clone, Copy)]
pub struct Contents<'a> {
    /// Names and places of the parameters.
    pub layout: &'a Layout,
    /// Name and tensors of each moment, in the optimiser's order.
    pub moments: &'a [MomentPlace],
    /// Which second set of weights there is.
    pub second: Option<Second>,
}

/// One moment of neighbouring tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MomentPlace {
    /// For example `first_moment.`; a tensor's name follows.
    pub prefix: &'static str,
    /// Numbers of the tensors in the layout.
    pub entries: Range<usize>,
}

/// The part of a [`Snapshot`] that is not tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    format: u32,
    /// Updates done.
    pub step: u64,
    /// The trial's seed.
    pub seed: u64,
    /// The text, by content.
    pub data: BlobId,
    /// Losses of the last updates, oldest first: the partial sum behind the final `train_loss`.
    pub recent_losses: VecDeque<f64>,
    /// Seconds spent in the updates so far, over all attempts that led here.
    pub seconds: f64,
    /// Finite numbers that the end reports, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub measured: BTreeMap<String, f64>,
}

impl State {
    /// The state before the first update.
    pub fn new(seed: u64, data: BlobId) -> Self {
        Self {
            format: FORMAT,
            step: 0,
            seed,
            data,
            recent_losses: VecDeque::new(),
            seconds: 0.0,
            measured: BTreeMap::new(),
        }
    }

    /// As a file of a checkpoint has it.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("every value of a state has a form in JSON")
    }
}

/// The first of `candidates`, newest first, that is whole. Tells `note` about those that are not.
///
/// # Errors
/// A checkpoint that is whole is of another model or trial.
pub fn first_intact(
    candidates: &[Checkpoint],
    contents: &Contents<'_>,
    note: &mut dyn FnMut(&str),
) -> Result<Option<Snapshot>, CheckpointError> {
    for (index, candidate) in candidates.iter().enumerate() {
        match load(candidate, contents) {
            Ok(snapshot) => return Ok(Some(snapshot)),
            Err(error @ CheckpointError::Damaged { .. }) => {
                let next = match index + 1 < candidates.len() {
                    true => "using the one before it",
                    false => "there is none before it",
                };
                let step = candidate.step;
                note(&format!("checkpoint at step {step} is damaged ({error}); {next}"));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
