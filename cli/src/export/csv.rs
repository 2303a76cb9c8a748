//! All points of an experiment in one CSV file.

use super::file::{WholeFile, failed};
use crate::error::CliError;
use proto::wire::MetricPoint;
use std::path::{Path, PathBuf};

/// The columns; the rank is there for gangs only. Values are written so that
/// reading gives the same bits; undefined ones are `NaN`,
/// `inf` and `-inf`.
const COLUMNS: [&str; 6] = ["trial", "attempt", "metric", "step", "value", "rank"];

/// The first cells of a row, all of them for a gang.
fn row<T>(cells: [T; 6], is_gang: bool) -> impl Iterator<Item = T> {
    cells.into_iter().take(if is_gang { 6 } else { 5 })
}

/// The cells of a point's row.
fn cells(point: &MetricPoint) -> [String; 6] {
    let [attempt, step, rank] =
        [u64::from(point.attempt), point.step, u64::from(point.rank)].map(|n| n.to_string());
    [point.trial.clone(), attempt, point.metric.clone(), step, point.value.to_string(), rank]
}

/// A file of these points as text.
///
/// # Errors
/// Never: memory takes every row.
pub(super) fn text<'a>(
    points: impl IntoIterator<Item = &'a MetricPoint>,
    is_gang: bool,
) -> Result<Vec<u8>, CliError> {
    let internal = |error: ::csv::Error| CliError::internal("cannot write CSV").because(error);
    let mut rows = ::csv::Writer::from_writer(Vec::new());
    rows.write_record(row(COLUMNS, is_gang)).map_err(internal)?;
    for point in points {
        rows.write_record(row(cells(point), is_gang)).map_err(internal)?;
    }
    rows.into_inner()
        .map_err(|error| CliError::internal("cannot write CSV").because(error.to_string()))
}

/// The file under construction.
pub(super) struct File {
    rows: ::csv::Writer<WholeFile>,
    path: PathBuf,
    is_gang: bool,
}

impl File {
    /// Begins the file with the names of its columns.
    ///
    /// # Errors
    /// The folder takes no file.
    pub(super) fn create(path: &Path, is_gang: bool) -> Result<Self, CliError> {
        let rows = ::csv::Writer::from_writer(WholeFile::create(path)?);
        let mut file = Self { rows, path: path.to_owned(), is_gang };
        file.row(COLUMNS)?;
        Ok(file)
    }

    /// Adds a point.
    ///
    /// # Errors
    /// The disk is full or failed.
    pub(super) fn point(&mut self, point: &MetricPoint) -> Result<(), CliError> {
        self.row(cells(point))
    }

    fn row<T: AsRef<[u8]>>(&mut self, cells: [T; 6]) -> Result<(), CliError> {
        self.rows
            .write_record(row(cells, self.is_gang))
            .map_err(|error| failed(&self.path, error.into()))
    }

    /// Puts the file in its place; the answer is its path.
    ///
    /// # Errors
    /// The disk is full or failed.
    pub(super) fn finish(self) -> Result<PathBuf, CliError> {
        let Self { rows, path, .. } = self;
        let file = rows.into_inner().map_err(|error| failed(&path, error.into_error()))?;
        file.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::point;
    use super::*;

    #[test]
    fn every_point_is_a_row_that_can_be_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        let mut file = File::create(&path, false).unwrap();
        let points = [point("loss", 3, 0.1), point("a,\"b\"", 4, f64::NAN)];
        points.iter().for_each(|point| file.point(point).unwrap());
        assert!(!path.exists(), "a part of a file is not there yet");
        assert_eq!(file.finish().unwrap(), path);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(super::text(&points, false).unwrap(), text.as_bytes());
        assert_eq!(
            text,
            "trial,attempt,metric,step,value\n\
             00000000000000aa,1,loss,3,0.1\n\
             00000000000000aa,1,\"a,\"\"b\"\"\",4,NaN\n"
        );
    }
    #[test]
    fn a_gang_has_a_column_of_ranks() {
        let point = MetricPoint { rank: 3, ..point("loss", 3, 0.5) };
        let text = String::from_utf8(super::text([&point], true).unwrap()).unwrap();
        assert!(text.starts_with("trial,attempt,metric,step,value,rank\n"), "{text}");
        assert!(text.ends_with(",loss,3,0.5,3\n"), "{text}");
    }
}
