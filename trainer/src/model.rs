//! A decoder-only transformer: pre-norm, causal attention, no biases in linear layers.
//!
//! ```text
//! x = embedding[tokens] (+ positions)
//! for each layer:  x = x + attention(norm(x));  x = x + mlp(norm(x))
//! logits = output(norm(x))
//! ```
//!
//! Shapes: B sequences of S tokens, width d, h heads of d/h, MLP width i, vocabulary V. Outside
//! attention all activations are matrices of B*S rows, which spares views and their gradients.

use crate::parameters::Parameters;
use proto::{Mlp, ModelSpec, Norm, Positions};
use tch::{Kind, Reduction, Tensor};

/// Added to the variance before its root.
const NORM_EPSILON: f64 = 1e-5;
/// Base of the rotary angles (Su et al. 2021).
const ROTARY_BASE: f64 = 10_000.0;
/// libtorch's mark for "no target is ignored".
const IGNORE_NO_TARGET: i64 = -100;

/// A model whose tensors belong to [`Parameters`].
#[derive(Debug)]
pub struct Model {
    spec: ModelSpec,
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
    qkv: Tensor,
    attention_output: Tensor,
    mlp_norm: NormLayer,
    up: Tensor,
    down: Tensor,
}

#[derive(Debug)]
enum NormLayer {
    Layer { weight: Tensor, bias: Tensor },
    Rms { weight: Tensor },
}

impl Model {
    /// The model of shape `spec` over `parameters`, which were laid out for the same shape.
    ///
    /// # Errors
    /// libtorch has no memory for the table of rotations.
    pub fn new(spec: &ModelSpec, parameters: &Parameters) -> tch::Result<Self> {
        let leaf = |name: &str| parameters.leaf(name);
        let norm = |name: &str| match spec.norm {
            Norm::LayerNorm => NormLayer::Layer {
                weight: leaf(&format!("{name}.weight")),
                bias: leaf(&format!("{name}.bias")),
            },
            Norm::RmsNorm => NormLayer::Rms { weight: leaf(&format!("{name}.weight")) },
        };
        let up = match spec.mlp {
            Mlp::Gelu => "up",
            Mlp::SwiGlu => "gate_up",
        };
        let layers = (0..spec.layers).map(|layer| Layer {
            attention_norm: norm(&format!("layers.{layer}.attention_norm")),
            qkv: leaf(&format!("layers.{layer}.attention.qkv.weight")),
            attention_output: leaf(&format!("layers.{layer}.attention.output.weight")),
            mlp_norm: norm(&format!("layers.{layer}.mlp_norm")),
            up: leaf(&format!("layers.{layer}.mlp.{up}.weight")),
            down: leaf(&format!("layers.{layer}.mlp.down.weight")),
        });
        let (position_embedding, rotation) = match spec.positions {
            Positions::Learned => (Some(leaf("position_embedding.weight")), None),
            Positions::Rotary => {
                let table = rotations(spec)?.f_to_device(parameters.flat().device())?;
                (None, Some(table))
            }
        };
        let output = if spec.tied { "token_embedding.weight" } else { "output.weight" };
        Ok(Self {
            token_embedding: leaf("token_embedding.weight"),
            position_embedding,
            rotation,
            layers: layers.collect(),
            final_norm: norm("final_norm"),
            output: leaf(output),
            spec: spec.clone(),
        })
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
        self.logits(tokens)?.f_cross_entropy_loss(
            targets,
            None::<&Tensor>,
            reduction,
            IGNORE_NO_TARGET,
            0.0,
        )
    }

