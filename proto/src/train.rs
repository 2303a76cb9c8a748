//! What the `train` runner trains: a decoder-only transformer on one text.

use crate::optimizer::{Optimizer, Schedule};
use crate::spec::BlobRef;
use serde::{Deserialize, Serialize};

/// Version of the trainer's arithmetic. Part of every training trial's identity, so results of
/// different arithmetic are never mixed. Raise it with every change that moves a loss.
pub const NUMERICS_VERSION: u32 = 4;

/// The label by which an agent says which [`NUMERICS_VERSION`] it trains with, so that a training
/// waits for one that has its own instead of being refused by another, as during an upgrade.
pub const NUMERICS_LABEL: &str = "brine.dev/numerics";

/// [`NUMERICS_LABEL`] with this code's version.
pub fn numerics_label() -> (String, String) {
    (NUMERICS_LABEL.to_owned(), NUMERICS_VERSION.to_string())
}

/// One training run from scratch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSpec {
    /// [`NUMERICS_VERSION`] that the trial was planned for; an agent with another refuses it.
    pub numerics: u32,
    /// Shape of the model.
    pub model: ModelSpec,
    /// What it learns.
    pub data: DataSpec,
    /// Sequences per step.
    pub batch: u32,
    /// Optimiser steps, over which the schedule goes.
    pub steps: u64,
    /// The optimiser.
    pub optimizer: Optimizer,
    /// Learning rate over the steps.
    pub schedule: Schedule,
    /// How the held-out loss is measured.
    pub validation: Validation,
    /// Parts that a step's batch is computed in, one after the other, to save memory; at most one
    /// per sequence. The step is the whole batch's; only the rounding of its sums differs.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub accumulation: u32,
    /// Decay per step of the running mean of the weights, in (0, 1); `None` keeps no mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// In which numbers a step is computed.
    #[serde(default, skip_serializing_if = "Precision::is_default")]
    pub precision: Precision,
    /// What ends the training before all its steps are done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
}

fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_one(number: &u32) -> bool {
    *number == 1
}

impl TrainSpec {
    /// Tokens of one step: `batch * sequence`.
    pub fn tokens_per_step(&self) -> u64 {
        u64::from(self.batch) * u64::from(self.model.sequence)
    }

    /// Most steps that are done: all, or as many as the counted operations allow. A budget of time
    /// may end them earlier.
    pub fn steps_max(&self) -> u64 {
        match self.budget {
            Some(Budget::Flops(flops)) => {
                let step = self.model.training_flops(self.tokens_per_step());
                self.steps.min((flops / step) as u64)
            }
            Some(Budget::WallMs(_)) | None => self.steps,
        }
    }

    /// Most tokens that are seen: those of [`steps_max`](Self::steps_max).
    pub fn tokens(&self) -> u64 {
        self.tokens_per_step() * self.steps_max()
    }
}

/// What ends a training early, in the middle of its schedule. Comparing ideas at equal cost needs
/// one (arXiv 2601.14525).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// Time in ms inside of the updates that led here; no update begins after it. Updates that
    /// were lost with an attempt, measuring the held-out loss and writing checkpoints do not count.
    /// How many steps that is depends on the machine.
    WallMs(u64),
    /// Counted training operations, see [`ModelSpec::training_flops`]; at least those of one step.
    Flops(f64),
}

/// In which numbers a step is computed. Weights, their running mean and the optimiser's moments
/// are kept in float32 always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits throughout.
    #[default]
    Float32,
    /// Forward and backward pass in bfloat16 on a rounded copy of the weights; losses, sums over
    /// the parts of a batch and updates in float32. Inside of a pass sums are as libtorch has them
    /// for bfloat16: on the processor an embedding's gradient is summed in it.
    Bf16,
}

