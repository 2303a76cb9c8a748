//! What a study found, as data, and that data as one HTML page, CSV and JSON.
//!
//! A study fills a [`Report`]: sections of text, [`Figure`]s and [`Table`]s, and the numbers that
//! programs read ([`Report::summary`]). The driver adds the [`Provenance`], so that every point and
//! every number leads back to a trial, its seed, its data and its code. The renderers are pure:
//!
//! * [`html`]: one self-contained page; every point of a figure links to its trial's entry.
//! * [`svg`]: one figure as a picture of its own.
//! * [`csv`]: one table at full precision.
//! * [`json`]: everything, for programs.

use serde::Serialize;

mod chart;
mod csv;
mod html;
mod json;
mod number;
mod palette;
mod provenance;
mod svg;
mod table;
mod ticks;

pub use self::csv::csv;
pub use self::html::html;
pub use self::json::json;
pub use self::svg::svg;
pub use chart::{Axis, Band, Chart, Numbers, Palette, Point, Scale, Series, Style};
pub use provenance::{Curve, LearningCurves, Provenance, TrialRow};
pub use table::{Alignment, Cell, Column, Table};

/// What a study found. Works on an unfinished experiment too; then the notes say what is missing.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Report {
    /// One line, for example `IsoFLOP sweep: isoflop-mini`.
    pub title: String,
    /// The findings for programs; `brine results --output json` prints it under `study`.
    pub summary: serde_json::Value,
    /// The findings for people, most important first.
    pub sections: Vec<Section>,
    /// What a reader must know before believing a number: left-out trials, edges, conventions.
    pub notes: Vec<String>,
    /// The trial parameter (for example `flop_budget`) whose values colour the learning curves.
    pub curve_parameter: Option<String>,
    /// The metrics whose course the driver adds to the page, one picture each.
    pub courses: Vec<CourseWanted>,
}

/// A metric that the page shows over the course of every training.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CourseWanted {
    /// Its name.
    pub metric: String,
    /// What it is, with its unit.
    pub label: String,
    /// What passes meanwhile.
    pub passed: Passed,
}

impl CourseWanted {
    /// The course of `metric`.
    pub fn new(metric: impl Into<String>, label: impl Into<String>, passed: Passed) -> Self {
        Self { metric: metric.into(), label: label.into(), passed }
    }
}

/// What passes in the course of a training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Passed {
    /// Steps, on a linear axis.
    Steps,
    /// Tokens that were trained on, on a logarithmic axis.
    Tokens,
}

/// A heading with its paragraphs, figures and tables, shown in this order.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Section {
    /// A few words.
    pub heading: String,
    /// Paragraphs of plain text.
    pub text: Vec<String>,
    /// Pictures.
    pub figures: Vec<Figure>,
    /// Numbers.
    pub tables: Vec<Table>,
}

/// A chart with the words around it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// Short and unique in the report, for file names: `isoflop_curves`.
    pub name: String,
    /// What the reader sees, with the conventions used; plain text.
    pub caption: String,
    /// The picture.
    pub chart: Chart,
}
