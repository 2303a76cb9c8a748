//! What a model computes, as plain data: sizes, and one switch for each thing that families of
//! decoders do differently.

use proto::ModelSpec;

// With these limits every product of sizes that the crate makes stays inside 63 bits. They lie far
// above what one machine trains.
const VOCABULARY_MAX: u32 = 1 << 24;
const SEQUENCE_MAX: u32 = 1 << 20;
const WIDTH_MAX: u32 = 1 << 16;
const MLP_WIDTH_MAX: u32 = 1 << 20;
const LAYERS_MAX: u32 = 1 << 10;
const HEADS_MAX: u32 = 1 << 12;

/// A decoder-only transformer with pre-norm blocks and causal attention.
#[derive(Debug, Clone, PartialEq)]
pub struct Architecture {
    /// The numbers.
    pub sizes: Sizes,
    /// Width of one head; a multiple of 2 with rotary positions.
    pub head_width: u32,
    /// What the MLP computes.
    pub mlp: Mlp,
    /// Whether the output layer shares the input embedding's weights.
    pub tied: bool,
    /// How positions enter.
    pub positions: Positions,
    /// Normalisation before attention, before the MLP and before the output.
    pub norm: Norm,
    /// Whether the embedding is normalised too before the first block.
    pub embedding_norm: bool,
    /// Normalisation of every head's query and key before they are rotated.
    pub qk_norm: QkNorm,
    /// Which linear layers have a bias.
    pub biases: Biases,
    /// c in `c tanh(logits / c)`, which bounds the logits (Gemma 2, arXiv 2408.00118, section 2).
    pub logit_cap: Option<f64>,
    /// Initial values of the two layers of a block that write into the residual stream.
    pub projections: Projections,
}

/// The numbers that every family has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Number of distinct tokens, V.
    pub vocabulary: u32,
    /// Longest context in tokens, S.
    pub sequence: u32,
    /// Width of the residual stream, d.
    pub width: u32,
    /// Transformer blocks, L.
    pub layers: u32,
    /// Query heads, h.
    pub heads: u32,
    /// Key and value heads, of which `heads` is a multiple (grouped-query attention, Ainslie et
    /// al. 2023, arXiv 2305.13245).
    pub kv_heads: u32,
    /// Hidden width of the MLP, i.
    pub mlp_width: u32,
}

/// What the MLP computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mlp {
    /// `W2 gelu(W1 x)` with the approximation of GELU by tanh (Hendrycks and Gimpel 2016).
    Gelu,
    /// `W2 (silu(W1 x) * W3 x)` (Shazeer 2020, arXiv 2002.05202).
    SwiGlu,
    /// `W2 max(W1 x, 0)^2` (Primer, So et al. 2021, arXiv 2109.08668).
    ReluSquared,
}

impl Mlp {
    /// Name of the layer before the activation. SwiGLU's two are one matrix, W1 above W3.
    pub(crate) fn first_layer(self) -> &'static str {
        match self {
            Self::Gelu | Self::ReluSquared => "mlp.up",
            Self::SwiGlu => "mlp.gate_up",
        }
    }
}

/// How positions enter the model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Positions {
    /// One learned vector per position, added to the token's.
    Learned,
    /// Rotations of queries and keys (Su et al. 2021, arXiv 2104.09864).
    Rotary {
        /// Base of the angles.
        base: f64,
        /// In which precision angles are computed before their sine is taken.
        angles: Angles,
    },
}

/// Precision of rotary angles. They differ visibly at long contexts: position 30,000 times a
/// frequency that is rounded to 24 bits is off by up to 0.002.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Angles {
    /// 64 bits.
    Double,
    /// 32 bits, operation by operation as `transformers` does, with whose weights one must agree.
    Single,
}

/// A normalisation. The epsilon is added to the variance or mean square before its root.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Norm {
    /// Mean and variance, with weight and bias (Ba et al. 2016, arXiv 1607.06450).
    Layer {
        /// Added to the variance.
        epsilon: f64,
    },
    /// Root mean square, with weight (Zhang and Sennrich 2019, arXiv 1910.07467).
    Rms {
        /// Added to the mean square.
        epsilon: f64,
    },
    /// Root mean square, without weight.
    PlainRms {
        /// Added to the mean square.
        epsilon: f64,
    },
}

