//! Every trained value of a model in one flat tensor.
//!
//! A model of an IsoFLOP sweep is so small that the price of calling an operation, not its
//! arithmetic, decides its speed. With one flat tensor, clipping and the optimiser are a handful of
//! operations instead of a handful per parameter, and a checkpoint is three copies.

use crate::model::architecture::{Architecture, Mlp, Norm, Positions, Projections, QkNorm, Sizes};
use proto::Precision;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use std::collections::TryReserveError;
use std::f64::consts::TAU;
use std::sync::{Mutex, PoisonError};
use tch::{Device, Kind, Tensor, no_grad};

/// Standard deviation of the initial matrices and embeddings at [`INIT_WIDTH`], GPT-2's own
/// (Radford et al. 2019). At other widths it goes with the root of 1 / width, which keeps the size
/// of what a layer hands on. Left at 0.02, narrow models start almost silent: width 32 trained on
/// 3e10 operations of Shakespeare ended at 2.81 instead of 2.58 nats per byte.
const INIT_STD: f64 = 0.02;
const INIT_WIDTH: f64 = 768.0;

/// Values from which on drawing them is shared out between threads: 20 ms of one.
const SHARED_FROM: usize = 1 << 19;

/// Bytes of one value, float32.
pub(crate) const VALUE_BYTES: usize = 4;

/// Names, shapes and places of all tensors of a model, matrices before vectors.
///
/// The order is part of the numerics: the gradient's norm sums in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    entries: Vec<Entry>,
    len: usize,
    decayed_len: usize,
}

/// One tensor's place in the flat buffer.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Name in checkpoints.
    pub name: String,
    /// Shape; a linear layer's matrix is (outputs, inputs).
    pub shape: Vec<i64>,
    /// First value.
    pub start: usize,
    /// Number of values.
    pub len: usize,
    init: Init,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Init {
    Normal { std: f64 },
    Constant(f32),
}

impl Layout {
    /// The tensors of `architecture`.
    pub fn of(architecture: impl Into<Architecture>) -> Self {
        let mut shapes = shapes(&architecture.into());
        // Stable: within matrices and within vectors the order of the forward pass is kept.
        shapes.sort_by_key(|(_, shape, _)| shape.len() < 2);
        let mut layout = Self { entries: Vec::with_capacity(shapes.len()), len: 0, decayed_len: 0 };
        for (name, shape, init) in shapes {
            let len = shape.iter().map(|&n| n as usize).product();
            if shape.len() >= 2 {
                layout.decayed_len += len;
            }
            let start = layout.len;
            layout.len += len;
            layout.entries.push(Entry { name, shape, start, len, init });
        }
        layout
    }

    /// All tensors, in the flat buffer's order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Number of values in all tensors.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the model has no tensor at all, which no valid specification gives.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of values, from the first, that weight decay applies to: matrices and embeddings.
    pub fn decayed_len(&self) -> usize {
        self.decayed_len
    }

    /// Initial values. Each tensor draws from its own stream, keyed by seed and name, so they do
    /// not depend on the order of the tensors, on threads or on a global generator. Bytes of
    /// float32 values in the flat buffer's order.
    ///
    /// # Errors
    /// There is no memory for them.
    pub fn initial_values(&self, seed: u64) -> Result<Vec<u8>, TryReserveError> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(self.len.saturating_mul(VALUE_BYTES))?;
        bytes.resize(self.len * VALUE_BYTES, 0);
        let mut rest = &mut *bytes;
        let places = self.entries.iter().map(|entry| {
            let (own, others) = std::mem::take(&mut rest).split_at_mut(entry.len * VALUE_BYTES);
            rest = others;
            (entry, own)
        });
        let places = Mutex::new(places.collect::<Vec<_>>().into_iter());
        let fill = || {
            while let Some((entry, place)) = next(&places) {
                entry.fill(seed, place);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..if self.len < SHARED_FROM { 1 } else { tch::get_num_threads() } {
                scope.spawn(fill);
            }
            fill();
        });
        Ok(bytes)
    }
}

/// The next of `places`, for one of several threads.
fn next<T>(places: &Mutex<impl Iterator<Item = T>>) -> Option<T> {
    places.lock().unwrap_or_else(PoisonError::into_inner).next()
}

