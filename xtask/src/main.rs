//! `cargo xtask quickstart` sets a fresh machine up and runs the main work; `cargo xtask test`
//! proves that everything holds; `cargo xtask chaos` torments the programs. One file or folder per
//! chore.

mod chaos;
mod fuzz;
mod gpu_check;
mod install;
mod libtorch;
mod parity;
mod quickstart;
mod terminal;
mod test;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about = "Set-up and chores of the Brine repository")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Get libtorch, build, and run recipes/isoflop-mini.yaml to its report
    Quickstart,
    /// Check formatting, lints, every test, the documentation and every recipe, and a short chaos
    Test,
    /// Kill, freeze, cut off and starve a coordinator and its agents, and check what they say
    Chaos(chaos::Options),
    /// Give damaged files to the readers that open files from elsewhere
    Fuzz(fuzz::Options),
    /// Compare the trainer's numbers with those of PyTorch and transformers
    Parity(parity::Options),
    /// Pack what a machine with a GPU needs for its check into target/gpu-check
    GpuCheck,
    /// Cleans up after a chaos, whatever it ended of
    #[command(hide = true)]
    ChaosJanitor {
        /// The chaos's folder
        folder: PathBuf,
    },
}

fn main() -> ExitCode {
    match perform(Arguments::parse().chore) {
        Ok(code) => code,
        Err(error) => {
            terminal::say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn perform(chore: Chore) -> Result<ExitCode> {
    match chore {
        Chore::Quickstart => quickstart::quickstart(&Workspace::open()?),
        Chore::Test => test::test(&Workspace::open()?),
        Chore::Parity(options) => parity::parity(&Workspace::open()?, &options),
        Chore::GpuCheck => gpu_check::gpu_check(&Workspace::open()?),
        Chore::Chaos(options) => torment(&options),
        Chore::Fuzz(options) => fuzz(&options),
        Chore::ChaosJanitor { folder } => chaos::janitor::serve(&folder),
    }
}

fn fuzz(options: &fuzz::Options) -> Result<ExitCode> {
    let workspace = Workspace::open()?;
    workspace::require_cxx_compiler()?;
    fuzz::fuzz(&workspace, &libtorch::ready(&workspace.root)?, options)?;
    Ok(ExitCode::SUCCESS)
}

fn torment(options: &chaos::Options) -> Result<ExitCode> {
    let programs = match &options.programs {
        Some(folder) => folder.clone(),
        None => {
            let workspace = Workspace::open()?;
            workspace::require_cxx_compiler()?;
            workspace.build_programs(&libtorch::ready(&workspace.root)?)?;
            workspace.programs().to_owned()
        }
    };
    chaos::chaos(&programs, options)?;
    Ok(ExitCode::SUCCESS)
}
