//! Compares models with what PyTorch and transformers found for them; `cargo xtask parity` makes
//! the folder, one folder per model with its reference.json, and runs this.
#![expect(clippy::print_stdout, reason = "a table is what this program is for")]

#[path = "../tests/parity/compare.rs"]
mod compare;

use compare::Reference;
use std::error::Error;
use std::path::PathBuf;

/// Largest difference of a logit and of a loss that float32 explains.
const LOGITS_MAX: f64 = 1e-5;
const LOSSES_MAX: f64 = 1e-4;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).ok_or("usage: parity FOLDER")?;
    let entries = std::fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    let mut folders: Vec<PathBuf> = entries.iter().map(std::fs::DirEntry::path).collect();
    folders.sort();
    println!("{:<12} {:>10} {:>10} {:>6}", "model", "logits", "losses", "texts");
    let mut worse = vec![];
    for folder in &folders {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let reference = Reference::read(&folder.join("reference.json"))?;
        let (parameters, model) = reference.model(folder)?;
        let found = reference.compare(&parameters, &model)?;
        let texts = if found.texts == 0 { "same" } else { "other" };
        println!("{name:<12} {:>10.1e} {:>10.1e} {texts:>6}", found.logits, found.losses);
        // Not `>`: a difference that is not a number must not pass.
        if !(found.logits <= LOGITS_MAX && found.losses <= LOSSES_MAX && found.texts == 0) {
            worse.push(name);
        }
    }
    if folders.is_empty() {
        return Err("the folder has no models".into());
    }
    match worse.is_empty() {
        true => Ok(()),
        false => Err(format!("not equal: {}", worse.join(", ")).into()),
    }
}
