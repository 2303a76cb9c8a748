//! Operations of the model that are ours: several of libtorch's in one pass over memory, with a
//! backward pass that needs little of the forward pass. On the processor in float32, and on a GPU
//! whose kernels were prepared; elsewhere they are made of libtorch's.
//!
//! Where the values of one operation are shared out between threads, they go in pieces of a fixed
//! size, so that no number depends on how many threads there are.

mod adamw;
mod attention;
#[cfg(test)]
pub(crate) mod emulated;
mod function;
mod gelu;
pub(crate) mod gpu;
mod heads;
mod host;
mod norm;
mod output;
mod sampling;

pub(crate) use adamw::{Moved, adamw};
pub(crate) use attention::{attention, masked_attention};
pub(crate) use gelu::gelu;
pub(crate) use gpu::{relu_squared, swiglu};
pub(crate) use heads::{HeadNorm, Heads, split_heads};
pub(crate) use norm::{NormWeights, norm};
pub(crate) use output::{cross_entropy, output_loss, output_scores};
pub(crate) use sampling::choose_tokens;

/// Values of a test: sines, float32, which no sum brings to zero.
#[cfg(test)]
fn wave(shape: &[i64], speed: f64) -> tch::Tensor {
    let len = shape.iter().product::<i64>();
    let place = tch::Tensor::arange(len, (tch::Kind::Float, tch::Device::Cpu));
    (place * speed).sin().view(shape)
}
