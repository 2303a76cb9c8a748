//! What the `train` runner trains: a decoder-only transformer on one text.

use crate::spec::BlobRef;
use serde::{Deserialize, Serialize};

/// Version of the trainer's arithmetic. Part of every training trial's identity, so results of
/// different arithmetic are never mixed. Raise it with every change that moves a loss.
pub const NUMERICS_VERSION: u32 = 1;

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
    /// Optimiser steps.
    pub steps: u64,
    /// The optimiser.
    pub optimizer: AdamW,
    /// Learning rate over the steps.
    pub schedule: Schedule,
    /// How the held-out loss is measured.
    pub validation: Validation,
}

impl TrainSpec {
    /// Tokens seen in the whole training: `batch * sequence * steps`.
    pub fn tokens(&self) -> u64 {
        u64::from(self.batch) * u64::from(self.model.sequence) * self.steps
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
        let norm = match self.norm {
            Norm::LayerNorm => 2 * d,
            Norm::RmsNorm => d,
        };
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
}

/// How the bytes of the data become tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenFormat {
    /// Every byte is a token; the vocabulary is 256.
    Bytes,
    /// Two bytes, little endian, are a token id that is already made.
    U16,
}

/// AdamW with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdamW {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled decay of matrices and embeddings; vectors (norms, biases) are not decayed.
    pub weight_decay: f64,
    /// Largest global norm of the gradient; `None` does not clip.
    pub clip: Option<f64>,
}

/// Warm-up, plateau, linear decay to zero; both as shares of all steps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Share of the steps in which the rate rises linearly from zero.
    pub warmup: f64,
    /// Share of the steps, the last ones, in which it falls linearly to zero.
    pub decay: f64,
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
}
