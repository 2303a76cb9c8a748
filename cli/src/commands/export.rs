//! `brine export`.

use crate::error::CliError;
use crate::export::{Format, export};
use crate::number;
use crate::output::{OutputMode, Printer};
use crate::target::{Connection, Target};
use std::path::PathBuf;

/// Write the metric series of all trials into files
///
/// csv: one file with the columns trial (its id), attempt (that wrote the point, from 1), metric,
/// step and value, and rank for gangs. tensorboard: a folder for each trial, named after its id and
/// parameters, with one for each member of a gang in it, for `tensorboard --logdir FOLDER`.
/// A second export replaces the first.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Its id or the start of it
    #[arg(value_name = "EXPERIMENT")]
    experiment: String,

    /// What to write
    #[arg(long, value_enum)]
    format: Format,

    /// Where to; made when it is missing
    #[arg(long, value_name = "FOLDER")]
    to: PathBuf,

    #[command(flatten)]
    target: Target,
}

pub(crate) async fn run(args: Args, printer: &Printer) -> Result<(), CliError> {
    args.target.with(printer, async |connection| show(&args, connection, printer).await).await
}

async fn show(args: &Args, connection: &mut Connection, printer: &Printer) -> Result<(), CliError> {
    let id = connection.experiment(Some(&args.experiment)).await?;
    let written = export(&mut connection.client, &id, args.format, &args.to, printer).await?;
    match printer.mode() {
        OutputMode::Json => printer.json(&serde_json::json!({
            "experiment": id, "path": written.path, "trials": written.trials,
            "points": written.points,
        }))?,
        OutputMode::Human | OutputMode::Quiet => {
            printer.data(&written.path.display().to_string())?;
        }
    }
    let plural = |count, noun| number::plural(usize::try_from(count).unwrap_or(usize::MAX), noun);
    let (points, trials) = (plural(written.points, "point"), plural(written.trials, "trial"));
    printer.status(&format!("{points} of {trials}"));
    if args.format == Format::Tensorboard {
        printer.hint(&format!("look at them with: tensorboard --logdir {}", args.to.display()));
    }
    Ok(())
}
