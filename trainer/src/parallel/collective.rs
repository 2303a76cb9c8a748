//! What all members do together, over the connections between them. Every exchange has a number;
//! all members go through the same exchanges in the same order.

use super::link::{Link, OnLoss};
use super::{NcclError, ParallelError, part};
use crate::log::now;
use crate::parameters::VALUE_BYTES;
use proto::Outcome;
use std::collections::BTreeMap;
use std::net::TcpStream;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// Longest time between an error of NCCL here and the word of the member that made it: they notice
/// the same end by different ways.
const SAID_WITHIN: Duration = Duration::from_secs(2);
/// Pause between two looks for such a word.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The other members, by rank.
pub(crate) struct Peers {
    rank: u32,
    links: BTreeMap<u32, Link>,
    exchange: u64,
}

impl Peers {
    /// Those at the other ends of `streams`. A frame holds at most `bytes_max` bytes; `on_loss` is
    /// called by another thread when a connection breaks.
    pub(super) fn new(
        rank: u32,
        streams: BTreeMap<u32, TcpStream>,
        bytes_max: u64,
        on_loss: &OnLoss,
    ) -> Result<Self, ParallelError> {
        let link =
            |(rank, stream)| Ok((rank, Link::new(rank, stream, bytes_max, Arc::clone(on_loss))?));
        let links = streams.into_iter().map(link).collect::<Result<_, ParallelError>>()?;
        Ok(Self { rank, links, exchange: 0 })
    }

    pub(super) fn rank(&self) -> u32 {
        self.rank
    }

    pub(super) fn size(&self) -> u32 {
        self.links.len() as u32 + 1
    }

    /// Everyone's `content`, by rank.
    pub(super) fn all_gather<const N: usize>(
        &mut self,
        content: [u8; N],
    ) -> Result<Vec<[u8; N]>, ParallelError> {
        self.exchange += 1;
        let shared = Arc::new(content.to_vec());
        self.links.values().for_each(|link| link.send(self.exchange, Arc::clone(&shared)));
        let said = |rank: u32| match self.links.get(&rank) {
            None => Ok(content),
            Some(link) => array(rank, link.receive(self.exchange)?),
        };
        (0..self.size()).map(said).collect()
    }

    /// Sends `content` to all others.
    pub(super) fn broadcast(&mut self, content: Vec<u8>) {
        self.exchange += 1;
        let content = Arc::new(content);
        self.links.values().for_each(|link| link.send(self.exchange, Arc::clone(&content)));
    }

    /// What `rank` sends to all others.
    pub(super) fn receive(&mut self, rank: u32) -> Result<Vec<u8>, ParallelError> {
        self.exchange += 1;
        match self.links.get(&rank) {
            Some(link) => link.receive(self.exchange),
            None => Err(ParallelError::out_of_step(rank, "no other member", "one")),
        }
    }

    /// As [`receive`](Self::receive), of a known length.
    pub(super) fn receive_array<const N: usize>(
        &mut self,
        rank: u32,
    ) -> Result<[u8; N], ParallelError> {
        array(rank, self.receive(rank)?)
    }

    pub(super) fn broadcast_numbers<const N: usize>(&mut self, numbers: [f64; N]) {
        self.broadcast(numbers.iter().flat_map(|number| number.to_le_bytes()).collect());
    }

    pub(super) fn receive_numbers<const N: usize>(
        &mut self,
        rank: u32,
    ) -> Result<[f64; N], ParallelError> {
        let bytes = self.receive(rank)?;
        let numbers = bytes.chunks_exact(size_of::<f64>()).map(|bytes| {
            let mut number = [0; size_of::<f64>()];
            number.copy_from_slice(bytes);
            f64::from_le_bytes(number)
        });
        let numbers: Vec<f64> = numbers.collect();
        let words = |count: usize| format!("{count} numbers");
        <[f64; N]>::try_from(numbers)
            .map_err(|numbers| ParallelError::out_of_step(rank, words(numbers.len()), words(N)))
    }

