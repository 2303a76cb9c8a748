//! A report as one self-contained HTML page: no script, nothing loaded from anywhere.

use super::chart::{Axis, Chart, Palette, Scale, Series};
use super::number::{self, Zeros};
use super::provenance::{Entries, LearningCurves, Provenance, TrialRow};
use super::svg::{self, Clean};
use super::table::Cell;
use super::{Figure, Report, Section};
use maud::{DOCTYPE, Markup, PreEscaped, html as markup};
use proto::{ExperimentState, TrialId, Value};
use std::collections::{BTreeMap, BTreeSet};

mod tables;
mod trials;

/// Most trials with an entry on the page; those that figures and tables name come first. A
/// browser lays out more only slowly; the JSON has all.
const TRIALS_MAX: usize = 2_000;
/// What the page may load: only its own style.
const CONTENT_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// The report as a page. Every point that comes from a trial links to that trial's entry at the
/// end of the page, which shows its seed, parameters, metrics and hashes.
pub fn html(report: &Report, provenance: &Provenance) -> String {
    let shown = shown_trials(report, provenance);
    let entries = Entries::of(shown.iter().copied());
    let mut numbers = Numbering::default();
    let page = markup! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta http-equiv="Content-Security-Policy" content=(CONTENT_POLICY);
                title { (Clean(&report.title)) " (Brine)" }
                style { (PreEscaped(include_str!("page.css"))) (PreEscaped(svg::css())) }
            }
            body {
                (head(report, provenance))
                main {
                    (notes(&report.notes))
                    @for part in &report.sections { (section(part, &entries, &mut numbers)) }
                    @if !provenance.curves.is_empty() {
                        (learning(report, provenance, &entries, &mut numbers))
                    }
                    (trials::section(&shown, provenance))
                    (origin(provenance))
                }
            }
        }
    };
    page.into_string()
}

/// Counts figures and tables over the page.
#[derive(Debug, Default)]
struct Numbering {
    figures: usize,
    tables: usize,
}

fn head(report: &Report, provenance: &Provenance) -> Markup {
    let state = provenance.word();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for trial in &provenance.trials {
        *counts.entry(trial.state.as_str()).or_default() += 1;
    }
    markup! {
        header {
            p.eyebrow { "Brine report" }
            h1 { (Clean(&report.title)) }
            p.facts {
                span.state.(state) { (state) }
                span { (Clean(&provenance.created_at)) }
                span {
                    (provenance.trials.len()) @if provenance.trials.len() == 1 { " trial" } @else { " trials" }
                    @if !counts.is_empty() { ": " }
                    @for (index, (state, count)) in counts.iter().enumerate() {
                        @if index > 0 { ", " }
                        (count) " " (Clean(state))
                    }
                }
                span { code { (Clean(provenance.experiment.as_str())) } }
            }
            @if provenance.interrupted {
                p.unfinished {
                    "No coordinator ran when this was made: the experiment goes on with "
                    code { "brine run" } ", and every number here may change."
                }
            } @else if provenance.state == ExperimentState::Running {
                p.unfinished { "This experiment is still running; every number here may change." }
            }
        }
    }
}

fn notes(notes: &[String]) -> Markup {
    markup! {
        @if !notes.is_empty() {
            aside.notes {
                h2 { "Before you use these numbers" }
                ul { @for note in notes { li { (Clean(note)) } } }
            }
        }
    }
}

fn section(section: &Section, entries: &Entries<'_>, numbers: &mut Numbering) -> Markup {
    markup! {
        section {
            h2 { (Clean(&section.heading)) }
            @for paragraph in &section.text { p.prose { (Clean(paragraph)) } }
            @if !section.figures.is_empty() {
                div.figures {
                    @for shown in &section.figures { (figure(shown, entries, numbers)) }
                }
            }
            @for table in &section.tables {
                (tables::table(table, entries, { numbers.tables += 1; numbers.tables }))
            }
        }
    }
}

fn figure(figure: &Figure, entries: &Entries<'_>, numbers: &mut Numbering) -> Markup {
    numbers.figures += 1;
    markup! {
        figure {
            div.scroll { (svg::drawing(&figure.chart, entries, None)) }
            figcaption { b { "Figure " (numbers.figures) "." } " " (Clean(&figure.caption)) }
        }
    }
}

fn learning(
    report: &Report,
    provenance: &Provenance,
    entries: &Entries<'_>,
    numbers: &mut Numbering,
) -> Markup {
    let caption = match &report.curve_parameter {
        Some(parameter) => {
            format!("One line per trial, coloured by {parameter}. A line leads to its trial.")
        }
        None => "One line per trial, coloured in planning order. A line leads to its trial.".into(),
    };
    let shown = provenance.curves.iter().enumerate().map(|(index, curves)| Figure {
        name: format!("learning_curves_{index}"),
        caption: caption.clone(),
        chart: learning_chart(report, provenance, curves),
    });
    markup! {
        section {
            h2 { "Learning curves" }
            div.figures { @for shown in shown { (figure(&shown, entries, numbers)) } }
        }
    }
}

