//! Makes the binaries find libtorch without `LD_LIBRARY_PATH`, and names the code's version.

use std::path::Path;
use std::process::Command;

fn main() {
    // The trainer's build script says which libtorch is linked.
    println!("cargo:rerun-if-env-changed=DEP_BRINE_TRAINER_RPATH");
    for folder in library_folders() {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{folder}");
    }
    println!("cargo:rustc-env=BRINE_COMMIT={}", commit());
}

/// The libtorch that was linked, then the places where an unpacked copy of the project has it:
/// `.libtorch` beside `target`, or beside the binary's own folder.
fn library_folders() -> Vec<String> {
    let linked = std::env::var("DEP_BRINE_TRAINER_RPATH").ok();
    let beside = ["../../.libtorch/torch/lib", "../.libtorch/torch/lib", "../lib"];
    let beside = beside.map(|folder| format!("$ORIGIN/{folder}"));
    linked.into_iter().chain(beside).collect()
}

fn commit() -> String {
    // Git appends to this file at every commit and checkout.
    let log = Path::new("../.git/logs/HEAD");
    if log.exists() {
        println!("cargo:rerun-if-changed={}", log.display());
    } else {
        println!("cargo:rerun-if-changed=build.rs");
    }
    let git = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    match git {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        // A source archive has no history; the trials it runs say so.
        Ok(_) | Err(_) => "unknown".to_owned(),
    }
}