    /// Puts in the place of `values`, float32, the sum of everyone's, which has as many. Each
    /// member is sent its own part by all others, adds them in the order of ranks, and sends the
    /// sum to all.
    pub(super) fn sum(&mut self, values: &mut [u8]) -> Result<(), ParallelError> {
        let (rank, size) = (self.rank, self.size());
        let count = (values.len() / VALUE_BYTES) as u64;
        let place = |rank: u32| -> Range<usize> {
            let part = part(count, rank, size);
            VALUE_BYTES * part.start as usize..VALUE_BYTES * part.end as usize
        };
        self.exchange += 1;
        for (rank, link) in &self.links {
            link.send(self.exchange, Arc::new(values[place(*rank)].to_vec()));
        }
        let mut sum: Option<Vec<u8>> = None;
        for other in 0..size {
            let part = match self.links.get(&other) {
                None => values[place(rank)].to_vec(),
                Some(link) => {
                    let part = link.receive(self.exchange)?;
                    check_length(other, &part, place(rank).len())?;
                    part
                }
            };
            match &mut sum {
                None => sum = Some(part),
                Some(sum) => add(sum, &part),
            }
        }
        let sum = Arc::new(sum.unwrap_or_default());
        values[place(rank)].copy_from_slice(&sum);
        self.exchange += 1;
        for link in self.links.values() {
            link.send(self.exchange, Arc::clone(&sum));
        }
        for (other, link) in &self.links {
            let part = link.receive(self.exchange)?;
            check_length(*other, &part, place(*other).len())?;
            values[place(*other)].copy_from_slice(&part);
        }
        Ok(())
    }

    /// What is behind `error`: NCCL says only that another member does not answer, and that one
    /// says why, if it can, over its connection. Waits a moment for its word.
    pub(super) fn cause(&self, error: ParallelError) -> ParallelError {
        let is_blind =
            matches!(error, ParallelError::Nccl(NcclError::Aborted | NcclError::Refused(_)));
        let behind = is_blind.then(|| self.end_of_another(SAID_WITHIN)).flatten();
        behind.unwrap_or(error)
    }

    /// How another ended, if one does so within this time. One that said why is told before one
    /// that is only gone.
    fn end_of_another(&self, within: Duration) -> Option<ParallelError> {
        let begun = now();
        loop {
            let mut ends: Vec<ParallelError> = self.links.values().filter_map(Link::end).collect();
            let said = ends.iter().position(|end| matches!(end, ParallelError::Failed { .. }));
            if !ends.is_empty() {
                return Some(ends.swap_remove(said.unwrap_or(0)));
            }
            if now().duration_since(begun) > within {
                return None;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Tells all others that this member failed.
    pub(super) fn tell_failure(&self, outcome: &Outcome) {
        self.links.values().for_each(|link| link.tell_failure(outcome));
    }
}

/// Adds float32 values to float32 values.
fn add(sum: &mut [u8], values: &[u8]) {
    let (sum, _) = sum.as_chunks_mut::<VALUE_BYTES>();
    let (values, _) = values.as_chunks::<VALUE_BYTES>();
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum = (f32::from_le_bytes(*sum) + f32::from_le_bytes(*value)).to_le_bytes();
    }
}

fn array<const N: usize>(rank: u32, content: Vec<u8>) -> Result<[u8; N], ParallelError> {
    let words = |length: usize| format!("{length} bytes");
    <[u8; N]>::try_from(content)
        .map_err(|content| ParallelError::out_of_step(rank, words(content.len()), words(N)))
}

fn check_length(rank: u32, content: &[u8], wanted: usize) -> Result<(), ParallelError> {
    if content.len() == wanted {
        return Ok(());
    }
    let words = |length: usize| format!("{length} bytes");
    Err(ParallelError::out_of_step(rank, words(content.len()), words(wanted)))
}
