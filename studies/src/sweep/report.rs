//! What a sweep showed.

use super::figures::{SHOWN_MAX, figures};
use super::planner::Sweep;
use super::points::Point;
use super::results::{Group, State, TrialResult, mean_cell, ranked};
use super::spec::{Domain, Metric};
use crate::report::{Cell, Column, Report, Section, Table};
use crate::study::TrialView;
use proto::Value;
use serde_json::json;

/// Most rows of a table; people do not read further, and the JSON has every trial anyway.
pub(super) const ROWS_MAX: usize = 1_000;
/// Most trials that one note names.
const NAMED_MAX: usize = 5;

pub(super) fn report(sweep: &Sweep, metric: &Metric, trials: &[TrialView<'_>]) -> Report {
    let views = trials.iter().enumerate();
    let results: Vec<_> =
        views.map(|(index, view)| TrialResult::new(sweep, metric, index, view)).collect();
    let points = ranked(sweep, metric, &results);
    let best = points.first().filter(|point| point.is_complete(sweep));
    let findings = sweep.stopper.as_ref().map(|stopper| stopper.findings(trials));
    let mut sections = vec![best_section(metric, best)];
    let figures = figures(sweep, metric, &results, best);
    if !figures.is_empty() {
        let heading = format!("{} by parameter", metric.name);
        sections.push(Section { heading, figures, ..Section::default() });
    }
    sections.extend(findings.as_ref().map(|findings| findings.section()));
    sections.push(Section {
        heading: "Results".into(),
        tables: vec![point_table(sweep, metric, &points), trial_table(sweep, metric, &results)],
        ..Section::default()
    });
    let mut summary = summary(sweep, metric, &results, best);
    if let Some(findings) = findings {
        summary["early_stopping"] = findings.summary();
    }
    Report {
        title: format!("Sweep: {} {}", metric.goal.word(), metric.name),
        summary,
        sections,
        notes: notes(sweep, metric, &results, &points),
        curve_parameter: sweep.spec.parameters.keys().next().cloned(),
        courses: Vec::new(),
    }
}

fn best_section(metric: &Metric, best: Option<&Group<'_>>) -> Section {
    let metric = &metric.name;
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

pub(super) fn label(parameters: &Point) -> String {
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

pub(super) fn parameter_columns(sweep: &Sweep) -> Vec<Column> {
    let column = |(name, domain): (&String, &Domain)| match domain {
        Domain::Choice(values) if values.iter().any(|value| value.as_f64().is_none()) => {
            Column::text(name.as_str())
        }
        Domain::Choice(_)
        | Domain::Linear(..)
        | Domain::Log(..)
        | Domain::Range(..)
        | Domain::Uniform(..)
        | Domain::LogUniform(..)
        | Domain::IntUniform(..) => Column::number(name.as_str(), ""),
    };
    sweep.spec.parameters.iter().map(column).collect()
}

pub(super) fn parameter_cells(sweep: &Sweep, parameters: &Point) -> Vec<Cell> {
    let names = sweep.spec.parameters.keys();
    names.map(|name| value_cell(parameters.get(name))).collect()
}

fn point_table(sweep: &Sweep, metric: &Metric, points: &[Group<'_>]) -> Table {
    let seeds = sweep.spec.seeds.len();
    let name = metric.name.as_str();
    let mut columns = vec![Column::number("rank", "")];
    columns.extend(parameter_columns(sweep));
    columns.extend([Column::number(name, ""), Column::number("seeds", "")]);
    let mut caption = format!(
        "Points, best first ({} {name}); mean and 95 % interval over the seeds where there are \
         several. A point is ranked when every seed gave a final value.",
        metric.goal.word(),
    );
    if sweep.stopper.is_some() {
        columns.extend([
            Column::number("reached", "steps"),
            Column::number(format!("{name} there"), ""),
        ]);
        caption.push_str(
            " The others follow by the last step that all their seeds reached, then by the value \
             there: values at different steps are not compared.",
        );
    }
    let row = |(place, point): (usize, &Group<'_>)| {
        let mut cells = vec![match point.is_complete(sweep) {
            true => Cell::Number((place + 1) as f64),
            false => Cell::missing(""),
        }];
        cells.extend(parameter_cells(sweep, point.parameters));
        cells.push(point.cell());
        cells.push(Cell::text(format!("{} of {seeds}", point.values().count())));
        if sweep.stopper.is_some() {
            cells.extend(match point.reached {
                Some((step, mean)) => [
                    Cell::Number(step as f64),
                    mean.map_or_else(|| Cell::missing("not a number"), mean_cell),
                ],
                None => [Cell::missing(""), Cell::missing("")],
            });
        }
        cells
    };
    Table {
        name: "points".into(),
        caption,
        columns,
        rows: points.iter().enumerate().take(ROWS_MAX).map(row).collect(),
    }
}

fn trial_table(sweep: &Sweep, metric: &Metric, results: &[TrialResult<'_>]) -> Table {
    let mut columns = vec![Column::text("trial")];
    columns.extend(parameter_columns(sweep));
    columns.push(Column::number("seed", ""));
    columns.push(Column::text("state"));
    columns.push(Column::number(metric.name.as_str(), ""));
    let row = |result: &TrialResult<'_>| {
        let mut cells = vec![Cell::Trial(result.view.id.clone())];
        cells.extend(parameter_cells(sweep, &result.view.spec.parameters));
        cells.push(Cell::text(result.view.spec.seed.to_string()));
        cells.extend(match result.state {
            State::Measured(value) => [Cell::text(result.word()), Cell::Number(value)],
            State::Stopped(end) => {
                [Cell::text(format!("stopped at step {}", end.rung)), Cell::Number(end.value)]
            }
            State::MetricMissing
            | State::Diverged { .. }
            | State::Failed { .. }
            | State::Unfinished => [Cell::text(result.word()), Cell::missing(result.word())],
        });
        cells
    };
    let caption = match sweep.stopper {
        Some(_) => "Trials in planning order. A stopped one has the value of its last step.",
        None => "Trials in planning order.",
    };
    Table {
        name: "trials".into(),
        caption: caption.into(),
        columns,
        rows: results.iter().take(ROWS_MAX).map(row).collect(),
    }
}

fn summary(
    sweep: &Sweep,
    metric: &Metric,
    results: &[TrialResult<'_>],
    best: Option<&Group<'_>>,
) -> serde_json::Value {
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
            "stopped": count(&|state| matches!(state, State::Stopped(_))),
            "failed": count(&|state| matches!(state, State::Failed { .. })),
            "unfinished": count(&|state| matches!(state, State::Unfinished)),
        },
    })
}

fn notes(
    sweep: &Sweep,
    metric: &Metric,
    results: &[TrialResult<'_>],
    points: &[Group<'_>],
) -> Vec<String> {
    let mut notes = vec![selection(sweep)];
    let mut left_out = |wanted: &dyn Fn(&TrialResult<'_>) -> Option<String>, what: &str| {
        let found = results.iter().filter_map(wanted);
        notes.extend(named(found, what));
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
    notes.extend(unfinished(sweep, results.iter().map(|result| result.view)));
    let partial =
        points.iter().filter(|point| point.mean.is_some() && !point.is_complete(sweep)).count();
    if partial > 0 {
        let lack = if partial == 1 { "point lacks" } else { "points lack" };
        notes.push(format!("{partial} {lack} a value for some seeds and cannot be the best."));
    }
    if sweep.points.repeated() > 0 {
        notes.push(format!(
            "{} random draws repeated an earlier point and were left out.",
            sweep.points.repeated()
        ));
    }
    if sweep.stopper.is_some() {
        notes.push(
            "A trial that early stopping ended might have become the best one later; nobody knows."
                .into(),
        );
    }
    if results.len() > ROWS_MAX {
        notes.push(format!("The tables show {ROWS_MAX} of {} trials.", results.len()));
    }
    if results.len() > SHOWN_MAX {
        notes.push(format!("The figures show at most {SHOWN_MAX} trials, chosen by lot."));
    }
    notes
}

/// A note that counts trials and names the first few; `None` without any.
pub(super) fn named(mut found: impl Iterator<Item = String>, what: &str) -> Option<String> {
    let first: Vec<String> = found.by_ref().take(NAMED_MAX).collect();
    let more = found.count() as u64;
    if first.is_empty() {
        return None;
    }
    let count = counted(first.len() as u64 + more);
    let dots = if more > 0 { "; ..." } else { "" };
    Some(format!("{count} {what}: {}{dots}.", first.join("; ")))
}

/// A note on the trials that have not ended, planned or not; `None` without any.
pub(super) fn unfinished<'a>(
    sweep: &Sweep,
    trials: impl Iterator<Item = &'a TrialView<'a>>,
) -> Option<String> {
    let ended = trials.filter(|trial| trial.outcome.is_some()).count() as u64;
    match sweep.len().saturating_sub(ended) {
        0 => None,
        open => Some(format!("{} not finished yet.", counted(open))),
    }
}

fn counted(trials: u64) -> String {
    match trials {
        1 => "1 trial".into(),
        many => format!("{many} trials"),
    }
}
