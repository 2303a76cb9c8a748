//! Text and documents to tokens, piece by piece.

use super::tokenizer::Tokenizer;
use super::{DataError, jsonl};
use proto::TokenFormat;
use std::path::Path;

/// Most bytes of a text that are encoded at once. A piece ends with a line where there is one; the
/// pieces are part of what the tokens are, because a tokenizer may join what stands on both sides
/// of a cut.
const PIECE_BYTES: usize = 1 << 20;
/// Most tokens, 16 GiB of them.
const TOKENS_MAX: u64 = 1 << 32;

/// Tokens of a document with its end, or of a piece of a text.
pub(super) struct Piece<'a> {
    pub(super) tokens: &'a [u32],
    pub(super) ends_document: bool,
}

/// Gives `take` the tokens of `content`, that of the file at `path`.
pub(super) fn encode(
    content: &[u8],
    path: &Path,
    format: TokenFormat,
    tokenizer: &dyn Tokenizer,
    take: &mut dyn FnMut(Piece<'_>) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let is_text = format == TokenFormat::Text;
    let mut tokens = Vec::new();
    let mut count = 0;
    let mut each = |document: &str| {
        tokens.clear();
        tokenizer.encode(document, &mut tokens).map_err(DataError::Tokenizing)?;
        if !is_text {
            tokens.push(tokenizer.end_of_document());
        }
        count += tokens.len() as u64;
        if count > TOKENS_MAX {
            return Err(DataError::Long { path: path.to_owned(), max: TOKENS_MAX });
        }
        take(Piece { tokens: &tokens, ends_document: !is_text })
    };
    if !is_text {
        return jsonl::read(content, path, &mut each);
    }
    let mut start = 0;
    while start < content.len() {
        let window = &content[start..content.len().min(start + PIECE_BYTES)];
        let is_last = start + window.len() == content.len();
        let line_end = window.iter().rposition(|byte| *byte == b'\n').map(|place| place + 1);
        let piece = match line_end {
            Some(end) if !is_last => &window[..end],
            Some(_) | None => window,
        };
        let text = match std::str::from_utf8(piece) {
            Ok(text) => text,
            // A character that the cut went through belongs to the next piece.
            Err(error) if error.error_len().is_none() && error.valid_up_to() > 0 && !is_last => {
                std::str::from_utf8(&piece[..error.valid_up_to()]).unwrap_or_default()
            }
            Err(error) => {
                let place = (start + error.valid_up_to()) as u64;
                return Err(DataError::NotText { path: path.to_owned(), place });
            }
        };
        each(text)?;
        start += text.len();
    }
    Ok(())
}
