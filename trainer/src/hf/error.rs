//! Why a folder can not be loaded or saved.

use crate::model::ArchitectureError;
use safetensors::SafeTensorError;
use std::io;
use std::path::PathBuf;
use tch::TchError;

/// Why a folder can not be loaded or saved.
#[derive(Debug, thiserror::Error)]
pub enum HfError {
    /// A file can not be read.
    #[error("cannot read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There are no weights in a form that is read.
    #[error(
        "{folder} has neither model.safetensors nor model.safetensors.index.json; other forms, \
        such as pytorch_model.bin, are not read"
    )]
    NoWeights {
        /// Which folder.
        folder: PathBuf,
    },
    /// A file of JSON is far larger than any that is meant.
    #[error("{path} has {bytes} bytes, at most {most} are read")]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// The limit.
        most: u64,
    },
    /// A file is not the JSON that it should be.
    #[error("{path} is not valid")]
    Json {
        /// Which file.
        path: PathBuf,
        /// What the decoder said.
        source: serde_json::Error,
    },
    /// A key of the configuration is missing or has a value that Brine does not compute.
    #[error("{path}: {key} is {found}, it must be {wanted}")]
    Config {
        /// Which file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value, or "missing".
        found: String,
        /// What is allowed.
        wanted: String,
    },
    /// A key that might change what the model computes.
    #[error(
        "{path}: {key} is not known for a model of type {model_type} and may change what it \
        computes; if it does not, remove it from the file"
    )]
    UnknownKey {
        /// Which file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The family.
        model_type: String,
    },
    /// The numbers of the configuration do not make a model.
    #[error("{path}: {source}")]
    Architecture {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: ArchitectureError,
    },
    /// A file of weights is cut short or is something else.
    #[error("{path} is not a whole file of safetensors")]
    SafeTensors {
        /// Which file.
        path: PathBuf,
        /// What the decoder said.
        source: SafeTensorError,
    },
    /// The index names a file that is not a plain name inside the folder.
    #[error("{path}: tensor {tensor} is said to be in {file:?}, which is not a file's name")]
    ShardName {
        /// The index.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What it says.
        file: String,
    },
    /// A tensor that the model needs is not there.
    #[error("{path} has no tensor {name}; the model wants it with shape {wanted:?}")]
    Missing {
        /// The file that should have it.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        wanted: Vec<i64>,
    },
    /// A tensor that the model does not have.
    #[error("{path} has tensor {name} of shape {shape:?}, which the model of config.json has not")]
    Extra {
        /// Which file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// Two files have the same tensor.
    #[error("{first} and {second} both have tensor {name}")]
    Twice {
        /// One file.
        first: PathBuf,
        /// Another.
        second: PathBuf,
        /// The tensor.
        name: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error("{path}: tensor {name} has shape {found:?}, config.json wants {wanted:?}")]
    Shape {
        /// Which file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The model's.
        wanted: Vec<i64>,
    },
    /// A tensor is not of 32 or 16 bit floating-point numbers.
    #[error("{path}: tensor {name} is of type {found}, it must be F32, F16 or BF16")]
    Type {
        /// Which file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        found: String,
    },
    /// A weight is NaN or infinite.
    #[error(
        "{path}: tensor {name} of shape {shape:?} has {count} values that are not finite, the \
        first at place {place}"
    )]
    NotFinite {
        /// Which file, or "the model" when it is to be saved.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<i64>,
        /// How many.
        count: i64,
        /// The first, counted through the whole tensor.
        place: i64,
    },
    /// The output layer is there although config.json says that it is the embedding.
    #[error(
        "{path}: config.json ties the output layer to the embedding, but tensor {name} has other \
        values; set tie_word_embeddings to false, or remove the tensor"
    )]
    NotTied {
        /// Which file.
        path: PathBuf,
        /// The tensor.
        name: String,
    },
    /// No family of Hugging Face computes what this model computes.
    #[error(
        "no family of Hugging Face that Brine knows has {what}; save this model as a checkpoint"
    )]
    NoFamily {
        /// What is in the way.
        what: &'static str,
    },
    /// Something has the folder's name.
    #[error("{path} exists; choose another folder")]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// The disk refused, perhaps because it is full.
    #[error("cannot write {path}")]
    Write {
        /// What was written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Tensors can not be put into a file.
    #[error("cannot encode {path}")]
    Encode {
        /// Which file.
        path: PathBuf,
        /// What the encoder said.
        source: SafeTensorError,
    },
    /// libtorch refused, most likely for lack of memory.
    #[error("libtorch failed {doing}")]
    Torch {
        /// What was tried.
        doing: String,
        /// What it said.
        source: TchError,
    },
}
