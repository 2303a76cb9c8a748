//! Tables for people. The only file that knows comfy-table.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table as Drawn, presets};

/// Width when stdout is not a terminal: nothing is wrapped, so that `grep` finds whole lines.
const PIPED_WIDTH: u16 = u16::MAX;

/// A table under construction: a header with units, then rows.
pub(crate) struct Table {
    drawn: Drawn,
    columns: usize,
}

/// Where a column's text sits: words on the left, numbers on the right.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

impl Table {
    /// A table with these columns.
    pub(crate) fn new(columns: &[(&str, Align)]) -> Self {
        let mut drawn = Drawn::new();
        drawn
            .load_preset(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(columns.iter().map(|(title, align)| cell(title, *align)));
        if !std::io::IsTerminal::is_terminal(&std::io::stdout()) {
            drawn.set_width(PIPED_WIDTH);
        }
        for (index, (_, align)) in columns.iter().enumerate() {
            if let Some(column) = drawn.column_mut(index) {
                column.set_padding(if index == 0 { (0, 1) } else { (1, 1) });
                column.set_cell_alignment(align.into_drawn());
            }
        }
        Self { drawn, columns: columns.len() }
    }

    /// Adds a row; it has one text per column.
    pub(crate) fn row<T: Into<String>>(&mut self, texts: impl IntoIterator<Item = T>) {
        let texts: Vec<String> = texts.into_iter().map(Into::into).collect();
        debug_assert_eq!(texts.len(), self.columns, "a row has one text per column");
        self.drawn.add_row(texts);
    }

    /// The table as text, without spaces at the ends of lines.
    pub(crate) fn render(&self) -> String {
        let lines: Vec<String> =
            self.drawn.lines().map(|line| line.trim_end().to_owned()).collect();
        lines.join("\n")
    }
}

impl Align {
    fn into_drawn(self) -> CellAlignment {
        match self {
            Self::Left => CellAlignment::Left,
            Self::Right => CellAlignment::Right,
        }
    }
}

fn cell(text: &str, align: Align) -> Cell {
    Cell::new(text).set_alignment(align.into_drawn())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_left_and_numbers_right() {
        let mut table = Table::new(&[("trial", Align::Left), ("loss (nats)", Align::Right)]);
        table.row(["0123", "2.5"]);
        table.row(["4567", "12.25"]);
        let lines: Vec<String> = table.render().lines().map(str::to_owned).collect();
        assert_eq!(lines, ["trial  loss (nats)", "0123           2.5", "4567         12.25"]);
    }
}