impl Norm {
    /// The number that keeps the root away from zero.
    pub fn epsilon(self) -> f64 {
        match self {
            Self::Layer { epsilon } | Self::Rms { epsilon } | Self::PlainRms { epsilon } => epsilon,
        }
    }
}

/// Root-mean-square normalisation of queries and keys, head by head, with the epsilon of [`Norm`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// None.
    Absent,
    /// With one weight per place in a head, shared by all heads of a layer.
    Weighted,
    /// Without weights.
    Plain,
}

/// Which linear layers have a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Biases {
    /// Of queries, keys and values.
    pub qkv: bool,
    /// Of attention's output.
    pub attention_output: bool,
    /// Both layers of the MLP.
    pub mlp: bool,
}

impl Biases {
    /// No layer has one.
    pub const NONE: Self = Self { qkv: false, attention_output: false, mlp: false };
    /// Every layer inside a block has one.
    pub const ALL: Self = Self { qkv: true, attention_output: true, mlp: true };
}

/// Initial values of attention's output and of the MLP's second layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Projections {
    /// Normal, smaller by the root of the number of such layers (Radford et al. 2019).
    Scaled,
    /// Zero, so that every block starts as the identity.
    Zero,
}

/// A number that no model can be built with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {found}, it must be {wanted}")]
pub struct ArchitectureError {
    /// Which one.
    pub field: &'static str,
    /// Its value.
    pub found: String,
    /// What is allowed.
    pub wanted: String,
}

impl Architecture {
    /// GPT-2 (Radford et al. 2019).
    pub fn gpt2(sizes: Sizes) -> Self {
        Self {
            mlp: Mlp::Gelu,
            tied: true,
            positions: Positions::Learned,
            norm: Norm::Layer { epsilon: 1e-5 },
            biases: Biases::ALL,
            ..Self::llama(sizes)
        }
    }

    /// Llama (Touvron et al. 2023, arXiv 2302.13971), with an output layer of its own.
    pub fn llama(sizes: Sizes) -> Self {
        Self {
            head_width: sizes.width / sizes.heads.max(1),
            mlp: Mlp::SwiGlu,
            tied: false,
            positions: Positions::Rotary { base: 10_000.0, angles: Angles::Single },
            norm: Norm::Rms { epsilon: 1e-6 },
            embedding_norm: false,
            qk_norm: QkNorm::Absent,
            biases: Biases::NONE,
            logit_cap: None,
            projections: Projections::Scaled,
            sizes,
        }
    }

    /// Qwen2 (arXiv 2407.10671): Llama with biases on queries, keys and values.
    pub fn qwen2(sizes: Sizes) -> Self {
        Self { biases: Biases { qkv: true, ..Biases::NONE }, ..Self::llama(sizes) }
    }

    /// Qwen3 (arXiv 2505.09388): Llama with normalised queries and keys. Its heads often have
    /// another width than d / h.
    pub fn qwen3(sizes: Sizes) -> Self {
        Self { qk_norm: QkNorm::Weighted, ..Self::llama(sizes) }
    }

    /// The GPT of the speed runs (modded-nanogpt, nanochat): squared ReLU, normalised queries, keys
    /// and embedding, norms without weights, projections that start at zero, bounded logits.
    pub fn speedrun(sizes: Sizes) -> Self {
        Self {
            mlp: Mlp::ReluSquared,
            norm: Norm::PlainRms { epsilon: f64::from(f32::EPSILON) },
            embedding_norm: true,
            qk_norm: QkNorm::Plain,
            logit_cap: Some(15.0),
            projections: Projections::Zero,
            ..Self::llama(sizes)
        }
    }

