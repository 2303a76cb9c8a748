//! A decoder-only transformer: pre-norm, causal attention. [`Architecture`] says what differs from
//! family to family.
//!
//! ```text
//! x = embedding[tokens] (+ positions)
//! for each layer:  x = x + attention(norm(x));  x = x + mlp(norm(x))
//! logits = output(norm(x))
//! ```
//!
//! Shapes: B sequences of S tokens, width d, h query heads and kv key and value heads of hd, MLP
//! width i, vocabulary V. Outside attention all activations are matrices of B*S rows, which spares
//! views and their gradients.

pub mod architecture;
mod cache;
pub(crate) mod rotary;

pub use architecture::{Architecture, ArchitectureError, Sizes};
pub use cache::Cache;

use crate::operations::{
    HeadNorm, Heads, NormWeights, attention, gelu, masked_attention, norm, output_loss,
    output_scores, relu_squared, split_heads, swiglu,
};
use crate::parameters::Parameters;
use architecture::{Mlp, Norm, Positions, QkNorm};
use rotary::rotations;
use tch::{Device, Kind, Reduction, Tensor};

/// A model whose tensors belong to [`Parameters`].
#[derive(Debug)]
pub struct Model {
    architecture: Architecture,
    token_embedding: Tensor,
    position_embedding: Option<Tensor>,
    rotation: Option<Tensor>,
    layers: Vec<Layer>,
    final_norm: NormLayer,
    output: Tensor,
}

#[derive(Debug)]
struct Layer {
    attention_norm: NormLayer,
    qkv: Linear,
    /// Weights of the normalised queries and keys, (hd) each.
    qk_norm: Option<[Tensor; 2]>,
    attention_output: Linear,
    mlp_norm: NormLayer,
    up: Linear,
    down: Linear,
}

#[derive(Debug)]
struct Linear {
    /// (outputs, inputs).
    weight: Tensor,
    bias: Option<Tensor>,
}

#[derive(Debug)]
struct NormLayer {
    kind: Norm,
    weights: NormWeights,
}

/// What all layers of one pass share.
struct Pass<'a> {
    batch: i64,
    sequence: i64,
    rotation: Option<Tensor>,
    /// The cache, and the mask of what the new tokens see in it.
    cached: Option<(&'a mut Cache, Tensor)>,
}

impl Model {
    /// The model of `architecture` over `parameters`, which were laid out for the same.
    ///
    /// # Errors
    /// libtorch has no memory for the table of rotations.
    pub fn new(
        architecture: impl Into<Architecture>,
        parameters: &Parameters,
    ) -> tch::Result<Self> {
        let architecture: Architecture = architecture.into();
        let leaf = |name: &str| parameters.leaf(name);
        let maybe = |name: String| parameters.find(&name);
        let linear = |name: String| Linear {
            weight: leaf(&format!("{name}.weight")),
            bias: maybe(format!("{name}.bias")),
        };
        let norm = |name: String| NormLayer {
            kind: architecture.norm,
            weights: NormWeights {
                weight: maybe(format!("{name}.weight")),
                bias: maybe(format!("{name}.bias")),
            },
        };
        let layer = |layer: u32| {
            let name = |part: &str| format!("layers.{layer}.{part}");
            let [q, k] = ["q", "k"].map(|x| maybe(name(&format!("attention.{x}_norm.weight"))));
            Layer {
                attention_norm: norm(name("attention_norm")),
                qkv: linear(name("attention.qkv")),
                qk_norm: q.zip(k).map(<[Tensor; 2]>::from),
                attention_output: linear(name("attention.output")),
                mlp_norm: norm(name("mlp_norm")),
                up: linear(name(architecture.mlp.first_layer())),
                down: linear(name("mlp.down")),
            }
        };
        let rotation = match architecture.positions {
            Positions::Learned => None,
            Positions::Rotary { base, angles } => {
                let [sequence, head] = [architecture.sizes.sequence, architecture.head_width];
                let table = rotations(sequence, head, base, angles)?;
                Some(table.f_to_device(parameters.flat().device())?)
            }
        };
        let output = if architecture.tied { "token_embedding.weight" } else { "output.weight" };
        Ok(Self {
            token_embedding: leaf("token_embedding.weight"),
            position_embedding: maybe("position_embedding.weight".to_owned()),
            rotation,
            layers: (0..architecture.sizes.layers).map(layer).collect(),
            final_norm: norm("final_norm".to_owned()),
            output: leaf(output),
            architecture,
        })
    }

