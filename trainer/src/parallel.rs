//! Several processes that train one model, each on its part of every batch: data parallelism.
//!
//! All members hold the same weights. A step's batch is what one process would have; each member
//! takes neighbouring sequences of it and computes their part of the gradient, already divided by
//! the whole batch's number of scored tokens. The parts are added in the order of ranks: each
//! member adds up its own part of the values and hands it to all others. So all have the same sum,
//! to the bit, and so has every repetition with as many members. Then all do the same update.
//!
//! What members must agree on, they say to each other before every step: whether one of them was
//! asked to stop, or found a loss that is none, and whether rank 0's time is up. What only rank 0
//! does (held-out losses, checkpoints, reports), the others await with `Group::by_first`; what
//! fails there, or anywhere, is told to all before the connections end.
//!
//! * `rendezvous`: how they find each other; `link`: one connection, watched.
//! * `collective`: what all do together; `nccl`: sums between GPUs.

mod collective;
mod error;
mod link;
mod nccl;
mod rendezvous;

pub use error::ParallelError;
pub use nccl::{NcclError, Refusal, version as nccl_version};

use crate::error::{TrainError, chain};
use collective::Peers;
use link::OnLoss;
use nccl::Communicator;
use proto::{Attempt, Outcome};
use rendezvous::Patience;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tch::{Device, TchError, Tensor};

/// Largest content of a frame that is not tensors: a training's state as JSON, whose losses are a
/// hundred numbers.
const SMALL_BYTES_MAX: u64 = 1 << 20;

/// Which member of a training this process is.
#[derive(Debug, Clone, Copy)]
pub struct Membership<'a> {
    /// Which one, from 0.
    pub rank: u32,
    /// How many there are, at least 1.
    pub world_size: u32,
    /// Host of rank 0.
    pub master_addr: &'a str,
    /// Port at which rank 0 listens.
    pub master_port: u16,
    /// What is trained; the same for all members, and for nobody else.
    pub name: &'a str,
    /// Which try of it. Members of another are turned away.
    pub attempt: Attempt,
    /// Longest time in which all members have to come.
    pub come_within: Duration,
}

impl Membership<'_> {
    /// Time that members of one training have to come.
    pub const COME_WITHIN: Duration = rendezvous::COME_WITHIN;
}

/// Part `index` of `parts` of `total` things: neighbours, so that all parts, one after the other,
/// are the whole. The first are one longer where it can not be divided.
pub(crate) fn part(total: u64, index: u32, parts: u32) -> Range<u64> {
    let bound = |index: u64| {
        let parts = u64::from(parts);
        total / parts * index + index.min(total % parts)
    };
    bound(u64::from(index))..bound(u64::from(index) + 1)
}

/// What a member wishes before a step, and what follows from all wishes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wish {
    /// To save and end.
    pub(crate) stop: bool,
    /// To end because a loss is no number.
    pub(crate) broken: bool,
    /// To end because the time is up. Only rank 0's clock counts.
    pub(crate) spent: bool,
}

/// The members of a training, seen from one of them.
pub(crate) enum Group {
    /// There is no other.
    Alone,
    /// There are others.
    Of(Peers, Sums),
}

/// What adds up tensors.
#[derive(Clone)]
pub(crate) enum Sums {
    /// The connections between the processes, for tensors in main memory.
    Tcp,
    /// NCCL, for tensors of GPUs.
    Nccl(Arc<Communicator>),
}

impl Sums {
    /// Ends what waits for other members, because one is gone or this one is about to be.
    fn give_up(&self) {
        match self {
            Self::Tcp => {}
            Self::Nccl(communicator) => communicator.abort(),
        }
    }
}

impl Group {
    /// The group of `membership`, when all have come. `values` is the length of the longest tensor
    /// that is ever sent.
    ///
    /// # Errors
    /// [`ParallelError::Stopped`] when `stop` says so first.
    pub(crate) fn join(
        membership: Option<&Membership<'_>>,
        device: Device,
        values: usize,
        stop: &dyn Fn() -> bool,
    ) -> Result<Self, ParallelError> {
        let Some(membership) = membership.filter(|membership| membership.world_size > 1) else {
            return Ok(Self::Alone);
        };
        let patience = Patience::new(membership.come_within, stop);
        let streams = rendezvous::meet(membership, &patience)?;
        let bytes_max = SMALL_BYTES_MAX.max(crate::parameters::VALUE_BYTES as u64 * values as u64);
        let (rank, world_size) = (membership.rank, membership.world_size);
        let sums = match device {
            Device::Cpu | Device::Mps | Device::Vulkan => Sums::Tcp,
            Device::Cuda(_) => Sums::Nccl(Arc::new(Communicator::new(rank, world_size))),
        };
        let watched = sums.clone();
        let on_loss: OnLoss = Arc::new(move || watched.give_up());
        let mut peers = Peers::new(rank, streams, bytes_max, &on_loss)?;
        if let Sums::Nccl(communicator) = &sums {
            let patience = Patience::new(nccl::JOIN_WITHIN, stop);
            join_gpus(&mut peers, communicator, &patience).map_err(|error| {
                peers.tell_failure(&Outcome::failed(error.class(), chain(&error)));
                peers.cause(error)
            })?;
        }
        Ok(Self::Of(peers, sums))
    }

    /// Which member this is.
    pub(crate) fn rank(&self) -> u32 {
        match self {
            Self::Alone => 0,
            Self::Of(peers, _) => peers.rank(),
        }
    }

    /// How many there are.
    pub(crate) fn size(&self) -> u32 {
        match self {
            Self::Alone => 1,
            Self::Of(peers, _) => peers.size(),
        }
    }

