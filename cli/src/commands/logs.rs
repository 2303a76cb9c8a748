//! `brine logs`.

use crate::error::CliError;
use crate::explain::Explanation;
use crate::logs;
use crate::output::Printer;
use crate::target::{Connection, Target};
use proto::Attempt;

/// Print what a trial's program wrote, or what all trials of an experiment write
///
/// The lines of an experiment begin with the start of the trial's id, and behind a slash the rank
/// of a gang's other members. At most 32 trials are read at
/// once, the newest first.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A trial or an experiment: its id or the start of it
    #[arg(value_name = "TRIAL|EXPERIMENT")]
    wanted: String,

    /// Which attempt of the trial, from 1 [default: the newest]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    attempt: Option<u32>,

    /// Which member of a gang, from 0 [default: the first; of an experiment all]
    #[arg(long, value_name = "N")]
    rank: Option<u32>,

    /// Keep printing until the attempt or the experiment ends
    #[arg(long, short)]
    follow: bool,

    #[command(flatten)]
    target: Target,
}

pub(crate) async fn run(args: Args, printer: &Printer) -> Result<(), CliError> {
    args.target.with(printer, async |connection| show(&args, connection, printer).await).await
}

async fn show(args: &Args, connection: &mut Connection, printer: &Printer) -> Result<(), CliError> {
    let no_trial = match trial(&args.wanted, connection).await {
        Ok(explained) => {
            let (client, attempt) = (&mut connection.client, args.attempt.map(Attempt));
            let rank = args.rank.unwrap_or_default();
            return logs::attempt::print(client, &explained, attempt, rank, args.follow, printer)
                .await;
        }
        Err(error) if error.is_connection() => return Err(error),
        Err(error) => error,
    };
    let experiments = connection.client.experiments().await?;
    if !experiments.iter().any(|known| known.experiment.starts_with(&args.wanted)) {
        return Err(no_trial.hint("`brine status` lists the experiments"));
    }
    let id = connection.experiment(Some(&args.wanted)).await?;
    for (option, is_given) in
        [("--attempt", args.attempt.is_some()), ("--rank", args.rank.is_some())]
    {
        if is_given {
            return Err(CliError::usage(format!(
                "{id} is an experiment; {option} is for one trial"
            )));
        }
    }
    if args.follow {
        return logs::experiment::follow(&mut connection.client, &id, printer).await;
    }
    logs::experiment::print(&mut connection.client, &id, printer).await
}

/// The trial whose id begins so.
async fn trial(wanted: &str, connection: &mut Connection) -> Result<Explanation, CliError> {
    Explanation::parse(connection.client.explain(wanted).await?)
}
