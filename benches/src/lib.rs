//! What several benches need. Speed is measured in `benches/`, the architecture is checked in
//! `tests/`.
#![expect(clippy::unwrap_used, reason = "serves benches")]

use std::path::{Path, PathBuf};

/// Cargo sets it for a bench. Every program would search its folders at its start, peers' and ours,
/// and hide what each of the two costs; a user's programs find libtorch without it.
pub const LIBRARY_PATH: &str = "LD_LIBRARY_PATH";

/// The program of that name that `cargo build --release` puts beside the benches.
///
/// # Panics
/// The system does not say where this bench is.
pub fn program(name: &str) -> PathBuf {
    let bench = std::env::current_exe().unwrap();
    bench.parent().and_then(Path::parent).unwrap().join(name)
}

/// The middle of several numbers, the upper one of two.
///
/// # Panics
/// There is none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
