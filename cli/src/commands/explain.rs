//! `brine explain`.

use crate::error::CliError;
use crate::explain::Explanation;
use crate::output::{OutputMode, Printer};
use crate::target::{Connection, Target};

/// Say why a trial waits, who runs it, or how it ended
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Its id or the start of it
    #[arg(value_name = "TRIAL")]
    trial: String,

    #[command(flatten)]
    target: Target,
}

pub(crate) async fn run(args: Args, printer: &Printer) -> Result<(), CliError> {
    args.target.with(async |connection| show(&args, connection, printer).await).await
}

async fn show(args: &Args, connection: &mut Connection, printer: &Printer) -> Result<(), CliError> {
    let explanation = Explanation::parse(connection.client.explain(&args.trial).await?)?;
    if printer.mode() == OutputMode::Json {
        return printer.json(&explanation.json());
    }
    printer.data(&explanation.lines().join("\n"))?;
    printer.hint(&explanation.hint());
    Ok(())
}
