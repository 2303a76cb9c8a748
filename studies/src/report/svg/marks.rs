//! What a chart shows: bands, lines, intervals and points.

use super::frame::diamond;
use super::text::{Clean, px};
use super::{Plot, dashed, drawn};
use crate::report::chart::{Axis, Chart, Point, Series, Style};
use crate::report::number::{self, Zeros};
use crate::report::palette;
use crate::report::provenance::{Entries, anchor};
use maud::{Markup, html};
use proto::TrialId;
use std::collections::BTreeSet;

/// Most points of one series that are all drawn. Beyond it, points whose middles share a cell of
/// [`CELL`] are drawn once: at most some 30,000 remain, and a picture looks the same.
const POINTS_MAX: usize = 2_000;
/// Side of such a cell.
const CELL: f64 = 3.0;
/// Most corners of all lines of a chart together, so that a page with a thousand learning curves
/// stays at a few megabytes.
const CORNERS_MAX: usize = 60_000;
/// Each line may have this many corners, however many lines there are.
const CORNERS_MIN: usize = 64;
/// Half the length of the caps of an interval.
const CAP: f64 = 4.0;
/// Digits of the values in a tooltip.
const TOOLTIP_DIGITS: usize = 5;

/// Everything inside the area; bands lie at the bottom, points on top.
pub(super) fn markup(chart: &Chart, plot: &Plot, entries: &Entries<'_>) -> Markup {
    let shown = &chart.series[..drawn(chart)];
    let lines = shown.iter().filter(|s| !s.line.is_empty()).count();
    let corners = (CORNERS_MAX / lines.max(1)).max(CORNERS_MIN);
    let class = |series: &Series| palette::class(chart, series.group);
    html! {
        @for series in shown.iter().filter(|series| !series.band.is_empty()) {
            path class={ "band " (class(series)) } d=(band(series, plot)) {}
        }
        @if let Some(y) = chart.reference_y.and_then(|y| plot.y(y)) {
            line.reference x1="0" x2=(px(plot.area.width())) y1=(px(y)) y2=(px(y)) {}
        }
        @for series in shown.iter().filter(|series| !series.line.is_empty()) {
            g class=(class(series)) { (line(series, plot, corners, entries)) }
        }
        @for series in shown.iter().filter(|series| !series.points.is_empty()) {
            g class=(class(series)) { (points(chart, series, plot, entries)) }
        }
    }
}

/// How many points are not drawn because others lie over them.
pub(super) fn covered(chart: &Chart, plot: &Plot) -> usize {
    let shown = chart.series[..drawn(chart)].iter();
    shown
        .map(|series| {
            let all = series.points.iter();
            let placed = all.filter(|point| plot.place(point.x, point.y).is_some());
            placed.count() - visible(series, plot).len()
        })
        .sum()
}

/// The points with a place, and where it is.
fn visible<'a>(series: &'a Series, plot: &Plot) -> Vec<(&'a Point, [f64; 2])> {
    let mut cells = BTreeSet::new();
    let crowded = series.points.len() > POINTS_MAX;
    let placed = series.points.iter().filter_map(|point| {
        let place = plot.place(point.x, point.y)?;
        Some((point, place))
    });
    placed
        .filter(|(_, place)| !crowded || cells.insert(place.map(|at| (at / CELL) as i64)))
        .collect()
}

fn points(chart: &Chart, series: &Series, plot: &Plot, entries: &Entries<'_>) -> Markup {
    let visible = visible(series, plot);
    html! {
        @for (point, [x, y]) in &visible {
            @if let Some([low, high]) = point.x_interval.and_then(|ends| plot.x_ends(ends)) {
                path.interval d=(format!(
                    "M{0} {1}H{2}M{0} {3}V{4}M{2} {3}V{4}",
                    px(low), px(*y), px(high), px(y - CAP), px(y + CAP)
                )) {}
            }
            @if let Some([low, high]) = point.y_interval.and_then(|ends| plot.y_ends(ends)) {
                path.interval d=(format!(
                    "M{0} {1}V{2}M{3} {1}H{4}M{3} {2}H{4}",
                    px(*x), px(low), px(high), px(x - CAP), px(x + CAP)
                )) {}
            }
        }
        @for (point, place) in &visible {
            @let drawn = mark(chart, series.style, point, *place, entries);
            (linked(point.trial.as_ref(), entries, drawn))
        }
    }
}

fn mark(
    chart: &Chart,
    style: Style,
    point: &Point,
    [x, y]: [f64; 2],
    entries: &Entries<'_>,
) -> Markup {
    let class = match (style, point.excluded) {
        (Style::Minimum, false) => "mark minimum",
        (Style::Minimum, true) => "mark minimum hollow",
        (Style::Points | Style::Line | Style::Dashed, false) => "mark",
        (Style::Points | Style::Line | Style::Dashed, true) => "mark hollow",
    };
    let radius = match style {
        Style::Points => 4.0,
        Style::Line | Style::Dashed | Style::Minimum => 3.0,
    };
    html! {
        g {
            title { (Clean(&tooltip(chart, point, entries))) }
            @match style {
                Style::Minimum => (diamond(x, y, class)),
                Style::Points | Style::Line | Style::Dashed => {
                    circle class=(class) cx=(px(x)) cy=(px(y)) r=(px(radius)) {}
                }
            }
        }
    }
}

