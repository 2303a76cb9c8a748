//! `brine results`.

use crate::error::CliError;
use crate::findings::Findings;
use crate::output::Printer;
use crate::target::{Connection, Target};
use std::path::PathBuf;

/// Print what an experiment found, and write its report
///
/// Works on an unfinished experiment too, and when no coordinator runs: then it reads what the
/// data folder holds. With `--output json` it prints one document with the keys experiment, state,
/// trials and study.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Its id or the start of it [default: the newest experiment]
    #[arg(value_name = "EXPERIMENT")]
    experiment: Option<String>,

    /// Also write report.html, results.json and the tables as CSV files into this folder
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,

    #[command(flatten)]
    target: Target,
}

pub(crate) async fn run(args: Args, printer: &Printer) -> Result<(), CliError> {
    args.target.with(printer, async |connection| show(&args, connection, printer).await).await
}

async fn show(args: &Args, connection: &mut Connection, printer: &Printer) -> Result<(), CliError> {
    let id = connection.experiment(args.experiment.as_deref()).await?;
    let client = &mut connection.client;
    let snapshot = client.snapshot(&id).await?;
    let mut findings = Findings::of(&snapshot)?;
    if let Some(folder) = &args.report {
        findings.add_curves(client, &snapshot).await?;
        let page = findings.write(folder)?;
        printer.status(&format!("report: {}", page.display()));
    }
    findings.print(printer)
}
