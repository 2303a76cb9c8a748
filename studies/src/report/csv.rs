//! A table as CSV (RFC 4180), at full precision.

use super::table::{Cell, Column, Table};
use std::collections::BTreeSet;

/// `table` as CSV with a header line. A column's unit follows its name in brackets. A column that
/// holds intervals becomes three: the estimate, `… low` and `… high`. A missing value is an empty
/// field; numbers have the digits that read back to the same value.
pub fn csv(table: &Table) -> String {
    let intervals = interval_columns(table);
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    let mut write = |fields: Vec<String>| {
        writer
            .write_record(fields)
            .expect("a vector accepts every write, and all rows have one length");
    };
    let header = |(index, column): (usize, &Column)| {
        let name = |part: &str| match column.unit.as_str() {
            "" => format!("{}{part}", column.name),
            unit => format!("{}{part} ({unit})", column.name),
        };
        match intervals.contains(&index) {
            true => vec![name(""), name(" low"), name(" high")],
            false => vec![name("")],
        }
    };
    if table.columns.is_empty() {
        return String::new();
    }
    write(table.columns.iter().enumerate().flat_map(header).collect());
    for row in &table.rows {
        let fields = (0..table.columns.len())
            .flat_map(|index| fields(row.get(index), intervals.contains(&index)));
        write(fields.collect());
    }
    let bytes = writer.into_inner().expect("a vector accepts every flush of the writer");
    String::from_utf8(bytes).expect("every field was a string")
}

fn interval_columns(table: &Table) -> BTreeSet<usize> {
    let cells = table.rows.iter().flat_map(|row| row.iter().enumerate());
    cells
        .filter(|(_, cell)| matches!(cell, Cell::Interval { .. }))
        .map(|(index, _)| index)
        .collect()
}

fn fields(cell: Option<&Cell>, interval: bool) -> Vec<String> {
    let mut fields = match cell {
        None | Some(Cell::Missing(_)) => vec![String::new()],
        Some(Cell::Text(text)) => vec![text.clone()],
        Some(Cell::Number(value)) => vec![exact(*value)],
        Some(Cell::Trial(id)) => vec![id.to_string()],
        Some(Cell::Interval { value, low, high }) => {
            vec![exact(*value), exact(*low), exact(*high)]
        }
    };
    if interval {
        fields.resize(3, String::new());
    }
    fields
}

/// The shortest digits that read back to `value`.
fn exact(value: f64) -> String {
    let magnitude = value.abs();
    if value == 0.0 || !value.is_finite() || (1e-5..1e16).contains(&magnitude) {
        return value.to_string();
    }
    format!("{value:e}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(columns: Vec<Column>, rows: Vec<Vec<Cell>>) -> Table {
        Table { name: "t".into(), caption: String::new(), columns, rows }
    }

    #[test]
    fn fields_are_quoted_and_intervals_become_three_columns() {
        let interval = Cell::Interval { value: 0.5, low: 0.25, high: 1e-9 };
        let table = table(
            vec![Column::text("name, \"of\" it"), Column::number("N*", "parameters")],
            vec![
                vec![Cell::text("two\nlines"), interval],
                vec![Cell::text("a,b"), Cell::missing("not bracketed")],
                vec![Cell::text("short")],
            ],
        );
        let expected = "\"name, \"\"of\"\" it\",N* (parameters),N* low (parameters),N* high (parameters)\n\
                        \"two\nlines\",0.5,0.25,1e-9\n\
                        \"a,b\",,,\n\
                        short,,,\n";
        assert_eq!(csv(&table), expected);
    }

    #[test]
    fn a_table_without_columns_is_empty() {
        assert_eq!(csv(&table(vec![], vec![vec![Cell::text("lost")]])), "");
    }

    proptest! {
        #[test]
        fn every_number_and_text_reads_back(value in any::<f64>(), text in "\\PC*") {
            let table = table(
                vec![Column::text("text"), Column::number("value", "")],
                vec![vec![Cell::Text(text.clone()), Cell::Number(value)]],
            );
            let csv = csv(&table);
            let mut reader = ::csv::Reader::from_reader(csv.as_bytes());
            let record = reader.records().next().unwrap().unwrap();
            prop_assert_eq!(&record[0], text.as_str());
            let read: f64 = record[1].parse().unwrap();
            prop_assert!(read == value || (read.is_nan() && value.is_nan()));
        }
    }
}
