//! What an agent is given, and why it may not begin.

use crate::checkpoints::CheckpointError;
use crate::devices::Inventory;
use crate::folders::{DataFolders, FolderError};
use crate::session::SessionError;
use proto::AgentId;
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
