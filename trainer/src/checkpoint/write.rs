//! From a snapshot to a folder that is whole or not there.
//!
//! Values go to the disk from where they lie in memory: a file is a header and the flat tensors
//! behind it, never one copy of all of them. Files are written beside each other while the
//! processor hashes them, because most of the time passes in waiting for the disk.

use super::{CheckpointError, Contents, MODEL, OPTIMIZER, STATE, Snapshot};
use crate::parameters::{Entry, VALUE_BYTES};
use proto::{AgentId, Attempt, BlobId, Checkpoint, CheckpointFile};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use std::fs::{self, File};
use std::io::{self, Write};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

/// Tries at a folder name that is free. A name is taken only when a process of the same attempt
/// was started again at the same step, so a few are plenty.
const NAMES_MAX: u32 = 100;
/// The tensors of a file of safetensors begin at a multiple of this.
const ALIGNMENT: usize = 8;

/// One file of a checkpoint: pieces that follow each other.
struct Content<'a> {
    name: &'static str,
    header: Vec<u8>,
    tensors: Vec<&'a [u8]>,
}

impl Content<'_> {
    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        [self.header.as_slice()].into_iter().chain(self.tensors.iter().copied())
    }

    fn record(&self) -> CheckpointFile {
        let mut hasher = blake3::Hasher::new();
        let mut bytes = 0;
        for piece in self.pieces() {
            hasher.update(piece);
            bytes += piece.len() as u64;
        }
        let hash = BlobId::from_hash(hasher.finalize());
        CheckpointFile { name: self.name.to_owned(), hash, bytes }
    }

    fn write(&self, folder: &Path) -> Result<(), CheckpointError> {
        let path = folder.join(self.name);
        let write = || -> io::Result<()> {
            let mut file = File::create_new(&path)?;
            for piece in self.pieces() {
                file.write_all(piece)?;
            }
            file.sync_all()
        };
        write().map_err(at(&path))
    }
}

/// Writes `snapshot`, whose tensors are `contents`, into a new folder in `parent`. When this
/// returns, everything is on disk.
///
/// # Errors
/// The disk refuses; nothing that looks like a checkpoint is left then.
pub fn save(
    parent: &Path,
    attempt: Attempt,
    agent: &AgentId,
    contents: &Contents<'_>,
    snapshot: &Snapshot,
) -> Result<Checkpoint, CheckpointError> {
    let all = contents.layout.entries();
    let places = contents.moments.iter().zip(&snapshot.moments);
    let moments: Vec<Group<'_>> = places
        .map(|(place, bytes)| (place.prefix, &all[place.entries.clone()], &**bytes))
        .collect();
    let mut files =
        vec![tensors(MODEL, &[("", all, &snapshot.parameters)])?, tensors(OPTIMIZER, &moments)?];
    if let (Some(second), Some(values)) = (contents.second, &snapshot.second) {
        files.push(tensors(second.file(), &[("", all, values)])?);
    }
    files.push(Content { name: STATE, header: snapshot.state.to_json(), tensors: Vec::new() });
    let step = snapshot.state.step;
    let folder = free_folder(parent, step, attempt)?;
    let partial = folder.with_extension("partial");
    let records = write_folder(&partial, &folder, &files).inspect_err(|_| {
        // Best effort: what is left is not a checkpoint, and the disk may be full of it.
        drop(fs::remove_dir_all(&partial));
    })?;
    Ok(Checkpoint {
        step,
        attempt,
        agent: agent.clone(),
        folder: folder
            .into_os_string()
            .into_string()
            .map_err(|path| CheckpointError::Name { path: path.into() })?,
        files: records,
    })
}

/// Prefix of the tensors' names, neighbouring tensors, and the bytes of their values.
type Group<'a> = (&'a str, &'a [Entry], &'a [u8]);

/// A file of safetensors: the header's length in 64 bits, the header, the values.
fn tensors<'a>(name: &'static str, groups: &[Group<'a>]) -> Result<Content<'a>, CheckpointError> {
    let mut infos = Vec::new();
    let mut end = 0;
    for (prefix, entries, _) in groups {
        for entry in *entries {
            let start = end;
            end += VALUE_BYTES * entry.len;
            let shape = entry.shape.iter().map(|&n| n as usize).collect();
            let info = TensorInfo { dtype: Dtype::F32, shape, data_offsets: (start, end) };
            infos.push((format!("{prefix}{}", entry.name), info));
        }
    }
    let error = |source| CheckpointError::Encode { file: name, source };
    let metadata = Metadata::new(None, infos).map_err(error)?;
    let mut text = serde_json::to_vec(&metadata).map_err(|source| error(source.into()))?;
    text.resize(text.len().next_multiple_of(ALIGNMENT), b' ');
    let mut header = (text.len() as u64).to_le_bytes().to_vec();
    header.extend(text);
    Ok(Content { name, header, tensors: groups.iter().map(|(.., bytes)| *bytes).collect() })
}

fn free_folder(parent: &Path, step: u64, attempt: Attempt) -> Result<PathBuf, CheckpointError> {
    let parent = parent.canonicalize().map_err(at(parent))?;
    let name = format!("step-{step:08}-attempt-{attempt}");
    (0..NAMES_MAX)
        .map(|again| match again {
            0 => parent.join(&name),
            again => parent.join(format!("{name}-again-{again}")),
        })
        .find(|folder| !folder.exists())
        .ok_or_else(|| at(&parent)(io::Error::from(io::ErrorKind::AlreadyExists)))
}

/// Writes `files` into `partial`, which becomes `folder` when all of them are on disk.
fn write_folder(
    partial: &Path,
    folder: &Path,
    files: &[Content<'_>],
) -> Result<Vec<CheckpointFile>, CheckpointError> {
    if partial.exists() {
        // Left by a process of this attempt that was killed while it wrote.
        fs::remove_dir_all(partial).map_err(at(partial))?;
    }
    fs::create_dir(partial).map_err(at(partial))?;
    let records = thread::scope(|scope| {
        let writes: Vec<_> = files.iter().map(|file| scope.spawn(|| file.write(partial))).collect();
        let records = files.iter().map(Content::record).collect();
        for write in writes {
            write.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        }
        Ok(records)
    })?;
    sync_folder(partial).map_err(at(partial))?;
    fs::rename(partial, folder).map_err(at(folder))?;
    let parent = folder.parent().unwrap_or(folder);
    sync_folder(parent).map_err(at(parent))?;
    Ok(records)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> CheckpointError {
    let path = path.to_owned();
    |source| CheckpointError::Write { path, source }
}
