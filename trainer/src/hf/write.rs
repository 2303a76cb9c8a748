//! Writes a folder: under another name first, flushed file by file, and renamed when it is whole.

use super::config::{self, Family};
use super::error::HfError;
use super::names::{self, Part};
use super::{CONFIG, INDEX, WEIGHTS, read};
use crate::model::Model;
use crate::parameters::{Entry, Parameters, VALUE_BYTES};
use crate::tokenizer::Tokenizer;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use tch::{TchError, Tensor};

/// Bytes of tensors in one file, as `transformers` has it. A larger tensor has a file of its own.
pub const SHARD_BYTES: u64 = 5_000_000_000;

/// Writes `model`, whose values are `parameters`, as float32 into the new folder `folder`, in files
/// of at most `shard_bytes`. When this returns, everything is on disk.
///
/// # Errors
/// No family of Hugging Face computes what the model computes, a weight is not finite, the folder
/// exists, or the disk refuses. No folder of that name is left then.
pub fn save(
    folder: &Path,
    model: &Model,
    parameters: &Parameters,
    tokenizer: Option<&Tokenizer>,
    shard_bytes: u64,
) -> Result<(), HfError> {
    let family = Family::of(model.architecture())?;
    if folder.exists() {
        return Err(HfError::Exists { path: folder.to_owned() });
    }
    let partial = folder.with_extension("partial");
    let write = || {
        remove(&partial)?;
        at(&partial, fs::create_dir(&partial))?;
        let config = config::describe(family, model.architecture());
        write_file(&partial.join(CONFIG), config_text(&config).as_bytes())?;
        if let Some(tokenizer) = tokenizer {
            write_file(&partial.join(crate::tokenizer::FILE), tokenizer.json().as_bytes())?;
        }
        write_weights(&partial, family, model, parameters, shard_bytes)?;
        at(&partial, sync(&partial))?;
        at(folder, fs::rename(&partial, folder))?;
        // An empty parent is the current folder.
        let parent = folder.parent().filter(|p| !p.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        at(parent, sync(parent))
    };
    write().inspect_err(|_| {
        // Best effort: what is left is not a model, and the disk may be full of it.
        drop(fs::remove_dir_all(&partial));
    })
}

fn at<T>(path: &Path, result: io::Result<T>) -> Result<T, HfError> {
    result.map_err(|source| HfError::Write { path: path.to_owned(), source })
}

/// Removes what a killed process has left.
fn remove(partial: &Path) -> Result<(), HfError> {
    match fs::remove_dir_all(partial) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => at(partial, other),
    }
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn write_file(path: &Path, content: &[u8]) -> Result<(), HfError> {
    let write = || {
        let mut file = File::create_new(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    at(path, write())
}

fn config_text(config: &serde_json::Value) -> String {
    format!("{config:#}\n")
}

fn write_weights(
    folder: &Path,
    family: Family,
    model: &Model,
    parameters: &Parameters,
    shard_bytes: u64,
) -> Result<(), HfError> {
    let entries = parameters.layout().entries();
    let parts = entries.iter().flat_map(|entry| {
        let mut row = 0;
        names::parts(family, model.architecture(), entry).into_iter().map(move |part| {
            let first = row;
            row += part.rows();
            (entry, first, part)
        })
    });
    let shards = divide(parts.collect(), shard_bytes);
    let single = shards.len() == 1;
    let name = |i: usize| match single {
        true => WEIGHTS.to_owned(),
        false => format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len()),
    };
    let mut map = BTreeMap::new();
    for (i, shard) in shards.iter().enumerate() {
        let path = folder.join(name(i));
        write_file(&path, &encode(&path, parameters, shard)?)?;
        map.extend(shard.iter().map(|(.., part)| (part.name.clone(), name(i))));
    }
    if single {
        return Ok(());
    }
    let total = parameters.layout().len() * VALUE_BYTES;
    let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
    write_file(&folder.join(INDEX), config_text(&index).as_bytes())
}

/// A part, the tensor of ours that it is of, and its first row there.
type Placed<'a> = (&'a Entry, i64, Part);

/// Cuts `parts` into runs of at most `most` bytes, or of one part.
fn divide(parts: Vec<Placed<'_>>, most: u64) -> Vec<Vec<Placed<'_>>> {
    let mut shards = vec![];
    let (mut shard, mut used) = (vec![], 0);
    for placed in parts {
        let bytes = placed.2.shape.iter().product::<i64>() as u64 * VALUE_BYTES as u64;
        if !shard.is_empty() && used + bytes > most {
            shards.push(std::mem::take(&mut shard));
            used = 0;
        }
        used += bytes;
        shard.push(placed);
    }
    shards.push(shard);
    shards
}

fn encode(path: &Path, parameters: &Parameters, shard: &[Placed<'_>]) -> Result<Vec<u8>, HfError> {
    let encode = |source| HfError::Encode { path: path.to_owned(), source };
    let mut tensors = Vec::with_capacity(shard.len());
    for (entry, row, part) in shard {
        let bytes = bytes_of(parameters, entry, *row, part)
            .map_err(|source| HfError::Torch { doing: format!("copying {}", part.name), source })?;
        read::refuse_not_finite(Path::new("the model"), &part.name, &bytes.0)?;
        tensors.push((part, bytes.1));
    }
    let views = tensors
        .iter()
        .map(|(part, bytes)| {
            let shape = part.shape.iter().map(|&n| n as usize).collect();
            Ok((&part.name, TensorView::new(Dtype::F32, shape, bytes).map_err(encode)?))
        })
        .collect::<Result<Vec<_>, HfError>>()?;
    // `transformers` refuses a file that does not say this.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views, Some(metadata)).map_err(encode)
}

/// One part as a tensor of their form on the processor, and its bytes.
fn bytes_of(
    parameters: &Parameters,
    entry: &Entry,
    row: i64,
    part: &Part,
) -> Result<(Tensor, Vec<u8>), TchError> {
    let ours = parameters.flat().f_narrow(0, entry.start as i64, entry.len as i64)?;
    let block = ours.f_view(entry.shape.as_slice())?.f_narrow(0, row, part.rows())?;
    let theirs = part.to_theirs(&block.f_to_device(tch::Device::Cpu)?)?.f_contiguous()?;
    let mut bytes = vec![0; theirs.numel() * VALUE_BYTES];
    theirs.f_copy_data_u8(&mut bytes, theirs.numel())?;
    Ok((theirs, bytes))
}
