//! What a sweep showed.

use super::planner::Sweep;
use super::points::Point;
use super::results::{Group, State, TrialResult, ranked};
use super::spec::Domain;
use crate::report::{
    Axis, Cell, Chart, Column, Figure, Point as Mark, Report, Section, Series, Style, Table,
};
use crate::study::TrialView;
use proto::Value;
use serde_json::json;

/// Most rows of a table; people do not read further, and the JSON has every trial anyway.
const ROWS_MAX: usize = 1_000;
/// Most trials that one note names.
const NAMED_MAX: usize = 5;
/// Values of a parameter that span more than this ratio are drawn on a logarithmic axis.
const LOG_AXIS_RATIO: f64 = 50.0;

pub(super) fn report(sweep: &Sweep, trials: &[TrialView<'_>]) -> Report {
    let metric = &sweep.spec.metric;
    let results: Vec<_> = trials.iter().map(|view| TrialResult::new(view, &metric.name)).collect();
    let points = ranked(sweep, &results);
    let best = points.first().filter(|point| point.is_complete(sweep));
    let mut sections = vec![best_section(sweep, best)];
    sections.push(Section {
        heading: "Results".into(),
        tables: vec![point_table(sweep, &points), trial_table(sweep, &results)],
        ..Section::default()
    });
    let figures = figures(sweep, &results, best);
    if !figures.is_empty() {
        sections.insert(
            1,
            Section {
                heading: format!("{} by parameter", metric.name),
                figures,
                ..Section::default()
            },
        );
    }
    Report {
        title: format!("Sweep: {} {}", metric.goal.word(), metric.name),
        summary: summary(sweep, &results, best),
        sections,
        notes: notes(sweep, &results, &points),
        curve_parameter: sweep.spec.parameters.keys().next().cloned(),
    }
}

fn best_section(sweep: &Sweep, best: Option<&Group<'_>>) -> Section {
    let metric = &sweep.spec.metric.name;
    let Some(best) = best else {
        return Section {
            heading: "Best".into(),
            text: vec![format!("No point has a value of {metric} for every seed yet.")],
            ..Section::default()
        };
    };
    let trials: Vec<_> = best.results.iter().map(|result| result.view.id.as_str()).collect();
    let text = format!(
        "{} gives {metric} {} ({}: {}).",
        label(best.parameters),
        best.cell().to_text(),
        if trials.len() == 1 { "trial" } else { "trials" },
        trials.join(", "),
    );
    Section { heading: "Best".into(), text: vec![text], ..Section::default() }
}

/// What choosing the best of many does to its value.
fn selection(sweep: &Sweep) -> String {
    let points = sweep.points.len();
    match sweep.spec.seeds.len() {
        _ if points < 2 => "There is one point, so nothing was selected.".into(),
        1 => format!(
            "The best of {points} points is chosen by one value each, so its value is optimistic: \
             part of it is luck. Repeat the best points with several seeds before relying on it."
        ),
        seeds => format!(
            "Values are means over {seeds} seeds with 95 % intervals (Student's t). An interval \
             does not count that the best of {points} points was chosen by the same values, \
             so the best mean is still a little optimistic."
        ),
    }
}

fn label(parameters: &Point) -> String {
    if parameters.is_empty() {
        return "The command without parameters".into();
    }
    let pairs: Vec<_> =
        parameters.iter().map(|(name, value)| format!("{name} = {value}")).collect();
    pairs.join(", ")
}

fn value_cell(value: Option<&Value>) -> Cell {
    match value {
        Some(value) => match value.as_f64() {
            Some(number) => Cell::Number(number),
            None => Cell::text(value.to_string()),
        },
        None => Cell::missing(""),
    }
}

fn parameter_columns(sweep: &Sweep) -> Vec<Column> {
    let column = |(name, domain): (&String, &Domain)| match domain {
        Domain::Choice(values) if values.iter().any(|value| value.as_f64().is_none()) => {
            Column::text(name.as_str())
        }
        Domain::Choice(_)
        | Domain::Linear(..)
        | Domain::Log(..)
        | Domain::Uniform(..)
        | Domain::LogUniform(..)
        | Domain::IntUniform(..) => Column::number(name.as_str(), ""),
    };
    sweep.spec.parameters.iter().map(column).collect()
}

fn parameter_cells(sweep: &Sweep, parameters: &Point) -> Vec<Cell> {
    let names = sweep.spec.parameters.keys();
    names.map(|name| value_cell(parameters.get(name))).collect()
}

fn point_table(sweep: &Sweep, points: &[Group<'_>]) -> Table {
    let seeds = sweep.spec.seeds.len();
    let mut columns = vec![Column::number("rank", "")];
    columns.extend(parameter_columns(sweep));
    columns.push(Column::number(sweep.spec.metric.name.as_str(), ""));
    columns.push(Column::number("seeds", ""));
    let row = |(place, point): (usize, &Group<'_>)| {
        let mut cells = vec![match point.is_complete(sweep) {
            true => Cell::Number((place + 1) as f64),
            false => Cell::missing(""),
        }];
        cells.extend(parameter_cells(sweep, point.parameters));
        cells.push(point.cell());
        cells.push(Cell::text(format!("{} of {seeds}", point.values().count())));
        cells
    };
    Table {
        name: "points".into(),
        caption: format!(
            "Points, best first ({} {}); mean and 95 % interval over the seeds where there are \
             several. A point is ranked when every seed gave a value.",
            sweep.spec.metric.goal.word(),
            sweep.spec.metric.name
        ),
        columns,
        rows: points.iter().enumerate().take(ROWS_MAX).map(row).collect(),
    }
}

fn trial_table(sweep: &Sweep, results: &[TrialResult<'_>]) -> Table {
    let mut columns = vec![Column::text("trial")];
    columns.extend(parameter_columns(sweep));
    columns.push(Column::number("seed", ""));
    columns.push(Column::text("state"));
    columns.push(Column::number(sweep.spec.metric.name.as_str(), ""));
    let row = |result: &TrialResult<'_>| {
        let mut cells = vec![Cell::Trial(result.view.id.clone())];
        cells.extend(parameter_cells(sweep, &result.view.spec.parameters));
        cells.push(Cell::text(result.view.spec.seed.to_string()));
        cells.push(Cell::text(result.word()));
        cells.push(match result.value() {
            Some(value) => Cell::Number(value),
            None => Cell::missing(result.word()),
        });
        cells
    };
    Table {
        name: "trials".into(),
        caption: "Trials in planning order.".into(),
        columns,
        rows: results.iter().take(ROWS_MAX).map(row).collect(),
    }
}

/// One figure per numeric parameter that takes at least two values.
fn figures(sweep: &Sweep, results: &[TrialResult<'_>], best: Option<&Group<'_>>) -> Vec<Figure> {
    let metric = &sweep.spec.metric;
    let figure = |name: &String| {
        let x_of = |parameters: &Point| parameters.get(name).and_then(Value::as_f64);
        let marks: Vec<Mark> = results
            .iter()
            .filter_map(|result| {
                Some(Mark {
                    x: x_of(&result.view.spec.parameters)?,
                    y: result.value()?,
                    trial: Some(result.view.id.clone()),
                    label: label(&result.view.spec.parameters),
                    ..Mark::default()
                })
            })
            .collect();
        let low = marks.iter().map(|mark| mark.x).fold(f64::INFINITY, f64::min);
        let high = marks.iter().map(|mark| mark.x).fold(f64::NEG_INFINITY, f64::max);
        if low >= high {
            return None;
        }
        let logarithmic = low > 0.0 && high / low > LOG_AXIS_RATIO;
        let mut series =
            vec![Series { label: "trials".into(), points: marks, ..Series::default() }];
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
                x: if logarithmic { Axis::log(name.as_str()) } else { Axis::linear(name.as_str()) },
                y: Axis::linear(metric.name.as_str()),
                series,
                ..Chart::default()
            },
        })
    };
    sweep.spec.parameters.keys().filter_map(figure).collect()
}