impl Entry {
    /// Puts the initial values that belong to `seed` into `place`.
    fn fill(&self, seed: u64, place: &mut [u8]) {
        let mut stream = stream(seed, &self.name);
        for bytes in place.as_chunks_mut::<VALUE_BYTES>().0 {
            let value = match self.init {
                Init::Constant(value) => value,
                Init::Normal { std } => (std * normal(&mut stream)) as f32,
            };
            *bytes = value.to_le_bytes();
        }
    }
}

/// The values of `tensor`, float32, on the host.
///
/// # Errors
/// libtorch refuses the copy.
pub(crate) fn bytes(tensor: &Tensor) -> tch::Result<Vec<u8>> {
    let mut bytes = vec![0; tensor.numel() * VALUE_BYTES];
    tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
    Ok(bytes)
}

fn shapes(architecture: &Architecture) -> Vec<(String, Vec<i64>, Init)> {
    let Sizes { vocabulary, sequence, width, layers, heads, kv_heads, mlp_width } =
        architecture.sizes;
    let std = INIT_STD * (INIT_WIDTH / f64::from(width)).sqrt();
    let matrix = Init::Normal { std };
    // What is added to the residual stream shrinks with the number of additions, two per layer.
    let residual = match architecture.projections {
        Projections::Scaled => Init::Normal { std: std / (2.0 * f64::from(layers)).sqrt() },
        Projections::Zero => Init::Constant(0.0),
    };
    let [vocabulary, sequence, d, i] = [vocabulary, sequence, width, mlp_width].map(i64::from);
    let [heads, kv_heads, head] = [heads, kv_heads, architecture.head_width].map(i64::from);
    let mut tensors = vec![("token_embedding.weight".into(), vec![vocabulary, d], matrix)];
    if architecture.positions == Positions::Learned {
        tensors.push(("position_embedding.weight".into(), vec![sequence, d], matrix));
    }
    let biases = architecture.biases;
    let up_width = match architecture.mlp {
        Mlp::Gelu | Mlp::ReluSquared => i,
        Mlp::SwiGlu => 2 * i,
    };
    for layer in 0..layers {
        let name = |part: &str| format!("layers.{layer}.{part}");
        tensors.extend(norm(architecture.norm, &name("attention_norm"), d));
        let qkv = [(heads + 2 * kv_heads) * head, d];
        tensors.extend(linear(&name("attention.qkv"), qkv, matrix, biases.qkv));
        if architecture.qk_norm == QkNorm::Weighted {
            for part in ["attention.q_norm.weight", "attention.k_norm.weight"] {
                tensors.push((name(part), vec![head], Init::Constant(1.0)));
            }
        }
        let output = [d, heads * head];
        tensors.extend(linear(
            &name("attention.output"),
            output,
            residual,
            biases.attention_output,
        ));
        tensors.extend(norm(architecture.norm, &name("mlp_norm"), d));
        let up = name(architecture.mlp.first_layer());
        tensors.extend(linear(&up, [up_width, d], matrix, biases.mlp));
        tensors.extend(linear(&name("mlp.down"), [d, i], residual, biases.mlp));
    }
    tensors.extend(norm(architecture.norm, "final_norm", d));
    if !architecture.tied {
        tensors.push(("output.weight".into(), vec![vocabulary, d], matrix));
    }
    tensors
}

fn linear(
    name: &str,
    shape: [i64; 2],
    init: Init,
    bias: bool,
) -> impl Iterator<Item = (String, Vec<i64>, Init)> {
    let weight = (format!("{name}.weight"), shape.to_vec(), init);
    let bias = bias.then(|| (format!("{name}.bias"), vec![shape[0]], Init::Constant(0.0)));
    [weight].into_iter().chain(bias)
}

fn norm(
    norm: Norm,
    name: &str,
    width: i64,
) -> impl Iterator<Item = (String, Vec<i64>, Init)> + use<> {
    let part = |part: &str, value| (format!("{name}.{part}"), vec![width], Init::Constant(value));
    let parts = match norm {
        Norm::Layer { .. } => vec![part("weight", 1.0), part("bias", 0.0)],
        Norm::Rms { .. } => vec![part("weight", 1.0)],
        Norm::PlainRms { .. } => vec![],
    };
    parts.into_iter()
}