    /// What the model computes.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Kind of its activations, and where it computes.
    fn kind_and_device(&self) -> (Kind, Device) {
        (self.token_embedding.kind(), self.token_embedding.device())
    }

    /// Cross-entropy in nats of `targets` (B*S) after `tokens` (B, S); a scalar.
    ///
    /// # Errors
    /// libtorch refuses: no memory, or a token outside the vocabulary.
    pub fn loss(
        &self,
        tokens: &Tensor,
        targets: &Tensor,
        reduction: Reduction,
    ) -> tch::Result<Tensor> {
        let x = self.hidden(tokens)?;
        output_loss(&x, &self.output, self.architecture.logit_cap, targets, reduction)
    }

    /// Scores of the next token, (B*S, V), float32, after `tokens` (B, S).
    ///
    /// # Errors
    /// As [`loss`](Self::loss), or S is more than the architecture's.
    pub fn logits(&self, tokens: &Tensor) -> tch::Result<Tensor> {
        self.scores(&self.hidden(tokens)?)
    }

    /// What the output layer reads, (B*S, d), after `tokens` (B, S).
    fn hidden(&self, tokens: &Tensor) -> tch::Result<Tensor> {
        let (batch, sequence) = tokens.size2()?;
        let positions = |table: &Tensor| table.f_narrow(0, 0, sequence);
        let rotation = self.rotation.as_ref().map(positions).transpose()?;
        let position = self.position_embedding.as_ref().map(positions).transpose()?;
        let pass = Pass { batch, sequence, rotation, cached: None };
        self.blocks(tokens, position, pass)
    }

    /// Scores of the token after the last of `tokens` (B, S), (B, V), float32, where `cache` holds
    /// what came before them, and holds them too afterwards. Not for training: nothing is
    /// remembered for a gradient.
    ///
    /// # Errors
    /// As [`loss`](Self::loss), or the cache or the architecture's S is too short. The cache is of
    /// no more use then.
    pub fn next_logits(&self, tokens: &Tensor, cache: &mut Cache) -> tch::Result<Tensor> {
        tch::no_grad(|| {
            let (batch, sequence) = tokens.size2()?;
            let columns = cache.columns(sequence)?;
            let rows = columns.positions.f_view(-1)?;
            let positions = |table: &Tensor| -> tch::Result<Tensor> {
                let mut shape = table.size();
                shape.splice(..1, [batch, sequence]);
                table.f_index_select(0, &rows)?.f_view(shape.as_slice())
            };
            let rotation = self.rotation.as_ref().map(positions).transpose()?;
            let position = self.position_embedding.as_ref().map(positions).transpose()?;
            let cached = Some((&mut *cache, columns.mask));
            let x = self.blocks(tokens, position, Pass { batch, sequence, rotation, cached })?;
            cache.advance(sequence);
            self.scores(&x.f_view([batch, sequence, -1])?.f_select(1, -1)?)
        })
    }

    /// `tokens` (B, S) to what the output layer reads, (B*S, d).
    fn blocks(
        &self,
        tokens: &Tensor,
        position: Option<Tensor>,
        mut pass: Pass<'_>,
    ) -> tch::Result<Tensor> {
        let width = i64::from(self.architecture.sizes.width);
        let mut x = Tensor::f_embedding(&self.token_embedding, tokens, -1, false, false)?;
        if let Some(position) = position {
            x = x.f_add(&position)?;
        }
        let mut x = x.f_view([pass.batch * pass.sequence, width])?;
        if self.architecture.embedding_norm {
            x = x.f_rms_norm(width, None::<&Tensor>, self.architecture.norm.epsilon())?;
        }
        // What the next norm adds to the residual stream first.
        let mut delta = None;
        for (index, layer) in self.layers.iter().enumerate() {
            let [sum, normed] = layer.attention_norm.forward(&x, delta.as_ref())?;
            let attended = self.attention(index, &normed, &mut pass)?;
            let [sum, normed] = layer.mlp_norm.forward(&sum, Some(&attended))?;
            delta = Some(self.mlp(layer, &normed)?);
            x = sum;
        }
        let [_, normed] = self.final_norm.forward(&x, delta.as_ref())?;
        Ok(normed)
    }

