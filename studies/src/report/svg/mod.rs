//! A chart as SVG.

use super::chart::{Chart, Style};
use super::palette;
use super::provenance::Entries;
use super::ticks::Domain;
use maud::{Markup, PreEscaped, html};

mod frame;
mod marks;
mod text;

pub(super) use text::Clean;
use text::{fitted, px};

/// Width of the drawing in its own units; text is 12 of them high.
const WIDTH: f64 = 560.0;
/// Height of the area between the axes: about 16:10 with the usual margins.
const PLOT_HEIGHT: f64 = 290.0;
/// Room for the title.
const TITLE_HEIGHT: f64 = 30.0;
/// Room below the area for tick labels and the axis' label.
const FOOT_HEIGHT: f64 = 50.0;
/// Room for one line of the notes under the picture.
const NOTE_HEIGHT: f64 = 17.0;
/// Room to the right of the area, for half a tick label.
const RIGHT_MARGIN: f64 = 18.0;
/// Size of ordinary text.
const TEXT_SIZE: f64 = 12.0;
/// Size of the title, and how much wider its weight makes it.
const TITLE_SIZE: f64 = 14.5;
const BOLD_WIDTH: f64 = 1.16;
/// Margin around a picture of its own.
const ALONE_MARGIN: f64 = 14.0;
/// Most series in one picture; more cannot be told apart, and the page stays small.
const SERIES_MAX: usize = 256;

/// `chart` as a picture of its own, with its colours inside. It follows the viewer's choice of
/// light or dark; points have tooltips but no links.
pub fn svg(chart: &Chart) -> String {
    let style = format!("{}{}", css(), include_str!("alone.css"));
    drawing(chart, &Entries::default(), Some(&style)).into_string()
}

/// The rules for the charts of a page.
pub(super) fn css() -> String {
    format!("{}{}", palette::css(), include_str!("chart.css"))
}

/// `chart` as an element of a page that has [`css`] and the `entries` that points link to.
pub(super) fn drawing(chart: &Chart, entries: &Entries<'_>, style: Option<&str>) -> Markup {
    let legend = frame::Legend::of(chart);
    let plot = Plot::of(chart, &legend);
    let notes = plot.as_ref().map_or_else(Vec::new, |plot| plot.notes(chart));
    let area = plot.as_ref().map_or(Area::empty(&legend), |plot| plot.area);
    let height = area.bottom + FOOT_HEIGHT + NOTE_HEIGHT * notes.len() as f64;
    html! {
        svg.chart xmlns="http://www.w3.org/2000/svg" role="group" aria-label=(Clean(&chart.title))
            viewBox=(view(height, style.is_some())) {
            @if let Some(style) = style {
                style { (PreEscaped(style)) }
                rect.paper x="-100" y="-100" width="200%" height="200%" {}
            }
            text.title x="0" y="17" { (fitted(&chart.title, TITLE_SIZE * BOLD_WIDTH, WIDTH)) }
            (legend.markup(chart))
            @if let Some(plot) = &plot {
                (frame::axes(chart, plot))
                svg x=(px(area.left)) y=(px(area.top))
                    width=(px(area.width())) height=(px(area.height())) {
                    (marks::markup(chart, plot, entries))
                }
            } @else {
                rect.blank x=(px(area.left)) y=(px(area.top))
                    width=(px(area.width())) height=(px(area.height())) {}
                text.note x=(px((area.left + area.right) / 2.0))
                    y=(px((area.top + area.bottom) / 2.0))
                    text-anchor="middle" { "no data yet" }
                (frame::axis_labels(chart, &area))
            }
            @for (index, note) in notes.iter().enumerate() {
                @let y = area.bottom + FOOT_HEIGHT + 11.0 + NOTE_HEIGHT * index as f64;
                text.note x=(px(area.left)) y=(px(y)) {
                    (fitted(note, TEXT_SIZE, WIDTH - area.left))
                }
            }
        }
    }
}

/// The part of the plane that is shown; a picture of its own has a margin.
fn view(height: f64, alone: bool) -> String {
    let margin = if alone { ALONE_MARGIN } else { 0.0 };
    let [width, height] = [WIDTH, height].map(|length| length + 2.0 * margin);
    format!("{0} {0} {width} {1}", -margin, px(height))
}

/// The rectangle between the axes.
#[derive(Debug, Clone, Copy)]
struct Area {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl Area {
    fn new(left: f64, legend: &frame::Legend<'_>) -> Self {
        let top = TITLE_HEIGHT + legend.height();
        Self { left, right: WIDTH - RIGHT_MARGIN, top, bottom: top + PLOT_HEIGHT }
    }

