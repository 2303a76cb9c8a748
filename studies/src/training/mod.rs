//! What recipes with Brine's own trainer share: the sections `data`, `model`, `optimizer`,
//! `training` and `validation`.

pub(crate) mod checks;
mod optimizer;
pub(crate) mod raw;
pub(crate) mod repeats;
mod spec;

pub use spec::{Architecture, Data, Momentum, MuonRest, Optimizer, Rule, TrainingSettings};

use crate::recipe::{Path, RecipeError};
use proto::TokenFormat;

/// Every token must have an embedding. `data_at` is the section of `data`.
pub(crate) fn check_vocabulary(
    data: &Data,
    vocabulary: u32,
    at: &Path,
    data_at: &Path,
) -> Result<(), RecipeError> {
    let (least, of) = match data.format {
        TokenFormat::Bytes => (256, "bytes"),
        TokenFormat::Jsonl if data.tokenizer.is_none() => {
            (257, "jsonl, every byte and the end of a document")
        }
        // The trainer sees the tokens and compares.
        TokenFormat::U16 | TokenFormat::Shards | TokenFormat::Text | TokenFormat::Jsonl => {
            return Ok(());
        }
    };
    if vocabulary < least {
        let message = format!("must be at least {least} for {of}, found {vocabulary}");
        let values = ["format", "tokenizer"].map(|key| data_at.key(key));
        return Err(RecipeError::new(at, message).given(values));
    }
    Ok(())
}