    /// Scores of the next token, (B*S, V), after `tokens` (B, S).
    ///
    /// # Errors
    /// As [`loss`](Self::loss).
    pub fn logits(&self, tokens: &Tensor) -> tch::Result<Tensor> {
        let (batch, sequence) = tokens.size2()?;
        let width = i64::from(self.spec.width);
        let mut x = Tensor::f_embedding(&self.token_embedding, tokens, -1, false, false)?;
        if let Some(positions) = &self.position_embedding {
            x = x.f_add(&positions.f_narrow(0, 0, sequence)?)?;
        }
        let mut x = x.f_view([batch * sequence, width])?;
        for layer in &self.layers {
            let normed = layer.attention_norm.forward(&x)?;
            x = x.f_add(&self.attention(layer, &normed, batch, sequence)?)?;
            let normed = layer.mlp_norm.forward(&x)?;
            x = x.f_add(&self.mlp(layer, &normed)?)?;
        }
        linear(&self.final_norm.forward(&x)?, &self.output)
    }

    /// `x` (B*S, d) to (B*S, d).
    fn attention(
        &self,
        layer: &Layer,
        x: &Tensor,
        batch: i64,
        sequence: i64,
    ) -> tch::Result<Tensor> {
        let [width, heads] = [self.spec.width, self.spec.heads].map(i64::from);
        let qkv = linear(x, &layer.qkv)?.f_view([batch, sequence, 3, heads, width / heads])?;
        let (q, k, v) = match &self.rotation {
            None => three(qkv.f_unbind(2)?),
            Some(rotation) => {
                let parts = qkv.f_split_with_sizes([2, 1], 2)?;
                let rotated = rotate(&parts[0], &rotation.f_narrow(0, 0, sequence)?)?;
                let mut qkv = rotated.f_unbind(2)?;
                qkv.push(parts[1].f_squeeze_dim(2)?);
                three(qkv)
            }
        };
        // (B, h, S, d/h), causal, scores scaled by the root of d/h.
        let [q, k, v] = [q.f_transpose(1, 2)?, k.f_transpose(1, 2)?, v.f_transpose(1, 2)?];
        let mixed = Tensor::f_scaled_dot_product_attention(
            &q,
            &k,
            &v,
            None::<&Tensor>,
            0.0,
            true,
            None,
            false,
        )?;
        let mixed = mixed.f_transpose(1, 2)?.f_reshape([batch * sequence, width])?;
        linear(&mixed, &layer.attention_output)
    }

    /// `x` (B*S, d) to (B*S, d).
    fn mlp(&self, layer: &Layer, x: &Tensor) -> tch::Result<Tensor> {
        let up = linear(x, &layer.up)?;
        let hidden = match self.spec.mlp {
            Mlp::Gelu => up.f_gelu("tanh")?,
            Mlp::SwiGlu => {
                let parts = up.f_chunk(2, 1)?;
                parts[0].f_silu()?.f_mul(&parts[1])?
            }
        };
        linear(&hidden, &layer.down)
    }
}

impl NormLayer {
    /// `x` (B*S, d) to (B*S, d).
    fn forward(&self, x: &Tensor) -> tch::Result<Tensor> {
        match self {
            Self::Layer { weight, bias } => {
                x.f_layer_norm(weight.size(), Some(weight), Some(bias), NORM_EPSILON, false)
            }
            Self::Rms { weight } => x.f_rms_norm(weight.size(), Some(weight), NORM_EPSILON),
        }
    }
}

/// `x` (rows, inputs) times the transposed `weight` (outputs, inputs).
fn linear(x: &Tensor, weight: &Tensor) -> tch::Result<Tensor> {
    x.f_mm(&weight.f_tr()?)
}

fn three(parts: Vec<Tensor>) -> (Tensor, Tensor, Tensor) {
    let Ok([a, b, c]) = <[Tensor; 3]>::try_from(parts) else {
        unreachable!("queries, keys and values are three")
    };
    (a, b, c)
}

/// Turns each pair of neighbouring values of `x` (B, S, 2, h, d/h) by its angle: one complex
/// product, because on small tensors the number of operations is the cost.
fn rotate(x: &Tensor, rotation: &Tensor) -> tch::Result<Tensor> {
    let shape = x.size();
    let mut pairs = shape.clone();
    let head = pairs.pop().unwrap_or_default();
    pairs.extend([head / 2, 2]);
    x.f_view(pairs.as_slice())?
        .f_view_as_complex()?
        .f_mul(rotation)?
        .f_view_as_real()?
        .f_view(shape.as_slice())
}

