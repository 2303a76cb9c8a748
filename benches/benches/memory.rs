//! The peak of memory that `brine plan` predicts beside the one that a training had, over shapes,
//! optimisers and precisions: real trials of a real agent, with a checkpoint every second.
//!
//!     cargo build --release && cargo bench -p brine-benches --bench memory [-- ROW ...]
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench")]

use brine_benches::{LIBRARY_PATH, program};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;

/// 25 million parameters, few activations.
const LARGE: &str = "sequence: 64, width: 512, layers: 8, heads: 8";
/// The same with many.
const LARGE_LONG: &str = "sequence: 256, width: 512, layers: 8, heads: 8";
/// 0.2 million parameters, activations only.
const WIDE_BATCH: &str = "sequence: 512, width: 64, layers: 4, heads: 4";

/// Name, model, and the lines of the study that follow it.
const ROWS: [(&str, &str, &str); 15] = [
    ("default", "sequence: 128, width: 64, layers: 2, heads: 4", "batch: 16"),
    ("adamw", LARGE, "batch: 1"),
    ("lion", LARGE, "batch: 1\n      optimizer: {kind: lion}"),
    ("sgd", LARGE, "batch: 1\n      optimizer: {kind: sgd}"),
    ("muon", LARGE, "batch: 1\n      optimizer: {kind: muon}"),
    ("mean", LARGE, "batch: 1\n      training: {ema: 0.9}"),
    ("long", LARGE_LONG, "batch: 8"),
    ("parts", LARGE_LONG, "batch: 8\n      training: {accumulation: 4}"),
    ("bf16", LARGE_LONG, "batch: 8\n      training: {precision: bf16}"),
    ("activations", WIDE_BATCH, "batch: 64"),
    ("swiglu", "sequence: 512, width: 64, layers: 4, heads: 4, mlp: swiglu", "batch: 64"),
    (
        "layer-norm",
        "sequence: 512, width: 64, layers: 4, heads: 4, positions: learned, norm: layer_norm",
        "batch: 64",
    ),
    ("activations-bf16", WIDE_BATCH, "batch: 64\n      training: {precision: bf16}"),
    ("heads", "sequence: 1024, width: 64, layers: 4, heads: 16", "batch: 16"),
    (
        "vocabulary",
        "sequence: 512, width: 64, layers: 1, heads: 4",
        "batch: 32\n      vocabulary: 8192",
    ),
];

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    println!("| row | predicted MB | measured MB | ratio |\n| --- | --- | --- | --- |");
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|row| row == name);
    for (name, model, lines) in ROWS.into_iter().filter(|(name, ..)| is_wanted(name)) {
        let [predicted, measured] = peaks(name, model, lines).map(|bytes| bytes / 1e6);
        let ratio = predicted / measured;
        println!("| `{name}` | {predicted:.0} | {measured:.0} | {ratio:.2} |");
    }
}

/// Predicted and measured, in bytes.
fn peaks(name: &str, model: &str, lines: &str) -> [f64; 2] {
    let folder = tempfile::tempdir_in(".").unwrap();
    let text: Vec<u8> =
        (0..1_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(folder.path().join("text"), text).unwrap();
    let recipe = folder.path().join("recipe.yaml");
    fs::write(
        &recipe,
        format!(
            "apiVersion: brine.dev/v1\nkind: Experiment\nmetadata: {{name: {name}}}\nspec:\n  \
             study:\n    train:\n      data: {{files: text}}\n      model: {{{model}}}\n      \
             {lines}\n      length: {{steps: 12}}\n      validation: {{tokens: 512}}\n  \
             resources: {{cpus: 1}}\n  checkpoint: {{every: 1s}}\n"
        ),
    )
    .unwrap();
    let plan = brine(&["plan"], &recipe, folder.path());
    let run = brine(&["run"], &recipe, folder.path());
    let metrics = find(&run, "metrics").unwrap();
    [find(&plan, "memory_bytes").unwrap(), &metrics["peak_memory_bytes"]]
        .map(|value| value.as_f64().unwrap())
}

/// What a command of `brine` about `recipe` prints as JSON.
fn brine(arguments: &[&str], recipe: &Path, folder: &Path) -> Value {
    let mut command = Command::new(program("brine"));
    command.args(arguments).arg(recipe).args(["--output", "json"]);
    if arguments == ["run"] {
        command.arg("--data-dir").arg(folder.join("data"));
    }
    let output = command.env_remove(LIBRARY_PATH).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "brine {arguments:?}: {said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The first member of that name, however deep.
fn find<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    match value {
        Value::Object(members) => {
            members.get(name).or_else(|| members.values().find_map(|member| find(member, name)))
        }
        Value::Array(items) => items.iter().find_map(|item| find(item, name)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}