/// One thin line per trial; trials with the same value of the report's parameter share a colour,
/// in the order of the values.
fn learning_chart(report: &Report, provenance: &Provenance, curves: &LearningCurves) -> Chart {
    let rows = Entries::of(&provenance.trials);
    let values: Vec<Option<&Value>> = curves
        .curves
        .iter()
        .map(|curve| {
            let row = rows.get(&curve.trial)?;
            row.parameters.get(report.curve_parameter.as_ref()?)
        })
        .collect();
    let mut order: Vec<&Value> = Vec::new();
    for value in values.iter().copied().flatten() {
        if !order.contains(&value) {
            order.push(value);
        }
    }
    order.sort_by(|a, b| match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        _ => a.to_string().cmp(&b.to_string()),
    });
    let mut named = BTreeSet::new();
    let series = curves.curves.iter().zip(&values).enumerate();
    let series = series.map(|(index, (curve, value))| {
        let rank = value.and_then(|value| order.iter().position(|other| *other == value));
        let first = rank.is_some_and(|rank| named.insert(rank));
        Series {
            label: value.filter(|_| first).map_or_else(String::new, value_text),
            group: rank.unwrap_or(if order.is_empty() { index } else { order.len() }),
            line: curve.points.clone(),
            trial: Some(curve.trial.clone()),
            ..Series::default()
        }
    });
    let log = |axis: &Axis| match axis.scale {
        Scale::Log => " (log)",
        Scale::Linear => "",
    };
    let mut series: Vec<Series> = series.collect();
    series.sort_by_key(|series| series.group);
    Chart {
        title: format!("{}{}", capitalised(&curves.y.label), log(&curves.y)),
        x: curves.x.clone(),
        y: curves.y.clone(),
        series,
        palette: Palette::Sequential,
        legend_title: report.curve_parameter.clone().unwrap_or_default(),
        reference_y: None,
    }
}

fn value_text(value: &Value) -> String {
    match value.as_f64() {
        Some(number) => number::write(number, 4, Zeros::Trim).unicode(),
        None => value.to_string(),
    }
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_uppercase().to_string());
    first.unwrap_or_default() + chars.as_str()
}

fn origin(provenance: &Provenance) -> Markup {
    markup! {
        section #provenance {
            h2 { "Provenance" }
            dl.origin {
                dt { "Experiment" } dd { code { (Clean(provenance.experiment.as_str())) } }
                dt { "Code" } dd { code { (Clean(&provenance.code_version)) } }
                @if let Some(hash) = &provenance.data_hash {
                    dt { "Data (blake3)" } dd { code { (Clean(hash.as_str())) } }
                }
                dt { "Report made" } dd { (Clean(&provenance.created_at)) }
                @for (name, value) in &provenance.facts {
                    dt { (Clean(name)) } dd { (Clean(value)) }
                }
            }
            @if !provenance.recipe.is_empty() {
                details.recipe open {
                    summary { "Recipe" }
                    pre { (Clean(&provenance.recipe)) }
                }
            }
        }
    }
}

/// The trials that get an entry, in planning order.
fn shown_trials<'a>(report: &Report, provenance: &'a Provenance) -> Vec<&'a TrialRow> {
    let all = &provenance.trials;
    if all.len() <= TRIALS_MAX {
        return all.iter().collect();
    }
    let named = named_trials(report);
    let is_named = |row: &&&TrialRow| named.contains(&row.id);
    let first = all.iter().collect::<Vec<_>>();
    let rest = first.iter().filter(|row| !is_named(row));
    let kept: BTreeSet<&TrialId> =
        first.iter().filter(is_named).chain(rest).take(TRIALS_MAX).map(|row| &row.id).collect();
    all.iter().filter(|row| kept.contains(&row.id)).collect()
}

/// The trials that figures and tables of the report name.
fn named_trials(report: &Report) -> BTreeSet<&TrialId> {
    let figures = report.sections.iter().flat_map(|section| &section.figures);
    let series = figures.flat_map(|figure| &figure.chart.series);
    let points = series.flat_map(|series| {
        let points = series.points.iter().filter_map(|point| point.trial.as_ref());
        points.chain(&series.trial)
    });
    let tables = report.sections.iter().flat_map(|section| &section.tables);
    let cells = tables.flat_map(|table| table.rows.iter().flatten());
    let links = cells.filter_map(|cell| match cell {
        Cell::Trial(id) => Some(id),
        Cell::Text(_) | Cell::Number(_) | Cell::Interval { .. } | Cell::Missing(_) => None,
    });
    points.chain(links).collect()
}

#[cfg(test)]
mod tests;