impl Precision {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Shape of a decoder-only transformer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// Number of distinct tokens, V.
    pub vocabulary: u32,
    /// Longest context in tokens, S.
    pub sequence: u32,
    /// Width of the residual stream, d. A multiple of `heads`.
    pub width: u32,
    /// Transformer blocks, L.
    pub layers: u32,
    /// Attention heads, h.
    pub heads: u32,
    /// Hidden width of the MLP, i.
    pub mlp_width: u32,
    /// What the MLP computes.
    pub mlp: Mlp,
    /// Whether the output layer shares the input embedding's weights.
    pub tied: bool,
    /// How positions enter.
    pub positions: Positions,
    /// Which normalisation.
    pub norm: Norm,
}

impl ModelSpec {
    /// Number of trained values. No linear layer has a bias.
    ///
    /// Per layer `4 d^2` for attention, `2 d i` (GELU) or `3 d i` (SwiGLU) for the MLP and two
    /// norms; then a final norm, one or two embeddings `V d`, and `S d` learned positions.
    pub fn parameters(&self) -> u64 {
        self.non_embedding_parameters() + self.embedding_parameters()
    }

    /// Trained values outside the token embedding, the output layer and the learned positions.
    pub fn non_embedding_parameters(&self) -> u64 {
        let [d, i, layers] = [self.width, self.mlp_width, self.layers].map(u64::from);
        let norm = self.norm.vectors() * d;
        layers * (4 * d * d + self.mlp.matrices() * d * i + 2 * norm) + norm
    }

    fn embedding_parameters(&self) -> u64 {
        let [d, vocabulary, sequence] = [self.width, self.vocabulary, self.sequence].map(u64::from);
        let tables = if self.tied { 1 } else { 2 };
        let positions = match self.positions {
            Positions::Learned => sequence * d,
            Positions::Rotary => 0,
        };
        tables * vocabulary * d + positions
    }

    /// Counted floating-point operations of one forward pass, per token. A multiply-add is two.
    /// The whole S x S attention matrix is counted, with 3 operations per score for the mask and
    /// the softmax, as in the generator of SODA (arXiv 2602.16687):
    ///
    /// `L (2 m d i + 8 d^2 + 4 S d + 3 S h) + 2 d V`, with m matrices in the MLP.
    pub fn forward_flops_per_token(&self) -> u64 {
        let [d, i, layers] = [self.width, self.mlp_width, self.layers].map(u64::from);
        let [h, s, vocabulary] = [self.heads, self.sequence, self.vocabulary].map(u64::from);
        let mlp = 2 * self.mlp.matrices() * d * i;
        layers * (mlp + 8 * d * d + 4 * s * d + 3 * s * h) + 2 * d * vocabulary
    }

    /// Counted operations of one training step over `tokens` tokens: the backward pass counts
    /// twice the forward pass.
    pub fn training_flops(&self, tokens: u64) -> f64 {
        3.0 * self.forward_flops_per_token() as f64 * tokens as f64
    }
}

/// What the MLP computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mlp {
    /// `W2 gelu(W1 x)`, two matrices.
    Gelu,
    /// `W2 (silu(W1 x) * W3 x)`, three matrices (Shazeer 2020, arXiv 2002.05202).
    #[serde(rename = "swiglu")]
    SwiGlu,
}

impl Mlp {
    /// Matrices of shape (d, i) in it.
    pub fn matrices(self) -> u64 {
        match self {
            Self::Gelu => 2,
            Self::SwiGlu => 3,
        }
    }
}

/// How positions enter the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// One learned vector per position, added to the token's.
    Learned,
    /// Rotations of queries and keys (Su et al. 2021, arXiv 2104.09864), base 10,000.
    Rotary,
}

/// Normalisation before attention, before the MLP and before the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    /// Mean and variance, with weight and bias (Ba et al. 2016).
    LayerNorm,
    /// Root mean square, with weight (Zhang and Sennrich 2019).
    RmsNorm,
    /// Root mean square, without weight.
    PlainRmsNorm,
}

impl Norm {
    /// Trained vectors of width d in it.
    pub fn vectors(self) -> u64 {
        match self {
            Self::LayerNorm => 2,
            Self::RmsNorm => 1,
            Self::PlainRmsNorm => 0,
        }
    }
}

