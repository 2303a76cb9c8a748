//! Files known by their content, fetched once and kept. One task owns the folder, so two trials
//! that want the same file wait for one download.

use crate::session::Client;
use proto::wire::{BlobRequest, MESSAGE_BYTES_MAX};
use proto::{BlobId, BlobRef};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};

/// Requests that wait for the owner of the folder; an agent has fewer trials that start at once.
pub(crate) const REQUESTS_MAX: usize = 64;
/// Tries of one fetch before the attempt fails and the coordinator decides.
const FETCH_TRIES: u32 = 4;
/// Pause before the second try; doubles. With [`FETCH_TRIES`] it outlasts a coordinator's restart.
const FETCH_PAUSE: Duration = Duration::from_millis(500);
/// A stream that sends nothing for this long is given up.
const FETCH_SILENCE_MAX: Duration = Duration::from_secs(20);

/// Asks for a file; answers when it lies in the folder, whole.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) blob: BlobRef,
    pub(crate) done: oneshot::Sender<Result<(), BlobError>>,
}

/// Why a file could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BlobError {
    #[error("cannot write the file {} fetched from the coordinator", path.display())]
    Disk { path: PathBuf, source: io::Error },
    #[error("the coordinator did not send the file {blob}")]
    Network { blob: BlobId, source: Box<tonic::Status> },
    #[error("the coordinator sent nothing of the file {blob} for {} s", FETCH_SILENCE_MAX.as_secs())]
    Silence { blob: BlobId },
    #[error("the coordinator sent other content than the file {blob}")]
    Content { blob: BlobId },
}

/// The folder and what is known about it.
pub(crate) struct Blobs {
    folder: PathBuf,
    client: Client,
    /// Files that this process has hashed. Others in the folder may be torn or somebody else's.
    verified: BTreeSet<BlobId>,
}

impl Blobs {
    /// Takes over `folder`, which other agents of the machine may share.
    pub(crate) fn new(folder: PathBuf, client: Client) -> Self {
        Self { folder, client, verified: BTreeSet::new() }
    }

    /// Serves requests until all senders are gone.
    pub(crate) async fn serve(mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(Request { blob, done }) = requests.recv().await {
            let result = self.provide(&blob).await;
            // The trial that asked may have been stopped meanwhile.
            if done.send(result).is_err() {
                tracing::debug!(blob = %blob.blob, "nobody waits for the file any more");
            }
        }
    }

    async fn provide(&mut self, blob: &BlobRef) -> Result<(), BlobError> {
        let path = self.folder.join(blob.blob.as_str());
        if self.verified.contains(&blob.blob) && path.is_file() {
            return Ok(());
        }
        if !has_content(path.clone(), blob.clone()).await? {
            self.fetch_patiently(blob, &path).await?;
        }
        self.verified.insert(blob.blob.clone());
        Ok(())
    }

    async fn fetch_patiently(&mut self, blob: &BlobRef, path: &Path) -> Result<(), BlobError> {
        let mut pause = FETCH_PAUSE;
        for _ in 1..FETCH_TRIES {
            match self.fetch(blob, path).await {
                Err(BlobError::Network { source, .. })
                    if source.code() == tonic::Code::Unavailable =>
                {
                    tracing::info!(blob = %blob.blob, error = %source, "the file comes later");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                result => return result,
            }
        }
        self.fetch(blob, path).await
    }

    /// Downloads beside the final name and renames at the end. It is not synced: a file that a
    /// power cut tore is found by its hash at the next start.
    async fn fetch(&mut self, blob: &BlobRef, path: &Path) -> Result<(), BlobError> {
        let part = path.with_extension(format!("{}.part", std::process::id()));
        let result = self.download(blob, &part).await;
        let result = match result {
            Ok(()) => tokio::fs::rename(&part, path).await.map_err(|source| disk(path, source)),
            Err(error) => Err(error),
        };
        if result.is_err()
            && let Err(error) = tokio::fs::remove_file(&part).await
        {
            tracing::debug!(%error, path = %part.display(), "no partial file to remove");
        }
        result
    }

    async fn download(&mut self, blob: &BlobRef, part: &Path) -> Result<(), BlobError> {
        let network =
            |source| BlobError::Network { blob: blob.blob.clone(), source: Box::new(source) };
        let silence = |_| BlobError::Silence { blob: blob.blob.clone() };
        let wrong = || BlobError::Content { blob: blob.blob.clone() };
        let request = BlobRequest { blob: blob.blob.to_string() };
        let reply = tokio::time::timeout(FETCH_SILENCE_MAX, self.client.get_blob(request)).await;
        let mut chunks = reply.map_err(silence)?.map_err(network)?.into_inner();
        tokio::fs::create_dir_all(&self.folder).await.map_err(|source| disk(part, source))?;
        let mut file = tokio::fs::File::create(part).await.map_err(|source| disk(part, source))?;
        let mut hasher = blake3::Hasher::new();
        let mut length = 0_u64;
        loop {
            let next = tokio::time::timeout(FETCH_SILENCE_MAX, chunks.message()).await;
            let Some(chunk) = next.map_err(silence)?.map_err(network)? else {
                break;
            };
            debug_assert!(chunk.content.len() <= MESSAGE_BYTES_MAX, "the decoder has this limit");
            length += chunk.content.len() as u64;
            if length > blob.bytes {
                return Err(wrong());
            }
            hasher.update(&chunk.content);
            file.write_all(&chunk.content).await.map_err(|source| disk(part, source))?;
        }
        file.flush().await.map_err(|source| disk(part, source))?;
        if length != blob.bytes || BlobId::from_hash(hasher.finalize()) != blob.blob {
            return Err(wrong());
        }
        Ok(())
    }
}

/// Whether the file at `path` is there with the right content; a wrong one is reported and left
/// for the download to replace.
async fn has_content(path: PathBuf, blob: BlobRef) -> Result<bool, BlobError> {
    let shown = path.clone();
    let hash = move || {
        let metadata = match std::fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(disk(&path, error)),
        };
        if metadata.len() == blob.bytes {
            let mut hasher = blake3::Hasher::new();
            hasher.update_mmap(&path).map_err(|source| disk(&path, source))?;
            if BlobId::from_hash(hasher.finalize()) == blob.blob {
                return Ok(true);
            }
        }
        tracing::warn!(path = %path.display(), "a cached file is damaged and is fetched again");
        Ok(false)
    };
    // Hashing gigabytes must not hold up the heartbeat.
    let hashed = tokio::task::spawn_blocking(hash).await;
    hashed.unwrap_or_else(|error| Err(disk(&shown, error.into())))
}

fn disk(path: &Path, source: io::Error) -> BlobError {
    BlobError::Disk { path: path.to_owned(), source }
}