fn stream(seed: u64, name: &str) -> ChaCha8Rng {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.update(name.as_bytes());
    ChaCha8Rng::from_seed(*hasher.finalize().as_bytes())
}

/// A standard normal number (Box and Muller 1958).
fn normal(stream: &mut ChaCha8Rng) -> f64 {
    let mut uniform = || (stream.next_u64() >> 11) as f64 / (1u64 << 53) as f64; // [0, 1)
    let radius = (-2.0 * (1.0 - uniform()).ln()).sqrt();
    radius * (TAU * uniform()).cos()
}

/// The trained values on a device.
#[derive(Debug)]
pub struct Parameters {
    layout: Layout,
    flat: Tensor,
    /// The values rounded to bfloat16, where the model computes in it.
    rounded: Option<Tensor>,
    /// What the model reads: parts of the rounded values, or of the values themselves.
    tensors: Vec<Tensor>,
}

impl Parameters {
    /// Puts `values`, bytes of float32 values in `layout`'s order, on `device`, for a model that
    /// computes in `precision`.
    ///
    /// # Errors
    /// libtorch has no memory for them.
    pub fn new(
        layout: Layout,
        values: &[u8],
        precision: Precision,
        device: Device,
    ) -> tch::Result<Self> {
        assert_eq!(values.len(), VALUE_BYTES * layout.len(), "the layout's length");
        let flat = Tensor::f_from_data_size(values, &[layout.len() as i64], Kind::Float)?;
        Self::over(layout, flat.f_to_device(device)?, precision)
    }

    /// Takes `flat` (N), float32, whose values are in `layout`'s order.
    pub(crate) fn over(layout: Layout, flat: Tensor, precision: Precision) -> tch::Result<Self> {
        let rounded = match precision {
            Precision::Float32 => None,
            Precision::Bf16 => Some(flat.f_to_kind(Kind::BFloat16)?),
        };
        let read = rounded.as_ref().unwrap_or(&flat);
        let tensors = layout
            .entries
            .iter()
            .map(|entry| {
                // Leaves that share the flat tensor's memory: the optimiser writes the whole, the
                // model reads the parts.
                read.f_narrow(0, entry.start as i64, entry.len as i64)?
                    .f_view(entry.shape.as_slice())?
                    .f_detach()?
                    .f_set_requires_grad(true)
            })
            .collect::<tch::Result<_>>()?;
        Ok(Self { layout, flat, rounded, tensors })
    }

    /// Names and places.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// All values, (N), float32. Who changes them calls [`changed`](Self::changed).
    pub fn flat(&self) -> &Tensor {
        &self.flat
    }

    /// The values rounded to bfloat16, (N), where the model computes in it. Who changes the values
    /// can round them into it, instead of calling [`changed`](Self::changed).
    pub(crate) fn rounded(&self) -> Option<&Tensor> {
        self.rounded.as_ref()
    }

    /// Shows the model what the values are now.
    ///
    /// # Errors
    /// libtorch refuses.
    pub fn changed(&self) -> tch::Result<()> {
        let Some(rounded) = &self.rounded else { return Ok(()) };
        no_grad(|| rounded.shallow_clone().f_copy_(&self.flat))
    }

    /// The leaf named `name`.
    ///
    /// # Panics
    /// When the layout has no such tensor, which is a mistake in the model's code.
    pub(crate) fn leaf(&self, name: &str) -> Tensor {
        self.find(name).unwrap_or_else(|| panic!("the layout has no tensor named {name}"))
    }

    /// The leaf named `name`, if the layout has one.
    pub(crate) fn find(&self, name: &str) -> Option<Tensor> {
        let index = self.layout.entries.iter().position(|e| e.name == name)?;
        Some(self.tensors[index].shallow_clone())
    }

