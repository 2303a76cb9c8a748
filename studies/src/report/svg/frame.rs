//! What stands around the marks: axes, ticks, labels and the legend.

use super::text::{Clean, fitted, px, text_width, written, written_width};
use super::{Area, Plot, TEXT_SIZE, TITLE_HEIGHT, WIDTH, dashed, drawn};
use crate::report::chart::{Chart, Series, Style};
use crate::report::palette;
use crate::report::ticks::Tick;
use maud::{Markup, html};

/// Most entries of a legend; a longer one is not read.
const LEGEND_MAX: usize = 16;
/// Height of one row of the legend.
const LEGEND_ROW_HEIGHT: f64 = 20.0;
/// Width of the little picture of a series, with the gap after it.
const SWATCH_WIDTH: f64 = 29.0;
/// Gap between two entries.
const ENTRY_GAP: f64 = 16.0;
/// Widest entry.
const ENTRY_WIDTH_MAX: f64 = 280.0;
/// Free room between the labels of two ticks.
const LABEL_GAP: f64 = 8.0;
/// Room for the rotated label of the vertical axis.
const Y_LABEL_WIDTH: f64 = 22.0;
/// Length of a tick at a label, and the gap after it.
const TICK_LENGTH: f64 = 5.0;

/// Room to the left of the area: the axis' label and the widest of `ticks`' labels.
pub(super) fn left_margin(ticks: &[Tick]) -> f64 {
    let labels = ticks.iter().filter_map(|tick| tick.label.as_ref());
    let widest = labels.map(|label| written_width(label, TEXT_SIZE)).fold(20.0, f64::max);
    Y_LABEL_WIDTH + widest.min(WIDTH / 3.0) + 2.0 * TICK_LENGTH
}

/// Grid, axes, ticks and both labels.
pub(super) fn axes(chart: &Chart, plot: &Plot) -> Markup {
    let area = &plot.area;
    let x_ticks =
        with_room(plot.x.ticks(&chart.x), area.width(), |label| written_width(label, TEXT_SIZE));
    let y_ticks = with_room(plot.y.ticks(&chart.y), area.height(), |_| TEXT_SIZE);
    let x_of = |tick: &Tick| area.left + tick.share * area.width();
    let y_of = |tick: &Tick| area.bottom - tick.share * area.height();
    let length = |tick: &Tick| match tick.label {
        Some(_) => TICK_LENGTH,
        None => TICK_LENGTH * 0.6,
    };
    let line = |[x1, y1, x2, y2]: [f64; 4]| {
        html! { line x1=(px(x1)) y1=(px(y1)) x2=(px(x2)) y2=(px(y2)) {} }
    };
    let labelled = |tick: &&Tick| tick.label.is_some();
    html! {
        g.grid {
            @for tick in x_ticks.iter().filter(labelled) {
                (line([x_of(tick), area.top, x_of(tick), area.bottom]))
            }
            @for tick in y_ticks.iter().filter(labelled) {
                (line([area.left, y_of(tick), area.right, y_of(tick)]))
            }
        }
        g.axis {
            (line([area.left, area.bottom, area.right, area.bottom]))
            (line([area.left, area.top, area.left, area.bottom]))
            @for tick in &x_ticks {
                (line([x_of(tick), area.bottom, x_of(tick), area.bottom + length(tick)]))
            }
            @for tick in &y_ticks {
                (line([area.left - length(tick), y_of(tick), area.left, y_of(tick)]))
            }
        }
        g.ticks text-anchor="middle" {
            @for tick in &x_ticks {
                @if let Some(label) = &tick.label {
                    text x=(px(x_of(tick))) y=(px(area.bottom + TICK_LENGTH + 15.0)) {
                        (written(label))
                    }
                }
            }
        }
        g.ticks text-anchor="end" {
            @for tick in &y_ticks {
                @if let Some(label) = &tick.label {
                    text x=(px(area.left - TICK_LENGTH - 3.0)) y=(px(y_of(tick) + 4.0)) {
                        (written(label))
                    }
                }
            }
        }
        (axis_labels(chart, area))
    }
}

/// The words at both axes.
pub(super) fn axis_labels(chart: &Chart, area: &Area) -> Markup {
    let [x, y] = [(area.left + area.right) / 2.0, (area.top + area.bottom) / 2.0];
    html! {
        text.label x=(px(x)) y=(px(area.bottom + 41.0)) text-anchor="middle" {
            (fitted(&chart.x.label, TEXT_SIZE, area.width()))
        }
        text.label transform=(format!("translate(11 {}) rotate(-90)", px(y))) text-anchor="middle" {
            (fitted(&chart.y.label, TEXT_SIZE, area.height()))
        }
    }
}

