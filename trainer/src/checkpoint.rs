//! States of a training on disk.
//!
//! A checkpoint is one folder, `step-00000120-attempt-2`, with these files: the weights, the
//! optimiser's moments, a second set of weights where the trial keeps one (all safetensors,
//! float32) and `state.json`. It is written under another
//! name, flushed file by file, and renamed when it is complete, so a folder with a checkpoint's
//! name is never half written and never written twice. What makes it count is the caller's record
//! of its hashes; a file that does not match them is not read.

use crate::parameters::{Entry, Layout, VALUE_BYTES};
use proto::{AgentId, Attempt, BlobId, Checkpoint, CheckpointFile, FailureClass};
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";

/// Version of the files in a checkpoint.
const FORMAT: u32 = 1;
/// Tries at a folder name that is free. A name is taken only when a process of the same attempt
/// was started again at the same step, so a few are plenty.
const NAMES_MAX: u32 = 100;

// Tensors are copied to files byte by byte, and safetensors is little endian.
const _: () = assert!(cfg!(target_endian = "little"));

/// Everything that the rest of a training depends on. Initial values, data order and nothing else
/// is random, and both are functions of the seed, so the seed and the step are the whole state of
/// randomness and of the position in the data.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The small part.
    pub state: State,
    /// Bytes of all parameters, float32, in the layout's order.
    pub parameters: Vec<u8>,
    /// The optimiser's moments, in its order.
    pub moments: Vec<Vec<u8>>,
    /// Bytes of the second set of weights, like the parameters.
    pub second: Option<Vec<u8>>,
}

/// A second set of weights beside the trained ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Second {
    /// Their running mean.
    Average,
    /// The policy that the trained one must not leave too far.
    Reference,
}

impl Second {
    fn file(self) -> &'static str {
        match self {
            Self::Average => "average.safetensors",
            Self::Reference => "reference.safetensors",
        }
    }
}

/// What the tensors of a [`Snapshot`] are.
#[derive(Debug, Clone, Copy)]
pub struct Contents<'a> {
    /// Names and places of the parameters.
    pub layout: &'a Layout,
    /// Name and tensors of each moment, in the optimiser's order.
    pub moments: &'a [MomentPlace],
    /// Which second set of weights there is.
    pub second: Option<Second>,
}

/// One moment of neighbouring tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MomentPlace {
    /// For example `first_moment.`; a tensor's name follows.
    pub prefix: &'static str,
    /// Numbers of the tensors in the layout.
    pub entries: Range<usize>,
}

/// The part of a [`Snapshot`] that is not tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    format: u32,
    /// Updates done.
    pub step: u64,
    /// The trial's seed.
    pub seed: u64,
    /// The text, by content.
    pub data: BlobId,
    /// Losses of the last updates, oldest first: the partial sum behind the final `train_loss`.
    pub recent_losses: VecDeque<f64>,
    /// Seconds spent in the updates so far, over all attempts that led here.
    pub seconds: f64,
    /// Finite numbers that the end reports, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub measured: BTreeMap<String, f64>,
}

impl State {
    /// The state before the first update.
    pub fn new(seed: u64, data: BlobId) -> Self {
        Self {
            format: FORMAT,
            step: 0,
            seed,
            data,
            recent_losses: VecDeque::new(),
            seconds: 0.0,
            measured: BTreeMap::new(),
        }
    }

    fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("every value of a state has a form in JSON")
    }
}

