//! Tables of the page.

use crate::report::csv::csv;
use crate::report::number::{self, Written, Zeros};
use crate::report::provenance::{Entries, anchor};
use crate::report::svg::Clean;
use crate::report::table::{Alignment, Cell, Column, Digits, INTERVAL_DIGITS, Table};
use maud::{Markup, html};
use proto::TrialId;
use std::fmt::Write as _;

/// Most rows of a table on the page; the CSV has all.
const ROWS_MAX: usize = 500;
/// Largest CSV that the page carries for download; a larger one lies beside the page.
const CSV_BYTES_MAX: usize = 256 << 10;

/// A table with its caption, its number and its CSV.
pub(super) fn table(table: &Table, entries: &Entries<'_>, number: usize) -> Markup {
    let more = table.rows.len().saturating_sub(ROWS_MAX);
    let file = format!("{}.csv", file_stem(&table.name));
    let csv = csv(table);
    let digits: Vec<Digits> = (0..table.columns.len()).map(|index| table.digits(index)).collect();
    html! {
        figure.table {
            figcaption {
                span { b { "Table " (number) "." } " " (Clean(&table.caption)) }
                @if csv.len() <= CSV_BYTES_MAX {
                    a.download download=(file) href={ "data:text/csv;charset=utf-8," (percent_encoded(&csv)) } { "CSV" }
                }
            }
            div.scroll {
                table {
                    thead { tr { @for column in &table.columns { (head(column)) } } }
                    tbody {
                        @for row in table.rows.iter().take(ROWS_MAX) {
                            tr {
                                @for (index, column) in table.columns.iter().enumerate() {
                                    td class=(alignment(column)) {
                                        @if let Some(cell) = row.get(index) {
                                            (content(cell, &digits[index], entries))
                                        }
                                    }
                                }
                            }
                        }
                        @if table.rows.is_empty() {
                            tr { td.missing colspan=(table.columns.len().max(1)) { "no rows yet" } }
                        }
                    }
                }
            }
            @if more > 0 {
                p.more { "The first " (ROWS_MAX) " of " (table.rows.len()) " rows; all of them are in " code { (file) } "." }
            }
        }
    }
}

fn head(column: &Column) -> Markup {
    html! {
        th scope="col" class=(alignment(column)) {
            (Clean(&column.name))
            @if !column.unit.is_empty() { span.unit { (Clean(&column.unit)) } }
        }
    }
}

fn alignment(column: &Column) -> &'static str {
    match column.alignment {
        Alignment::Left => "left",
        Alignment::Right => "right",
    }
}

fn content(cell: &Cell, digits: &Digits, entries: &Entries<'_>) -> Markup {
    match cell {
        Cell::Text(text) => html! { (Clean(text)) },
        Cell::Number(value) => written(&number::write(*value, digits.of(*value), Zeros::Trim)),
        Cell::Interval { value, low, high } => interval([*value, *low, *high]),
        Cell::Trial(id) => trial(id, entries),
        Cell::Missing(reason) => html! {
            span.missing { "–" @if !reason.is_empty() { " " (Clean(reason)) } }
        },
    }
}

/// An estimate and its interval, with one exponent for all three where they need one.
fn interval(numbers: [f64; 3]) -> Markup {
    let ([value, low, high], exponent) = number::write_together(numbers, INTERVAL_DIGITS);
    html! {
        (written(&value))
        span.interval { " [" (written(&low)) ", " (written(&high)) "]" }
        @if let Some(exponent) = exponent { " × 10" sup { (exponent) } }
    }
}

/// A trial's id, as a link when the page has its entry.
fn trial(id: &TrialId, entries: &Entries<'_>) -> Markup {
    html! {
        @if entries.get(id).is_some() {
            a.trial-id href={ "#" (anchor(id)) } { (id.as_str()) }
        } @else {
            span.trial-id { (id.as_str()) }
        }
    }
}

/// A number with its exponent raised.
pub(super) fn written(number: &Written) -> Markup {
    let (base, exponent) = number.parts();
    html! { (base) @if let Some(exponent) = exponent { sup { (exponent) } } }
}

/// A name that is safe as a file name everywhere.
fn file_stem(name: &str) -> String {
    let safe = |c: char| match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' => c,
        _ => '_',
    };
    name.chars().map(safe).collect()
}

/// `text` as it stands in a URL (RFC 3986): all but unreserved characters as `%XX`.
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 2);
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}
