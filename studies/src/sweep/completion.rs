//! What a sweep without a metric showed: how many of its trials completed.

use super::planner::Sweep;
use super::report::{ROWS_MAX, named, parameter_cells, parameter_columns, unfinished};
use crate::report::{Cell, Column, Report, Section, Table};
use crate::study::TrialView;
use proto::Outcome;
use serde_json::json;
use std::collections::BTreeMap;

pub(super) fn report(sweep: &Sweep, trials: &[TrialView<'_>]) -> Report {
    let mut states: BTreeMap<&str, u64> = BTreeMap::new();
    for trial in trials {
        *states.entry(word(trial)).or_default() += 1;
    }
    let completed = states.get("completed").copied().unwrap_or(0);
    let text = format!("{completed} of {} trials completed.", sweep.len());
    let mut tables = vec![state_table(&states)];
    tables.extend(other_table(sweep, trials));
    Report {
        title: "Sweep: completion".into(),
        summary: json!({
            "study": "sweep",
            "completed": completed,
            "points": sweep.points.len(),
            "seeds": sweep.spec.seeds,
            "trials": {"total": sweep.len(), "planned": trials.len(), "by_state": states},
        }),
        sections: vec![Section {
            heading: "Completion".into(),
            text: vec![text],
            tables,
            ..Section::default()
        }],
        notes: notes(sweep, trials),
        curve_parameter: None,
        courses: Vec::new(),
    }
}

fn word(trial: &TrialView<'_>) -> &'static str {
    trial.outcome.map_or("unfinished", Outcome::word)
}

fn state_table(states: &BTreeMap<&str, u64>) -> Table {
    Table {
        name: "states".into(),
        caption: "Trials by their state.".into(),
        columns: vec![Column::text("state"), Column::number("trials", "")],
        rows: states
            .iter()
            .map(|(state, count)| vec![Cell::text(*state), Cell::Number(*count as f64)])
            .collect(),
    }
}

/// The trials that ended without completing; `None` without any.
fn other_table(sweep: &Sweep, trials: &[TrialView<'_>]) -> Option<Table> {
    let mut columns = vec![Column::text("trial")];
    columns.extend(parameter_columns(sweep));
    columns.extend([Column::number("seed", ""), Column::text("state")]);
    let row = |trial: &TrialView<'_>| {
        let mut cells = vec![Cell::Trial(trial.id.clone())];
        cells.extend(parameter_cells(sweep, &trial.spec.parameters));
        cells.extend([Cell::text(trial.spec.seed.to_string()), Cell::text(word(trial))]);
        cells
    };
    let others = trials.iter().filter(|trial| is_other(trial));
    let rows: Vec<_> = others.take(ROWS_MAX).map(row).collect();
    (!rows.is_empty()).then(|| Table {
        name: "not_completed".into(),
        caption: format!("The first {ROWS_MAX} trials that ended in another way."),
        columns,
        rows,
    })
}

fn is_other(trial: &TrialView<'_>) -> bool {
    match trial.outcome {
        Some(Outcome::Diverged { .. } | Outcome::Failed { .. }) => true,
        Some(Outcome::Completed { .. }) | None => false,
    }
}

fn notes(sweep: &Sweep, trials: &[TrialView<'_>]) -> Vec<String> {
    let other = |trial: &TrialView<'_>| {
        let reason = match trial.outcome? {
            Outcome::Completed { .. } => return None,
            Outcome::Diverged { metric, step } => {
                format!("{metric} was not a number at step {step}")
            }
            Outcome::Failed { message, .. } => message.lines().next().unwrap_or_default().into(),
        };
        Some(format!("{} ({}: {reason})", trial.id, word(trial)))
    };
    let mut notes = Vec::new();
    notes.extend(named(trials.iter().filter_map(other), "did not complete"));
    notes.extend(unfinished(sweep, trials.iter()));
    notes
}