/// Why a checkpoint can not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The disk refused, perhaps because it is full.
    #[error("cannot write the checkpoint {path}")]
    Write {
        /// What was written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The folder's name is not Unicode and so can not be recorded.
    #[error("the checkpoint folder {path} is not valid Unicode; choose another data folder")]
    Name {
        /// Which folder.
        path: PathBuf,
    },
    /// Tensors can not be put into a file.
    #[error("cannot encode {file}")]
    Encode {
        /// Which file.
        file: &'static str,
        /// What the encoder said.
        source: SafeTensorError,
    },
    /// A file is missing, cut short or altered. An older checkpoint may be whole.
    #[error("file {file}: {damage}")]
    Damaged {
        /// Which file of the checkpoint.
        file: &'static str,
        /// What is wrong with it.
        damage: Damage,
    },
    /// A file has the recorded hash, but is not what this trainer writes.
    #[error("{path} is not a file of safetensors")]
    Decode {
        /// Which file.
        path: PathBuf,
        /// What the decoder said.
        source: SafeTensorError,
    },
    /// A file has the recorded hash, but is not what this trainer writes.
    #[error("{path} is not a training state of format {FORMAT}")]
    State {
        /// Which file.
        path: PathBuf,
        /// What the decoder said.
        source: serde_json::Error,
    },
    /// A tensor that the model needs is not there.
    #[error("{path} has no tensor {name}")]
    MissingTensor {
        /// Which file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor has another shape or type than the model's.
    #[error("{path}: tensor {name} is {found}, the model wants {wanted}")]
    Shape {
        /// Which file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type and shape.
        found: String,
        /// The model's.
        wanted: String,
    },
    /// The state belongs to another trial.
    #[error("the checkpoint is of another trial: its {field} is {found}, this trial's is {wanted}")]
    OtherTrial {
        /// What differs.
        field: &'static str,
        /// Value in the file.
        found: String,
        /// Value of this trial.
        wanted: String,
    },
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// It can not be read.
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    /// It has another length.
    #[error("has {found} bytes, recorded were {recorded}")]
    Length {
        /// Bytes of the file.
        found: u64,
        /// Bytes in the record.
        recorded: u64,
    },
    /// Its content is other than recorded.
    #[error("hash differs")]
    Hash,
    /// The record does not name it.
    #[error("is not in the record")]
    NotRecorded,
}

impl CheckpointError {
    /// Who has to act.
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Write { .. } | Self::Damaged { .. } => FailureClass::Infrastructure,
            Self::Encode { .. } => FailureClass::Trial,
            Self::Name { .. }
            | Self::Decode { .. }
            | Self::State { .. }
            | Self::MissingTensor { .. }
            | Self::Shape { .. }
            | Self::OtherTrial { .. } => FailureClass::Invalid,
        }
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
        .map(|(place, bytes)| (place.prefix, &all[place.entries.clone()], bytes.as_slice()))
        .collect();
    let mut files = vec![
        (MODEL, encode(MODEL, &[("", all, &snapshot.parameters)])?),
        (OPTIMIZER, encode(OPTIMIZER, &moments)?),
    ];
    if let (Some(second), Some(values)) = (contents.second, &snapshot.second) {
        files.push((second.file(), encode(second.file(), &[("", all, values)])?));
    }
    files.push((STATE, snapshot.state.to_json()));
    let step = snapshot.state.step;
    let folder = free_folder(parent, step, attempt)?;
    let partial = folder.with_extension("partial");
    let record = |(name, content): &(&str, Vec<u8>)| CheckpointFile {
        name: (*name).to_owned(),
        hash: BlobId::from_hash(blake3::hash(content)),
        bytes: content.len() as u64,
    };
    let (written, records) = thread::scope(|scope| {
        // The disk waits while the processor hashes, and the other way round.
        let records = scope.spawn(|| files.iter().map(record).collect::<Vec<_>>());
        let written = write_folder(&partial, &folder, &files);
        (written, records.join().unwrap_or_else(|panic| resume_unwind(panic)))
    });
    if let Err(error) = written {
        // Best effort: what is left is not a checkpoint, and the disk may be full of it.
        drop(fs::remove_dir_all(&partial));
        return Err(error);
    }
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

fn encode(file: &'static str, groups: &[Group<'_>]) -> Result<Vec<u8>, CheckpointError> {
    let error = |source| CheckpointError::Encode { file, source };
    let mut views = Vec::new();
    for (prefix, entries, bytes) in groups {
        let first = entries.first().map_or(0, |entry| entry.start);
        for entry in *entries {
            let shape = entry.shape.iter().map(|&n| n as usize).collect();
            let start = entry.start - first;
            let place = VALUE_BYTES * start..VALUE_BYTES * (start + entry.len);
            let view = TensorView::new(Dtype::F32, shape, &bytes[place]).map_err(error)?;
            views.push((format!("{prefix}{}", entry.name), view));
        }
    }
    safetensors::serialize(views, None).map_err(error)
}

fn free_folder(parent: &Path, step: u64, attempt: Attempt) -> Result<PathBuf, CheckpointError> {
    let failed = |source| CheckpointError::Write { path: parent.to_owned(), source };
    let parent = parent.canonicalize().map_err(failed)?;
    let name = format!("step-{step:08}-attempt-{attempt}");
    (0..NAMES_MAX)
        .map(|again| match again {
            0 => parent.join(&name),
            again => parent.join(format!("{name}-again-{again}")),
        })
        .find(|folder| !folder.exists())
        .ok_or_else(|| failed(io::Error::from(io::ErrorKind::AlreadyExists)))
}