    /// Gradient of `loss` (a scalar) with respect to all values, (N), float32.
    ///
    /// # Errors
    /// libtorch refuses, for lack of memory.
    pub fn gradient(&self, loss: &Tensor) -> tch::Result<Tensor> {
        let parts = Tensor::f_run_backward(&[loss], &self.tensors, false, false)?;
        let parts =
            parts.iter().map(|part| part.f_reshape(-1i64)).collect::<tch::Result<Vec<_>>>()?;
        Tensor::f_cat(&parts, 0)?.f_to_kind(Kind::Float)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{Mlp, ModelSpec, Norm, Positions};

    fn spec(norm: Norm, positions: Positions, mlp: Mlp, tied: bool) -> ModelSpec {
        ModelSpec {
            vocabulary: 50,
            sequence: 24,
            width: 16,
            layers: 3,
            heads: 2,
            mlp_width: 40,
            mlp,
            tied,
            positions,
            norm,
        }
    }

    // Goal: the number that plans and fits use is the number of values that are really trained.
    #[test]
    fn the_counted_parameters_are_the_real_ones() {
        for norm in [Norm::LayerNorm, Norm::RmsNorm, Norm::PlainRmsNorm] {
            for positions in [Positions::Learned, Positions::Rotary] {
                for mlp in [Mlp::Gelu, Mlp::SwiGlu] {
                    for tied in [true, false] {
                        let spec = spec(norm, positions, mlp, tied);
                        let layout = Layout::of(&spec);
                        let values = layout.initial_values(1).unwrap();
                        let parameters =
                            Parameters::new(layout, &values, Precision::Float32, Device::Cpu)
                                .unwrap();
                        let real: usize = parameters.tensors.iter().map(Tensor::numel).sum();
                        assert_eq!(real as u64, spec.parameters(), "{spec:?}");
                        assert_eq!(parameters.flat.numel(), real, "{spec:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn matrices_come_before_vectors_and_only_they_decay() {
        let spec = spec(Norm::LayerNorm, Positions::Learned, Mlp::Gelu, false);
        let layout = Layout::of(&spec);
        let mut start = 0;
        for entry in layout.entries() {
            assert_eq!(entry.start, start);
            assert_eq!(entry.shape.len() >= 2, entry.start < layout.decayed_len(), "{entry:?}");
            start += entry.len;
        }
        assert_eq!(start, layout.len());
    }

    // Goal: who draws a tensor changes nothing.
    #[test]
    fn initial_values_are_the_same_when_they_are_shared_out() {
        let mut spec = spec(Norm::RmsNorm, Positions::Learned, Mlp::Gelu, false);
        spec.vocabulary = (SHARED_FROM as u32).div_ceil(spec.width);
        let layout = Layout::of(&spec);
        let mut alone = vec![0; layout.len() * VALUE_BYTES];
        for entry in layout.entries() {
            entry.fill(3, &mut alone[entry.start * VALUE_BYTES..][..entry.len * VALUE_BYTES]);
        }
        assert!(layout.initial_values(3).unwrap() == alone);
    }

    #[test]
    fn initial_values_have_their_deviation_and_follow_the_seed() {
        let spec = spec(Norm::LayerNorm, Positions::Learned, Mlp::Gelu, true);
        let layout = Layout::of(&spec);
        let values = |seed| -> Vec<f32> {
            let bytes = layout.initial_values(seed).unwrap();
            let floats = bytes.chunks_exact(VALUE_BYTES);
            floats.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        };
        let first = values(1);
        assert_eq!(first, values(1));
        assert_ne!(first, values(2));
        for entry in layout.entries() {
            let part = &first[entry.start..entry.start + entry.len];
            match entry.init {
                Init::Constant(value) => assert!(part.iter().all(|&v| v == value), "{entry:?}"),
                Init::Normal { std } => {
                    let n = part.len() as f64;
                    let mean = part.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
                    let square = part.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n;
                    // Five deviations of each estimate.
                    assert!(mean.abs() < 5.0 * std / n.sqrt(), "{entry:?}: mean {mean}");
                    let ratio = square.sqrt() / std;
                    assert!((ratio - 1.0).abs() < 5.0 / (2.0 * n).sqrt(), "{entry:?}: {ratio}");
                }
            }
        }
    }

    // A tensor's initial values do not depend on which other tensors there are.
    #[test]
    fn a_tensor_keeps_its_values_when_others_change() {
        let of = |positions| {
            let layout = Layout::of(&spec(Norm::LayerNorm, positions, Mlp::Gelu, true));
            let bytes = layout.initial_values(9).unwrap();
            let entry = layout.entries().iter().find(|e| e.name == "layers.1.mlp.up.weight");
            let entry = entry.unwrap().clone();
            bytes[VALUE_BYTES * entry.start..VALUE_BYTES * (entry.start + entry.len)].to_vec()
        };
        assert_eq!(of(Positions::Learned), of(Positions::Rotary));
    }
}
