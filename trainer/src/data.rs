//! Text as tokens: checked once by its hash, split, and cut into windows.
//!
//! A window is S inputs and, one token later, S targets. Training windows lie wholly before the
//! held-out text. In a stream, windows do not overlap except in the one token that ends a window
//! and begins the next. Packed by documents, a window begins with a document, and what is left of
//! it holds targets that are not scored.
//!
//! Bytes and tokens of two bytes stay on disk and are mapped into memory. Text for a tokenizer and
//! documents become tokens of four bytes when they are first opened, which are kept in a file, or
//! in memory where no folder is given for them.

mod encode;
mod error;
mod jsonl;
mod kept;
mod packing;
mod prefetch;
pub mod shards;
mod source;
mod tokenizer;

pub use error::{DataError, ShardProblem};
pub(crate) use prefetch::batches;
pub use tokenizer::{Bytes, FromFile, Tokenizer};

use crate::parallel::part;
use crate::permutation::Permutation;
use memmap2::Mmap;
use packing::Windowing;
use proto::{BlobId, BlobRef, DataSpec, Packing, TokenFormat};
use source::Source;
use std::fs::File;
use std::path::Path;

/// Target of a token that is not scored; libtorch's mark for it.
pub const NOT_SCORED: i64 = -100;

/// A text, opened for one training.
#[derive(Debug)]
pub struct Text {
    source: Source,
    sequence: u64,
    training: Windowing,
    held_out: Windowing,
    /// Input where a window has no more tokens.
    padding: i64,
    seed: u64,
}

/// How text becomes tokens.
#[derive(Debug, Clone, Copy)]
pub struct Encoding<'a> {
    /// By what.
    pub tokenizer: &'a dyn Tokenizer,
    /// Folder in which the tokens are kept for the next training on the same text.
    pub kept: Option<&'a Path>,
}

impl Encoding<'static> {
    /// Bytes, in memory.
    pub const BYTES: Self = Self { tokenizer: &Bytes, kept: None };
}

/// Tokens of `sequences` windows, one after the other.
#[derive(Debug, PartialEq, Eq)]
pub struct Windows {
    /// Number of windows, B.
    pub sequences: u64,
    /// (B, S).
    pub inputs: Vec<i64>,
    /// (B, S): each the token after its input, or -100 where none is scored.
    pub targets: Vec<i64>,
    /// Targets that are scored.
    pub scored: u64,
}

/// What one of several gets of a batch.
#[derive(Debug, PartialEq, Eq)]
pub struct Share {
    /// Its windows.
    pub windows: Windows,
    /// Targets that are scored in the whole batch.
    pub batch_scored: u64,
}

impl Text {
    /// Maps the file at `path` and checks that it is what `spec` names and that it can be trained
    /// on in windows of `sequence` tokens. Text and documents become tokens as `encoding` says. The
    /// order of the windows follows from `seed`.
    ///
    /// The file must not change while it is mapped.
    ///
    /// # Errors
    /// [`DataError`] names the file and what is wrong with it.
    pub fn open(
        path: &Path,
        spec: &DataSpec,
        encoding: &Encoding<'_>,
        vocabulary: u32,
        sequence: u32,
        seed: u64,
    ) -> Result<Self, DataError> {
        let map = map(path, &spec.text)?;
        let (source, ends) = match spec.format {
            TokenFormat::Bytes => (Source::Bytes(map), Vec::new()),
            TokenFormat::U16 => (Source::bare(map, path)?, Vec::new()),
            TokenFormat::Shards => (shards::open(map, path)?, Vec::new()),
            TokenFormat::Jsonl | TokenFormat::Text => {
                let tokens = encoding.tokenizer.vocabulary();
                if tokens > vocabulary {
                    return Err(DataError::Tokenizer { tokens, vocabulary });
                }
                kept::tokens(&map, path, spec, encoding)?
            }
        };
        source.check_vocabulary(path, vocabulary)?;
        let tokens = source.len();
        let held_out = ((tokens as f64 * spec.held_out).round() as u64).min(tokens);
        let split = packing::split(tokens - held_out, &ends);
        let sequence = u64::from(sequence);
        for (part, tokens) in [("training", split), ("held-out", tokens - split)] {
            if tokens <= sequence {
                return Err(DataError::Short { part, tokens, sequence });
            }
        }
        let windowing = |part| match spec.packing {
            Packing::Stream => Windowing::stream(part, sequence),
            Packing::Documents => Windowing::documents(part, &ends, sequence),
        };
        Ok(Self {
            training: windowing(0..split),
            held_out: windowing(split..tokens),
            source,
            sequence,
            padding: i64::from(encoding.tokenizer.end_of_document().min(vocabulary - 1)),
            seed,
        })
    }

