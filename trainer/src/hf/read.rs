//! Reads a folder through memory maps, tensor by tensor, straight into the flat parameters.

use super::config::{self, Family};
use super::error::HfError;
use super::names::{self, Part};
use super::{CONFIG, INDEX, WEIGHTS};
use crate::model::{Architecture, Model};
use crate::parameters::{Layout, Parameters};
use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, TchError, Tensor};

/// A configuration has a few KiB.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// An index has some 100 bytes per tensor.
const INDEX_BYTES_MAX: u64 = 64 << 20;

/// The model of `folder` in float32 on `device`, and its parameters. The files must not change
/// while they are read.
///
/// # Errors
/// The folder is not whole, not right, or not of a family that Brine computes; names file, tensor
/// and shapes.
pub fn load(folder: &Path, device: Device) -> Result<(Parameters, Model), HfError> {
    let path = folder.join(CONFIG);
    let (family, architecture) = config::parse(&path, &read_small(&path, CONFIG_BYTES_MAX)?)?;
    let maps = open_all(folder)?;
    let files = maps
        .iter()
        .map(|(path, map)| match SafeTensors::deserialize(map) {
            Ok(tensors) => Ok((path.as_path(), tensors)),
            Err(source) => Err(HfError::SafeTensors { path: path.clone(), source }),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mut tensors = all_tensors(&files, family)?;
    let place = match files.as_slice() {
        [(path, _)] => (*path).to_owned(),
        _ => folder.join(INDEX),
    };
    let layout = Layout::of(&architecture);
    let flat = fill(&architecture, family, &layout, &mut tensors, &place)?;
    refuse_others(&tensors, &architecture, &flat, &layout)?;
    let build = || {
        let parameters =
            Parameters::over(layout, flat.f_to_device(device)?, proto::Precision::Float32)?;
        let model = Model::new(architecture, &parameters)?;
        Ok((parameters, model))
    };
    build().map_err(torch("making the model"))
}

fn torch(doing: impl Into<String>) -> impl FnOnce(TchError) -> HfError {
    move |source| HfError::Torch { doing: doing.into(), source }
}

fn read_small(path: &Path, most: u64) -> Result<Vec<u8>, HfError> {
    let read = |source| HfError::Read { path: path.to_owned(), source };
    let bytes = fs::metadata(path).map_err(read)?.len();
    if bytes > most {
        return Err(HfError::TooLarge { path: path.to_owned(), bytes, most });
    }
    fs::read(path).map_err(read)
}

/// The files of weights.
fn open_all(folder: &Path) -> Result<Vec<(PathBuf, Mmap)>, HfError> {
    let (single, index) = (folder.join(WEIGHTS), folder.join(INDEX));
    let paths = match (single.exists(), index.exists()) {
        (true, _) => vec![single],
        (false, true) => shards(folder, &index)?,
        (false, false) => return Err(HfError::NoWeights { folder: folder.to_owned() }),
    };
    paths.into_iter().map(|path| Ok((path.clone(), open(path)?))).collect()
}

fn open(path: PathBuf) -> Result<Mmap, HfError> {
    let map = || -> io::Result<Mmap> {
        let file = File::open(&path)?;
        // SAFETY: nobody changes the file while it is read; `load` asks its caller for that.
        #[expect(unsafe_code, reason = "a memory map has no safe constructor")]
        let map = unsafe { Mmap::map(&file) }?;
        Ok(map)
    };
    map().map_err(|source| HfError::Read { path, source })
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The files that the index names. What is in them decides, not what the index says of it: a
/// tensor that it names and no file has is missing either way.
fn shards(folder: &Path, index: &Path) -> Result<Vec<PathBuf>, HfError> {
    let text = read_small(index, INDEX_BYTES_MAX)?;
    let parsed: Index = serde_json::from_slice(&text)
        .map_err(|source| HfError::Json { path: index.to_owned(), source })?;
    for (tensor, file) in &parsed.weight_map {
        if Path::new(file).file_name() != Some(file.as_ref()) {
            let (tensor, file) = (tensor.clone(), file.clone());
            return Err(HfError::ShardName { path: index.to_owned(), tensor, file });
        }
    }
    let files: BTreeSet<&String> = parsed.weight_map.values().collect();
    Ok(files.into_iter().map(|file| folder.join(file)).collect())
}

/// Tensors by the names that [`names`] gives them, with their files.
type Tensors<'a> = BTreeMap<String, (&'a Path, TensorView<'a>)>;

fn all_tensors<'a>(
    files: &'a [(&'a Path, SafeTensors<'a>)],
    family: Family,
) -> Result<Tensors<'a>, HfError> {
    let mut all = Tensors::new();
    for (path, tensors) in files {
        for (name, view) in tensors.iter() {
            if names::is_derived(name) {
                continue;
            }
            let bare = family == Family::Gpt2
                && name != names::OUTPUT
                && !name.starts_with(names::GPT2_PREFIX);
            let prefix = if bare { names::GPT2_PREFIX } else { "" };
            let name = format!("{prefix}{name}");
            if let Some((first, _)) = all.insert(name.clone(), (path, view)) {
                let (first, second) = (first.to_owned(), (*path).to_owned());
                return Err(HfError::Twice { first, second, name });
            }
        }
    }
    Ok(all)
}

/// The flat parameters, for which it takes out of `tensors` what it needs.
fn fill(
    architecture: &Architecture,
    family: Family,
    layout: &Layout,
    tensors: &mut Tensors<'_>,
    place: &Path,
) -> Result<Tensor, HfError> {
    let zeros = Tensor::f_zeros([layout.len() as i64], (Kind::Float, Device::Cpu));
    let flat = zeros.map_err(torch("making room for the weights"))?;
    for entry in layout.entries() {
        let ours = flat
            .f_narrow(0, entry.start as i64, entry.len as i64)
            .and_then(|ours| ours.f_view(entry.shape.as_slice()))
            .map_err(torch(format!("placing {}", entry.name)))?;
        let mut row = 0;
        for part in names::parts(family, architecture, entry) {
            let (path, view) = tensors.remove(&part.name).ok_or_else(|| HfError::Missing {
                path: place.to_owned(),
                name: part.name.clone(),
                wanted: part.shape.clone(),
            })?;
            let theirs = decode(path, &part, &view)?;
            let copy = || ours.f_narrow(0, row, part.rows())?.f_copy_(&part.to_ours(&theirs)?);
            copy().map_err(torch(format!("copying {}", part.name)))?;
            row += part.rows();
        }
    }
    Ok(flat)
}

fn decode(path: &Path, part: &Part, view: &TensorView<'_>) -> Result<Tensor, HfError> {
    let (file, name) = (|| path.to_owned(), || part.name.clone());
    if !view.shape().iter().map(|&n| n as i64).eq(part.shape.iter().copied()) {
        let (found, wanted) = (view.shape().to_vec(), part.shape.clone());
        return Err(HfError::Shape { path: file(), name: name(), found, wanted });
    }
    #[expect(clippy::wildcard_enum_match_arm, reason = "every other type is refused")]
    let kind = match view.dtype() {
        Dtype::F32 => Kind::Float,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        other => {
            let found = format!("{other:?}");
            return Err(HfError::Type { path: file(), name: name(), found });
        }
    };
    let values = Tensor::f_from_data_size(view.data(), &part.shape, kind)
        .and_then(|values| values.f_to_kind(Kind::Float))
        .map_err(torch(format!("reading {}", part.name)))?;
    refuse_not_finite(path, &part.name, &values)?;
    Ok(values)
}

/// # Errors
/// A value of `tensor` is NaN or infinite.
pub(super) fn refuse_not_finite(path: &Path, name: &str, tensor: &Tensor) -> Result<(), HfError> {
    let places = || tensor.f_view(-1)?.f_isfinite()?.f_logical_not()?.f_nonzero()?.f_view(-1);
    let places = places().map_err(torch(format!("looking for NaN in {name}")))?;
    if places.numel() == 0 {
        return Ok(());
    }
    Err(HfError::NotFinite {
        path: path.to_owned(),
        name: name.to_owned(),
        shape: tensor.size(),
        count: places.numel() as i64,
        place: places.f_int64_value(&[0]).map_err(torch("reading a place"))?,
    })
}

/// Refuses what is left of `tensors`, but for a tied output layer that is the embedding indeed.
fn refuse_others(
    tensors: &Tensors<'_>,
    architecture: &Architecture,
    flat: &Tensor,
    layout: &Layout,
) -> Result<(), HfError> {
    for (name, (path, view)) in tensors {
        let path = (*path).to_owned();
        if !(architecture.tied && name == names::OUTPUT) {
            return Err(HfError::Extra { path, name: name.clone(), shape: view.shape().to_vec() });
        }
        let Some(entry) = layout.entries().iter().find(|e| e.name == "token_embedding.weight")
        else {
            unreachable!("every model has an embedding")
        };
        let output = decode(&path, &Part::tied_output(&entry.shape), view)?;
        let same = || -> tch::Result<bool> {
            let ours = flat.f_narrow(0, entry.start as i64, entry.len as i64)?;
            output.f_view(-1)?.f_equal(&ours)
        };
        if !same().map_err(torch("comparing the output layer"))? {
            return Err(HfError::NotTied { path, name: name.clone() });
        }
    }
    Ok(())
}
