//! `brine submit`.

use crate::error::CliError;
use crate::inputs::RecipeFile;
use crate::output::{OutputMode, Printer};
use crate::target::Target;
use std::path::PathBuf;

/// Submit a recipe to a coordinator that runs, and return
///
/// Prints the experiment's id. Submitting the same recipe again continues it; a cancelled one goes
/// on.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The recipe
    #[arg(value_name = "RECIPE")]
    recipe: PathBuf,

    /// Give trials that failed for good a new chance
    #[arg(long)]
    retry_failed: bool,

    #[command(flatten)]
    target: Target,
}

pub(crate) async fn run(args: Args, printer: &Printer) -> Result<(), CliError> {
    let file = RecipeFile::read(&args.recipe)?;
    let gathered = file.gather(printer)?;
    let mut client = args.target.live(printer).await?.client;
    gathered.upload(&mut client, printer).await?;
    let submitted = client.submit(file.text, &gathered.inputs, args.retry_failed).await?;
    let id = &submitted.experiment;
    match printer.mode() {
        OutputMode::Json => printer.json(&serde_json::json!({
            "experiment": id, "existed": submitted.existed,
        }))?,
        OutputMode::Human | OutputMode::Quiet => printer.data(id.as_str())?,
    }
    if submitted.existed {
        printer.status("the same recipe was submitted before; it goes on");
    }
    printer.hint(&format!("follow it with: brine watch {id}"));
    Ok(())
}