    /// Windows in the training text; each is seen once per epoch.
    pub fn training_windows(&self) -> u64 {
        self.training.len()
    }

    /// Windows in the held-out text.
    pub fn held_out_windows(&self) -> u64 {
        self.held_out.len()
    }

    /// The windows of update number `step`, from 0: a function of the seed and the step alone.
    /// Without replacement within an epoch; each epoch has an order of its own.
    pub fn batch(&self, step: u64, sequences: u32) -> Windows {
        self.share(step, sequences, 0, 1).windows
    }

    /// Share number `share` of `shares` of that batch: neighbouring windows, so that all shares,
    /// one after the other, are the batch, whatever their number. The first shares are one window
    /// longer where the batch can not be divided.
    pub fn share(&self, step: u64, sequences: u32, share: u32, shares: u32) -> Share {
        let windows = self.training_windows();
        let mut order: Option<(u64, Permutation)> = None;
        let first = step * u64::from(sequences);
        let places = (first..first + u64::from(sequences)).map(|index| {
            let epoch = index / windows;
            let permutation = match order {
                Some((of, permutation)) if of == epoch => permutation,
                Some(_) | None => Permutation::new(self.epoch_key(epoch), windows),
            };
            order = Some((epoch, permutation));
            self.training.at(permutation.at(index % windows))
        });
        let places: Vec<(u64, u64)> = places.collect();
        let part = part(u64::from(sequences), share, shares);
        Share {
            windows: self.windows(&places[part.start as usize..part.end as usize]),
            batch_scored: places.iter().map(|(_, scored)| scored).sum(),
        }
    }

    /// `count` windows from number `first` of the held-out text, in the text's order.
    pub fn held_out(&self, first: u64, count: u64) -> Windows {
        let places: Vec<(u64, u64)> =
            (first..first + count).map(|window| self.held_out.at(window)).collect();
        self.windows(&places)
    }

    /// Windows that begin at the first and have as many scored targets as the second number.
    fn windows(&self, places: &[(u64, u64)]) -> Windows {
        let sequence = self.sequence as usize;
        let mut windows = Windows {
            sequences: places.len() as u64,
            inputs: Vec::with_capacity(places.len() * sequence),
            targets: Vec::with_capacity(places.len() * sequence),
            scored: places.iter().map(|(_, scored)| scored).sum(),
        };
        for (row, &(start, scored)) in (1..).zip(places) {
            self.source.extend(&mut windows.inputs, start..start + scored);
            self.source.extend(&mut windows.targets, start + 1..start + 1 + scored);
            windows.inputs.resize(row * sequence, self.padding);
            windows.targets.resize(row * sequence, NOT_SCORED);
        }
        windows
    }

    fn epoch_key(&self, epoch: u64) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"brine data order");
        hasher.update(&self.seed.to_le_bytes());
        hasher.update(&epoch.to_le_bytes());
        *hasher.finalize().as_bytes()
    }
}

/// The content of the file at `path`, which is known to be `text`. It must not change while it is
/// mapped.
pub(crate) fn map(path: &Path, text: &BlobRef) -> Result<Mmap, DataError> {
    let read = |source| DataError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(read)?;
    let found = file.metadata().map_err(read)?.len();
    let wanted = text.bytes;
    if found != wanted {
        let path = path.to_owned();
        return Err(DataError::Length { path, found, wanted });
    }
    // SAFETY: the file is a blob, which is known by its content and never written again; the
    // caller keeps this promise, which `Text::open` states.
    #[expect(unsafe_code, reason = "a memory map has no safe constructor")]
    let map = unsafe { Mmap::map(&file) }.map_err(read)?;
    let found = BlobId::from_hash(blake3::hash(&map));
    if found != text.blob {
        let path = path.to_owned();
        let wanted = text.blob.clone();
        return Err(DataError::Hash { path, found, wanted });
    }
    Ok(map)
}

#[cfg(test)]
mod tests;
