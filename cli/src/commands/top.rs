//! `brine top`.

use crate::error::CliError;
use crate::output::{OutputMode, Printer};
use crate::target::Target;
use crate::top;

/// Watch agents, experiments and running trials, refreshed every second
///
/// `q` or Ctrl-C ends it; what runs goes on.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print one frame and end
    #[arg(long)]
    once: bool,

    #[command(flatten)]
    target: Target,
}

pub(crate) async fn run(args: Args, printer: &Printer) -> Result<(), CliError> {
    if !args.once && printer.mode() == OutputMode::Json {
        return Err(CliError::usage("a live view is no JSON")
            .hint("print one frame with: brine top --once --output json")
            .hint("follow an experiment with: brine watch --output json"));
    }
    let mut client = args.target.live(printer).await?.client;
    if args.once { top::once(&mut client, printer).await } else { top::live(&mut client).await }
}
