//! A table as data.

use super::number::{self, Zeros};
use proto::TrialId;
use serde::{Serialize, Serializer};

/// Rows of cells under named columns.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Table {
    /// Short and unique in the report, for file names: `fits`.
    pub name: String,
    /// What the reader sees, with the conventions used; plain text.
    pub caption: String,
    /// Columns from left to right.
    pub columns: Vec<Column>,
    /// Rows from top to bottom. A row that is shorter than the columns is filled with nothing.
    pub rows: Vec<Vec<Cell>>,
}

/// The head of a column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Column {
    /// Name, for example `N*`.
    pub name: String,
    /// Unit, for example `parameters`; empty for none.
    pub unit: String,
    /// Where its cells stand.
    pub alignment: Alignment,
}

impl Column {
    /// A column of text.
    pub fn text(name: impl Into<String>) -> Self {
        Self { name: name.into(), unit: String::new(), alignment: Alignment::Left }
    }

    /// A column of numbers in `unit`, which may be empty.
    pub fn number(name: impl Into<String>, unit: impl Into<String>) -> Self {
        Self { name: name.into(), unit: unit.into(), alignment: Alignment::Right }
    }
}

/// Where a column's cells stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Alignment {
    /// Text.
    #[default]
    Left,
    /// Numbers.
    Right,
}

/// One value in a table.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Words.
    Text(String),
    /// A number, shown with five significant digits.
    Number(f64),
    /// An estimate with its interval, shown with four significant digits each.
    Interval {
        /// The estimate.
        value: f64,
        /// Lower end.
        low: f64,
        /// Upper end.
        high: f64,
    },
    /// A trial; a link to its entry where links work.
    Trial(TrialId),
    /// There is no value, and why.
    Missing(String),
}

/// Significant digits of [`Cell::Number`].
pub(super) const NUMBER_DIGITS: usize = 5;
/// Significant digits of [`Cell::Interval`]: an estimate with an interval needs no more.
pub(super) const INTERVAL_DIGITS: usize = 4;

impl Cell {
    /// A text cell.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A cell without a value, and why.
    pub fn missing(reason: impl Into<String>) -> Self {
        Self::Missing(reason.into())
    }

    /// The cell in one line of plain text, for terminals: `1.2346e10`, `0.3473 [0.3310, 0.3650]`,
    /// `- (not bracketed)`.
    pub fn to_text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(value) => number::plain(*value, NUMBER_DIGITS, Zeros::Trim),
            Self::Interval { value, low, high } => {
                let [value, low, high] = [value, low, high]
                    .map(|value| number::plain(*value, INTERVAL_DIGITS, Zeros::Keep));
                format!("{value} [{low}, {high}]")
            }
            Self::Trial(id) => id.to_string(),
            Self::Missing(reason) if reason.is_empty() => "-".to_owned(),
            Self::Missing(reason) => format!("- ({reason})"),
        }
    }
}

/// As programs want it: a string, a number, `{"value", "low", "high"}`, or `{"missing": reason}`.
/// A number that is not finite becomes `null`, as JSON has no word for it.
impl Serialize for Cell {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Number(value) => serializer.serialize_f64(*value),
            Self::Interval { value, low, high } => {
                let mut map = serializer.serialize_map(Some(3))?;
                map.serialize_entry("value", value)?;
                map.serialize_entry("low", low)?;
                map.serialize_entry("high", high)?;
                map.end()
            }
            Self::Trial(id) => id.serialize(serializer),
            Self::Missing(reason) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("missing", reason)?;
                map.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_have_a_plain_text() {
        let id = TrialId::from_hash(blake3::hash(b"trial"));
        let interval = Cell::Interval { value: 0.347_31, low: 0.33, high: 0.365 };
        for (cell, expected) in [
            (Cell::text("words"), "words"),
            (Cell::Number(12_345_678_901.0), "1.2346e10"),
            (Cell::Number(477.84), "477.84"),
            (interval, "0.3473 [0.3300, 0.3650]"),
            (Cell::missing("not bracketed"), "- (not bracketed)"),
            (Cell::missing(""), "-"),
            (Cell::Trial(id.clone()), id.as_str()),
        ] {
            assert_eq!(cell.to_text(), expected);
        }
    }
}
