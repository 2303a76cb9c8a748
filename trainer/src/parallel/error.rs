//! Why members of one training can not go on together.

use crate::parallel::nccl::NcclError;
use proto::FailureClass;
use std::io;

/// Why members of one training can not go on together.
#[derive(Debug, thiserror::Error)]
pub enum ParallelError {
    /// Rank 0 can not listen.
    #[error(
        "rank 0 cannot listen on port {port}, where the other members look for it; another program \
        has it, or this user may not"
    )]
    Listen {
        /// Which port.
        port: u16,
        /// Why not.
        source: io::Error,
    },
    /// Not all members came.
    #[error(
        "rank {rank} waited {waited_s} s for {missing} ({last}); members must reach each other by \
        TCP: rank 0 at {master}, the others at a port that the system chooses"
    )]
    Missing {
        /// Who waited.
        rank: u32,
        /// How long, in seconds.
        waited_s: u64,
        /// For whom.
        missing: String,
        /// What went wrong last.
        last: String,
        /// Host and port of rank 0.
        master: String,
    },
    /// Two members can not reach each other, although both reach rank 0.
    #[error(
        "rank {rank} cannot reach rank {other} at {place}, although both reach rank 0; members must \
        reach each other by TCP at ports that the system chooses: look for a firewall between them"
    )]
    Unreachable {
        /// Who tried.
        rank: u32,
        /// Whom.
        other: u32,
        /// Where: addresses and port.
        place: String,
        /// What went wrong last.
        source: io::Error,
    },
    /// A connection broke: the process or its machine is gone.
    #[error("lost rank {rank}")]
    Lost {
        /// Who is gone.
        rank: u32,
        /// What the connection said.
        source: io::Error,
    },
    /// A member failed and said why.
    #[error("rank {rank} failed: {message}")]
    Failed {
        /// Who.
        rank: u32,
        /// The class of its failure.
        class: FailureClass,
        /// Its reason.
        message: String,
    },
    /// A member said something else than the protocol wants at this place.
    #[error("rank {rank} is out of step: {found} instead of {wanted}")]
    OutOfStep {
        /// Who.
        rank: u32,
        /// What it sent.
        found: String,
        /// What was awaited.
        wanted: String,
    },
    /// Machines whose arithmetic differs.
    #[error(
        "after {step} steps rank {rank} holds other weights than rank 0: their machines compute \
        differently; give all members machines of one kind, by `labels` in the recipe"
    )]
    Differs {
        /// The first rank that differs.
        rank: u32,
        /// Updates done.
        step: u64,
    },
    /// The library that joins GPUs is missing or refuses.
    #[error(transparent)]
    Nccl(#[from] NcclError),
    /// The observer asked to stop before all members had come.
    #[error("asked to stop before all members had come")]
    Stopped,
}

impl ParallelError {
    pub(crate) fn out_of_step(
        rank: u32,
        found: impl Into<String>,
        wanted: impl Into<String>,
    ) -> Self {
        Self::OutOfStep { rank, found: found.into(), wanted: wanted.into() }
    }

    /// Who has to act, and whether trying again can help.
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Listen { .. }
            | Self::Missing { .. }
            | Self::Unreachable { .. }
            | Self::Lost { .. }
            | Self::OutOfStep { .. }
            | Self::Differs { .. }
            | Self::Nccl(_) => FailureClass::Infrastructure,
            Self::Failed { class, .. } => *class,
            Self::Stopped => FailureClass::Cancelled,
        }
    }

    /// Whether it is that another member failed or is gone. That one, or its agent, says why.
    pub fn is_anothers(&self) -> bool {
        match self {
            Self::Lost { .. } | Self::Failed { .. } | Self::Nccl(NcclError::Aborted) => true,
            Self::Nccl(
                NcclError::Missing { .. }
                | NcclError::Refused(_)
                | NcclError::Apart { .. }
                | NcclError::Torch(_),
            )
            | Self::Listen { .. }
            | Self::Missing { .. }
            | Self::Unreachable { .. }
            | Self::OutOfStep { .. }
            | Self::Differs { .. }
            | Self::Stopped => false,
        }
    }
}
