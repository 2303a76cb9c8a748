//! Text to tokens.

use std::fmt::Debug;

/// What turns documents into tokens. The same text must give the same tokens always.
pub trait Tokenizer: Debug + Sync {
    /// Number of distinct tokens, [`end_of_document`](Self::end_of_document) included.
    fn vocabulary(&self) -> u32;
    /// The token that follows every document; below the vocabulary.
    fn end_of_document(&self) -> u32;
    /// Appends the tokens of `document`, without the one that ends it, each below the vocabulary.
    fn encode(&self, document: &str, tokens: &mut Vec<u32>);
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

    fn encode(&self, document: &str, tokens: &mut Vec<u32>) {
        tokens.extend(document.bytes().map(u32::from));
    }
}