    /// `x` (rows, d) to (rows, V), float32.
    fn scores(&self, x: &Tensor) -> tch::Result<Tensor> {
        output_scores(x, &self.output, self.architecture.logit_cap)
    }

    /// `x` (B*S, d) to (B*S, d).
    fn attention(&self, index: usize, x: &Tensor, pass: &mut Pass<'_>) -> tch::Result<Tensor> {
        let layer = &self.layers[index];
        let parts = self.queries_keys_values(layer, x, pass)?;
        let mixed = match &mut pass.cached {
            None => attention(&parts)?,
            Some((cache, mask)) => {
                let [q, k, v] = &parts;
                let all = cache.extend(index, &k.f_transpose(1, 2)?, &v.f_transpose(1, 2)?)?;
                masked_attention(q, all, Some(&*mask))?
            }
        };
        layer.attention_output.forward(&mixed)
    }

    /// `x` (B*S, d) to queries (B, S, h, hd), keys and values (B, S, kv, hd).
    fn queries_keys_values(
        &self,
        layer: &Layer,
        x: &Tensor,
        pass: &Pass<'_>,
    ) -> tch::Result<[Tensor; 3]> {
        let [h, kv] = [self.architecture.sizes.heads, self.architecture.sizes.kv_heads];
        let [h, kv, width] = [h, kv, self.architecture.head_width].map(i64::from);
        let Pass { batch, sequence, .. } = *pass;
        let heads = Heads { batch, sequence, counts: [h, kv, kv], width };
        let norm = match self.architecture.qk_norm {
            QkNorm::Absent => None,
            QkNorm::Plain | QkNorm::Weighted => Some(HeadNorm {
                epsilon: self.architecture.norm.epsilon(),
                weights: layer.qk_norm.as_ref().map(|[q, k]| [q, k]),
            }),
        };
        split_heads(heads, layer.qkv.forward(x)?, pass.rotation.as_ref(), norm.as_ref())
    }

    /// `x` (B*S, d) to (B*S, d).
    fn mlp(&self, layer: &Layer, x: &Tensor) -> tch::Result<Tensor> {
        let up = layer.up.forward(x)?;
        let hidden = match self.architecture.mlp {
            Mlp::Gelu => gelu(&up)?,
            Mlp::SwiGlu => swiglu(&up)?,
            Mlp::ReluSquared => relu_squared(&up)?,
        };
        layer.down.forward(&hidden)
    }
}

impl NormLayer {
    /// `x` (rows, d), plus `delta` if there is one, and its norm.
    fn forward(&self, x: &Tensor, delta: Option<&Tensor>) -> tch::Result<[Tensor; 2]> {
        norm(self.kind, &self.weights, x, delta)
    }
}

