//! `cargo xtask quickstart` sets a fresh machine up and runs the main work; `cargo xtask test`
//! proves that everything holds. One file per chore.

mod install;
mod libtorch;
mod quickstart;
mod terminal;
mod test;
mod workspace;

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

#[derive(Clone, Copy, Subcommand)]
enum Chore {
    /// Get libtorch, build, and run recipes/isoflop-mini.yaml to its report
    Quickstart,
    /// Check formatting, lints, every test, the documentation and every recipe
    Test,
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
    let workspace = Workspace::open()?;
    match chore {
        Chore::Quickstart => quickstart::quickstart(&workspace),
        Chore::Test => test::test(&workspace),
    }
}