fn write_folder(
    partial: &Path,
    folder: &Path,
    files: &[(&str, Vec<u8>)],
) -> Result<(), CheckpointError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        |source| CheckpointError::Write { path, source }
    };
    if partial.exists() {
        // Left by a process of this attempt that was killed while it wrote.
        fs::remove_dir_all(partial).map_err(at(partial))?;
    }
    fs::create_dir(partial).map_err(at(partial))?;
    for (name, content) in files {
        let path = partial.join(name);
        let write = || -> io::Result<()> {
            let mut file = File::create_new(&path)?;
            file.write_all(content)?;
            file.sync_all()
        };
        write().map_err(at(&path))?;
    }
    sync_folder(partial).map_err(at(partial))?;
    fs::rename(partial, folder).map_err(at(folder))?;
    let parent = folder.parent().unwrap_or(folder);
    sync_folder(parent).map_err(at(parent))
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// The first of `candidates`, newest first, that is whole. Tells `note` about those that are not.
///
/// # Errors
/// A checkpoint that is whole is of another model or trial.
pub fn first_intact(
    candidates: &[Checkpoint],
    contents: &Contents<'_>,
    note: &mut dyn FnMut(&str),
) -> Result<Option<Snapshot>, CheckpointError> {
    for (index, candidate) in candidates.iter().enumerate() {
        match load(candidate, contents) {
            Ok(snapshot) => return Ok(Some(snapshot)),
            Err(error @ CheckpointError::Damaged { .. }) => {
                let next = match index + 1 < candidates.len() {
                    true => "using the one before it",
                    false => "there is none before it",
                };
                let step = candidate.step;
                note(&format!("checkpoint at step {step} is damaged ({error}); {next}"));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Reads `checkpoint`, which holds `contents`, after its lengths and hashes were found right.
///
/// # Errors
/// [`CheckpointError::Damaged`] when a file is not the recorded one; others when it is, but does
/// not fit the model or its optimiser.
pub fn load(checkpoint: &Checkpoint, contents: &Contents<'_>) -> Result<Snapshot, CheckpointError> {
    // A checkpoint without a second set is of a trial that keeps none, not a damaged one.
    for (second, field) in
        [(Second::Average, "mean of the weights"), (Second::Reference, "reference policy")]
    {
        let has = checkpoint.files.iter().any(|file| file.name == second.file());
        let wants = contents.second == Some(second);
        if has != wants {
            let words = |is_kept| if is_kept { "kept" } else { "not kept" }.to_owned();
            let (found, wanted) = (words(has), words(wants));
            return Err(CheckpointError::OtherTrial { field, found, wanted });
        }
    }
    let [model, optimizer, state] =
        [MODEL, OPTIMIZER, STATE].map(|file| verified(checkpoint, file));
    let (model, optimizer, state) = (model?, optimizer?, state?);
    let second = contents.second.map(|second| verified(checkpoint, second.file())).transpose()?;
    let path = |file: &str| Path::new(&checkpoint.folder).join(file);
    let state = decode_state(&path(STATE), &state)?;
    if state.step != checkpoint.step {
        return Err(CheckpointError::OtherTrial {
            field: "step",
            found: state.step.to_string(),
            wanted: checkpoint.step.to_string(),
        });
    }
    let all = contents.layout.entries();
    let moments = contents.moments.iter().map(|place| {
        decode(&path(OPTIMIZER), &optimizer, &all[place.entries.clone()], place.prefix)
    });
    let second = contents.second.zip(second);
    let second = second.map(|(second, content)| decode(&path(second.file()), &content, all, ""));
    Ok(Snapshot {
        state,
        parameters: decode(&path(MODEL), &model, all, "")?,
        moments: moments.collect::<Result<_, _>>()?,
        second: second.transpose()?,
    })
}

fn verified(checkpoint: &Checkpoint, file: &'static str) -> Result<Vec<u8>, CheckpointError> {
    let damaged = |damage| CheckpointError::Damaged { file, damage };
    let record = checkpoint.files.iter().find(|record| record.name == file);
    let record = record.ok_or_else(|| damaged(Damage::NotRecorded))?;
    let path = Path::new(&checkpoint.folder).join(file);
    let unreadable = |error| damaged(Damage::Unreadable(error));
    let found = fs::metadata(&path).map_err(unreadable)?.len();
    if found != record.bytes {
        let recorded = record.bytes;
        return Err(damaged(Damage::Length { found, recorded }));
    }
    let content = fs::read(&path).map_err(unreadable)?;
    if BlobId::from_hash(blake3::hash(&content)) != record.hash {
        return Err(damaged(Damage::Hash));
    }
    Ok(content)
}

fn decode_state(path: &Path, content: &[u8]) -> Result<State, CheckpointError> {
    let state: Result<State, _> = serde_json::from_slice(content);
    let state = state.map_err(|source| CheckpointError::State { path: path.to_owned(), source })?;
    if state.format != FORMAT {
        return Err(CheckpointError::OtherTrial {
            field: "format",
            found: state.format.to_string(),
            wanted: FORMAT.to_string(),
        });
    }
    Ok(state)
}

fn decode(
    path: &Path,
    content: &[u8],
    entries: &[Entry],
    prefix: &str,
) -> Result<Vec<u8>, CheckpointError> {
    let path = || path.to_owned();
    let tensors = SafeTensors::deserialize(content)
        .map_err(|source| CheckpointError::Decode { path: path(), source })?;
    let mut bytes = Vec::new();
    for entry in entries {
        let name = format!("{prefix}{}", entry.name);
        let Ok(tensor) = tensors.tensor(&name) else {
            return Err(CheckpointError::MissingTensor { path: path(), name });
        };
        let shape: Vec<usize> = entry.shape.iter().map(|&n| n as usize).collect();
        if tensor.dtype() != Dtype::F32 || tensor.shape() != shape {
            return Err(CheckpointError::Shape {
                path: path(),
                name,
                found: format!("{:?} {:?}", tensor.dtype(), tensor.shape()),
                wanted: format!("F32 {shape:?}"),
            });
        }
        bytes.extend_from_slice(tensor.data());
    }
    Ok(bytes)
}
