//! What the fuzz targets have in common. A target gives a reader one input as a file; the reader
//! may refuse it, and must not panic, hang, or hand on what its own promises exclude.
#![expect(clippy::unwrap_used, reason = "a fuzz target may panic when the machine fails it")]

use proto::{BlobId, BlobRef, DataSpec, Packing, TokenFormat};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tch::Device;
use tempfile::TempDir;
use trainer::data::{Encoding, NOT_SCORED, Text};
use trainer::hf;
use trainer::model::{Architecture, Model, Sizes};
use trainer::parameters::{Layout, Parameters};

/// Tokens of a window; small, so that short inputs have several.
const SEQUENCE: u32 = 4;
/// Distinct tokens; a byte and the end of a document.
const VOCABULARY: u32 = 257;

/// A folder of this process, which the next start of the machine empties.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    FOLDER.get_or_init(|| tempfile::tempdir().unwrap()).path()
}

/// Opens `content` as a text in that form and looks at every window of it.
pub fn read_text(content: &[u8], format: TokenFormat, packing: Packing) {
    let path = folder().join("text");
    fs::write(&path, content).unwrap();
    let blob = BlobId::from_hash(blake3::hash(content));
    let text = BlobRef { blob, bytes: content.len() as u64 };
    let spec = DataSpec { text, format, held_out: 0.3, packing, tokenizer: None };
    let Ok(text) = Text::open(&path, &spec, &Encoding::BYTES, VOCABULARY, SEQUENCE, 7) else {
        return;
    };
    for windows in [text.batch(3, 5), text.held_out(0, text.held_out_windows())] {
        let known = |token: &i64| (0..i64::from(VOCABULARY)).contains(token);
        assert!(windows.inputs.iter().all(known));
        assert!(windows.targets.iter().all(|target| *target == NOT_SCORED || known(target)));
        let scored = windows.targets.iter().filter(|target| **target != NOT_SCORED).count();
        assert!(scored as u64 == windows.scored && scored > 0);
        assert_eq!(windows.inputs.len() as u64, windows.sequences * u64::from(SEQUENCE));
        assert_eq!(windows.targets.len(), windows.inputs.len());
    }
}

/// Opens `weights` as those of a small Llama, in a folder of Hugging Face.
pub fn read_weights(weights: &[u8]) {
    static MODEL: OnceLock<PathBuf> = OnceLock::new();
    let model = MODEL.get_or_init(|| {
        let path = folder().join("model");
        write_model(&path);
        path
    });
    fs::write(model.join("model.safetensors"), weights).unwrap();
    if let Ok((parameters, _)) = hf::load(model, Device::Cpu) {
        assert!(parameters.flat().isfinite().all().int64_value(&[]) == 1);
    }
}

/// A small Llama with its weights, as a folder of Hugging Face.
pub fn write_model(folder: &Path) {
    let sizes = Sizes {
        vocabulary: 5,
        sequence: SEQUENCE,
        width: 4,
        layers: 1,
        heads: 2,
        kv_heads: 1,
        mlp_width: 3,
    };
    let architecture = Architecture::llama(sizes);
    let layout = Layout::of(&architecture);
    let values = layout.initial_values(1).unwrap();
    let parameters =
        Parameters::new(layout, &values, proto::Precision::Float32, Device::Cpu).unwrap();
    let model = Model::new(&architecture, &parameters).unwrap();
    hf::save(folder, &model, &parameters, None, hf::SHARD_BYTES).unwrap();
}
