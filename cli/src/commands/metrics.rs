//! `brine metrics`.

use crate::error::CliError;
use crate::explain::Explanation;
use crate::export;
use crate::output::{OutputMode, Printer};
use crate::series::Shapes;
use crate::target::{Connection, Target};
use proto::TrialId;

/// Fewest points that show a series: first, last, smallest, largest, and what is not a number.
const POINTS_MIN: i64 = 7;
/// Most points of one series that can be asked for.
const POINTS_MAX: i64 = 100_000;

/// Show the metric series of a trial
///
/// A series of more than --points points is shown by its first, last, smallest and largest points
/// over equally wide spans of steps; no value is made up. Values that are not finite stay. `brine
/// export` writes whole series.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A trial: its id or the start of it
    #[arg(value_name = "TRIAL")]
    trial: String,

    /// Only this metric
    #[arg(long, value_name = "NAME")]
    metric: Option<String>,

    /// Only this member of a gang, from 0 [default: all]
    #[arg(long, value_name = "N")]
    rank: Option<u32>,

    /// Most points of each series
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(POINTS_MIN..=POINTS_MAX))]
    points: u32,

    /// What to print unless --output json asks for JSON
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,

    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A line for each metric: how many points, their ends and extremes, and their course.
    Table,
    /// A line for each point, with the columns of `brine export`.
    Csv,
}

pub(crate) async fn run(args: Args, printer: &Printer) -> Result<(), CliError> {
    args.target.with(printer, async |connection| show(&args, connection, printer).await).await
}

async fn show(args: &Args, connection: &mut Connection, printer: &Printer) -> Result<(), CliError> {
    let client = &mut connection.client;
    let explained = Explanation::parse(client.explain(&args.trial).await?)?;
    let trial = explained.id();
    let shapes = client.shapes(trial, args.rank, args.metric.as_deref(), args.points).await?;
    for note in &shapes.notes {
        printer.warning(note);
    }
    if shapes.series.is_empty() && printer.mode() != OutputMode::Json {
        return nothing(args, trial, client, printer).await;
    }
    match (printer.mode(), args.format) {
        (OutputMode::Json, _) => printer.json(&shapes.json(trial)),
        (OutputMode::Human | OutputMode::Quiet, Format::Table) => {
            printer.data(&shapes.table().render())
        }
        (OutputMode::Human | OutputMode::Quiet, Format::Csv) => csv(&shapes, printer),
    }
}

fn csv(shapes: &Shapes, printer: &Printer) -> Result<(), CliError> {
    let is_gang = shapes.series.iter().any(|series| series.rank > 0);
    let points = shapes.series.iter().flat_map(|series| &series.points);
    printer.bytes(&export::csv_text(points, is_gang)?)
}

/// Says that there is no series, and which there are.
async fn nothing(
    args: &Args,
    trial: &TrialId,
    client: &mut crate::client::Client,
    printer: &Printer,
) -> Result<(), CliError> {
    let Some(metric) = &args.metric else {
        printer.status(&format!("trial {trial} has reported no metric"));
        return Ok(());
    };
    let error = CliError::user(format!("trial {trial} has no metric {metric:?}"));
    let known = client.shapes(trial, args.rank, None, POINTS_MIN as u32).await?;
    let names: Vec<&str> = known.series.iter().map(|s| s.metric.as_str()).take(20).collect();
    Err(match names.as_slice() {
        [] => error.hint("it has reported none"),
        names => error.hint(format!("it has: {}", names.join(", "))),
    })
}
