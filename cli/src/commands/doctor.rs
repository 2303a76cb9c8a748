//! `brine doctor`.

use crate::doctor::{Check, State, all};
use crate::error::CliError;
use crate::output::{OutputMode, Printer};
use crate::table::{Align, Table};
use std::path::PathBuf;

/// Say what works on this machine, what does not, and what to do
///
/// The exit code is 1 when something that trials need does not work.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder whose disk is checked
    #[arg(long, value_name = "DIR", default_value = ".brine")]
    data_dir: PathBuf,
}

pub(crate) async fn run(args: &Args, printer: &Printer) -> Result<(), CliError> {
    let spinner = printer.screen().spinner("looking");
    let checks = all(&args.data_dir).await;
    drop(spinner);
    match printer.mode() {
        OutputMode::Json => printer.json(&checks)?,
        OutputMode::Human | OutputMode::Quiet => {
            printer.data(&table(&checks).render())?;
            for check in &checks {
                if !check.advice.is_empty() {
                    printer.data(&format!("{}: {}", check.name, check.advice))?;
                }
            }
        }
    }
    let broken: Vec<&str> = checks
        .iter()
        .filter(|check| check.state == State::Broken)
        .map(|check| check.name.as_str())
        .collect();
    if broken.is_empty() {
        return Ok(());
    }
    Err(CliError::user(format!("this does not work: {}", broken.join(", "))))
}

fn table(checks: &[Check]) -> Table {
    let mut table =
        Table::new(&[("what", Align::Left), ("state", Align::Left), ("found", Align::Left)]);
    for check in checks {
        table.row([check.name.clone(), check.state.word().to_owned(), check.found.clone()]);
    }
    table
}