impl Linear {
    /// `x` (rows, inputs) to (rows, outputs).
    fn forward(&self, x: &Tensor) -> tch::Result<Tensor> {
        let weight = self.weight.f_tr()?;
        match &self.bias {
            None => x.f_mm(&weight),
            Some(bias) => bias.f_addmm(x, &weight),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::NOT_SCORED;
    use crate::parameters::Layout;
    use architecture::Projections;
    use proto::{ModelSpec, Precision};
    use tch::no_grad;

    const BATCH: i64 = 2;
    const SEQUENCE: i64 = 8;

    const SIZES: Sizes = Sizes {
        vocabulary: 13,
        sequence: SEQUENCE as u32,
        width: 8,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        mlp_width: 12,
    };

    fn models() -> Vec<Architecture> {
        let mut models = vec![
            Architecture::gpt2(Sizes { kv_heads: 2, ..SIZES }),
            Architecture::llama(SIZES),
            Architecture { tied: true, ..Architecture::qwen2(SIZES) },
            Architecture { head_width: 6, ..Architecture::qwen3(SIZES) },
            // Zeros would hide the gradient of all that stands before them.
            Architecture { projections: Projections::Scaled, ..Architecture::speedrun(SIZES) },
        ];
        for norm in [proto::Norm::LayerNorm, proto::Norm::RmsNorm, proto::Norm::PlainRmsNorm] {
            for positions in [proto::Positions::Learned, proto::Positions::Rotary] {
                for mlp in [proto::Mlp::Gelu, proto::Mlp::SwiGlu] {
                    for tied in [true, false] {
                        models.push(Architecture::from(&ModelSpec {
                            vocabulary: 13,
                            sequence: SEQUENCE as u32,
                            width: 8,
                            layers: 2,
                            heads: 2,
                            mlp_width: 12,
                            mlp,
                            tied,
                            positions,
                            norm,
                        }));
                    }
                }
            }
        }
        models
    }

    fn build(architecture: &Architecture) -> (Parameters, Model) {
        let layout = Layout::of(architecture);
        let values = layout.initial_values(1).unwrap();
        let parameters = Parameters::new(layout, &values, Precision::Float32, Device::Cpu).unwrap();
        let model = Model::new(architecture, &parameters).unwrap();
        (parameters, model)
    }

    fn tokens(shift: i64) -> Tensor {
        let tokens: Vec<i64> = (0..BATCH * SEQUENCE).map(|i| (i * 5 + shift) % 13).collect();
        Tensor::from_slice(&tokens).view([BATCH, SEQUENCE])
    }

    // Goal: no position sees what comes after it, for any kind of model.
    #[test]
    fn a_later_token_does_not_change_an_earlier_score() {
        for spec in models() {
            let (_parameters, model) = build(&spec);
            let before = tokens(0);
            let after = before.copy();
            let _ = after.narrow(1, 5, 1).fill_(3);
            let scores = |tokens: &Tensor| {
                let logits = no_grad(|| model.logits(tokens)).unwrap();
                logits.view([BATCH, SEQUENCE, 13])
            };
            let change = (scores(&before) - scores(&after)).abs();
            let largest = |from: i64, len: i64| change.narrow(1, from, len).max().double_value(&[]);
            assert_eq!(largest(0, 5), 0.0, "{spec:?}");
            assert!(largest(5, 1) > 0.0, "{spec:?}");
            assert!(largest(6, 2) > 0.0, "attention looks back: {spec:?}");
        }
    }

    // Goal: the flat gradient is the loss's, for every tensor at its place. Differences of a
    // float32 loss are coarse, so each tensor is tried along its own gradient, where they are
    // largest: the loss must change by the step times the gradient's norm.
    #[test]
    fn the_gradient_is_the_loss_s() {
        for spec in models() {
            let (parameters, model) = build(&spec);
            let targets = tokens(1).view(-1);
            // Padding: the gradient is that of the others alone.
            let _ = targets.narrow(0, 3, 2).fill_(NOT_SCORED);
            let loss = || model.loss(&tokens(0), &targets, Reduction::Mean).unwrap();
            let gradient = parameters.gradient(&loss()).unwrap();
            for entry in parameters.layout().entries() {
                let part = |t: &Tensor| t.narrow(0, entry.start as i64, entry.len as i64);
                let direction = part(&gradient);
                let norm = direction.norm().double_value(&[]);
                assert!(norm > 1e-6, "{} has no gradient: {spec:?}", entry.name);
                let step = 5e-3;
                let along = &direction * (step / norm);
                let at = |sign: f64| {
                    no_grad(|| {
                        let mut values = part(parameters.flat());
                        let _ = values.f_add_(&(&along * sign)).unwrap();
                        let found = loss().double_value(&[]);
                        let _ = values.f_sub_(&(&along * sign)).unwrap();
                        found
                    })
                };
                let slope = (at(1.0) - at(-1.0)) / (2.0 * step);
                let error = (slope - norm).abs();
                assert!(error < 1e-2 * norm + 1e-4, "{}: {slope} {norm}: {spec:?}", entry.name);
            }
        }
    }
}
