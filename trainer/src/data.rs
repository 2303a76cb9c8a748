//! Text as tokens: memory-mapped, checked once by its hash, split, and cut into windows.
//!
//! A window is S inputs and, one token later, S targets. Windows do not overlap except in the one
//! token that ends a window and begins the next. Training windows lie wholly before the held-out
//! text.

use crate::permutation::Permutation;
use memmap2::Mmap;
use proto::{BlobId, DataSpec, FailureClass, TokenFormat};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

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
            Self::Read { .. } => FailureClass::Infrastructure,
            Self::Length { .. }
            | Self::Hash { .. }
            | Self::OddLength { .. }
            | Self::Short { .. }
            | Self::Vocabulary { .. } => FailureClass::Invalid,
        }
    }
}

/// A text, opened for one training.
#[derive(Debug)]
pub struct Text {
    map: Mmap,
    format: TokenFormat,
    sequence: u64,
    training_tokens: u64,
    held_out_tokens: u64,
    seed: u64,
}

/// Tokens of `sequences` windows, one after the other.
#[derive(Debug, PartialEq, Eq)]
pub struct Windows {
    /// Number of windows, B.
    pub sequences: u64,
    /// (B, S).
    pub inputs: Vec<i64>,
    /// (B, S): each the token after its input.
    pub targets: Vec<i64>,
}

impl Text {
    /// Maps the file at `path` and checks that it is what `spec` names and that it can be trained
    /// on in windows of `sequence` tokens. The order of the windows follows from `seed`.
    ///
    /// The file must not change while it is mapped.
    ///
    /// # Errors
    /// [`DataError`] names the file and what is wrong with it.
    pub fn open(
        path: &Path,
        spec: &DataSpec,
        vocabulary: u32,
        sequence: u32,
        seed: u64,
    ) -> Result<Self, DataError> {
        let map = map(path, spec)?;
        let token_bytes = match spec.format {
            TokenFormat::Bytes => 1,
            TokenFormat::U16 => 2,
        };
        let bytes = map.len() as u64;
        if !bytes.is_multiple_of(token_bytes) {
            let path = path.to_owned();
            return Err(DataError::OddLength { path, bytes });
        }
        let tokens = bytes / token_bytes;
        let held_out_tokens = ((tokens as f64 * spec.held_out).round() as u64).min(tokens);
        let text = Self {
            map,
            format: spec.format,
            sequence: u64::from(sequence),
            training_tokens: tokens - held_out_tokens,
            held_out_tokens,
            seed,
        };
        text.check_lengths()?;
        text.check_vocabulary(path, vocabulary)?;
        Ok(text)
    }

    /// Windows in the training text; each is seen once per epoch.
    pub fn training_windows(&self) -> u64 {
        (self.training_tokens - 1) / self.sequence
    }

    /// Windows in the held-out text.
    pub fn held_out_windows(&self) -> u64 {
        (self.held_out_tokens - 1) / self.sequence
    }

    /// The windows of update number `step`, from 0: a function of the seed and the step alone.
    /// Without replacement within an epoch; each epoch has an order of its own.
    pub fn batch(&self, step: u64, sequences: u32) -> Windows {
        let windows = self.training_windows();
        let mut order: Option<(u64, Permutation)> = None;
        let first = step * u64::from(sequences);
        let starts = (first..first + u64::from(sequences)).map(|index| {
            let epoch = index / windows;
            let permutation = match order {
                Some((of, permutation)) if of == epoch => permutation,
                Some(_) | None => Permutation::new(self.epoch_key(epoch), windows),
            };
            order = Some((epoch, permutation));
            permutation.at(index % windows) * self.sequence
        });
        let starts: Vec<u64> = starts.collect();
        self.windows(&starts)
    }

    /// `count` windows from number `first` of the held-out text, in the text's order.
    pub fn held_out(&self, first: u64, count: u64) -> Windows {
        let start = |window: u64| self.training_tokens + window * self.sequence;
        let starts: Vec<u64> = (first..first + count).map(start).collect();
        self.windows(&starts)
    }

