//! How often trainings see their text.

use proto::{DataSpec, TokenFormat};

/// Least bytes of one token; headers and the JSON around documents come on top. Nobody knows how
/// few bytes of text a tokenizer makes a token of.
pub(crate) fn token_bytes(format: TokenFormat) -> u64 {
    match format {
        TokenFormat::Bytes | TokenFormat::Text | TokenFormat::Jsonl => 1,
        TokenFormat::U16 | TokenFormat::Shards => 2,
    }
}

/// Says how often the text is repeated by trainings of so many tokens; `None` when by none.
pub(crate) fn of_text(data: &DataSpec, trained: &[f64]) -> Option<String> {
    let tokens = (data.text.bytes / token_bytes(data.format)) as f64 * (1.0 - data.held_out);
    let epochs = trained.iter().map(|trained| trained / tokens);
    let most = epochs.clone().fold(0.0, f64::max);
    let repeated = epochs.filter(|epochs| *epochs > 1.0).count();
    let unit = match data.format {
        TokenFormat::Bytes => "bytes",
        TokenFormat::U16 | TokenFormat::Shards => "tokens",
        TokenFormat::Text | TokenFormat::Jsonl => "tokens at most",
    };
    (repeated > 0).then(|| {
        format!(
            "the training text has {tokens:.3e} {unit}; {repeated} of {} trials see it more than \
             once, at most {most:.1} times, and repeated text is worth less than new text",
            trained.len()
        )
    })
}
