//! `cargo xtask quickstart`: from a fresh machine to the report of a real sweep.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::libtorch;
use crate::terminal::say;
use crate::workspace::{Workspace, require_cxx_compiler};

/// An IsoFLOP sweep that two CPU cores finish in minutes.
const RECIPE: &str = "recipes/isoflop-mini.yaml";

/// Gets libtorch, builds the programs and becomes `brine run`, whose exit code is the result.
///
/// # Errors
/// When libtorch cannot be had, the build fails, or `brine` cannot be started.
pub(crate) fn quickstart(workspace: &Workspace) -> Result<ExitCode> {
    require_cxx_compiler()?;
    let libtorch = libtorch::ready(&workspace.root)?;
    say("quickstart: building brine and brine-agent (the first time takes minutes)");
    workspace.build_programs(&libtorch)?;
    let brine = workspace.program("brine");
    say(&format!("quickstart: {} run {RECIPE}", brine.display()));
    // Replacing this process leaves Ctrl-C and the terminal to `brine` alone, which stops in order.
    let error = Command::new(&brine).args(["run", RECIPE]).current_dir(&workspace.root).exec();
    Err(error).with_context(|| format!("cannot start {}", brine.display()))
}