    fn empty(legend: &frame::Legend<'_>) -> Self {
        Self::new(frame::left_margin(&[]), legend)
    }

    fn width(&self) -> f64 {
        self.right - self.left
    }

    fn height(&self) -> f64 {
        self.bottom - self.top
    }
}

/// A chart's axes, when it has at least one value to show.
struct Plot {
    x: Domain,
    y: Domain,
    area: Area,
}

impl Plot {
    fn of(chart: &Chart, legend: &frame::Legend<'_>) -> Option<Self> {
        // A value counts for one axis only when it has a place on the other as well.
        let values = drawn(chart);
        let [mut xs, mut ys, mut x_reach, mut y_reach] = <[Vec<f64>; 4]>::default();
        for series in &chart.series[..values] {
            let points = series.points.iter().map(|point| [point.x, point.y]);
            for [x, y] in points.chain(series.line.iter().copied()) {
                if chart.has_place(x, y) {
                    xs.push(x);
                    ys.push(y);
                }
            }
            for point in &series.points {
                if chart.has_place(point.x, point.y) {
                    x_reach.extend(point.x_interval.into_iter().flatten());
                    y_reach.extend(point.y_interval.into_iter().flatten());
                }
            }
            y_reach.extend(series.band.iter().flat_map(|band| [band.low, band.high]));
        }
        let x = Domain::around(chart.x.scale, xs.into_iter(), x_reach.into_iter())?;
        let reference = chart.reference_y.into_iter();
        let ys = ys.into_iter().chain(reference);
        let y = Domain::around(chart.y.scale, ys, y_reach.into_iter())?;
        let area = Area::new(frame::left_margin(&y.ticks(&chart.y)), legend);
        Some(Self { x, y, area })
    }

    /// Place of a value inside the area, from its left edge.
    fn x(&self, value: f64) -> Option<f64> {
        self.x.share(value).map(|share| share * self.area.width())
    }

    /// Place of a value inside the area, from its top edge.
    fn y(&self, value: f64) -> Option<f64> {
        self.y.share(value).map(|share| (1.0 - share) * self.area.height())
    }

    fn place(&self, x: f64, y: f64) -> Option<[f64; 2]> {
        Some([self.x(x)?, self.y(y)?])
    }

    /// Both ends of a horizontal interval.
    fn x_ends(&self, interval: [f64; 2]) -> Option<[f64; 2]> {
        let [low, high] = interval.map(|end| self.x.share_of_end(end));
        Some([low? * self.area.width(), high? * self.area.width()])
    }

    /// Both ends of a vertical interval.
    fn y_ends(&self, interval: [f64; 2]) -> Option<[f64; 2]> {
        let [low, high] = interval.map(|end| self.y.share_of_end(end));
        Some([low?, high?].map(|share| (1.0 - share) * self.area.height()))
    }

    /// What the picture does not show, in words.
    fn notes(&self, chart: &Chart) -> Vec<String> {
        let mut notes = Vec::new();
        let shown = &chart.series[..drawn(chart)];
        let all = shown.iter().flat_map(|series| {
            let points = series.points.iter().map(|point| [point.x, point.y]);
            points.chain(series.line.iter().copied())
        });
        let homeless = all.filter(|[x, y]| !chart.has_place(*x, *y)).count();
        if homeless > 0 {
            let are = if homeless == 1 { "value is" } else { "values are" };
            notes.push(format!(
                "{homeless} {are} left out: not a finite number, or not positive on a log axis."
            ));
        }
        let covered = marks::covered(chart, self);
        if covered > 0 {
            notes.push(format!("{covered} points lie under others and are not drawn."));
        }
        let more = chart.series.len() - shown.len();
        if more > 0 {
            notes.push(format!("{more} further series are not drawn."));
        }
        notes
    }
}

impl Chart {
    /// Whether both axes have a place for the value.
    fn has_place(&self, x: f64, y: f64) -> bool {
        let place = |scale, value| super::ticks::space(scale, value).is_some();
        place(self.x.scale, x) && place(self.y.scale, y)
    }
}

/// How many series of the chart are drawn.
fn drawn(chart: &Chart) -> usize {
    chart.series.len().min(SERIES_MAX)
}

/// Whether a series' line is dashed.
fn dashed(style: Style) -> bool {
    match style {
        Style::Dashed => true,
        Style::Points | Style::Line | Style::Minimum => false,
    }
}

#[cfg(test)]
mod tests;