    fn windows(&self, starts: &[u64]) -> Windows {
        let len = starts.len() * self.sequence as usize;
        let mut windows = Windows {
            sequences: starts.len() as u64,
            inputs: Vec::with_capacity(len),
            targets: Vec::with_capacity(len),
        };
        for &start in starts {
            self.extend(&mut windows.inputs, start);
            self.extend(&mut windows.targets, start + 1);
        }
        windows
    }

    fn extend(&self, tokens: &mut Vec<i64>, start: u64) {
        let [start, end] = [start, start + self.sequence].map(|place| place as usize);
        match self.format {
            TokenFormat::Bytes => tokens.extend(self.map[start..end].iter().map(|&b| i64::from(b))),
            TokenFormat::U16 => tokens.extend(u16_tokens(&self.map[2 * start..2 * end])),
        }
    }

    fn epoch_key(&self, epoch: u64) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"brine data order");
        hasher.update(&self.seed.to_le_bytes());
        hasher.update(&epoch.to_le_bytes());
        *hasher.finalize().as_bytes()
    }

    fn check_lengths(&self) -> Result<(), DataError> {
        let parts = [("training", self.training_tokens), ("held-out", self.held_out_tokens)];
        for (part, tokens) in parts {
            if tokens <= self.sequence {
                let sequence = self.sequence;
                return Err(DataError::Short { part, tokens, sequence });
            }
        }
        Ok(())
    }

    fn check_vocabulary(&self, path: &Path, vocabulary: u32) -> Result<(), DataError> {
        let mut tokens: Box<dyn Iterator<Item = i64>> = match self.format {
            TokenFormat::Bytes if vocabulary > u32::from(u8::MAX) => return Ok(()),
            TokenFormat::U16 if vocabulary > u32::from(u16::MAX) => return Ok(()),
            TokenFormat::Bytes => Box::new(self.map.iter().map(|&byte| i64::from(byte))),
            TokenFormat::U16 => Box::new(u16_tokens(&self.map)),
        };
        let unknown = (0..).zip(&mut tokens);
        match unknown.into_iter().find(|&(_, token)| token >= i64::from(vocabulary)) {
            None => Ok(()),
            Some((place, token)) => Err(DataError::Vocabulary {
                path: path.to_owned(),
                token: token as u32,
                place,
                vocabulary,
            }),
        }
    }
}

fn u16_tokens(bytes: &[u8]) -> impl Iterator<Item = i64> {
    let pairs = bytes.chunks_exact(2);
    pairs.map(|pair| i64::from(u16::from_le_bytes([pair[0], pair[1]])))
}