    /// Whether a model can be built, and its sizes can be multiplied without overflow.
    ///
    /// # Errors
    /// For the first number that is wrong.
    pub fn check(&self) -> Result<(), ArchitectureError> {
        let Sizes { vocabulary, sequence, width, layers, heads, kv_heads, mlp_width } = self.sizes;
        let limits = [
            ("vocabulary", vocabulary, VOCABULARY_MAX),
            ("sequence", sequence, SEQUENCE_MAX),
            ("width", width, WIDTH_MAX),
            ("layers", layers, LAYERS_MAX),
            ("heads", heads, HEADS_MAX),
            ("kv_heads", kv_heads, heads),
            ("head_width", self.head_width, WIDTH_MAX),
            ("mlp_width", mlp_width, MLP_WIDTH_MAX),
        ];
        let wrong =
            |field, found: String, wanted: String| Err(ArchitectureError { field, found, wanted });
        for (field, found, most) in limits {
            if found == 0 || found > most {
                return wrong(field, found.to_string(), format!("in 1..={most}"));
            }
        }
        if !heads.is_multiple_of(kv_heads) {
            return wrong("heads", heads.to_string(), format!("a multiple of kv_heads {kv_heads}"));
        }
        let finite = |value: f64| value.is_finite() && value > 0.0;
        if let Positions::Rotary { base, .. } = self.positions {
            if !self.head_width.is_multiple_of(2) {
                let found = self.head_width.to_string();
                return wrong("head_width", found, "even, for rotary positions".to_owned());
            }
            if !finite(base) {
                return wrong("rotary base", base.to_string(), "positive and finite".to_owned());
            }
        }
        let epsilon = self.norm.epsilon();
        if !finite(epsilon) {
            return wrong("norm epsilon", epsilon.to_string(), "positive and finite".to_owned());
        }
        match self.logit_cap {
            Some(cap) if !finite(cap) => {
                wrong("logit_cap", cap.to_string(), "positive and finite".to_owned())
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl From<&Self> for Architecture {
    fn from(architecture: &Self) -> Self {
        architecture.clone()
    }
}

/// The decoder of a trial: GPT-2's or Llama's parts, but no bias in any linear layer.
impl From<&ModelSpec> for Architecture {
    fn from(spec: &ModelSpec) -> Self {
        const EPSILON: f64 = 1e-5;
        let sizes = Sizes {
            vocabulary: spec.vocabulary,
            sequence: spec.sequence,
            width: spec.width,
            layers: spec.layers,
            heads: spec.heads,
            kv_heads: spec.heads,
            mlp_width: spec.mlp_width,
        };
        Self {
            mlp: match spec.mlp {
                proto::Mlp::Gelu => Mlp::Gelu,
                proto::Mlp::SwiGlu => Mlp::SwiGlu,
            },
            tied: spec.tied,
            positions: match spec.positions {
                proto::Positions::Learned => Positions::Learned,
                proto::Positions::Rotary => {
                    Positions::Rotary { base: 10_000.0, angles: Angles::Double }
                }
            },
            norm: match spec.norm {
                proto::Norm::LayerNorm => Norm::Layer { epsilon: EPSILON },
                proto::Norm::RmsNorm => Norm::Rms { epsilon: EPSILON },
                proto::Norm::PlainRmsNorm => Norm::PlainRms { epsilon: EPSILON },
            },
            ..Self::llama(sizes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes = Sizes {
        vocabulary: 10,
        sequence: 8,
        width: 12,
        layers: 1,
        heads: 4,
        kv_heads: 2,
        mlp_width: 16,
    };

    #[test]
    fn every_wrong_number_is_named() {
        let good = Architecture::llama(Sizes { width: 16, ..SIZES });
        assert_eq!(good.check(), Ok(()));
        let check = |edit: &dyn Fn(&mut Architecture), text: &str| {
            let mut architecture = good.clone();
            edit(&mut architecture);
            assert_eq!(architecture.check().unwrap_err().to_string(), text);
        };
        check(&|a| a.sizes.vocabulary = 0, "vocabulary is 0, it must be in 1..=16777216");
        check(&|a| a.sizes.layers = 5_000, "layers is 5000, it must be in 1..=1024");
        check(&|a| a.sizes.kv_heads = 8, "kv_heads is 8, it must be in 1..=4");
        check(&|a| a.sizes.kv_heads = 3, "heads is 4, it must be a multiple of kv_heads 3");
        check(&|a| a.head_width = 3, "head_width is 3, it must be even, for rotary positions");
        check(&|a| a.logit_cap = Some(0.0), "logit_cap is 0, it must be positive and finite");
        check(
            &|a| a.norm = Norm::Rms { epsilon: f64::NAN },
            "norm epsilon is NaN, it must be positive and finite",
        );
        check(
            &|a| a.positions = Positions::Rotary { base: -1.0, angles: Angles::Single },
            "rotary base is -1, it must be positive and finite",
        );
    }
}
