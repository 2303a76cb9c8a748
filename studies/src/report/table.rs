//! A table as data.

use super::number::{self, Zeros};
use proto::TrialId;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;

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

impl Table {
    /// Every cell as plain text, for terminals; numbers of a column that differ look different.
    pub fn texts(&self) -> Vec<Vec<String>> {
        let digits: Vec<Digits> = (0..self.columns.len()).map(|index| self.digits(index)).collect();
        let text = |(index, cell): (usize, &Cell)| match cell {
            Cell::Number(value) => number::plain(*value, digits[index].of(*value), Zeros::Trim),
            Cell::Text(_) | Cell::Interval { .. } | Cell::Trial(_) | Cell::Missing(_) => {
                cell.to_text()
            }
        };
        let row =
            |row: &Vec<Cell>| row.iter().enumerate().take(self.columns.len()).map(text).collect();
        self.rows.iter().map(row).collect()
    }

    /// How many digits the numbers of a column need.
    pub(super) fn digits(&self, column: usize) -> Digits {
        let numbers = self.rows.iter().filter_map(|row| match row.get(column) {
            Some(Cell::Number(value)) => Some(*value),
            Some(Cell::Text(_) | Cell::Interval { .. } | Cell::Trial(_) | Cell::Missing(_))
            | None => None,
        });
        let mut numbers: Vec<f64> = numbers.collect();
        numbers.sort_by(f64::total_cmp);
        numbers.dedup();
        let mut needed = BTreeMap::new();
        // Rounding keeps the order, so only neighbours can look alike.
        for pair in numbers.windows(2) {
            let looks = |digits| {
                let [low, high] = [pair[0], pair[1]].map(|x| number::plain(x, digits, Zeros::Trim));
                low != high
            };
            let digits = (NUMBER_DIGITS..=number::DIGITS_MAX).find(|digits| looks(*digits));
            for value in pair {
                let most = needed.entry(value.to_bits()).or_insert(NUMBER_DIGITS);
                *most = digits.unwrap_or(NUMBER_DIGITS).max(*most);
            }
        }
        Digits(needed)
    }
}

/// Significant digits of each number of a column: [`NUMBER_DIGITS`], and as many more as it takes
/// where two that differ would look alike.
#[derive(Debug)]
pub(super) struct Digits(BTreeMap<u64, usize>);

impl Digits {
    /// Those of a number of the column.
    pub(super) fn of(&self, value: f64) -> usize {
        self.0.get(&value.to_bits()).copied().unwrap_or(NUMBER_DIGITS)
    }
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
    /// A number, shown with five significant digits, or more where it takes more to tell it from
    /// another one of its column.
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
    fn numbers_of_a_column_that_differ_look_different() {
        let numbers = [123_456_789.5, 123_456_788.5, 123_456_788.5, 2.5, 2.500_001, 7.0, f64::NAN];
        let column = |value: f64| vec![Cell::Number(value), Cell::text("x")];
        let table = Table {
            columns: vec![Column::number("loss", ""), Column::text("")],
            rows: numbers.map(column).to_vec(),
            ..Table::default()
        };
        let texts: Vec<String> = table.texts().into_iter().map(|row| row[0].clone()).collect();
        assert_eq!(
            texts,
            ["1.2345679e8", "1.23456788e8", "1.23456788e8", "2.5", "2.500001", "7", "not a number"]
        );
    }

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
