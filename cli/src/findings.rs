//! From what a coordinator knows to a study's report: built, written to files, printed.

use crate::client::Client;
use crate::data_dir::write_whole;
use crate::error::CliError;
use crate::inputs;
use crate::output::{OutputMode, Printer};
use crate::snapshot::{Snapshot, TrialState};
use crate::table::{Align, Table};
use proto::{Outcome, Runner};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use studies::report::{self, Alignment, Axis, Curve, LearningCurves, Provenance, Report, TrialRow};

/// The metric whose course the report shows.
const CURVE_METRIC: &str = "loss";
/// Trials with a curve; more lines than this are a grey area, not a figure.
const CURVES_MAX: usize = 200;
/// Points of a curve in the figure: one per pixel of its width is enough.
const CURVE_POINTS_MAX: u32 = 400;

/// A study's report and where its numbers come from.
pub(crate) struct Findings {
    pub(crate) report: Report,
    pub(crate) provenance: Provenance,
}

impl Findings {
    /// What `snapshot` means. Works on an unfinished experiment too.
    ///
    /// # Errors
    /// The stored recipe is of a version of Brine that this one does not understand.
    pub(crate) fn of(snapshot: &Snapshot) -> Result<Self, CliError> {
        let study = snapshot.study()?;
        Ok(Self { report: study.report(&snapshot.views()), provenance: provenance(snapshot) })
    }

    /// Adds how the trials learned, for the figure.
    ///
    /// # Errors
    /// The coordinator does not answer.
    pub(crate) async fn add_curves(
        &mut self,
        client: &mut Client,
        snapshot: &Snapshot,
    ) -> Result<(), CliError> {
        let mut curves = Vec::new();
        for trial in snapshot.trials.iter().take(CURVES_MAX) {
            let Runner::Train(spec) = &trial.spec.runner else {
                continue;
            };
            let per_step = f64::from(spec.batch) * f64::from(spec.model.sequence);
            let shapes =
                client.shapes(&trial.id, Some(0), Some(CURVE_METRIC), CURVE_POINTS_MAX).await?;
            let points = shapes.series.iter().flat_map(|series| &series.points);
            let points: Vec<[f64; 2]> =
                points.map(|point| [(point.step as f64 + 1.0) * per_step, point.value]).collect();
            if !points.is_empty() {
                curves.push(Curve { trial: trial.id.clone(), points });
            }
        }
        self.provenance.curves = (!curves.is_empty()).then(|| LearningCurves {
            x: Axis::log("training tokens"),
            y: Axis::linear("training loss (nats per token)"),
            curves,
        });
        Ok(())
    }

    /// Writes `report.html`, `results.json` and one CSV file per table into `folder`; the answer
    /// is the page's path.
    ///
    /// # Errors
    /// A file cannot be written.
    pub(crate) fn write(&self, folder: &Path) -> Result<PathBuf, CliError> {
        std::fs::create_dir_all(folder).map_err(|error| {
            CliError::file(format!("create the folder {}", folder.display()), error)
        })?;
        for section in &self.report.sections {
            for table in &section.tables {
                let path = folder.join(format!("{}.csv", table.name));
                write_whole(&path, report::csv(table).as_bytes())?;
            }
        }
        write_whole(&folder.join("results.json"), self.json()?.as_bytes())?;
        let page = folder.join("report.html");
        write_whole(&page, report::html(&self.report, &self.provenance).as_bytes())?;
        Ok(page)
    }

    /// Everything as one JSON document.
    ///
    /// # Errors
    /// Never, unless a study's summary is no JSON.
    pub(crate) fn json(&self) -> Result<String, CliError> {
        report::json(&self.report, &self.provenance)
            .map_err(|error| CliError::internal("cannot write the results as JSON").because(error))
    }

    /// Prints the findings on stdout: tables for people, or the JSON document.
    ///
    /// # Errors
    /// stdout is closed.
    pub(crate) fn print(&self, printer: &Printer) -> Result<(), CliError> {
        if printer.mode() == OutputMode::Json {
            return printer.data(&self.json()?);
        }
        let state = self.provenance.state.word();
        printer.data(&format!("{} ({state})", self.report.title))?;
        for section in &self.report.sections {
            for table in &section.tables {
                printer.data(&format!("\n{}", table.caption))?;
                printer.data(&drawn(table).render())?;
            }
        }
        for note in &self.report.notes {
            printer.data(&format!("note: {note}"))?;
        }
        Ok(())
    }
}

/// A study's table as a terminal shows it.
pub(crate) fn drawn(table: &report::Table) -> Table {
    let titles: Vec<(String, Align)> = table
        .columns
        .iter()
        .map(|column| {
            let title = if column.unit.is_empty() {
                column.name.clone()
            } else {
                format!("{} ({})", column.name, column.unit)
            };
            let align = match column.alignment {
                Alignment::Left => Align::Left,
                Alignment::Right => Align::Right,
            };
            (title, align)
        })
        .collect();
    let titles: Vec<(&str, Align)> = titles.iter().map(|(t, a)| (t.as_str(), *a)).collect();
    let mut drawn = Table::new(&titles);
    for row in &table.rows {
        let cells = row.iter().map(report::Cell::to_text);
        let filled = cells.chain(std::iter::repeat(String::new()));
        drawn.row(filled.take(table.columns.len()));
    }
    drawn
}

fn provenance(snapshot: &Snapshot) -> Provenance {
    let facts = inputs::describe(&snapshot.inputs);
    Provenance {
        experiment: snapshot.experiment.clone(),
        state: snapshot.state,
        recipe: snapshot.recipe.clone(),
        code_version: code_version(),
        data_hash: snapshot.inputs.data.as_ref().map(|data| data.blob.clone()),
        created_at: jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S %:z").to_string(),
        facts: facts.into_iter().map(|(name, hash)| (format!("input {name}"), hash)).collect(),
        trials: snapshot.trials.iter().map(trial_row).collect(),
        curves: None,
    }
}

fn trial_row(trial: &TrialState) -> TrialRow {
    let (metrics, checkpoint, message) = match &trial.outcome {
        Some(Outcome::Completed { metrics, checkpoint }) => {
            (metrics.clone(), checkpoint.clone(), None)
        }
        Some(Outcome::Diverged { metric, step }) => {
            let message = format!("{metric} is not a number at step {step}");
            (BTreeMap::new(), None, Some(message))
        }
        Some(Outcome::Failed { message, .. }) => (BTreeMap::new(), None, Some(message.clone())),
        None => (BTreeMap::new(), None, None),
    };
    // A trial that never ran has no code behind it.
    let ran_by = match trial.code_version.as_str() {
        "" => String::new(),
        version => format!("brine-agent {version}"),
    };
    TrialRow {
        id: trial.id.clone(),
        attempts: trial.attempts.0,
        state: trial.word.clone(),
        parameters: trial.spec.parameters.clone(),
        metrics,
        seed: trial.spec.seed,
        agent: trial.agent.clone(),
        checkpoint,
        data_hash: match &trial.spec.runner {
            Runner::Train(spec) => Some(spec.data.text.blob.clone()),
            Runner::Command(_) | Runner::Noop => None,
        },
        code_version: match &trial.spec.runner {
            Runner::Train(spec) => format!("{}, arithmetic {}", ran_by, spec.numerics),
            Runner::Command(_) | Runner::Noop => ran_by,
        },
        message,
    }
}

/// Version and commit of this program.
pub(crate) fn code_version() -> String {
    format!("brine {}", crate::VERSION)
}
