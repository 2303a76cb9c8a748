//! Why a text can not be trained on.

use crate::tokenizer::TokenizerError;
use proto::{BlobId, FailureClass};
use std::io;
use std::path::PathBuf;

/// Why a text can not be trained on.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file can not be read.
    #[error("cannot read the data {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not the one that the trial was planned for.
    #[error("the data {path} has {found} bytes, the trial wants {wanted}")]
    Length {
        /// Which file.
        path: PathBuf,
        /// Bytes of the file.
        found: u64,
        /// Bytes wanted.
        wanted: u64,
    },
    /// The file is not the one that the trial was planned for.
    #[error("the data {path} has the hash {found}, the trial wants {wanted}")]
    Hash {
        /// Which file.
        path: PathBuf,
        /// Hash of the file.
        found: BlobId,
        /// Hash wanted.
        wanted: BlobId,
    },
    /// A shard's header is not one.
    #[error(
        "the data {path}: shard {shard}, at byte {offset}: {problem}; `shards` is for files with \
        the header of llm.c, bare tokens of two bytes are `u16`"
    )]
    Shard {
        /// Which file.
        path: PathBuf,
        /// Which shard, from 1.
        shard: usize,
        /// Where its header begins, in bytes.
        offset: u64,
        /// What is wrong.
        problem: ShardProblem,
    },
    /// A line is not a document.
    #[error(
        "the data {path}, line {line}, column {column}: {problem}; every line must be one JSON \
        object with the document as the text \"text\""
    )]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: u64,
        /// Place in the line in bytes, from 1.
        column: usize,
        /// What is wrong.
        problem: String,
    },
    /// A line is no pair of prompt and completion that fits the model.
    #[error(
        "the data {path}, line {line}: {problem}; every line must be one JSON object with the \
        texts \"prompt\" and \"completion\""
    )]
    Pair {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: u64,
        /// What is wrong.
        problem: String,
    },
    /// More tokens than are made from a text.
    #[error("the data {path} has more than {max} tokens; write them as shards")]
    Long {
        /// Which file.
        path: PathBuf,
        /// Most tokens.
        max: u64,
    },
    /// The tokenizer can not be used, or refused a text.
    #[error(transparent)]
    Tokenizing(#[from] TokenizerError),
    /// A text that is not one.
    #[error("the data {path} is not UTF-8 at byte {place}; `text` is for a tokenizer, use `bytes`")]
    NotText {
        /// Which file.
        path: PathBuf,
        /// Where, from 0.
        place: u64,
    },
    /// Tokens can not be kept.
    #[error("cannot write the tokens {path}")]
    Kept {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The model has no embedding for some of the tokenizer's tokens.
    #[error(
        "the tokenizer has {tokens} tokens, end of document included, the vocabulary of the model \
        has {vocabulary}; make the vocabulary at least {tokens}"
    )]
    Tokenizer {
        /// The tokenizer's.
        tokens: u32,
        /// V.
        vocabulary: u32,
    },
    /// The last token has one byte instead of two.
    #[error("the data {path} has {bytes} bytes; tokens of two bytes need an even number")]
    OddLength {
        /// Which file.
        path: PathBuf,
        /// Bytes of the file.
        bytes: u64,
    },
    /// A part is too short to hold one window.
    #[error(
        "the {part} text has {tokens} tokens; a sequence of {sequence} needs at least {}; give \
        more text, change `held_out`, or shorten the sequence",
        sequence + 1
    )]
    Short {
        /// "training" or "held-out".
        part: &'static str,
        /// Tokens in it.
        tokens: u64,
        /// S.
        sequence: u64,
    },
    /// A token that the model has no embedding for.
    #[error("the data {path} has token {token} at place {place}; the vocabulary has {vocabulary}")]
    Vocabulary {
        /// Which file.
        path: PathBuf,
        /// The token.
        token: u32,
        /// Its place, in tokens.
        place: u64,
        /// V.
        vocabulary: u32,
    },
}

impl DataError {
    /// Who has to act: a file that can not be read may be there on the next try; the rest is wrong
    /// for good.
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Read { .. }
            | Self::Kept { .. }
            | Self::Tokenizing(TokenizerError::Read { .. }) => FailureClass::Infrastructure,
            Self::Length { .. }
            | Self::Hash { .. }
            | Self::Shard { .. }
            | Self::Line { .. }
            | Self::Pair { .. }
            | Self::Tokenizing(_)
            | Self::NotText { .. }
            | Self::Long { .. }
            | Self::Tokenizer { .. }
            | Self::OddLength { .. }
            | Self::Short { .. }
            | Self::Vocabulary { .. } => FailureClass::Invalid,
        }
    }
}

/// What is wrong with a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ShardProblem {
    /// The file ends in the header.
    #[error("the header has {found} of 1024 bytes")]
    Header {
        /// Bytes that are there.
        found: usize,
    },
    /// The first integer.
    #[error("it begins with {found} instead of 20240520")]
    Magic {
        /// What is there.
        found: i32,
    },
    /// The second integer.
    #[error("its version is {found}, only 1 (tokens of two bytes) is read")]
    Version {
        /// What is there.
        found: i32,
    },
    /// The third integer.
    #[error("it promises {found} tokens, a number below 0")]
    Count {
        /// What is there.
        found: i32,
    },
    /// The file ends in the tokens.
    #[error("it promises {promised} tokens, only {found} follow: the file was cut short")]
    Truncated {
        /// Tokens by the header.
        promised: usize,
        /// Tokens that are there.
        found: usize,
    },
    /// Too many shards.
    #[error("there are more than {max} shards")]
    Many {
        /// Most shards.
        max: usize,
    },
}
