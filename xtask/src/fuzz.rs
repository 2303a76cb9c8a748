//! `cargo xtask fuzz`: libFuzzer on the readers of files from elsewhere.
//!
//! The trainer is compiled once more, with coverage, by the compiler that compiles everything
//! else; its dependencies are not compiled again. What the fuzzer finds goes to `target/fuzz`,
//! from where the next run goes on.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::libtorch::Libtorch;
use crate::terminal::say;
use crate::workspace::{Workspace, run};

/// The readers: the last words of their programs' names.
const TARGETS: [&str; 3] = ["shards", "jsonl", "safetensors"];
/// Longest input in bytes: two headers of shards, or a small model.
const INPUT_BYTES_MAX: u32 = 8_192;
/// Longest time of one input in seconds before it counts as a hang.
const INPUT_SECONDS_MAX: u32 = 10;
/// Most memory in MiB.
const MEMORY_MIB_MAX: u32 = 4_096;

/// What `cargo xtask fuzz` is told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Which readers
    #[arg(value_parser = TARGETS, default_values = TARGETS)]
    targets: Vec<String>,
    /// Time for each in seconds
    #[arg(long, value_name = "S", default_value_t = 60)]
    seconds: u32,
}

/// How long each reader is tried.
#[derive(Debug, Clone, Copy)]
enum Length {
    Seconds(u32),
    /// So many inputs, the same ones every time.
    Inputs(u32),
}

/// Fuzzes for a time.
///
/// # Errors
/// A reader panicked, hung or took too much memory, or nothing could be built.
pub(crate) fn fuzz(workspace: &Workspace, libtorch: &Libtorch, options: &Options) -> Result<()> {
    let targets: Vec<&str> = options.targets.iter().map(String::as_str).collect();
    let corpus = workspace.root.join("target/fuzz");
    all(workspace, libtorch, &targets, Length::Seconds(options.seconds), &corpus)
}

/// Fuzzes every reader with `inputs` inputs each, from nothing but valid files.
///
/// # Errors
/// As [`fuzz`].
pub(crate) fn briefly(workspace: &Workspace, libtorch: &Libtorch, inputs: u32) -> Result<String> {
    let corpus = tempfile::tempdir().context("cannot create a folder for the inputs")?;
    all(workspace, libtorch, &TARGETS, Length::Inputs(inputs), corpus.path())?;
    Ok(format!("{inputs} inputs for each of {} readers", TARGETS.len()))
}

fn all(
    workspace: &Workspace,
    libtorch: &Libtorch,
    targets: &[&str],
    length: Length,
    corpus: &Path,
) -> Result<()> {
    let mut seeds = workspace.cargo(libtorch);
    seeds.args(["run", "--release", "--package", "brine-fuzz", "--bin", "fuzz-seeds", "--"]);
    let status = run(seeds.arg(corpus))?;
    ensure!(status.success(), "the first inputs could not be written ({status})");
    let mut build = workspace.cargo(libtorch);
    build.args(["build", "--release", "--package", "brine-fuzz"]);
    build.args(targets.iter().flat_map(|target| ["--bin".to_owned(), program(target)]));
    build.env("RUSTC_WORKSPACE_WRAPPER", workspace.root.join("xtask/instrument.sh"));
    let status = run(&mut build)?;
    ensure!(status.success(), "the build failed ({status}); the compiler's message is above");
    for target in targets {
        say(&format!("fuzz: {target}"));
        one(workspace, target, length, &corpus.join(target))?;
    }
    Ok(())
}

fn program(target: &str) -> String {
    format!("fuzz-{target}")
}

fn one(workspace: &Workspace, target: &str, length: Length, corpus: &Path) -> Result<()> {
    let findings = workspace.root.join("target/fuzz/findings");
    fs::create_dir_all(&findings).context("cannot create target/fuzz/findings")?;
    let mut fuzzer = Command::new(workspace.program(&program(target)));
    fuzzer.arg(corpus).stdin(Stdio::null());
    fuzzer.arg(format!("-artifact_prefix={}/{target}-", findings.display()));
    let limits = [
        ("max_len", INPUT_BYTES_MAX),
        ("timeout", INPUT_SECONDS_MAX),
        ("rss_limit_mb", MEMORY_MIB_MAX),
        ("print_final_stats", 1),
    ];
    fuzzer.args(limits.map(|(name, value)| format!("-{name}={value}")));
    match length {
        Length::Seconds(seconds) => fuzzer.arg(format!("-max_total_time={seconds}")),
        Length::Inputs(inputs) => fuzzer.args([format!("-runs={inputs}"), "-seed=1".to_owned()]),
    };
    let status = run(&mut fuzzer)?;
    ensure!(
        status.success(),
        "the reader of {target} failed ({status}); what it printed is above, and the input is in {}",
        findings.display()
    );
    Ok(())
}
