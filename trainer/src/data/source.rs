//! Where tokens lie.

use super::DataError;
use memmap2::Mmap;
use std::ops::Range;
use std::path::Path;

/// Bytes of a token that is stored as one.
pub(super) const TOKEN_BYTES: usize = 2;

/// All tokens of a text, in order.
#[derive(Debug)]
pub(super) enum Source {
    /// Every byte is a token.
    Bytes(Mmap),
    /// Tokens of two bytes, little endian, in runs.
    U16 { map: Mmap, runs: Vec<Run> },
    /// Tokens that were made when the text was opened.
    Memory(Vec<u32>),
    /// The first tokens of a file, four bytes each, little endian.
    U32 { map: Mmap, len: u64 },
}

/// Neighbouring tokens in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// Number of the first token in the text.
    pub(super) first: u64,
    /// Number of tokens.
    pub(super) len: u64,
    /// Where they begin in the file.
    pub(super) offset: usize,
}

impl Source {
    /// Tokens without any header.
    pub(super) fn bare(map: Mmap, path: &Path) -> Result<Self, DataError> {
        if !map.len().is_multiple_of(TOKEN_BYTES) {
            return Err(DataError::OddLength { path: path.to_owned(), bytes: map.len() as u64 });
        }
        let len = (map.len() / TOKEN_BYTES) as u64;
        Ok(Self::U16 { map, runs: vec![Run { first: 0, len, offset: 0 }] })
    }

    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Bytes(map) => map.len() as u64,
            Self::U16 { runs, .. } => runs.iter().map(|run| run.len).sum(),
            Self::Memory(tokens) => tokens.len() as u64,
            Self::U32 { len, .. } => *len,
        }
    }

    /// Appends the tokens of `range`, which lies inside the text.
    pub(super) fn extend(&self, tokens: &mut Vec<i64>, range: Range<u64>) {
        let places = range.start as usize..range.end as usize;
        match self {
            Self::Bytes(map) => tokens.extend(map[places].iter().map(|&byte| i64::from(byte))),
            Self::Memory(all) => tokens.extend(all[places].iter().map(|&token| i64::from(token))),
            Self::U32 { map, .. } => {
                let bytes = map[4 * places.start..4 * places.end].chunks_exact(4);
                let token = |b: &[u8]| i64::from(u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                tokens.extend(bytes.map(token));
            }
            Self::U16 { map, runs } => {
                let from = runs.partition_point(|run| run.first + run.len <= range.start);
                // A run without tokens may lie between two.
                for run in runs[from..].iter().take_while(|run| run.first < range.end) {
                    let start = range.start.max(run.first) - run.first;
                    let end = (range.end - run.first).min(run.len);
                    let [start, end] = [start, end].map(|n| run.offset + TOKEN_BYTES * n as usize);
                    tokens.extend(u16_tokens(&map[start..end]));
                }
            }
        }
    }

    /// Every token must have an embedding.
    pub(super) fn check_vocabulary(&self, path: &Path, vocabulary: u32) -> Result<(), DataError> {
        const TOKENS_AT_ONCE: u64 = 1 << 16;
        let largest = match self {
            Self::Bytes(_) => u32::from(u8::MAX),
            Self::U16 { .. } => u32::from(u16::MAX),
            Self::Memory(_) | Self::U32 { .. } => u32::MAX,
        };
        if vocabulary > largest {
            return Ok(());
        }
        let mut tokens = Vec::new();
        for first in (0..self.len()).step_by(TOKENS_AT_ONCE as usize) {
            tokens.clear();
            self.extend(&mut tokens, first..(first + TOKENS_AT_ONCE).min(self.len()));
            let wrong = (first..).zip(&tokens).find(|(_, token)| **token >= i64::from(vocabulary));
            if let Some((place, &token)) = wrong {
                let (path, token) = (path.to_owned(), token as u32);
                return Err(DataError::Vocabulary { path, token, place, vocabulary });
            }
        }
        Ok(())
    }
}

fn u16_tokens(bytes: &[u8]) -> impl Iterator<Item = i64> {
    let pairs = bytes.chunks_exact(TOKEN_BYTES);
    pairs.map(|pair| i64::from(u16::from_le_bytes([pair[0], pair[1]])))
}
