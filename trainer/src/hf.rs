//! Folders of Hugging Face: `config.json` and weights as safetensors, in one file or in shards that
//! `model.safetensors.index.json` names. GPT-2, Llama, Qwen2 and Qwen3.
//!
//! What Brine does not compute is refused, never ignored: an unknown key of the configuration, a
//! scaled rotary base, a window, a missing tensor or one too many.
//!
//! Dropout in a configuration is accepted and not applied. `transformers` keeps the embedding of
//! `pad_token_id` from being trained; here it is a token like every other.

mod config;
mod error;
mod names;
mod read;
mod write;

pub use error::HfError;
pub use read::load;
pub use write::{SHARD_BYTES, save};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
