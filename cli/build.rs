//! Puts the commit into the binary, for `--version` and for the provenance of reports.

use std::path::Path;
use std::process::Command;

fn main() {
    // Git appends to this file at every commit and checkout.
    let log = Path::new("../.git/logs/HEAD");
    if log.exists() {
        println!("cargo:rerun-if-changed={}", log.display());
    } else {
        println!("cargo:rerun-if-changed=build.rs");
    }
    let commit = Command::new("git")
        .args(["rev-parse", "--short", "HEAD"])
        .output()
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .map(|text| text.trim().to_owned())
        .filter(|text| !text.is_empty())
        // Built from an archive, or with no git on the machine.
        .unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=BRINE_COMMIT={commit}");
}
