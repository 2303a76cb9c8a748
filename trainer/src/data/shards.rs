//! Shards of llm.c: a header of 256 integers of 32 bits (20240520, version 1, number of tokens,
//! zeros), then the tokens, two bytes each; all little endian. A text may be several shards, one
//! after the other.

use super::error::{DataError, ShardProblem};
use super::source::{Run, Source, TOKEN_BYTES};
use memmap2::Mmap;
use std::io::{self, Write};
use std::path::Path;

const MAGIC: i32 = 20_240_520;
const VERSION: i32 = 1;
const HEADER_BYTES: usize = 256 * 4;
/// Most shards of one text. The largest set that llm.c's scripts make has some thousand.
const SHARDS_MAX: usize = 1 << 20;

/// Writes one shard.
///
/// # Errors
/// `out` refuses, or there are more tokens than the header's 31 bits can tell.
pub fn write(out: &mut impl Write, tokens: &[u16]) -> io::Result<()> {
    let count = i32::try_from(tokens.len()).map_err(|_| {
        let message = format!("a shard holds at most {} tokens; write several", i32::MAX);
        io::Error::new(io::ErrorKind::InvalidInput, message)
    })?;
    let mut header = [0; HEADER_BYTES];
    for (place, value) in header.chunks_exact_mut(4).zip([MAGIC, VERSION, count]) {
        place.copy_from_slice(&value.to_le_bytes());
    }
    out.write_all(&header)?;
    let mut bytes = Vec::new();
    for part in tokens.chunks(1 << 16) {
        bytes.clear();
        bytes.extend(part.iter().flat_map(|token| token.to_le_bytes()));
        out.write_all(&bytes)?;
    }
    Ok(())
}

/// The shards in `map`, the content of the file at `path`.
pub(super) fn open(map: Mmap, path: &Path) -> Result<Source, DataError> {
    let runs = runs(&map).map_err(|(shard, offset, problem)| {
        let (path, offset) = (path.to_owned(), offset as u64);
        DataError::Shard { path, shard, offset, problem }
    })?;
    Ok(Source::U16 { map, runs })
}

/// Where the tokens of each shard lie, or which shard, from 1, at which byte, is wrong.
fn runs(bytes: &[u8]) -> Result<Vec<Run>, (usize, usize, ShardProblem)> {
    let mut runs = Vec::new();
    let (mut offset, mut first) = (0, 0);
    while offset < bytes.len() {
        let wrong = |problem| (runs.len() + 1, offset, problem);
        if runs.len() == SHARDS_MAX {
            return Err(wrong(ShardProblem::Many { max: SHARDS_MAX }));
        }
        let len = tokens(&bytes[offset..]).map_err(wrong)?;
        let start = offset + HEADER_BYTES;
        runs.push(Run { first, len: len as u64, offset: start });
        first += len as u64;
        offset = start + TOKEN_BYTES * len;
    }
    Ok(runs)
}

/// Number of tokens of the shard that begins with `bytes`; they are all there.
fn tokens(bytes: &[u8]) -> Result<usize, ShardProblem> {
    let Some((header, tokens)) = bytes.split_at_checked(HEADER_BYTES) else {
        return Err(ShardProblem::Header { found: bytes.len() });
    };
    let [magic, version, count] = [0, 4, 8].map(|at| {
        let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
        i32::from_le_bytes(bytes)
    });
    if magic != MAGIC {
        return Err(ShardProblem::Magic { found: magic });
    }
    if version != VERSION {
        return Err(ShardProblem::Version { found: version });
    }
    let promised = usize::try_from(count).map_err(|_| ShardProblem::Count { found: count })?;
    let found = tokens.len() / TOKEN_BYTES;
    if found < promised {
        return Err(ShardProblem::Truncated { promised, found });
    }
    Ok(promised)
}
