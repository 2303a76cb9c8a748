//! Tables for people. The only file that knows comfy-table.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table as Drawn, presets};

/// Width when stdout is not a terminal: nothing is wrapped, so that `grep` finds whole lines.
const PIPED_WIDTH: u16 = u16::MAX;
/// Fewer characters of a cell say nothing; a table on a narrower terminal is wider than it.
const CELL_WIDTH_MIN: usize = 8;

/// A table under construction: a header with units, then rows.
pub(crate) struct Table {
    drawn: Drawn,
    columns: usize,
    /// Columns of texts that may be cut on a narrow terminal.
    elastic: Vec<usize>,
    rows: Vec<Vec<String>>,
    titles: Vec<String>,
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
        let titles = columns.iter().map(|(title, _)| (*title).to_owned()).collect();
        Self { drawn, columns: columns.len(), elastic: Vec::new(), rows: Vec::new(), titles }
    }

    /// Lets the texts of these columns be cut where a terminal is too narrow for a whole row.
    /// Numbers stay whole: half a number is another number.
    pub(crate) fn cut(mut self, titles: &[&str]) -> Self {
        let is_named = |index: &usize| titles.contains(&self.titles[*index].as_str());
        self.elastic = (0..self.columns).filter(is_named).collect();
        self
    }

    /// Adds a row; it has one text per column.
    pub(crate) fn row<T: Into<String>>(&mut self, texts: impl IntoIterator<Item = T>) {
        let texts: Vec<String> = texts.into_iter().map(Into::into).collect();
        debug_assert_eq!(texts.len(), self.columns, "a row has one text per column");
        self.rows.push(texts);
    }

    /// Whether it has no row.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as text, without spaces at the ends of lines.
    pub(crate) fn render(&self) -> String {
        self.render_within(self.drawn.width().map(usize::from))
    }

    /// The table as text, its elastic columns cut so that a row has at most `width` characters.
    pub(crate) fn render_within(&self, width: Option<usize>) -> String {
        let limits = match width {
            Some(width) => self.limits(width),
            None => vec![usize::MAX; self.columns],
        };
        let mut drawn = self.drawn.clone();
        for row in &self.rows {
            drawn.add_row(row.iter().zip(&limits).map(|(text, limit)| shortened(text, *limit)));
        }
        let lines: Vec<String> = drawn.lines().map(|line| line.trim_end().to_owned()).collect();
        lines.join("\n")
    }

    /// Most characters of each column's cells, so that a row has at most `width`: the widest
    /// elastic column gives first.
    fn limits(&self, width: usize) -> Vec<usize> {
        let measured = |index: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(index));
            cells.chain([&self.titles[index]]).map(|text| text.chars().count()).max().unwrap_or(0)
        };
        let mut widths: Vec<usize> = (0..self.columns).map(measured).collect();
        // One space before and after each cell, except before the first and after the last.
        let spaces = (2 * self.columns).saturating_sub(2);
        let mut excess = (widths.iter().sum::<usize>() + spaces).saturating_sub(width);
        while excess > 0 {
            let least = |index: usize| CELL_WIDTH_MIN.max(self.titles[index].chars().count());
            let gives = self.elastic.iter().copied().filter(|&index| widths[index] > least(index));
            let Some(widest) = gives.max_by_key(|&index| widths[index]) else { break };
            widths[widest] -= 1;
            excess -= 1;
        }
        widths
    }
}

/// At most `limit` characters of `text`.
pub(crate) fn shortened(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    let kept: String = text.chars().take(limit.saturating_sub(1)).collect();
    format!("{kept}…")
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

    #[test]
    fn a_row_fits_into_the_terminal_and_numbers_stay_whole() {
        let columns = [("trial", Align::Left), ("loss", Align::Right), ("what", Align::Left)];
        let mut table = Table::new(&columns).cut(&["what"]);
        table.row(["0123456789abcdef", "12345.678901", &"é".repeat(60)]);
        table.row(["0123456789abcdef", "1", "short"]);
        for (width, expected) in [(200, 92), (60, 60), (30, 40)] {
            let text = table.render_within(Some(width));
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(lines.iter().map(|line| line.chars().count()).max(), Some(expected));
            assert_eq!(lines.len(), 3, "{text}");
            assert!(lines[1].contains("12345.678901"), "{text}");
            assert_eq!(lines[1].ends_with('…'), expected < 92, "{text}");
        }
        assert!(table.render_within(None).contains(&"é".repeat(60)));
    }

    #[test]
    fn the_widest_column_gives_first() {
        let columns = [("a", Align::Left), ("b", Align::Left)];
        let mut table = Table::new(&columns).cut(&["a", "b"]);
        table.row(["x".repeat(30), "y".repeat(10)]);
        let text = table.render_within(Some(33));
        assert!(text.contains(&format!("{}…  {}", "x".repeat(20), "y".repeat(10))), "{text}");
    }
}