fn summary(
    sweep: &Sweep,
    results: &[TrialResult<'_>],
    best: Option<&Group<'_>>,
) -> serde_json::Value {
    let metric = &sweep.spec.metric;
    let count = |wanted: &dyn Fn(&State<'_>) -> bool| {
        results.iter().filter(|result| wanted(&result.state)).count()
    };
    let best = best.map(|best| {
        let (mean, interval) = best.mean.unzip();
        json!({
            "parameters": best.parameters,
            "mean": mean,
            "ci95": interval.flatten(),
            "values": best.values().collect::<Vec<_>>(),
            "trials": best.results.iter().map(|result| result.view.id).collect::<Vec<_>>(),
        })
    });
    json!({
        "study": "sweep",
        "metric": metric.name,
        "goal": metric.goal,
        "best": best,
        "points": sweep.points.len(),
        "seeds": sweep.spec.seeds,
        "trials": {
            "total": sweep.len(),
            "planned": results.len(),
            "measured": count(&|state| matches!(state, State::Measured(_))),
            "metric_missing": count(&|state| matches!(state, State::MetricMissing)),
            "diverged": count(&|state| matches!(state, State::Diverged { .. })),
            "failed": count(&|state| matches!(state, State::Failed { .. })),
            "unfinished": count(&|state| matches!(state, State::Unfinished)),
        },
    })
}

fn notes(sweep: &Sweep, results: &[TrialResult<'_>], points: &[Group<'_>]) -> Vec<String> {
    let metric = &sweep.spec.metric;
    let mut notes = vec![selection(sweep)];
    let mut left_out = |wanted: &dyn Fn(&TrialResult<'_>) -> Option<String>, what: &str| {
        let found: Vec<String> = results.iter().filter_map(wanted).collect();
        if !found.is_empty() {
            let named = found.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join("; ");
            let more = if found.len() > NAMED_MAX { "; ..." } else { "" };
            notes.push(format!("{} {what}: {named}{more}.", counted(found.len())));
        }
    };
    let failed = |result: &TrialResult<'_>| {
        let State::Failed { class, message } = result.state else {
            return None;
        };
        let first = message.lines().next().unwrap_or_default();
        Some(format!("{} ({}: {first})", result.view.id, class.word()))
    };
    left_out(&failed, "failed and left out");
    let diverged = |result: &TrialResult<'_>| {
        let State::Diverged { metric, step } = result.state else {
            return None;
        };
        let id = result.view.id;
        Some(format!("{id} ({metric} was not a number at step {step})"))
    };
    left_out(&diverged, "diverged and left out");
    let missing = |result: &TrialResult<'_>| {
        matches!(result.state, State::MetricMissing).then(|| result.view.id.to_string())
    };
    left_out(&missing, &format!("completed without reporting `{}` and left out", metric.name));
    let unfinished = sweep.len() - results.iter().filter(|r| r.view.outcome.is_some()).count();
    if unfinished > 0 {
        notes.push(format!("{} not finished yet.", counted(unfinished)));
    }
    let partial =
        points.iter().filter(|point| point.mean.is_some() && !point.is_complete(sweep)).count();
    if partial > 0 {
        notes.push(format!("{partial} points lack a value for some seeds and cannot be the best."));
    }
    if sweep.points.repeated() > 0 {
        notes.push(format!(
            "{} random draws repeated an earlier point and were left out.",
            sweep.points.repeated()
        ));
    }
    if results.len() > ROWS_MAX {
        notes.push(format!("The tables show {ROWS_MAX} of {} trials.", results.len()));
    }
    notes
}

fn counted(trials: usize) -> String {
    match trials {
        1 => "1 trial".into(),
        many => format!("{many} trials"),
    }
}
