//! The trainer beside PyTorch and `transformers` on the processor: one side, then the other, and so
//! on. Without `--python` it measures Brine alone. The peers are programs of ours in
//! `benches/peers`; the Python needs the packages of `xtask/parity.txt`, as `target/parity` of
//! `cargo xtask parity` has them.
//!
//!     cargo build --release && cargo bench -p brine-benches --bench torch -- \
//!         [step] [small] [generate] [start] [--python /absolute/path/of/python]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench"
)]

mod figures;
mod peer;
mod start;
mod training;
mod trial;
mod writing;

use peer::Peer;
use std::path::PathBuf;

/// Repetitions of a row, each of both sides.
const RUNS: usize = 5;

fn main() {
    let mut rows = Vec::new();
    let mut python: Option<PathBuf> = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--python" => python = Some(arguments.next().unwrap().into()),
            "--bench" => {} // cargo's own
            _ => rows.push(argument),
        }
    }
    const ROWS: [&str; 4] = ["step", "small", "generate", "start"];
    assert!(rows.iter().all(|row| ROWS.contains(&&**row)), "{rows:?} are not of {ROWS:?}");
    let is_wanted = |row: &str| rows.is_empty() || rows.iter().any(|name| name == row);
    let peer = |script| python.as_ref().map(|python| Peer::start(python, script));
    if is_wanted("step") {
        training::step(peer("torch_train.py"));
    }
    if is_wanted("small") {
        training::small(peer("torch_train.py"));
    }
    if is_wanted("generate") {
        match peer("hf_generate.py") {
            Some(peer) => writing::generate(peer),
            None => println!("generate: not measured, its models are made by --python"),
        }
    }
    if is_wanted("start") {
        start::start(python.as_deref());
    }
}