/// `mark` as a link to the trial's entry, when the page has one.
fn linked(trial: Option<&TrialId>, entries: &Entries<'_>, mark: Markup) -> Markup {
    match trial.filter(|trial| entries.get(trial).is_some()) {
        Some(trial) => html! { a href={ "#" (anchor(trial)) } { (mark) } },
        None => mark,
    }
}

fn tooltip(chart: &Chart, point: &Point, entries: &Entries<'_>) -> String {
    let value = |axis: &Axis, value: f64, interval: Option<[f64; 2]>| {
        let write = |value: f64| number::write(value, TOOLTIP_DIGITS, Zeros::Trim).unicode();
        match interval {
            None => format!("{}: {}", axis.label, write(value)),
            Some([low, high]) => {
                format!("{}: {} [{}, {}]", axis.label, write(value), write(low), write(high))
            }
        }
    };
    let mut lines = Vec::new();
    lines.extend(trial_line(point.trial.as_ref(), entries));
    if !point.label.is_empty() {
        lines.push(point.label.clone());
    }
    lines.push(value(&chart.x, point.x, point.x_interval));
    lines.push(value(&chart.y, point.y, point.y_interval));
    if point.excluded {
        lines.push("left out of the fit".to_owned());
    }
    lines.join("\n")
}

fn trial_line(trial: Option<&TrialId>, entries: &Entries<'_>) -> Option<String> {
    let trial = trial?;
    Some(match entries.get(trial) {
        Some(row) => format!("trial {trial}, seed {}", row.seed),
        None => format!("trial {trial}"),
    })
}

fn band(series: &Series, plot: &Plot) -> String {
    let corners = series.band.iter().filter_map(|band| {
        let [low, high] = plot.y_ends([band.low, band.high])?;
        Some((plot.x(band.x)?, low, high))
    });
    let corners: Vec<_> = corners.collect();
    let there = corners.iter().map(|(x, low, _)| [*x, *low]);
    let back = corners.iter().rev().map(|(x, _, high)| [*x, *high]);
    let path = path(&there.chain(back).collect::<Vec<_>>());
    if path.is_empty() { path } else { path + "Z" }
}

fn line(series: &Series, plot: &Plot, corners: usize, entries: &Entries<'_>) -> Markup {
    let class = match (dashed(series.style), series.trial.is_some()) {
        (true, _) => "line dashed",
        (false, true) => "line thin",
        (false, false) => "line",
    };
    let path: String =
        segments(&series.line, plot).map(|segment| path(&decimated(segment, corners))).collect();
    let title = trial_line(series.trial.as_ref(), entries);
    let line = html! {
        path class=(class) d=(path) {
            @if let Some(title) = &title {
                title { (title) }
            }
        }
    };
    linked(series.trial.as_ref(), entries, line)
}

/// The stretches of a line between corners that have no place.
fn segments(line: &[[f64; 2]], plot: &Plot) -> impl Iterator<Item = Vec<[f64; 2]>> {
    let places: Vec<_> = line.iter().map(|[x, y]| plot.place(*x, *y)).collect();
    let stretches = places.split(Option::is_none).map(|stretch| {
        let stretch: Vec<[f64; 2]> = stretch.iter().copied().flatten().collect();
        stretch
    });
    stretches.filter(|stretch| !stretch.is_empty()).collect::<Vec<_>>().into_iter()
}

/// At most about `corners` of the corners: the first, lowest, highest and last of every group of
/// neighbours, so that no peak is lost.
fn decimated(corners: Vec<[f64; 2]>, most: usize) -> Vec<[f64; 2]> {
    if corners.len() <= most {
        return corners;
    }
    let group = corners.len().div_ceil((most / 4).max(1));
    corners
        .chunks(group)
        .flat_map(|group| {
            let by_height = |a: &&usize, b: &&usize| group[**a][1].total_cmp(&group[**b][1]);
            let indices: Vec<usize> = (0..group.len()).collect();
            let low = indices.iter().min_by(by_height).copied().unwrap_or(0);
            let high = indices.iter().max_by(by_height).copied().unwrap_or(0);
            let kept = BTreeSet::from([0, low, high, group.len() - 1]);
            kept.into_iter().map(|index| group[index]).collect::<Vec<_>>()
        })
        .collect()
}

fn path(corners: &[[f64; 2]]) -> String {
    let steps = corners.iter().enumerate().map(|(index, [x, y])| {
        let letter = if index == 0 { 'M' } else { 'L' };
        format!("{letter}{} {}", px(*x), px(*y))
    });
    // A line of one corner is a dot, which needs a stroke of no length.
    let dot = if corners.len() == 1 { "h0" } else { "" };
    steps.collect::<String>() + dot
}
