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
//! * [`checkpoint`]: states on disk, whole or refused; how often: [`CheckpointEvery`].
//! * [`device`]: where tensors live, and what libtorch found on this machine.
//!
//! What makes a resumed training end with the same bits: no global generator (initial values and
//! data order are functions of the seed), no state that is not in a [`checkpoint::Snapshot`], the
//! same number of threads, and operations of libtorch that sum in a fixed order. On the processor
//! tests prove it for every kind of model, optimiser and data. On a GPU it has not been measured.

mod check;
pub mod checkpoint;
pub mod data;
pub mod device;
mod error;
pub mod generate;
pub mod grpo;
pub mod hf;
mod interval;
mod learner;
mod log;
pub mod model;
pub mod optimizer;
pub mod parameters;
mod permutation;
pub mod schedule;
pub mod tokenizer;
mod train;
mod writer;

pub use device::{Device, Environment, environment};
pub use error::TrainError;
pub use grpo::train_policy;
pub use interval::{CheckpointEvery, best_interval};
pub use train::{End, Observer, Setting, train};
