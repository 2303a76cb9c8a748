//! The journal's format: which bytes mean which records. What keeps the bytes is a [`Log`]: sled in
//! production ([`Store`](crate::store::Store)), a disk that fails in the simulation.
//!
//! The records of one turn are one or more chunks, written together. A chunk is a mark byte, the
//! first 8 bytes of the blake3 hash of what follows, and the records as JSON, one a line. In the
//! first format a chunk was one record's JSON without mark and hash; it is still read.

use proto::Record;

/// First byte of a chunk of the second format. JSON never begins with it.
const MARK: u8 = 0xb2;
/// Bytes of the hash that stand before the records.
const HASH_BYTES: usize = 8;
/// A chunk is closed when it has grown beyond this, so that reading one record never means reading
/// megabytes.
const CHUNK_BYTES: usize = 128 << 10;
/// Chunks read at a time.
const CHUNKS_AT_ONCE: usize = 64;

/// A chunk and the sequence number of its first record.
pub type Chunk = (u64, Vec<u8>);

/// What keeps chunks, in the order of their first sequence numbers.
pub trait Log {
    /// Why it failed.
    type Error: From<Damage>;

    /// Writes chunks, all or none, and waits until they are durable. `last` is the sequence number
    /// of their last record; [`end`](Self::end) tells it afterwards. A chunk with a number that
    /// exists replaces the old one.
    ///
    /// # Errors
    /// The disk failed; whether the chunks are there is not known.
    fn append(&self, chunks: Vec<Chunk>, last: u64) -> Result<(), Self::Error>;

    /// At most `most` chunks, from the one with the largest number that is not above `sequence`.
    ///
    /// # Errors
    /// The disk failed.
    fn read(&self, sequence: u64, most: usize) -> Result<Vec<Chunk>, Self::Error>;

    /// The last sequence number that is known to have been durable. May be too small after a
    /// crash, never too large.
    ///
    /// # Errors
    /// The disk failed.
    fn end(&self) -> Result<u64, Self::Error>;
}

/// What is wrong with a journal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// A record is not there.
    #[error("record {0} is missing")]
    Missing(u64),
    /// A chunk is not what was written.
    #[error("the records from {0} on are not what was written: their hash is another")]
    Changed(u64),
    /// A record is not one.
    #[error("record {sequence} cannot be read: {reason}")]
    Unreadable {
        /// Which, or the first of its chunk.
        sequence: u64,
        /// Why.
        reason: String,
    },
    /// The end is missing.
    #[error("it ends at record {last}, but {written} were written")]
    Cut {
        /// Last record found.
        last: u64,
        /// Last record that was durable once.
        written: u64,
    },
}

/// Writes records and waits until they are durable: the commit point of everything.
///
/// # Errors
/// The log failed; then nothing of the turn may be acknowledged.
pub fn append<L: Log>(log: &L, records: &[Record]) -> Result<(), L::Error> {
    let Some(last) = records.last() else {
        return Ok(());
    };
    let mut chunks: Vec<Chunk> = Vec::new();
    for record in records {
        let begins = chunks.last().is_none_or(|(_, chunk)| chunk.len() >= CHUNK_BYTES);
        if begins {
            chunks.push((record.sequence, vec![0; 1 + HASH_BYTES]));
        }
        if let Some((_, chunk)) = chunks.last_mut() {
            serde_json::to_writer(&mut *chunk, record).map_err(|error| Damage::Unreadable {
                sequence: record.sequence,
                reason: error.to_string(),
            })?;
            chunk.push(b'\n');
        }
    }
    chunks.iter_mut().for_each(|(_, chunk)| seal(chunk));
    log.append(chunks, last.sequence)
}

fn seal(chunk: &mut [u8]) {
    let hash = blake3::hash(&chunk[1 + HASH_BYTES..]);
    chunk[0] = MARK;
    chunk[1..=HASH_BYTES].copy_from_slice(&hash.as_bytes()[..HASH_BYTES]);
}

/// The records of a chunk.
fn open(first: u64, chunk: &[u8]) -> Result<Vec<Record>, Damage> {
    let text = match chunk.first() {
        Some(&MARK) => {
            let (head, text) =
                chunk.split_at_checked(1 + HASH_BYTES).ok_or(Damage::Changed(first))?;
            if head[1..] != blake3::hash(text).as_bytes()[..HASH_BYTES] {
                return Err(Damage::Changed(first));
            }
            text
        }
        Some(_) => chunk,
        None => return Err(Damage::Changed(first)),
    };
    let unreadable = |error: serde_json::Error| Damage::Unreadable {
        sequence: first,
        reason: error.to_string(),
    };
    serde_json::Deserializer::from_slice(text)
        .into_iter()
        .collect::<Result<_, _>>()
        .map_err(unreadable)
}

/// Calls `each` with every record in order and returns the last sequence number. A chunk at the end
/// that was never durable, and that a crash left half written, is as if it had never been.
///
/// # Errors
/// The log failed, or [`Damage`].
pub fn replay<L: Log>(log: &L, mut each: impl FnMut(&Record)) -> Result<u64, L::Error> {
    let end = log.end()?;
    let mut last = 0;
    loop {
        let mut chunks = log.read(last + 1, CHUNKS_AT_ONCE)?;
        // The one that holds the last record was read already.
        chunks.retain(|(first, _)| *first > last);
        if chunks.is_empty() {
            break;
        }
        for (first, chunk) in chunks {
            if first != last + 1 {
                return Err(Damage::Missing(last + 1).into());
            }
            let records = match open(first, &chunk) {
                Err(Damage::Changed(_)) if first > end => return Ok(last),
                opened => opened?,
            };
            for record in &records {
                if record.sequence != last + 1 {
                    return Err(Damage::Missing(last + 1).into());
                }
                each(record);
                last = record.sequence;
            }
        }
    }
    if last < end {
        return Err(Damage::Cut { last, written: end }.into());
    }
    Ok(last)
}

/// Records from `sequence` on, at most `most`.
///
/// # Errors
/// The log failed, or [`Damage`].
pub fn read<L: Log>(log: &L, sequence: u64, most: usize) -> Result<Vec<Record>, L::Error> {
    let mut records = Vec::new();
    let mut next = sequence;
    while records.len() < most {
        let before = records.len();
        for (first, chunk) in log.read(next, CHUNKS_AT_ONCE)? {
            let wanted = open(first, &chunk)?.into_iter().filter(|r| r.sequence >= next);
            records.extend(wanted.take(most - records.len()));
            if records.len() == most {
                break;
            }
        }
        if records.len() == before {
            break;
        }
        next = records.last().map_or(next, |record: &Record| record.sequence + 1);
    }
    Ok(records)
}