/// `exp(i p base^(-2j / (d/h)))` for position p and pair j: complex, (S, 1, 1, d/h/2).
fn rotations(spec: &ModelSpec) -> tch::Result<Tensor> {
    let pairs = spec.width / spec.heads / 2;
    let angle = |position: u32, pair: u32| {
        f64::from(position) * ROTARY_BASE.powf(-f64::from(pair) / f64::from(pairs))
    };
    let parts: Vec<f32> = (0..spec.sequence)
        .flat_map(|position| (0..pairs).map(move |pair| angle(position, pair)))
        .flat_map(|angle| [angle.cos() as f32, angle.sin() as f32])
        .collect();
    Tensor::f_from_slice(&parts)?
        .f_view([i64::from(spec.sequence), 1, 1, i64::from(pairs), 2])?
        .f_view_as_complex()?
        .f_to_kind(Kind::ComplexFloat)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::{Layout, VALUE_BYTES};
    use tch::{Device, no_grad};

    const BATCH: i64 = 2;
    const SEQUENCE: i64 = 8;

    fn models() -> Vec<ModelSpec> {
        let mut specs = Vec::new();
        for norm in [Norm::LayerNorm, Norm::RmsNorm] {
            for positions in [Positions::Learned, Positions::Rotary] {
                for mlp in [Mlp::Gelu, Mlp::SwiGlu] {
                    for tied in [true, false] {
                        specs.push(ModelSpec {
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
                        });
                    }
                }
            }
        }
        specs
    }

    fn build(spec: &ModelSpec) -> (Parameters, Model) {
        let layout = Layout::of(spec);
        let values = layout.initial_values(1).unwrap();
        let parameters = Parameters::new(layout, &values, Device::Cpu).unwrap();
        let model = Model::new(spec, &parameters).unwrap();
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

    // Goal: rotary scores depend on distances only.
    #[test]
    fn rotary_products_depend_on_the_distance_only() {
        let spec = ModelSpec { positions: Positions::Rotary, ..models().remove(0) };
        let table = rotations(&spec).unwrap();
        let head = [0.3f32, -1.2, 0.7, 0.1];
        let x =
            Tensor::from_slice(&head).view([1, 1, 1, 1, 4]).expand([1, SEQUENCE, 2, 2, 4], true);
        let turned = rotate(&x.contiguous(), &table).unwrap();
        let at = |position: i64| turned.select(1, position).select(1, 0).select(1, 0).view(-1);
        let product = |a: i64, b: i64| (at(a) * at(b)).sum(Kind::Float).double_value(&[]);
        for distance in 0..4 {
            let near = product(0, distance);
            assert!((near - product(3, 3 + distance)).abs() < 1e-5, "distance {distance}");
        }
        assert!((product(0, 0) - product(0, 3)).abs() > 1e-3);
        let same = (at(0) - Tensor::from_slice(&head)).abs().max().double_value(&[]);
        assert_eq!(same, 0.0, "position 0 is not turned");
    }

    #[test]
    fn a_token_outside_the_vocabulary_is_an_error() {
        let (_parameters, model) = build(&models()[0]);
        let wrong = tokens(0) + 13;
        assert!(no_grad(|| model.logits(&wrong)).is_err());
    }

    #[test]
    fn the_flat_tensor_and_the_model_share_their_memory() {
        let (parameters, model) = build(&models()[0]);
        let loss = || {
            let loss = no_grad(|| model.loss(&tokens(0), &tokens(1).view(-1), Reduction::Mean));
            loss.unwrap().double_value(&[])
        };
        let _ = no_grad(|| parameters.flat().shallow_clone().f_zero_()).unwrap();
        assert!((loss() - 13f64.ln()).abs() < 1e-6, "zeros give equal scores");
        assert_eq!(VALUE_BYTES, Kind::Float.elt_size_in_bytes());
    }
}
