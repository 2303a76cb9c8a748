//! Points from a CSV table: the pure part of `brine fit`.

use super::{Analysis, Options, Point, analyse};
use serde::Serialize;
use std::fmt;

/// Most rows: beyond it a bootstrap takes hours, and no published table comes near.
pub const ROWS_MAX: usize = 1_000_000;
/// How tables write that there is no value.
const MISSING: [&str; 7] = ["", "NaN", "NA", "N/A", "null", "none", "-"];
/// Longest text in bytes: [`ROWS_MAX`] rows of ordinary width.
pub const TABLE_BYTES_MAX: usize = 256 << 20;
/// k of `C = k N D` in Chinchilla's convention.
const FLOPS_PER_PRODUCT: f64 = 6.0;
/// Most values or names that an error lists.
const LISTED_MAX: usize = 12;

/// Which columns and rows to use.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TableOptions {
    /// Column of the parameters N.
    pub parameters: String,
    /// Column that gives the tokens D.
    pub data: DataColumn,
    /// Column of the loss L.
    pub loss: String,
    /// Column of the nominal budgets C, which Approach 2 needs.
    pub budget: Option<String>,
    /// Only rows that meet all of these.
    pub filters: Vec<Filter>,
    /// Leave out this many rows of highest loss, after the filters.
    pub drop_highest: usize,
}

/// Where the tokens D come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataColumn {
    /// A column of training FLOPs C; `D = C / (6 N)`.
    Flops(String),
    /// A column of D itself.
    Tokens(String),
}

impl Default for DataColumn {
    fn default() -> Self {
        Self::Tokens("tokens".to_owned())
    }
}

impl DataColumn {
    fn name(&self) -> &str {
        match self {
            Self::Flops(name) | Self::Tokens(name) => name,
        }
    }
}

/// A condition `COLUMN=VALUE`. Two numbers are equal by value (`1e18` is `1000000000000000000`),
/// anything else by its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Column.
    pub column: String,
    /// Value that its cell must have.
    pub value: String,
}

impl std::str::FromStr for Filter {
    type Err = TableError;
    fn from_str(text: &str) -> Result<Self, TableError> {
        match text.split_once('=') {
            Some((column, value)) if !column.trim().is_empty() => {
                Ok(Self { column: column.trim().to_owned(), value: value.trim().to_owned() })
            }
            Some(_) | None => Err(TableError::Filter(text.to_owned())),
        }
    }
}

impl Filter {
    fn accepts(&self, cell: &str) -> bool {
        let equal = |left: f64, right: f64| left == right;
        let numbers = cell.parse().ok().zip(self.value.parse().ok());
        cell == self.value || numbers.is_some_and(|(left, right)| equal(left, right))
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.column, self.value)
    }
}

/// Why a table cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// Longer than [`TABLE_BYTES_MAX`].
    #[error("the table has {0} bytes, at most {TABLE_BYTES_MAX} are read")]
    TooLong(usize),
    /// More than [`ROWS_MAX`] rows.
    #[error("the table has more than {ROWS_MAX} rows")]
    TooManyRows,
    /// Not a table.
    #[error("the table cannot be read")]
    Csv(#[from] csv::Error),
    /// No line at all.
    #[error("the table is empty; its first line must name the columns")]
    Empty,
    /// A column that is not there.
    #[error(
        "the table has no column `{name}`{}; it has {known}",
        did_you_mean(.nearest.as_deref())
    )]
    NoColumn {
        /// Name asked for.
        name: String,
        /// Similar name that exists.
        nearest: Option<String>,
        /// Names that exist.
        known: String,
    },
    /// Two columns of one name.
    #[error("the table has more than one column `{0}`")]
    Ambiguous(String),
    /// No row has all its cells.
    #[error("all {0} rows miss a cell that the fit needs: it is empty or NaN")]
    AllMissing(usize),
    /// A cell that must be a positive number and is not.
    #[error("line {line}, column `{column}`: expected a positive number, found `{found}`")]
    Cell {
        /// Line in the file, from 1.
        line: u64,
        /// Column name.
        column: String,
        /// The cell.
        found: String,
    },
    /// A number pair whose quotient `C / (6 N)` does not exist.
    #[error("line {line}: C / (6 N) = {flops} / (6 * {parameters}) is out of range")]
    OutOfRange {
        /// Line in the file, from 1.
        line: u64,
        /// C.
        flops: f64,
        /// N.
        parameters: f64,
    },
    /// A condition without `=`.
    #[error("`{0}` is not a condition; write COLUMN=VALUE")]
    Filter(String),
    /// No row meets the conditions.
    #[error("no row has {filter}; the column has {known}")]
    NoMatch {
        /// The first condition that no row meets.
        filter: Filter,
        /// Values that its column has.
        known: String,
    },
    /// Each condition is met by some row, but no row meets all.
    #[error("no row meets all conditions at once")]
    NoMatchTogether,
    /// The table has a header and nothing else, or everything was dropped.
    #[error("no rows are left: {read} were read and {dropped} of highest loss dropped")]
    NoRows {
        /// Rows that met the conditions.
        read: usize,
        /// Rows to drop.
        dropped: usize,
    },
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map(|name| format!(" (did you mean `{name}`?)")).unwrap_or_default()
}

