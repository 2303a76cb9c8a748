//! What the trainings of a study have in common, checked.

use crate::recipe::{DataWanted, StudyError, Wanted};
use crate::training::repeats::token_bytes;
use proto::{
    AdamW, DataSpec, Inputs, Lion, Mlp, Muon, MuonScale, Norm, Packing, Positions, Precision, Rest,
    Schedule, Sgd, TokenFormat, TokenizerSpec,
};
use serde::{Deserialize, Serialize};

/// The training text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Data {
    /// Where the client finds it.
    pub source: DataWanted,
    /// Share at its end that is never trained on.
    pub held_out: f64,
    /// How bytes become tokens.
    pub format: TokenFormat,
    /// How tokens become windows.
    pub packing: Packing,
    /// Path of the tokenizer, from the recipe's folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// The token that follows every document; of `jsonl` with a tokenizer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_of_document: Option<String>,
}

impl Data {
    /// The files that the client has to read.
    pub(crate) fn wanted(&self) -> Wanted {
        Wanted { data: Some(self.source.clone()), files: self.tokenizer.iter().cloned().collect() }
    }

    /// What the trainer reads, given the files, for windows of `sequence` tokens.
    ///
    /// # Errors
    /// [`StudyError`] names the file that is missing, or when the text is too short for one
    /// sequence of training and one of held-out text.
    pub(crate) fn spec(&self, inputs: &Inputs, sequence: u32) -> Result<DataSpec, StudyError> {
        let text = inputs.data.clone().ok_or(StudyError::DataMissing)?;
        let tokenizer = self.tokenizer.as_ref().map(|path| {
            let name = path.rsplit('/').next().unwrap_or(path);
            let file = inputs.files.get(name).cloned();
            let file = file.ok_or_else(|| StudyError::FileMissing(path.clone()))?;
            Ok(TokenizerSpec { file, end_of_document: self.end_of_document.clone() })
        });
        let tokenizer = tokenizer.transpose()?;
        let (bytes, needed) = (text.bytes, self.bytes_needed(sequence));
        if bytes < needed {
            return Err(StudyError::DataTooShort { bytes, needed });
        }
        let Self { format, held_out, packing, .. } = *self;
        Ok(DataSpec { text, format, held_out, packing, tokenizer })
    }

    /// Least text that has a whole window (a sequence and the token after it) in each part.
    fn bytes_needed(&self, sequence: u32) -> u64 {
        let window = f64::from(sequence) + 1.0;
        let smaller_part = self.held_out.min(1.0 - self.held_out);
        // One more token, because the trainer rounds the split to a whole one.
        let tokens = ((window + 1.0) / smaller_part).ceil();
        (tokens as u64).saturating_mul(token_bytes(self.format))
    }
}

/// What all models have in common.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Architecture {
    /// What the MLP computes.
    pub mlp: Mlp,
    /// Whether the output layer shares the embedding's weights.
    pub tied: bool,
    /// How positions enter.
    pub positions: Positions,
    /// Which normalisation.
    pub norm: Norm,
}

/// What all trainings have in common.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Optimizer {
    /// What moves the weights.
    pub rule: Rule,
    /// Decay of the first moment; of AdamW and Lion.
    pub beta1: f64,
    /// Added to the root of the second moment; of AdamW.
    pub epsilon: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Largest gradient norm; `None` does not clip.
    pub clip: Option<f64>,
    /// Warm-up and decay as shares of the steps.
    pub schedule: Schedule,
}

/// What moves the weights.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub enum Rule {
    /// Two moments.
    AdamW,
    /// The sign of a moment.
    Lion,
    /// Momentum.
    Sgd(Momentum),
    /// Orthogonal steps for the layers' matrices.
    Muon {
        /// Of the matrices.
        momentum: Momentum,
        /// How the rate depends on a matrix' shape.
        scale: MuonScale,
        /// Peak rate of the matrices over that of the rest.
        rate: f64,
        /// What moves everything else.
        rest: MuonRest,
    },
}

/// The velocity of a rule that has one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Momentum {
    /// Its decay.
    pub momentum: f64,
    /// Whether a step looks ahead.
    pub nesterov: bool,
}

/// What moves the weights that Muon does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MuonRest {
    /// Two moments.
    AdamW,
    /// The sign of a moment.
    Lion,
}

impl Optimizer {
    /// The optimiser of one cell, whose grid gives the peak rate and the decay of the last moment.
    pub(crate) fn at(&self, learning_rate: f64, beta2: f64) -> proto::Optimizer {
        let Self { rule, beta1, epsilon, weight_decay, clip, .. } = *self;
        let adamw = |clip| AdamW { learning_rate, beta1, beta2, epsilon, weight_decay, clip };
        let lion = |clip| Lion { learning_rate, beta1, beta2, weight_decay, clip };
        match rule {
            Rule::AdamW => proto::Optimizer::AdamW(adamw(clip)),
            Rule::Lion => proto::Optimizer::Lion(lion(clip)),
            Rule::Sgd(Momentum { momentum, nesterov }) => {
                let config = Sgd { learning_rate, momentum, nesterov, weight_decay, clip };
                proto::Optimizer::Sgd(config)
            }
            Rule::Muon { momentum: Momentum { momentum, nesterov }, scale, rate, rest } => {
                proto::Optimizer::Muon(Muon {
                    learning_rate: rate * learning_rate,
                    momentum,
                    nesterov,
                    weight_decay,
                    scale,
                    clip,
                    rest: match rest {
                        MuonRest::AdamW => Rest::AdamW(adamw(None)),
                        MuonRest::Lion => Rest::Lion(lion(None)),
                    },
                })
            }
        }
    }
}

/// How a step is computed, and what is kept beside the weights.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TrainingSettings {
    /// Parts that a batch is computed in.
    pub accumulation: u32,
    /// Decay of the running mean of the weights.
    pub ema: Option<f64>,
    /// In which numbers.
    pub precision: Precision,
}
