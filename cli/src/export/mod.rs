//! The metric series of an experiment as files that other programs read. Trials pass one by one,
//! so memory does not grow with their number or length.

use crate::client::Client;
use crate::error::CliError;
use crate::output::Printer;
use crate::snapshot::{Snapshot, TrialState};
use proto::ExperimentId;
use std::path::{Path, PathBuf};

mod csv;
mod file;
mod tensorboard;

/// Points as the text of a CSV file.
///
/// # Errors
/// Never: memory takes every row.
pub(crate) fn csv_text<'a>(
    points: impl IntoIterator<Item = &'a proto::wire::MetricPoint>,
    is_gang: bool,
) -> Result<Vec<u8>, CliError> {
    csv::text(points, is_gang)
}

/// Folders that one export makes; TensorBoard reads each of them again and again.
const FOLDERS_MAX: u32 = 10_000;

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// One file, `EXPERIMENT.csv`, with the columns trial, attempt, metric, step, value.
    Csv,
    /// One folder of event files per trial.
    Tensorboard,
}

/// What an export wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Written {
    /// The file, or the folder with a folder for each trial.
    pub(crate) path: PathBuf,
    /// Trials that have any point.
    pub(crate) trials: u64,
    pub(crate) points: u64,
}

enum Sink {
    Csv(Box<csv::File>),
    TensorBoard(tensorboard::Folder),
}

/// Writes the series of all trials of an experiment into `folder`.
///
/// # Errors
/// A file cannot be written, there are too many trials for the format, or the coordinator went
/// away.
pub(crate) async fn export(
    client: &mut Client,
    experiment: &ExperimentId,
    format: Format,
    folder: &Path,
    printer: &Printer,
) -> Result<Written, CliError> {
    let summary = client.head(experiment).await?.summary.unwrap_or_default();
    // All trials of a recipe have as many members.
    let mut page = Snapshot::parse(client.page(experiment, 0).await?)?.trials;
    let members = page.first().map_or(1, |trial| trial.spec.placement.members.max(1));
    let begun = summary.ended.saturating_add(summary.running).saturating_mul(members);
    if format == Format::Tensorboard && begun > FOLDERS_MAX {
        return Err(CliError::user(format!(
            "{begun} processes of trials of {experiment} have begun; TensorBoard reads at most {FOLDERS_MAX} well"
        ))
        .hint("export them with --format csv"));
    }
    std::fs::create_dir_all(folder).map_err(|error| {
        CliError::file(format!("create the folder {}", folder.display()), error)
    })?;
    let mut sink = match format {
        Format::Csv => {
            let path = folder.join(format!("{experiment}.csv"));
            Sink::Csv(Box::new(csv::File::create(&path, members > 1)?))
        }
        Format::Tensorboard => {
            Sink::TensorBoard(tensorboard::Folder::new(folder, summary.submitted_ms))
        }
    };
    let bar = printer.screen().counted("exporting trials", u64::from(summary.trials));
    let mut written = Written { path: folder.to_owned(), ..Written::default() };
    let mut first: u32 = 0;
    while !page.is_empty() {
        first = first.saturating_add(u32::try_from(page.len()).unwrap_or(u32::MAX));
        for trial in &page {
            let points = one(client, trial, &mut sink, printer).await?;
            written.trials += u64::from(points > 0);
            written.points += points;
            bar.advance(1);
        }
        page = Snapshot::parse(client.page(experiment, first).await?)?.trials;
    }
    if let Sink::Csv(file) = sink {
        written.path = file.finish()?;
    }
    Ok(written)
}

/// Writes one trial; the answer is how many points it has.
async fn one(
    client: &mut Client,
    trial: &TrialState,
    sink: &mut Sink,
    printer: &Printer,
) -> Result<u64, CliError> {
    if trial.attempts.0 == 0 {
        return Ok(0);
    }
    let mut series = client.series_of_all_ranks(&trial.id).await?;
    let mut count = 0;
    // Made with the first point: a process without any leaves nothing.
    let mut event_file: Option<(u32, tensorboard::EventFile)> = None;
    while let Some(batch) = series.message().await? {
        for note in &batch.notes {
            printer.warning(&format!("trial {}: {note}", trial.id));
        }
        for point in &batch.points {
            count += 1;
            match sink {
                Sink::Csv(file) => file.point(point)?,
                Sink::TensorBoard(folder) => {
                    let (_, file) = match event_file.take() {
                        Some((rank, file)) if rank == point.rank => event_file.insert((rank, file)),
                        before => {
                            before.map(|(_, file)| file.finish()).transpose()?;
                            event_file.insert((point.rank, folder.begin(trial, point.rank)?))
                        }
                    };
                    file.point(point)?;
                }
            }
        }
    }
    match event_file {
        Some((_, file)) => file.finish().map(|_path| count),
        None => Ok(count),
    }
}

/// A point for tests.
#[cfg(test)]
fn point(metric: &str, step: u64, value: f64) -> proto::wire::MetricPoint {
    let trial = "00000000000000aa".to_owned();
    proto::wire::MetricPoint { trial, attempt: 1, metric: metric.to_owned(), step, value, rank: 0 }
}
