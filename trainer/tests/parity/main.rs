//! Every family against PyTorch and transformers, and folders of Hugging Face: there and back, and
//! what is refused. The reference numbers come from `xtask/parity.py`.
#![expect(clippy::unwrap_used, reason = "in a test, a step that fails is the finding")]

mod compare;
mod folders;

use compare::Reference;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use trainer::model::Model;
use trainer::parameters::Parameters;

const FAMILIES: [&str; 5] = ["gpt2", "llama", "llama-tied", "qwen2", "qwen3"];

fn fixture(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/fixtures");
    folder.join(format!("{name}.json"))
}

fn reference(name: &str) -> Reference {
    Reference::read(&fixture(name)).unwrap()
}

/// A folder with the model of `name`, whose weights are the formula; the inner path is the folder.
fn folder(name: &str) -> (TempDir, PathBuf) {
    let outer = tempfile::tempdir().unwrap();
    let inner = outer.path().join(name);
    std::fs::create_dir(&inner).unwrap();
    let reference = reference(name);
    let weights: Vec<_> = reference.weights().collect();
    let views = weights.iter().map(|(name, shape, bytes)| {
        (*name, TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap())
    });
    let content = safetensors::serialize(views, None).unwrap();
    std::fs::write(inner.join("model.safetensors"), content).unwrap();
    let fixture: Value = serde_json::from_slice(&std::fs::read(fixture(name)).unwrap()).unwrap();
    std::fs::write(inner.join("config.json"), fixture["config"].to_string()).unwrap();
    (outer, inner)
}

#[track_caller]
fn check(name: &str, (parameters, model): &(Parameters, Model)) {
    let found = reference(name).compare(parameters, model).unwrap();
    assert!(found.logits < 1e-5, "{name}: {found:?}");
    assert!(found.losses < 1e-4, "{name}: {found:?}");
    assert_eq!(found.texts, 0, "{name}: {found:?}");
}

// Goal: logits, the losses of 20 updates and greedy texts are those of transformers.
#[test]
fn every_family_agrees_with_transformers() {
    for name in FAMILIES {
        let (_outer, folder) = folder(name);
        check(name, &reference(name).model(&folder).unwrap());
    }
}

#[test]
fn the_speed_run_gpt_agrees_with_one_written_in_pytorch() {
    check("speedrun", &reference("speedrun").model(Path::new("")).unwrap());
}
