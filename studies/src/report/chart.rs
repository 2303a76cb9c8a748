//! A chart as data: what is drawn, not how.

use proto::TrialId;
use serde::Serialize;

/// Two axes and what is drawn between them. Values that are not finite, or not positive on a
/// logarithmic axis, are left out and counted under the picture.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Chart {
    /// One line above the picture.
    pub title: String,
    /// Horizontal axis.
    pub x: Axis,
    /// Vertical axis.
    pub y: Axis,
    /// What is drawn, first at the bottom.
    pub series: Vec<Series>,
    /// How the groups of the series become colours.
    pub palette: Palette,
    /// Words before the legend, for example `Budget (FLOPs)`; empty for none.
    pub legend_title: String,
    /// A horizontal line at this height, for example 0 under residuals.
    pub reference_y: Option<f64>,
}

/// One axis.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Axis {
    /// What is measured, with its unit: `validation loss (nats per token)`.
    pub label: String,
    /// How values become places.
    pub scale: Scale,
    /// How the labels at the ticks are written.
    pub numbers: Numbers,
}

impl Axis {
    /// A linear axis with plain numbers.
    pub fn linear(label: impl Into<String>) -> Self {
        Self { label: label.into(), scale: Scale::Linear, numbers: Numbers::Plain }
    }

    /// A logarithmic axis; decades are written as powers of ten.
    pub fn log(label: impl Into<String>) -> Self {
        Self { label: label.into(), scale: Scale::Log, numbers: Numbers::Scientific }
    }

    /// The same axis with its tick labels in another form.
    #[must_use]
    pub fn numbers(self, numbers: Numbers) -> Self {
        Self { numbers, ..self }
    }
}

/// How values become places on an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// Equal differences, equal distances.
    #[default]
    Linear,
    /// Equal ratios, equal distances; only positive values have a place.
    Log,
}

/// How tick labels are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Numbers {
    /// `0.25`, `1 000`; very large and very small ones as powers of ten.
    #[default]
    Plain,
    /// `200K`, `1M`, `3B`: counts of parameters and tokens.
    Count,
    /// Powers of ten: FLOPs.
    Scientific,
}

/// How the groups of a chart's series become colours. Both palettes are safe for colour-blind
/// readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Palette {
    /// Groups have no order (Okabe and Ito).
    #[default]
    Categorical,
    /// Groups are ordered, for example budgets (viridis).
    Sequential,
}

/// Points, a line and a band that belong together. A series may have any of the three.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Series {
    /// Its entry in the legend; empty for none, so a fit can share the entry of its points.
    pub label: String,
    /// Series of one group share a colour. Groups count from 0; with
    /// [`Palette::Sequential`] they are in order.
    pub group: usize,
    /// How points and line look.
    pub style: Style,
    /// Single values; each may lead to a trial.
    pub points: Vec<Point>,
    /// Corners `[x, y]` of a polyline, in order.
    pub line: Vec<[f64; 2]>,
    /// A shaded interval around the line, in order of x.
    pub band: Vec<Band>,
    /// The trial whose course the line shows; the line links to that trial's entry.
    pub trial: Option<TrialId>,
}

/// How a series looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Style {
    /// Discs; a line, if there is one, is solid.
    #[default]
    Points,
    /// A solid line; points, if there are any, are small discs.
    Line,
    /// A dashed line: extrapolations and comparisons.
    Dashed,
    /// A diamond larger than the points: minima and optima.
    Minimum,
}

/// One value in a chart.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Point {
    /// Horizontal value.
    pub x: f64,
    /// Vertical value.
    pub y: f64,
    /// Low and high end of an interval around `x`.
    pub x_interval: Option<[f64; 2]>,
    /// Low and high end of an interval around `y`.
    pub y_interval: Option<[f64; 2]>,
    /// The trial it comes from; the point links to that trial's entry.
    pub trial: Option<TrialId>,
    /// What the tooltip says beside trial, seed, x and y; may be empty.
    pub label: String,
    /// Drawn hollow: shown, but left out of the fit.
    pub excluded: bool,
}

/// A vertical interval at one x.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Band {
    /// Where.
    pub x: f64,
    /// Lower edge.
    pub low: f64,
    /// Upper edge.
    pub high: f64,
}
