//! Tokens that were made from a text, kept in a file for the next training on it.
//!
//! The file's name is a hash of everything that decides the tokens. It holds the tokens (four bytes
//! each, little endian), the documents' ends (eight bytes each), the number of both (eight bytes
//! each) and the blake3 hash of all that stands before. A file that does not match its hash is made
//! anew.

use super::encode::{Piece, encode};
use super::source::Source;
use super::{DataError, Encoding};
use memmap2::Mmap;
use proto::DataSpec;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Bytes of the two numbers and the hash at the end.
const TRAILER_BYTES: usize = 8 + 8 + blake3::OUT_LEN;
const TOKEN_BYTES: usize = 4;
const END_BYTES: usize = 8;
/// Version of the pieces that a text is encoded in; part of the name.
const VERSION: &str = "brine tokens 1";

/// The tokens of `content`, that of the file at `path`, and the ends of its documents.
pub(super) fn tokens(
    content: &[u8],
    path: &Path,
    spec: &DataSpec,
    encoding: &Encoding<'_>,
) -> Result<(Source, Vec<u64>), DataError> {
    let Some(folder) = encoding.kept else {
        let (mut tokens, mut ends) = (Vec::new(), Vec::new());
        encode(content, path, spec.format, encoding.tokenizer, &mut |piece| {
            tokens.extend_from_slice(piece.tokens);
            ends.extend(piece.ends_document.then_some(tokens.len() as u64));
            Ok(())
        })?;
        return Ok((Source::Memory(tokens), ends));
    };
    let kept = folder.join(name(spec));
    if let Some(found) = open(&kept) {
        return Ok(found);
    }
    write(content, path, spec, encoding, &kept)?;
    open(&kept).ok_or_else(|| DataError::Kept {
        path: kept.clone(),
        source: io::Error::other("what was written is not what is read"),
    })
}

fn name(spec: &DataSpec) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(VERSION.as_bytes());
    hasher.update(spec.text.blob.as_str().as_bytes());
    hasher.update(format!("{:?} {:?}", spec.format, spec.tokenizer).as_bytes());
    format!("{}.tokens", hasher.finalize().to_hex())
}

/// Encodes piece by piece into a file beside, which then gets the name.
fn write(
    content: &[u8],
    path: &Path,
    spec: &DataSpec,
    encoding: &Encoding<'_>,
    kept: &Path,
) -> Result<(), DataError> {
    let failed = |path: &Path| {
        let path: PathBuf = path.to_owned();
        move |source| DataError::Kept { path: path.clone(), source }
    };
    let part = kept.with_extension(format!("{}.part", std::process::id()));
    let result = (|| {
        let mut file = BufWriter::new(File::create(&part).map_err(failed(&part))?);
        let mut hasher = blake3::Hasher::new();
        let (mut count, mut ends) = (0_u64, Vec::new());
        let mut bytes = Vec::new();
        encode(content, path, spec.format, encoding.tokenizer, &mut |piece: Piece<'_>| {
            bytes.clear();
            bytes.extend(piece.tokens.iter().flat_map(|token| token.to_le_bytes()));
            hasher.update(&bytes);
            count += piece.tokens.len() as u64;
            ends.extend(piece.ends_document.then_some(count));
            file.write_all(&bytes).map_err(failed(&part))
        })?;
        let numbers = [count, ends.len() as u64];
        for number in ends.iter().chain(&numbers) {
            hasher.update(&number.to_le_bytes());
            file.write_all(&number.to_le_bytes()).map_err(failed(&part))?;
        }
        file.write_all(hasher.finalize().as_bytes()).map_err(failed(&part))?;
        let file = file.into_inner().map_err(io::IntoInnerError::into_error);
        file.and_then(|file| file.sync_all()).map_err(failed(&part))?;
        fs::rename(&part, kept).map_err(failed(kept))
    })();
    if result.is_err() {
        // Best effort: what is left has no name that anybody reads, and the disk may be full of it.
        drop(fs::remove_file(&part));
    }
    result
}

/// The tokens and ends in a file; `None` when it is not there or not whole.
fn open(path: &Path) -> Option<(Source, Vec<u64>)> {
    let file = File::open(path).ok()?;
    // SAFETY: files get this name only when they are whole, and are never written again.
    #[expect(unsafe_code, reason = "a memory map has no safe constructor")]
    let map = unsafe { Mmap::map(&file) }.ok()?;
    let (body, hash) = map.split_at_checked(map.len().checked_sub(blake3::OUT_LEN)?)?;
    if blake3::hash(body).as_bytes() != hash {
        return None;
    }
    let number = |bytes: &[u8]| Some(u64::from_le_bytes(bytes.try_into().ok()?));
    let trailer = map.len().checked_sub(TRAILER_BYTES)?;
    let count = usize::try_from(number(&body[trailer..trailer + 8])?).ok()?;
    let documents = usize::try_from(number(&body[trailer + 8..])?).ok()?;
    let ends = count.checked_mul(TOKEN_BYTES)?;
    if ends.checked_add(documents.checked_mul(END_BYTES)?)? != trailer {
        return None;
    }
    let ends = body[ends..trailer].chunks_exact(END_BYTES).map(number).collect::<Option<_>>()?;
    Some((Source::U32 { map, len: count as u64 }, ends))
}