fn map(path: &Path, spec: &DataSpec) -> Result<Mmap, DataError> {
    let read = |source| DataError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(read)?;
    let found = file.metadata().map_err(read)?.len();
    let wanted = spec.text.bytes;
    if found != wanted {
        let path = path.to_owned();
        return Err(DataError::Length { path, found, wanted });
    }
    // SAFETY: the file is a blob, which is known by its content and never written again; the
    // caller keeps this promise, which `Text::open` states.
    #[expect(unsafe_code, reason = "a memory map has no safe constructor")]
    let map = unsafe { Mmap::map(&file) }.map_err(read)?;
    let found = BlobId::from_hash(blake3::hash(&map));
    if found != spec.text.blob {
        let path = path.to_owned();
        let wanted = spec.text.blob.clone();
        return Err(DataError::Hash { path, found, wanted });
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::BlobRef;
    use std::collections::BTreeSet;

    /// Opens `content` with windows of 4 tokens.
    fn open(content: &[u8], format: TokenFormat, held_out: f64, seed: u64) -> Text {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        let text =
            BlobRef { blob: BlobId::from_hash(blake3::hash(content)), bytes: content.len() as u64 };
        let spec = DataSpec { text, format, held_out };
        Text::open(file.path(), &spec, 1 << 16, 4, seed).unwrap()
    }

    fn counting(len: u16) -> Vec<u8> {
        (0..len).flat_map(u16::to_le_bytes).collect()
    }

    // Goal: every training window exactly once per epoch, targets one after the inputs, and never
    // a held-out token. The tokens are their own places.
    #[test]
    fn an_epoch_shows_every_training_window_once_and_no_held_out_token() {
        for (len, held_out) in [(100, 0.1), (101, 0.3), (23, 0.5), (1_000, 0.01)] {
            let text = open(&counting(len), TokenFormat::U16, held_out, 3);
            let windows = text.training_windows();
            for epoch in 0..3 {
                let steps = epoch * windows..(epoch + 1) * windows;
                let mut starts = BTreeSet::new();
                for step in steps {
                    let batch = text.batch(step, 1);
                    let start = batch.inputs[0];
                    let expected: Vec<i64> = (start..start + 5).collect();
                    assert_eq!(batch.inputs, expected[..4]);
                    assert_eq!(batch.targets, expected[1..]);
                    assert!(batch.targets.iter().all(|&t| (t as u64) < text.training_tokens));
                    starts.insert(start);
                }
                let all: BTreeSet<i64> = (0..windows as i64).map(|window| 4 * window).collect();
                assert_eq!(starts, all, "{len} tokens, epoch {epoch}");
            }
            assert_eq!(text.training_tokens + text.held_out_tokens, u64::from(len));
        }
    }

    #[test]
    fn the_held_out_windows_begin_after_the_training_text() {
        let text = open(&counting(100), TokenFormat::U16, 0.2, 3);
        let windows = text.held_out_windows();
        assert_eq!((text.training_tokens, windows), (80, 4));
        let all = text.held_out(0, windows);
        assert_eq!(all.inputs, (80..96).collect::<Vec<i64>>());
        assert_eq!(all.targets, (81..97).collect::<Vec<i64>>());
        assert_eq!(text.held_out(2, 1).inputs, [88, 89, 90, 91]);
    }

    // Goal: the order is a function of the seed and the place in the order, however it is cut.
    #[test]
    fn the_order_does_not_depend_on_the_size_of_the_batches() {
        let text = open(&counting(100), TokenFormat::U16, 0.1, 3);
        let one_by_one: Vec<i64> = (0..60).flat_map(|step| text.batch(step, 1).inputs).collect();
        let by_six: Vec<i64> = (0..10).flat_map(|step| text.batch(step, 6).inputs).collect();
        assert_eq!(one_by_one, by_six);
        let again = open(&counting(100), TokenFormat::U16, 0.1, 3);
        assert_eq!(again.batch(7, 6), text.batch(7, 6));
        let other = open(&counting(100), TokenFormat::U16, 0.1, 4);
        assert_ne!(other.batch(0, 6), text.batch(0, 6));
        let epochs = text.training_windows();
        assert_ne!(text.batch(0, epochs as u32), text.batch(1, epochs as u32));
    }

    #[test]
    fn bytes_are_tokens() {
        let text = open(b"abcdefghijklmnopqrstuvwxyz", TokenFormat::Bytes, 0.5, 0);
        assert_eq!(text.held_out(0, 1).inputs, b"nopq".map(i64::from));
        assert_eq!(text.held_out(0, 1).targets, b"opqr".map(i64::from));
    }

    #[test]
    fn half_a_token_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"abc").unwrap();
        let text = BlobRef { blob: BlobId::from_hash(blake3::hash(b"abc")), bytes: 3 };
        let spec = DataSpec { text, format: TokenFormat::U16, held_out: 0.5 };
        let error = Text::open(file.path(), &spec, 1 << 16, 4, 0).unwrap_err();
        assert!(matches!(error, DataError::OddLength { bytes: 3, .. }), "{error}");
    }
}
