//! `brine logs`.

use crate::error::CliError;
use crate::output::Printer;
use crate::target::{Connection, Target};
use proto::{Attempt, TrialId};

/// Print what a trial's program wrote
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Id of the trial
    #[arg(value_name = "TRIAL")]
    trial: TrialId,

    /// Which attempt, from 1 [default: the newest]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    attempt: Option<u32>,

    /// Keep printing until the attempt ends
    #[arg(long, short)]
    follow: bool,

    #[command(flatten)]
    target: Target,
}

pub(crate) async fn run(args: Args, printer: &Printer) -> Result<(), CliError> {
    let mut connection = args.target.live_or_stored().await?;
    let shown = show(&args, &mut connection, printer).await;
    let closed = connection.close().await;
    shown.and(closed)
}

async fn show(args: &Args, connection: &mut Connection, printer: &Printer) -> Result<(), CliError> {
    let attempt = args.attempt.map(Attempt);
    let mut log = connection.client.logs(&args.trial, attempt, args.follow).await?;
    while let Some(chunk) = log.message().await? {
        printer.bytes(&chunk.text)?;
    }
    Ok(())
}
