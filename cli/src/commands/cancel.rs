//! `brine cancel`.

use crate::error::CliError;
use crate::output::{OutputMode, Printer};
use crate::target::{Connection, Target};

/// End an experiment; what its trials have reached is kept
///
/// Submitting the same recipe again goes on from there.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Its id or the start of it
    #[arg(value_name = "EXPERIMENT")]
    experiment: String,

    #[command(flatten)]
    target: Target,
}

pub(crate) async fn run(args: Args, printer: &Printer) -> Result<(), CliError> {
    args.target.with(printer, async |connection| cancel(&args, connection, printer).await).await
}

async fn cancel(
    args: &Args,
    connection: &mut Connection,
    printer: &Printer,
) -> Result<(), CliError> {
    let id = connection.experiment(Some(&args.experiment)).await?;
    let state = connection.client.cancel(&id).await?;
    match printer.mode() {
        OutputMode::Json => printer.json(&serde_json::json!({ "experiment": id, "state": state })),
        OutputMode::Human | OutputMode::Quiet => printer.data(&format!("{id} is {state}")),
    }
}
