//! The metric against each parameter.

use super::planner::Sweep;
use super::points::Point;
use super::report::label;
use super::results::{Group, TrialResult};
use super::spec::Metric;
use crate::report::{Axis, Chart, Figure, Point as Mark, Series, Style};
use proto::Value;

/// Values of a parameter that span more than this ratio are drawn on a logarithmic axis.
const LOG_AXIS_RATIO: f64 = 50.0;
/// Most trials in one figure: more points hide each other, and a browser draws them only slowly.
pub(super) const SHOWN_MAX: usize = 2_000;

/// One figure per numeric parameter that takes at least two values.
pub(super) fn figures(
    sweep: &Sweep,
    metric: &Metric,
    results: &[TrialResult<'_>],
    best: Option<&Group<'_>>,
) -> Vec<Figure> {
    let shown = shown(results);
    let names = sweep.spec.parameters.keys();
    names.filter_map(|name| figure(metric, name, &shown, best)).collect()
}

/// The trials with a final value, in planning order. Of too many those with the smallest ids,
/// which are hashes: as good as by lot, while every n-th of a grid would show only some values of a
/// parameter.
fn shown<'a, 'b>(results: &'a [TrialResult<'b>]) -> Vec<&'a TrialResult<'b>> {
    let measured = || results.iter().filter(|result| result.value().is_some());
    let mut ids: Vec<_> = measured().map(|result| result.view.id).collect();
    if ids.len() <= SHOWN_MAX {
        return measured().collect();
    }
    let (_, above, _) = ids.select_nth_unstable(SHOWN_MAX);
    let above = &**above;
    measured().filter(|result| result.view.id < above).collect()
}

fn figure(
    metric: &Metric,
    name: &str,
    shown: &[&TrialResult<'_>],
    best: Option<&Group<'_>>,
) -> Option<Figure> {
    let x_of = |parameters: &Point| parameters.get(name).and_then(Value::as_f64);
    let mark = |result: &&TrialResult<'_>| {
        Some(Mark {
            x: x_of(&result.view.spec.parameters)?,
            y: result.value()?,
            trial: Some(result.view.id.clone()),
            label: label(&result.view.spec.parameters),
            ..Mark::default()
        })
    };
    let marks: Vec<Mark> = shown.iter().filter_map(mark).collect();
    let low = marks.iter().map(|mark| mark.x).fold(f64::INFINITY, f64::min);
    let high = marks.iter().map(|mark| mark.x).fold(f64::NEG_INFINITY, f64::max);
    if low >= high {
        return None;
    }
    let logarithmic = low > 0.0 && high / low > LOG_AXIS_RATIO;
    let mut series = vec![Series { label: "trials".into(), points: marks, ..Series::default() }];
    let optimum = best.and_then(|best| Some((x_of(best.parameters)?, best.mean?)));
    series.extend(optimum.map(|(x, (y, y_interval))| Series {
        label: "best point".into(),
        group: 1,
        style: Style::Minimum,
        points: vec![Mark { x, y, y_interval, ..Mark::default() }],
        ..Series::default()
    }));
    Some(Figure {
        name: format!("by_{name}"),
        caption: format!(
            "{} of every completed trial against {name}. Other parameters vary along.",
            metric.name
        ),
        chart: Chart {
            title: format!("{} by {name}", metric.name),
            x: if logarithmic { Axis::log(name) } else { Axis::linear(name) },
            y: Axis::linear(metric.name.as_str()),
            series,
            ..Chart::default()
        },
    })
}
