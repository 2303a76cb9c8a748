//! All points of an experiment in one CSV file.

use super::file::{WholeFile, failed};
use crate::error::CliError;
use proto::wire::MetricPoint;
use std::path::{Path, PathBuf};

/// The columns. Values are written so that reading gives the same bits; undefined ones are `NaN`,
/// `inf` and `-inf`.
const COLUMNS: [&str; 5] = ["trial", "attempt", "metric", "step", "value"];

/// The cells of a point's row: the trial, the attempt that wrote it, the metric, the step, the
/// value.
fn cells(point: &MetricPoint) -> [String; 5] {
    let [attempt, step] = [u64::from(point.attempt), point.step].map(|n| n.to_string());
    [point.trial.clone(), attempt, point.metric.clone(), step, point.value.to_string()]
}

/// A file of these points as text.
///
/// # Errors
/// Never: memory takes every row.
pub(super) fn text<'a>(
    points: impl IntoIterator<Item = &'a MetricPoint>,
) -> Result<Vec<u8>, CliError> {
    let internal = |error: ::csv::Error| CliError::internal("cannot write CSV").because(error);
    let mut rows = ::csv::Writer::from_writer(Vec::new());
    rows.write_record(COLUMNS).map_err(internal)?;
    for point in points {
        rows.write_record(cells(point)).map_err(internal)?;
    }
    rows.into_inner()
        .map_err(|error| CliError::internal("cannot write CSV").because(error.to_string()))
}

/// The file under construction.
pub(super) struct File {
    rows: ::csv::Writer<WholeFile>,
    path: PathBuf,
}

impl File {
    /// Begins the file with the names of its columns.
    ///
    /// # Errors
    /// The folder takes no file.
    pub(super) fn create(path: &Path) -> Result<Self, CliError> {
        let rows = ::csv::Writer::from_writer(WholeFile::create(path)?);
        let mut file = Self { rows, path: path.to_owned() };
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

    fn row<T: AsRef<[u8]>>(&mut self, cells: [T; 5]) -> Result<(), CliError> {
        self.rows.write_record(cells).map_err(|error| failed(&self.path, error.into()))
    }

    /// Puts the file in its place; the answer is its path.
    ///
    /// # Errors
    /// The disk is full or failed.
    pub(super) fn finish(self) -> Result<PathBuf, CliError> {
        let Self { rows, path } = self;
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
        let mut file = File::create(&path).unwrap();
        let points = [point("loss", 3, 0.1), point("a,\"b\"", 4, f64::NAN)];
        points.iter().for_each(|point| file.point(point).unwrap());
        assert!(!path.exists(), "a part of a file is not there yet");
        assert_eq!(file.finish().unwrap(), path);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(super::text(&points).unwrap(), text.as_bytes());
        assert_eq!(
            text,
            "trial,attempt,metric,step,value\n\
             00000000000000aa,1,loss,3,0.1\n\
             00000000000000aa,1,\"a,\"\"b\"\"\",4,NaN\n"
        );
    }
}