    /// Whether this member does what one does for all.
    pub(crate) fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// What follows from everyone's wishes; the same for all.
    pub(crate) fn agree(&mut self, wish: Wish) -> Result<Wish, ParallelError> {
        let Self::Of(peers, _) = self else { return Ok(wish) };
        let Wish { stop, broken, spent } = wish;
        let said = [stop, broken, spent].map(u8::from);
        let all = peers.all_gather(said)?;
        let any = |index: usize| all.iter().any(|said| said[index] != 0);
        Ok(Wish { stop: any(0), broken: any(1), spent: all[0][2] != 0 })
    }

    /// Sum of all members' `vector` (N), float32, added in the order of ranks: the same bits
    /// everywhere.
    pub(crate) fn sum(&mut self, vector: Tensor) -> Result<Tensor, SumError> {
        match self {
            Self::Alone => Ok(vector),
            Self::Of(peers, Sums::Tcp) => {
                let shape = vector.size();
                let mut bytes = crate::parameters::bytes(&vector)?;
                peers.sum(&mut bytes)?;
                Ok(Tensor::f_from_data_size(&bytes, &shape, tch::Kind::Float)?)
            }
            Self::Of(_, Sums::Nccl(communicator)) => {
                Ok(communicator.sum(vector).map_err(ParallelError::from)?)
            }
        }
    }

    /// Whether all sums are whole that the device has come to by now. One between GPUs that is
    /// given up ends like any other, with whatever was in its place.
    ///
    /// # Errors
    /// A member is gone.
    pub(crate) fn check_whole(&self) -> Result<(), ParallelError> {
        match self {
            Self::Of(_, Sums::Nccl(communicator)) => Ok(communicator.check_whole()?),
            Self::Of(_, Sums::Tcp) | Self::Alone => Ok(()),
        }
    }

    /// What `work` gives on rank 0; everyone else waits for it.
    pub(crate) fn by_first<const N: usize>(
        &mut self,
        work: impl FnOnce() -> Result<[f64; N], TrainError>,
    ) -> Result<[f64; N], TrainError> {
        let Self::Of(peers, _) = self else { return work() };
        if peers.rank() > 0 {
            return Ok(peers.receive_numbers(0)?);
        }
        let numbers = work()?;
        peers.broadcast_numbers(numbers);
        Ok(numbers)
    }

    /// The first of the members with the highest `number`, and that number.
    pub(crate) fn highest(&mut self, number: u64) -> Result<(u32, u64), ParallelError> {
        let Self::Of(peers, _) = self else { return Ok((0, number)) };
        let all = peers.all_gather(number.to_le_bytes())?.into_iter().map(u64::from_le_bytes);
        let best = (0..).zip(all).max_by_key(|&(rank, number)| (number, std::cmp::Reverse(rank)));
        Ok(best.unwrap_or((0, number)))
    }

    /// Gives `pieces` to all others.
    pub(crate) fn hand_out(&mut self, pieces: impl IntoIterator<Item = Vec<u8>>) {
        if let Self::Of(peers, _) = self {
            pieces.into_iter().for_each(|piece| peers.broadcast(piece));
        }
    }

    /// The next piece that `rank` hands out.
    pub(crate) fn take(&mut self, rank: u32) -> Result<Vec<u8>, ParallelError> {
        match self {
            Self::Alone => Ok(Vec::new()),
            Self::Of(peers, _) => peers.receive(rank),
        }
    }

    /// Whether all hold the same `weights` after `step` updates.
    pub(crate) fn check_same(&mut self, step: u64, weights: &Tensor) -> Result<(), SumError> {
        let Self::Of(peers, _) = self else { return Ok(()) };
        let hash = blake3::hash(&crate::parameters::bytes(weights)?);
        let all = peers.all_gather(*hash.as_bytes())?;
        match (0..).zip(&all).find(|(_, other)| **other != all[0]) {
            Some((rank, _)) => Err(ParallelError::Differs { rank, step }.into()),
            None => Ok(()),
        }
    }

    /// Waits until all are here; nothing is under way between the members then.
    pub(crate) fn finish(&mut self) -> Result<(), ParallelError> {
        let Self::Of(peers, _) = self else { return Ok(()) };
        peers.all_gather([]).map(drop)
    }

    /// Tells all others that this member fails because of `error`, and awaits nothing from them any
    /// more; gives the error of another that is behind it, where there is one.
    pub(crate) fn fail(&self, error: TrainError) -> TrainError {
        let Self::Of(peers, sums) = self else { return error };
        peers.tell_failure(&Outcome::failed(error.class(), chain(&error)));
        sums.give_up();
        let TrainError::Parallel(error) = error else { return error };
        peers.cause(error).into()
    }
}

/// Each member sees first whether it has NCCL, so that no other waits in it for ever.
fn join_gpus(
    peers: &mut Peers,
    communicator: &Arc<Communicator>,
    patience: &Patience<'_>,
) -> Result<(), ParallelError> {
    nccl::version()?;
    peers.all_gather([])?;
    let id = match peers.rank() {
        0 => {
            let id = nccl::unique_id()?;
            peers.broadcast(id.to_vec());
            id
        }
        _ => peers.receive_array(0)?,
    };
    communicator.join(id, patience)
}

/// Why a sum fails.
#[derive(Debug)]
pub(crate) enum SumError {
    Torch(TchError),
    Parallel(ParallelError),
}

impl From<TchError> for SumError {
    fn from(error: TchError) -> Self {
        Self::Torch(error)
    }
}

impl From<ParallelError> for SumError {
    fn from(error: ParallelError) -> Self {
        Self::Parallel(error)
    }
}

#[cfg(test)]
mod tests;