/// Takes away the labels that would touch another one; those that yield go first.
fn with_room(
    mut ticks: Vec<Tick>,
    length: f64,
    size: impl Fn(&crate::report::number::Written) -> f64,
) -> Vec<Tick> {
    let mut taken: Vec<[f64; 2]> = Vec::new();
    for yields in [false, true] {
        for tick in ticks.iter_mut().filter(|tick| tick.yields == yields) {
            let Some(label) = &tick.label else { continue };
            let half = (size(label) + LABEL_GAP) / 2.0;
            let place = [tick.share * length - half, tick.share * length + half];
            if taken.iter().any(|other| place[0] < other[1] && other[0] < place[1]) {
                tick.label = None;
            } else {
                taken.push(place);
            }
        }
    }
    ticks
}

/// The entries above the picture, laid out in rows.
pub(super) struct Legend<'a> {
    title: &'a str,
    /// Series, left end and row of each entry.
    entries: Vec<(&'a Series, f64, usize)>,
    /// Where "and more" stands, and how many more there are.
    more: Option<(usize, f64, usize)>,
    rows: usize,
}

impl<'a> Legend<'a> {
    pub(super) fn of(chart: &'a Chart) -> Self {
        let series = &chart.series[..drawn(chart)];
        let named: Vec<&Series> = series.iter().filter(|s| !s.label.is_empty()).collect();
        let title = chart.legend_title.as_str();
        let mut legend = Self { title, entries: Vec::new(), more: None, rows: 0 };
        if named.is_empty() {
            return legend;
        }
        let start = match title {
            "" => 0.0,
            _ => text_width(title, TEXT_SIZE).min(ENTRY_WIDTH_MAX) + ENTRY_GAP,
        };
        let (mut x, mut row) = (start, 0);
        let mut place = |width: f64| {
            if x + width > WIDTH && x > 0.0 {
                (x, row) = (0.0, row + 1);
            }
            let at = (x, row);
            x += width + ENTRY_GAP;
            at
        };
        for series in named.iter().take(LEGEND_MAX) {
            let text = text_width(&series.label, TEXT_SIZE).min(ENTRY_WIDTH_MAX);
            let (x, row) = place(SWATCH_WIDTH + text);
            legend.entries.push((series, x, row));
        }
        let more = named.len().saturating_sub(LEGEND_MAX);
        if more > 0 {
            let (x, row) = place(text_width("and 000 more", TEXT_SIZE));
            legend.more = Some((more, x, row));
        }
        legend.rows = row + 1;
        legend
    }

    pub(super) fn height(&self) -> f64 {
        match self.rows {
            0 => 0.0,
            rows => rows as f64 * LEGEND_ROW_HEIGHT + 6.0,
        }
    }

    pub(super) fn markup(&self, chart: &Chart) -> Markup {
        let baseline = |row: usize| TITLE_HEIGHT + 9.0 + row as f64 * LEGEND_ROW_HEIGHT;
        html! {
            @if self.rows > 0 {
                g.legend {
                    @if !self.title.is_empty() {
                        text.legend-title x="0" y=(px(baseline(0))) { (fitted(self.title, TEXT_SIZE, ENTRY_WIDTH_MAX)) }
                    }
                    @for (series, x, row) in &self.entries {
                        g class=(palette::class(chart, series.group))
                            transform=(format!("translate({} {})", px(*x), px(baseline(*row)))) {
                            (swatch(series))
                            text x=(px(SWATCH_WIDTH)) y="0" { (fitted(&series.label, TEXT_SIZE, ENTRY_WIDTH_MAX)) }
                        }
                    }
                    @if let Some((more, x, row)) = self.more {
                        text.legend-title x=(px(x)) y=(px(baseline(row))) { "and " (more) " more" }
                    }
                }
            }
        }
    }
}

/// A small picture of how the series looks.
fn swatch(series: &Series) -> Markup {
    let has_line = !series.line.is_empty() || dashed(series.style);
    let has_points = !has_line || !series.points.is_empty();
    let line_class = if dashed(series.style) { "line dashed" } else { "line" };
    html! {
        @if has_line {
            path class=(line_class) d="M0 -4H23" {}
        }
        @match series.style {
            Style::Minimum => (diamond(11.5, -4.0, "mark minimum")),
            Style::Points => {
                @if has_points { circle.mark cx="11.5" cy="-4" r="4" {} }
            }
            Style::Line | Style::Dashed => {
                @if has_points { circle.mark cx="11.5" cy="-4" r="3" {} }
            }
        }
    }
}

/// A diamond around a place.
pub(super) fn diamond(x: f64, y: f64, class: &str) -> Markup {
    const HALF: f64 = 6.5;
    let path = format!(
        "M{} {}L{} {}L{} {}L{} {}Z",
        px(x),
        px(y - HALF),
        px(x + HALF),
        px(y),
        px(x),
        px(y + HALF),
        px(x - HALF),
        px(y)
    );
    html! { path class=(Clean(class)) d=(path) {} }
}
