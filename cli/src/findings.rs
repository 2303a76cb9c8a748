//! From what a coordinator knows to a study's report: built, written to files, printed.

use crate::client::Client;
use crate::data_dir::write_whole;
use crate::error::CliError;
use crate::inputs;
use crate::output::{OutputMode, Printer};
use crate::snapshot::{Snapshot, TrialState};
use crate::table::{Align, Table};
use proto::{Outcome, Runner, TrialSpec};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use studies::report::{
    self, Alignment, Axis, CourseWanted, Curve, LearningCurves, Passed, Provenance, Report,
    TrialRow,
};

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
        for wanted in &self.report.courses {
            let mut curves = Vec::new();
            for trial in snapshot.trials.iter().take(CURVES_MAX) {
                let Some(place) = place_of(&trial.spec, wanted) else {
                    continue;
                };
                let metric = Some(wanted.metric.as_str());
                let shapes = client.shapes(&trial.id, Some(0), metric, CURVE_POINTS_MAX).await?;
                let points = shapes.series.iter().flat_map(|series| &series.points);
                let points: Vec<[f64; 2]> =
                    points.map(|point| [place(point.step), point.value]).collect();
                if !points.is_empty() {
                    curves.push(Curve { trial: trial.id.clone(), points });
                }
            }
            if !curves.is_empty() {
                let x = match wanted.passed {
                    Passed::Steps => Axis::linear("steps"),
                    Passed::Tokens => Axis::log("training tokens"),
                };
                let y = Axis::linear(wanted.label.as_str());
                self.provenance.curves.push(LearningCurves { x, y, curves });
            }
        }
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
        let state = self.provenance.word();
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

/// Where a step of a trial stands on the axis of `wanted`; `None` for a trial without such an axis.
fn place_of(spec: &TrialSpec, wanted: &CourseWanted) -> Option<impl Fn(u64) -> f64> {
    // Tokens are those that an update has seen when its loss is known.
    let (per_step, ahead) = match (&spec.runner, wanted.passed) {
        (Runner::Train(train), Passed::Tokens) => {
            (f64::from(train.batch) * f64::from(train.model.sequence), 1.0)
        }
        (Runner::Train(_) | Runner::Grpo(_), Passed::Steps) => (1.0, 0.0),
        (Runner::Grpo(_), Passed::Tokens) | (Runner::Command(_) | Runner::Noop, _) => return None,
    };
    Some(move |step: u64| (step as f64 + ahead) * per_step)
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
    for row in table.texts() {
        let filled = row.into_iter().chain(std::iter::repeat(String::new()));
        drawn.row(filled.take(table.columns.len()));
    }
    drawn
}

fn provenance(snapshot: &Snapshot) -> Provenance {
    let facts = inputs::describe(&snapshot.inputs);
    Provenance {
        experiment: snapshot.experiment.clone(),
        state: snapshot.state,
        interrupted: snapshot.is_interrupted,
        recipe: snapshot.recipe.clone(),
        code_version: code_version(),
        data_hash: snapshot.inputs.data.as_ref().map(|data| data.blob.clone()),
        created_at: jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S %:z").to_string(),
        facts: facts.into_iter().map(|(name, hash)| (format!("input {name}"), hash)).collect(),
        trials: snapshot.trials.iter().map(trial_row).collect(),
        curves: Vec::new(),
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
        data_hash: trial.spec.runner.data().map(|data| data.blob.clone()),
        code_version: match trial.spec.runner.numerics() {
            Some(numerics) => format!("{ran_by}, arithmetic {numerics}"),
            None => ran_by,
        },
        message,
    }
}

/// Version and commit of this program.
pub(crate) fn code_version() -> String {
    format!("brine {}", crate::VERSION)
}
