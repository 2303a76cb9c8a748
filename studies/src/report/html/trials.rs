//! The entries of the trials at the end of the page.

use super::tables::written;
use crate::report::number::{self, Zeros};
use crate::report::provenance::{Provenance, TrialRow, anchor};
use crate::report::svg::Clean;
use maud::{Markup, html};
use proto::{BlobId, Value};

/// Digits of a hash that are shown before it is unfolded.
const HASH_DIGITS: usize = 12;
/// Digits of parameters and metrics.
const VALUE_DIGITS: usize = 6;

/// One entry for each of `shown`.
pub(super) fn section(shown: &[&TrialRow], provenance: &Provenance) -> Markup {
    let more = provenance.trials.len() - shown.len();
    html! {
        section #trials {
            h2 { "Trials" }
            p.prose {
                "Where the points come from. The id is the hash of the trial's specification; "
                "equal ids are the same trial."
            }
            @if more > 0 {
                p.more { (more) " further trials are in the JSON report." }
            }
            div.trials { @for row in shown { (entry(row)) } }
        }
    }
}

fn entry(row: &TrialRow) -> Markup {
    html! {
        article.trial id=(anchor(&row.id)) {
            header {
                a.trial-id href={ "#" (anchor(&row.id)) } { (row.id.as_str()) }
                span class={ "state " (state_class(&row.state)) } { (Clean(&row.state)) }
                span.quiet { "seed " (row.seed) }
                span.quiet { (row.attempts) @if row.attempts == 1 { " attempt" } @else { " attempts" } }
                @if let Some(agent) = &row.agent { span.quiet { "on " (agent.as_str()) } }
            }
            dl.values {
                @for (name, value) in &row.metrics {
                    div.metric { dt { (Clean(name)) } dd { (number_markup(*value)) } }
                }
                @for (name, value) in &row.parameters {
                    div { dt { (Clean(name)) } dd { (parameter(value)) } }
                }
            }
            @if let Some(message) = &row.message { p.message { (Clean(message)) } }
            (hashes(row))
        }
    }
}

fn hashes(row: &TrialRow) -> Markup {
    let files = row.checkpoint.iter().flat_map(|checkpoint| &checkpoint.files);
    html! {
        details.hashes {
            summary {
                @if let Some(data) = &row.data_hash { span { "data " code { (short(data)) } } }
                @if let Some(checkpoint) = &row.checkpoint {
                    span {
                        "checkpoint at step " (checkpoint.step)
                        @if let Some(file) = checkpoint.files.first() { " " code { (short(&file.hash)) } }
                    }
                }
                span { "code " code { (Clean(&row.code_version)) } }
            }
            dl {
                @if let Some(data) = &row.data_hash {
                    dt { "data (blake3)" } dd { code { (data.as_str()) } }
                }
                @for file in files {
                    dt { (Clean(&file.name)) " (blake3, " (file.bytes) " bytes)" }
                    dd { code { (file.hash.as_str()) } }
                }
                @if let Some(checkpoint) = &row.checkpoint {
                    dt { "checkpoint folder on " (checkpoint.agent.as_str()) }
                    dd { code { (Clean(&checkpoint.folder)) } }
                }
                dt { "code" } dd { code { (Clean(&row.code_version)) } }
            }
        }
    }
}

fn short(hash: &BlobId) -> &str {
    hash.as_str().get(..HASH_DIGITS).unwrap_or(hash.as_str())
}

fn parameter(value: &Value) -> Markup {
    match value {
        Value::Number(value) => number_markup(*value),
        Value::Integer(value) => html! { (value) },
        Value::Bool(value) => html! { (value) },
        Value::Text(value) => html! { (Clean(value)) },
    }
}

fn number_markup(value: f64) -> Markup {
    written(&number::write(value, VALUE_DIGITS, Zeros::Trim))
}

/// The colour of a state: good, on its way, or bad; unknown words stay grey.
fn state_class(state: &str) -> &'static str {
    match state {
        "completed" => "complete",
        "running" | "leased" => "running",
        "diverged" | "failed" | "invalid" | "timeout" | "infrastructure" | "cheated" => "failed",
        _ => "",
    }
}
