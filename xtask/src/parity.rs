//! `cargo xtask parity`: the trainer's numbers beside those of PyTorch and transformers.
//!
//! `xtask/parity.py` writes small random models with their logits, losses and texts, and the
//! trainer's example `parity` prints a table of the largest differences. Not a part of `cargo xtask
//! test`, because of what it downloads; the trainer's tests have tiny models of the same script.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};

use crate::libtorch;
use crate::terminal::say;
use crate::workspace::{Workspace, run};

/// Written when an environment is complete.
const STAMP: &str = "stamp";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// A Python that has the packages of xtask/parity.txt; without it they are installed, 2.5 GB
    /// of downloads and 5 GB in target/parity
    #[arg(long)]
    python: Option<PathBuf>,
    /// Write the tiny models of the trainer's tests again instead
    #[arg(long)]
    fixtures: bool,
}

/// Compares every family and prints a table.
///
/// # Errors
/// When the packages can not be installed, or a difference is larger than float32 explains.
pub(crate) fn parity(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    let python = match &options.python {
        Some(python) => std::path::absolute(python).context("--python is not a path")?,
        None => environment(&workspace.root)?,
    };
    let script = |what: &str, folder: &Path| -> Result<()> {
        let mut command = Command::new(&python);
        // Nothing is looked up on a hub, whatever the packages would like to.
        command.env("HF_HUB_OFFLINE", "1").stdin(Stdio::null());
        command.arg(workspace.root.join("xtask/parity.py")).arg(what).arg(folder);
        let status = run(&mut command)?;
        ensure!(status.success(), "xtask/parity.py failed ({status}); its message is above");
        Ok(())
    };
    if options.fixtures {
        script("fixtures", &workspace.root.join("trainer/tests/parity/fixtures"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let models = tempfile::tempdir().context("cannot create a folder for the models")?;
    say("parity: writing random models with transformers");
    script("models", models.path())?;
    let libtorch = libtorch::ready(&workspace.root)?;
    let mut example = workspace.cargo(&libtorch);
    example.args(["run", "--release", "--package", "brine-trainer", "--example", "parity", "--"]);
    let status = run(example.arg(models.path()))?;
    ensure!(status.success(), "the trainer does not agree with PyTorch ({status})");
    Ok(ExitCode::SUCCESS)
}

/// The Python of `target/parity`, which has exactly what `xtask/parity.txt` asks for.
fn environment(root: &Path) -> Result<PathBuf> {
    let wanted_file = root.join("xtask/parity.txt");
    let wanted = fs::read_to_string(&wanted_file).context("cannot read xtask/parity.txt")?;
    let folder = root.join("target/parity");
    let python = folder.join("bin/python");
    let stamp = folder.join(STAMP);
    if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
        return Ok(python);
    }
    say("parity: installing PyTorch and transformers into target/parity (once; 5 GB)");
    let mut venv = Command::new("python3");
    let status = run(venv.args(["-m", "venv", "--clear"]).arg(&folder).stdin(Stdio::null()))?;
    ensure!(
        status.success(),
        "python3 cannot make an environment ({status})\nhint: apt-get install python3-venv"
    );
    let mut pip = Command::new(&python);
    pip.args([
        "-m",
        "pip",
        "install",
        "--no-input",
        "--disable-pip-version-check",
        "--requirement",
    ]);
    let status = run(pip.arg(&wanted_file).stdin(Stdio::null()))?;
    ensure!(
        status.success(),
        "pip could not install PyTorch and transformers ({status}); its message is above\n\
         hint: check the network, or name a Python that has them with --python"
    );
    fs::write(&stamp, wanted).context("cannot write target/parity/stamp")?;
    Ok(python)
}