/// The points of a table, and what they mean.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// The points.
    pub points: Vec<Point>,
    /// Rows below the header.
    pub rows_read: usize,
    /// Rows that are left out because a needed cell is missing.
    pub rows_missing: usize,
    /// What N, D and C are, one sentence each.
    pub conventions: Vec<String>,
}

/// What `brine fit --output json` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TableFit {
    /// The fits.
    #[serde(flatten)]
    pub analysis: Analysis,
    /// Rows below the header.
    pub rows_read: usize,
    /// Resamples asked for.
    pub resamples: u32,
    /// What N, D and C are, one sentence each.
    pub conventions: Vec<String>,
}

/// Reads and fits a table. `flops_per_product` of `options` is set to 6, the table's convention.
///
/// # Errors
/// [`TableError`] names the column or the line that is wrong.
pub fn fit_table(
    text: &str,
    table: &TableOptions,
    options: &Options,
) -> Result<TableFit, TableError> {
    let Table { points, rows_read, rows_missing, conventions } = read(text, table)?;
    let options = Options { flops_per_product: FLOPS_PER_PRODUCT, ..options.clone() };
    let mut analysis = analyse(&points, &options);
    if table.budget.is_none() {
        let note = "no Approach 2: it needs a column of nominal budgets (--budget COLUMN)";
        analysis.notes.push(note.to_owned());
    }
    if rows_missing > 0 {
        let note =
            format!("{rows_missing} rows left out: a cell that the fit needs is empty or NaN");
        analysis.notes.push(note);
    }
    Ok(TableFit { analysis, rows_read, resamples: options.resamples, conventions })
}

/// Reads the points of a table. Commas, tabs or semicolons separate the cells, whichever the
/// first line has.
///
/// # Errors
/// [`TableError`] names the column or the line that is wrong.
pub fn read(text: &str, options: &TableOptions) -> Result<Table, TableError> {
    if text.len() > TABLE_BYTES_MAX {
        return Err(TableError::TooLong(text.len()));
    }
    let text = text.trim_start_matches('\u{feff}');
    if text.trim().is_empty() {
        return Err(TableError::Empty);
    }
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .delimiter(delimiter(text))
        .from_reader(text.as_bytes());
    let header = Header(reader.headers()?.clone());
    let columns = Columns::find(&header, options)?;
    let (mut rows_read, mut rows_missing) = (0, 0);
    let mut points = Vec::new();
    let mut matches = Matches::new(&options.filters, &columns.filters);
    for record in reader.records() {
        let record = record?;
        rows_read += 1;
        if rows_read > ROWS_MAX {
            return Err(TableError::TooManyRows);
        }
        if !matches.accepts(&record) {
            continue;
        }
        if columns.misses_a_cell(&record) {
            rows_missing += 1;
        } else {
            points.push(columns.point(&header, &record)?);
        }
    }
    if points.is_empty() && rows_missing > 0 {
        return Err(TableError::AllMissing(rows_missing));
    }
    if points.is_empty() && rows_read > 0 {
        return Err(matches.error());
    }
    let read = points.len();
    if options.drop_highest > 0 {
        points.sort_by(|left, right| left.loss.total_cmp(&right.loss));
        points.truncate(read.saturating_sub(options.drop_highest));
    }
    if points.is_empty() {
        return Err(TableError::NoRows { read, dropped: options.drop_highest });
    }
    Ok(Table { points, rows_read, rows_missing, conventions: conventions(options) })
}

fn delimiter(text: &str) -> u8 {
    let first = text.lines().next().unwrap_or_default();
    let other = [b'\t', b';'].into_iter().find(|byte| first.as_bytes().contains(byte));
    match other {
        Some(byte) if !first.contains(',') => byte,
        Some(_) | None => b',',
    }
}

fn conventions(options: &TableOptions) -> Vec<String> {
    let mut lines = vec![format!("N is the column `{}`", options.parameters)];
    lines.push(match &options.data {
        DataColumn::Flops(name) => format!("D = C / (6 N), C is the column `{name}`"),
        DataColumn::Tokens(name) => format!("D is the column `{name}`"),
    });
    lines.push(format!("L is the column `{}`", options.loss));
    if let Some(budget) = &options.budget {
        lines.push(format!("C of Approach 2 is the column `{budget}`"));
    }
    lines.push("C of the parametric prediction is 6 N D".to_owned());
    lines
}

struct Header(csv::StringRecord);

