//! From a folder to a snapshot, or to the reason why not.

use super::{
    Bytes, CheckpointError, Contents, Damage, FORMAT, MODEL, OPTIMIZER, STATE, Second, Snapshot,
    State,
};
use crate::parameters::{Entry, VALUE_BYTES};
use proto::{BlobId, Checkpoint};
use safetensors::tensor::{Dtype, SafeTensors};
use std::fs;
use std::path::Path;

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
    // Not mapped: a disk that can not read a page would kill the process instead of saying so.
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
) -> Result<Bytes, CheckpointError> {
    let path = || path.to_owned();
    let tensors = SafeTensors::deserialize(content)
        .map_err(|source| CheckpointError::Decode { path: path(), source })?;
    let values: usize = entries.iter().map(|entry| entry.len).sum();
    let mut bytes = Vec::with_capacity(VALUE_BYTES * values);
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
    Ok(bytes.into())
}
