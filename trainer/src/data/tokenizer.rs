//! Text to tokens.

use super::{DataError, map};
use crate::tokenizer::TokenizerError;
use proto::train::TokenizerSpec;
use std::fmt::Debug;
use std::path::Path;

/// What turns documents into tokens. The same text must give the same tokens always.
pub trait Tokenizer: Debug + Sync {
    /// Number of distinct tokens, [`end_of_document`](Self::end_of_document) included.
    fn vocabulary(&self) -> u32;
    /// The token that follows every document; below the vocabulary.
    fn end_of_document(&self) -> u32;
    /// Appends the tokens of `document`, without the one that ends it, each below the vocabulary.
    ///
    /// # Errors
    /// There are no tokens for a part of it.
    fn encode(&self, document: &str, tokens: &mut Vec<u32>) -> Result<(), TokenizerError>;
}

/// Every byte of UTF-8 is a token; token 256 ends a document.
#[derive(Debug, Clone, Copy)]
pub struct Bytes;

impl Tokenizer for Bytes {
    fn vocabulary(&self) -> u32 {
        257
    }

    fn end_of_document(&self) -> u32 {
        256
    }

    fn encode(&self, document: &str, tokens: &mut Vec<u32>) -> Result<(), TokenizerError> {
        tokens.extend(document.bytes().map(u32::from));
        Ok(())
    }
}

/// A `tokenizer.json`. Special tokens are put around no document, but for the one that ends it.
#[derive(Debug)]
pub struct FromFile {
    inner: crate::tokenizer::Tokenizer,
    vocabulary: u32,
    end_of_document: u32,
}

impl FromFile {
    /// The tokenizer of `spec` in the file at `path`, for a model with `vocabulary` tokens.
    ///
    /// # Errors
    /// The file is not the one, is no tokenizer, does not fit the vocabulary, or has no token that
    /// ends a document.
    pub fn open(path: &Path, spec: &TokenizerSpec, vocabulary: u32) -> Result<Self, DataError> {
        let content = map(path, &spec.file)?;
        let inner = crate::tokenizer::Tokenizer::parse(path, &content, vocabulary)
            .map_err(DataError::Tokenizing)?;
        let end_of_document = match &spec.end_of_document {
            // Only documents have ends; a text is one stream.
            None => 0,
            Some(token) => inner.number(token).ok_or_else(|| {
                let (path, token) = (path.to_owned(), token.clone());
                DataError::Tokenizing(TokenizerError::NoToken { path, token })
            })?,
        };
        Ok(Self { inner, vocabulary, end_of_document })
    }
}

impl Tokenizer for FromFile {
    fn vocabulary(&self) -> u32 {
        self.vocabulary
    }

    fn end_of_document(&self) -> u32 {
        self.end_of_document
    }

    fn encode(&self, document: &str, tokens: &mut Vec<u32>) -> Result<(), TokenizerError> {
        tokens.extend(self.inner.encode_plain(document)?);
        Ok(())
    }
}