impl Header {
    fn place(&self, name: &str) -> Result<usize, TableError> {
        let mut places = self.0.iter().enumerate().filter(|(_, known)| *known == name);
        match (places.next(), places.next()) {
            (Some((place, _)), None) => Ok(place),
            (Some(_), Some(_)) => Err(TableError::Ambiguous(name.to_owned())),
            (None, _) => Err(TableError::NoColumn {
                name: name.to_owned(),
                nearest: self.nearest(name),
                known: listed(self.0.iter()),
            }),
        }
    }

    fn nearest(&self, name: &str) -> Option<String> {
        /// Below this similarity (1 is equal) a guess confuses more than it helps.
        const SIMILARITY_MIN: f64 = 0.75;
        let lower = name.to_lowercase();
        let scored =
            self.0.iter().map(|known| (strsim::jaro_winkler(&lower, &known.to_lowercase()), known));
        scored
            .filter(|(similarity, _)| *similarity >= SIMILARITY_MIN)
            .max_by(|left, right| left.0.total_cmp(&right.0))
            .map(|(_, known)| known.to_owned())
    }
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    if names.len() > LISTED_MAX {
        let more = names.len() - LISTED_MAX;
        names.truncate(LISTED_MAX);
        names.push(format!("{more} more"));
    }
    names.join(", ")
}

/// Places of the columns.
struct Columns {
    parameters: usize,
    data: usize,
    data_is_flops: bool,
    loss: usize,
    budget: Option<usize>,
    filters: Vec<usize>,
}

impl Columns {
    fn find(header: &Header, options: &TableOptions) -> Result<Self, TableError> {
        let filters = options.filters.iter().map(|filter| header.place(&filter.column));
        Ok(Self {
            parameters: header.place(&options.parameters)?,
            data: header.place(options.data.name())?,
            data_is_flops: matches!(options.data, DataColumn::Flops(_)),
            loss: header.place(&options.loss)?,
            budget: options.budget.as_ref().map(|name| header.place(name)).transpose()?,
            filters: filters.collect::<Result<_, _>>()?,
        })
    }

    /// Whether a cell that is needed is empty or says that there is no value, as tables do for a
    /// training that failed.
    fn misses_a_cell(&self, record: &csv::StringRecord) -> bool {
        let places = [Some(self.parameters), Some(self.data), Some(self.loss), self.budget];
        let is_missing = |place: usize| {
            let cell = record.get(place).unwrap_or_default();
            MISSING.iter().any(|word| cell.eq_ignore_ascii_case(word))
        };
        places.into_iter().flatten().any(is_missing)
    }

    fn point(&self, header: &Header, record: &csv::StringRecord) -> Result<Point, TableError> {
        let line = record.position().map_or(0, csv::Position::line);
        let positive = |place: usize| {
            let found = record.get(place).unwrap_or_default();
            match found.parse::<f64>() {
                Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
                Ok(_) | Err(_) => Err(TableError::Cell {
                    line,
                    column: header.0.get(place).unwrap_or_default().to_owned(),
                    found: found.chars().take(60).collect(),
                }),
            }
        };
        let parameters = positive(self.parameters)?;
        let data = positive(self.data)?;
        let tokens =
            if self.data_is_flops { data / (FLOPS_PER_PRODUCT * parameters) } else { data };
        if !tokens.is_normal() {
            return Err(TableError::OutOfRange { line, flops: data, parameters });
        }
        let budget = self.budget.map(positive).transpose()?;
        Ok(Point { parameters, tokens, loss: positive(self.loss)?, budget })
    }
}

/// Which conditions were met so far, and what their columns hold.
struct Matches<'a> {
    filters: Vec<(&'a Filter, usize)>,
    met: Vec<bool>,
    seen: Vec<std::collections::BTreeSet<String>>,
}

impl<'a> Matches<'a> {
    fn new(filters: &'a [Filter], places: &[usize]) -> Self {
        Self {
            filters: filters.iter().zip(places.iter().copied()).collect(),
            met: vec![false; filters.len()],
            seen: vec![std::collections::BTreeSet::new(); filters.len()],
        }
    }

    fn accepts(&mut self, record: &csv::StringRecord) -> bool {
        let mut all = true;
        for (index, (filter, place)) in self.filters.iter().enumerate() {
            let cell = record.get(*place).unwrap_or_default();
            let accepted = filter.accepts(cell);
            self.met[index] |= accepted;
            if self.seen[index].len() <= LISTED_MAX {
                self.seen[index].insert(cell.to_owned());
            }
            all &= accepted;
        }
        all
    }

    fn error(&self) -> TableError {
        match self.met.iter().position(|met| !met) {
            Some(index) => TableError::NoMatch {
                filter: self.filters[index].0.clone(),
                known: listed(self.seen[index].iter().map(String::as_str)),
            },
            None => TableError::NoMatchTogether,
        }
    }
}
