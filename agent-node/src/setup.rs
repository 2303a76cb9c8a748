//! What an agent is given, and why it may not begin.

use crate::checkpoints::CheckpointError;
use crate::devices::Inventory;
use crate::folders::{DataFolders, FolderError};
use crate::session::{self, SessionError};
use agent_core::Core;
use proto::train::numerics_label;
use proto::{AgentId, wire};
use std::io;
use std::path::PathBuf;

/// What an agent needs to begin.
#[derive(Debug)]
pub(crate) struct Setup {
    /// Its name.
    pub(crate) agent: AgentId,
    /// The program that runs attempts: `brine-agent` itself.
    pub(crate) program: PathBuf,
    /// Where it keeps files.
    pub(crate) folders: DataFolders,
    /// What it offers.
    pub(crate) inventory: Inventory,
    /// The coordinator's address, `http://HOST:PORT`.
    pub(crate) coordinator: String,
    /// What proves that it may join.
    pub(crate) token: String,
    /// Version of the code, for the record.
    pub(crate) version: String,
    /// Whether it ends when its standard input does.
    pub(crate) exit_with_stdin: bool,
}

impl Setup {
    /// What the agent says of itself in the hello of this number. `instance` tells this process
    /// from another one of the same name.
    pub(crate) fn hello(&self, instance: u64, number: u64, core: &Core) -> wire::Hello {
        let gpus = self.inventory.gpus.iter().map(|gpu| wire::Gpu {
            index: gpu.index,
            name: gpu.name.clone(),
            memory_bytes: gpu.memory_bytes,
        });
        wire::Hello {
            format_version: proto::FORMAT_VERSION,
            agent: self.agent.to_string(),
            host: crate::devices::host(),
            brine_version: self.version.clone(),
            cpus: self.inventory.cpus,
            gpus: gpus.collect(),
            memory_bytes: self.inventory.memory_bytes,
            running: session::running(core.held()),
            // The operator's, and what the trainer here says of itself.
            labels: self.inventory.labels.clone().into_iter().chain([numerics_label()]).collect(),
            extras: self.inventory.extras.clone().into_iter().collect(),
            instance,
            number,
            withdrawn: session::withdrawn(core.withdrawn()),
        }
    }
}

/// Why an agent ended before anybody asked it to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DriverError {
    /// No session is possible.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The records of checkpoints cannot be used.
    #[error(transparent)]
    Checkpoints(#[from] CheckpointError),
    /// The folders of earlier attempts do not list.
    #[error(transparent)]
    Folders(#[from] FolderError),
    /// The system refuses signals or processes.
    #[error("cannot set up the agent's process")]
    System(#[from] io::Error),
    /// A task of the agent itself broke.
    #[error("a part of the agent broke")]
    Internal(#[from] tokio::task::JoinError),
    /// The thread that owns the disk broke.
    #[error("the agent's recorder broke")]
    Recorder,
}
