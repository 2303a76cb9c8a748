//! Models, data, optimiser and the training loop, on libtorch. Knows nothing of trials, agents or
//! the network.
//!
//! * [`train()`]: one training from a [`proto::TrainSpec`], resumable to the same bits.
//! * [`train_policy`]: likewise a policy from a [`proto::GrpoSpec`]; [`grpo`]: its losses and
//!   verifiers.
//! * [`model`]: the decoder-only transformer; [`parameters`]: its values in one flat tensor.
//! * [`hf`]: folders of Hugging Face; [`tokenizer`]: their `tokenizer.json`.
//! * [`generate`](mod@generate): what a model writes.
//! * [`optimizer`]: AdamW, Lion, SGD and Muon; [`schedule`]: the learning rate.
//! * [`data`]: text, shards and documents to windows of tokens, in an order that is a function of
//!   seed and step.
//! * [`parallel`]: several processes that train one model.
//! * [`checkpoint`]: states on disk, whole or refused; how often: [`CheckpointEvery`].
//! * [`device`]: where tensors live, and what libtorch found on this machine.
//!
//! What makes a resumed training end with the same bits: no global generator (initial values and
//! data order are functions of the seed), no state that is not in a [`checkpoint::Snapshot`], the
//! same number of threads, and operations of libtorch that sum in a fixed order. On the processor
//! tests prove it for every kind of model, optimiser and data. On a GPU it has not been measured.
//!
//! A model in 30 lines, without the rest of Brine:
//!
//! ```
//! use proto::{AdamW, Precision};
//! use tch::{Device, Reduction, Tensor};
//! use trainer::model::{Architecture, Model, Sizes};
//! use trainer::optimizer::Optimizer;
//! use trainer::parameters::{Layout, Parameters};
//!
//! let text = b"the quick brown fox jumps over the lazy dog, and over and over again. ".repeat(8);
//! let (vocabulary, sequence) = (256, 32);
//! let (width, layers, heads, kv_heads, mlp_width) = (32, 2, 4, 2, 64);
//! let sizes = Sizes { vocabulary, sequence, width, layers, heads, kv_heads, mlp_width };
//! let llama = Architecture::llama(sizes);
//! let layout = Layout::of(&llama);
//! let values = layout.initial_values(1)?;
//! let parameters = Parameters::new(layout, &values, Precision::Float32, Device::Cpu)?;
//! let model = Model::new(&llama, &parameters)?;
//! let (learning_rate, beta1, beta2, epsilon) = (1e-2, 0.9, 0.95, 1e-8);
//! let (weight_decay, clip) = (0.1, Some(1.0));
//! let adamw = AdamW { learning_rate, beta1, beta2, epsilon, weight_decay, clip };
//! let mut optimizer = Optimizer::new(&proto::Optimizer::AdamW(adamw), &parameters)?;
//! let mut losses = Vec::new();
//! for step in 1..=60 {
//!     // Windows of 32 bytes and the byte after each.
//!     let starts = (0..8).map(|i| (step as usize * 41 + i * 67) % (text.len() - 33));
//!     let bytes = starts.flat_map(|start| &text[start..start + 33]).map(|&b| i64::from(b));
//!     let windows = Tensor::from_slice(&bytes.collect::<Vec<_>>()).view([8, 33]);
//!     let targets = windows.narrow(1, 1, 32).reshape(-1);
//!     let loss = model.loss(&windows.narrow(1, 0, 32), &targets, Reduction::Mean)?;
//!     let gradient = parameters.gradient(&loss)?;
//!     let _norm = optimizer.step(&parameters, gradient, 1.0, step)?;
//!     losses.push(loss.double_value(&[]));
//! }
//! assert!(losses[0] > 5.0 && losses[59] < 1.0, "{losses:?}");
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

mod check;
pub mod checkpoint;
pub mod data;
pub mod device;
mod download;
mod error;
pub mod generate;
pub mod grpo;
pub mod hf;
mod interval;
mod learner;
mod library;
mod log;
pub mod model;
mod operations;
pub mod optimizer;
pub mod parallel;
pub mod parameters;
mod permutation;
pub mod schedule;
mod start;
pub mod tokenizer;
mod train;
mod writer;

pub use device::{Device, Environment, KERNELS, environment};
pub use error::{TrainError, chain};
pub use grpo::train_policy;
pub use interval::{CheckpointEvery, best_interval};
pub use parallel::Membership;
pub use train::{End, Observer, Setting, train};
