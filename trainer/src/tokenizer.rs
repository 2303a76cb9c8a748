//! Text to tokens and back, as a folder's `tokenizer.json` says.

use std::fs;
use std::path::{Path, PathBuf};

/// Name of the file in a folder.
pub(crate) const FILE: &str = "tokenizer.json";
/// The largest vocabularies in use take some 30 MB.
const BYTES_MAX: u64 = 256 << 20;

/// Why a tokenizer can not be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The file can not be read.
    #[error("cannot read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is far larger than any tokenizer.
    #[error("{path} has {bytes} bytes, at most {BYTES_MAX} are read")]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
    },
    /// The file describes no tokenizer.
    #[error("{path} is not a tokenizer: {reason}")]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// What the decoder said.
        reason: String,
    },
    /// The tokenizer has tokens that the model has no embedding for.
    #[error(
        "{path}: token {token:?} has number {id}, but the model's vocabulary has {vocabulary} \
        tokens; the tokenizer belongs to another model"
    )]
    Vocabulary {
        /// Which file.
        path: PathBuf,
        /// The token with the largest number.
        token: String,
        /// Its number.
        id: u32,
        /// The model's.
        vocabulary: u32,
    },
    /// The token that shall end a document is none.
    #[error("{path} has no token {token:?}, which is to end every document")]
    NoToken {
        /// Which file.
        path: PathBuf,
        /// The token.
        token: String,
    },
    /// A text or tokens that the tokenizer can not translate.
    #[error("cannot {doing}: {reason}")]
    Translate {
        /// "encode a text" or "decode tokens".
        doing: &'static str,
        /// What the tokenizer said.
        reason: String,
    },
}

/// A tokenizer that fits a model.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    json: String,
}

impl Tokenizer {
    /// Reads `folder`'s `tokenizer.json` for a model with `vocabulary` tokens. A model may have
    /// more tokens than its tokenizer, because vocabularies are rounded up for speed.
    ///
    /// # Errors
    /// The file is missing, is not a tokenizer, or does not fit the vocabulary.
    pub fn load(folder: &Path, vocabulary: u32) -> Result<Self, TokenizerError> {
        let path = folder.join(FILE);
        let read = |source| TokenizerError::Read { path: path.clone(), source };
        let bytes = fs::metadata(&path).map_err(read)?.len();
        if bytes > BYTES_MAX {
            return Err(TokenizerError::TooLarge { path, bytes });
        }
        let content = fs::read(&path).map_err(read)?;
        Self::parse(&path, &content, vocabulary)
    }

    /// The tokenizer in `content`, that of the file at `path`, for a model with `vocabulary`
    /// tokens.
    ///
    /// # Errors
    /// It is not a tokenizer, or does not fit the vocabulary.
    pub(crate) fn parse(
        path: &Path,
        content: &[u8],
        vocabulary: u32,
    ) -> Result<Self, TokenizerError> {
        let path = path.to_owned();
        let json = match std::str::from_utf8(content) {
            Ok(json) => json.to_owned(),
            Err(error) => return Err(TokenizerError::Invalid { path, reason: error.to_string() }),
        };
        let inner: tokenizers::Tokenizer = json.parse().map_err(|error: tokenizers::Error| {
            TokenizerError::Invalid { path: path.clone(), reason: error.to_string() }
        })?;
        let largest = inner.get_vocab(true).into_iter().max_by_key(|(_, id)| *id);
        match largest {
            Some((token, id)) if id >= vocabulary => {
                Err(TokenizerError::Vocabulary { path, token, id, vocabulary })
            }
            Some(_) | None => Ok(Self { inner, json }),
        }
    }

    /// The content of its file.
    pub(crate) fn json(&self) -> &str {
        &self.json
    }

    /// Number of a token.
    pub(crate) fn number(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Tokens of `text` alone, without special tokens around it.
    ///
    /// # Errors
    /// The tokenizer has no token for a part of it.
    pub(crate) fn encode_plain(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.inner.encode_fast(text, false).map_err(failed("encode a text"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Tokens of `text`, with the special tokens that the tokenizer puts around a text.
    ///
    /// # Errors
    /// The tokenizer has no token for a part of it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.inner.encode(text, true).map_err(failed("encode a text"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of `tokens`, without special tokens. Bytes that are no whole character become U+FFFD.
    ///
    /// # Errors
    /// The tokenizer's decoder refuses.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, TokenizerError> {
        self.inner.decode(tokens, true).map_err(failed("decode tokens"))
    }
}

fn failed(doing: &'static str) -> impl Fn(tokenizers::Error) -> TokenizerError {
    move |error| TokenizerError::Translate { doing, reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: &str = r#"{
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null,
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"to": 0, "be": 1, "?": 2}, "unk_token": "?"}
    }"#;

    #[test]
    fn texts_go_there_and_back() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), WORDS).unwrap();
        let tokenizer = Tokenizer::load(folder.path(), 3).unwrap();
        assert_eq!(tokenizer.encode("to be or").unwrap(), [0, 1, 2]);
        assert_eq!(tokenizer.decode(&[1, 0]).unwrap(), "be to");
        assert_eq!(tokenizer.json(), WORDS);
    }

    #[test]
    fn a_file_that_is_not_a_fitting_tokenizer_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let refusal = || Tokenizer::load(folder.path(), 2).unwrap_err().to_string();
        assert!(refusal().starts_with("cannot read"), "{}", refusal());
        fs::write(&path, WORDS).unwrap();
        assert!(refusal().contains(r#"token "?" has number 2, but the model's vocabulary has 2"#));
        fs::write(&path, "{}").unwrap();
        assert!(refusal().contains("is not a tokenizer"), "{}", refusal());
    }
}