/// Training and held-out text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSpec {
    /// The whole text by content.
    pub text: BlobRef,
    /// How bytes become tokens.
    pub format: TokenFormat,
    /// Share of the text, at its end, that is never trained on; in (0, 1).
    pub held_out: f64,
    /// How the text becomes windows.
    #[serde(default, skip_serializing_if = "Packing::is_default")]
    pub packing: Packing,
    /// What turns text into tokens; `None` where bytes are tokens or tokens are made already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<TokenizerSpec>,
}

/// A tokenizer of Hugging Face.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerSpec {
    /// Its `tokenizer.json` by content.
    pub file: BlobRef,
    /// The token that follows every document, such as `<|endoftext|>`; a text has none.
    pub end_of_document: Option<String>,
}

/// How a text becomes windows of one length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// One stream, cut at every S tokens: no token is lost, windows begin anywhere.
    #[default]
    Stream,
    /// A window begins with a document and holds as many whole ones as fit; a longer document is
    /// cut into windows of its own. The rest of a window is not scored. For `jsonl`.
    Documents,
}

impl Packing {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How the bytes of the data become tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenFormat {
    /// Every byte is a token; the vocabulary is 256.
    Bytes,
    /// Two bytes, little endian, are a token id that is already made.
    U16,
    /// Shards as llm.c writes them, one after the other: 256 integers of 32 bits (20240520,
    /// version 1, number of tokens, zeros), then the tokens, two bytes each, little endian.
    Shards,
    /// UTF-8 that the tokenizer turns into tokens, one stream.
    Text,
    /// One JSON object per line. Its member `text` is a document; the tokenizer's end-of-document
    /// token follows it. The held-out text begins with a document.
    Jsonl,
}

/// How the held-out loss is measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Validation {
    /// Steps between two measurements; 0 measures only at the end, which always happens.
    pub every_steps: u64,
    /// Held-out tokens per measurement, from the start of the held-out text; rounded down to
    /// whole sequences, at least one.
    pub tokens: u64,
    /// How a sequence is scored.
    #[serde(default, skip_serializing_if = "Scoring::is_default")]
    pub scoring: Scoring,
    /// Held-out loss in nats per token; the time at which a measurement first reaches it is
    /// reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<f64>,
}

impl Validation {
    /// One measurement of `tokens` tokens, at the end.
    pub fn at_the_end(tokens: u64) -> Self {
        Self { every_steps: 0, tokens, scoring: Scoring::Parallel, target: None }
    }
}

/// How the tokens of a held-out sequence are scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scoring {
    /// All at once, as in training.
    #[default]
    Parallel,
    /// One after the other: the model is given no token before the one before it was scored, so a
    /// model that looks ahead gains nothing. Takes many times as long.
    TokenByToken,
}

impl Scoring {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Goal: a trial from before there was a choice of optimiser, packing, accumulation and mean is
    // read, and written as it was, because its id is a hash of the text.
    #[test]
    fn a_specification_of_the_first_days_keeps_its_text() {
        let text = concat!(
            r#"{"numerics":1,"model":{"vocabulary":256,"sequence":128,"width":32,"layers":1,"#,
            r#""heads":2,"mlp_width":128,"mlp":"gelu","tied":false,"positions":"rotary","#,
            r#""norm":"rms_norm"},"data":{"text":{"blob":""#,
            "0000000000000000000000000000000000000000000000000000000000000000",
            r#"","bytes":7},"format":"bytes","held_out":0.1},"batch":4,"steps":1000,"#,
            r#""optimizer":{"learning_rate":0.0075,"beta1":0.95,"beta2":0.98,"epsilon":1e-15,"#,
            r#""weight_decay":0.1,"clip":1.0},"schedule":{"warmup":0.1,"decay":0.2},"#,
            r#""validation":{"every_steps":0,"tokens":32768}}"#,
        );
        let spec: TrainSpec = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&spec).unwrap(), text);
        assert_eq!((spec.accumulation, spec.ema), (1, None));
        assert_eq!((spec.precision, spec.budget), (Precision::Float32, None));
    }
}
