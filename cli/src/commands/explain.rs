//! `brine explain`.

use crate::client::parse_experiment;
use crate::error::CliError;
use crate::explain::Explanation;
use crate::output::{OutputMode, Printer};
use crate::target::{Connection, Target};
use studies::recipe::{Recipe, StudySpec};

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
    args.target.with(printer, async |connection| show(&args, connection, printer).await).await
}

async fn show(args: &Args, connection: &mut Connection, printer: &Printer) -> Result<(), CliError> {
    let explanation = Explanation::parse(connection.client.explain(&args.trial).await?)?;
    let lacking = lacking(&explanation, connection).await?;
    if printer.mode() == OutputMode::Json {
        let mut json = explanation.json();
        json["lacking"] = lacking.into();
        return printer.json(&json);
    }
    printer.data(&explanation.lines().join("\n"))?;
    for words in &lacking {
        printer.data(words)?;
    }
    printer.hint(&explanation.hint());
    Ok(())
}

/// Experiments of a trial whose recipe is read; a trial rarely has two.
const EXPERIMENTS_MAX: usize = 8;

/// What to say of the metrics that the trial's experiments are about and that it did not report.
async fn lacking(
    explanation: &Explanation,
    connection: &mut Connection,
) -> Result<Vec<String>, CliError> {
    let mut lines = Vec::new();
    for experiment in explanation.experiments.iter().take(EXPERIMENTS_MAX) {
        let id = parse_experiment(experiment.clone())?;
        let recipe = connection.client.head(&id).await?.recipe;
        // A recipe of another version of Brine has no metric that is known here.
        if let Ok(Recipe { study: StudySpec::Sweep(sweep), .. }) = Recipe::parse(&recipe)
            && let Some(metric) = sweep.metric
        {
            lines.extend(explanation.lacks_metric(experiment, &metric.name));
        }
    }
    Ok(lines)
}
