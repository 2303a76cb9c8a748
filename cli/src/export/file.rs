//! A long file that appears whole or not at all.

use crate::error::CliError;
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// A file under construction beside its place.
pub(super) struct WholeFile {
    beside: BufWriter<NamedTempFile>,
    path: PathBuf,
}

impl WholeFile {
    /// Begins the file that will be at `path`.
    ///
    /// # Errors
    /// The folder takes no file.
    pub(super) fn create(path: &Path) -> Result<Self, CliError> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let beside = tempfile::Builder::new()
            .permissions(std::fs::Permissions::from_mode(0o644))
            .tempfile_in(folder)
            .map_err(|error| failed(path, error))?;
        Ok(Self { beside: BufWriter::new(beside), path: path.to_owned() })
    }

    /// Ends it and puts it in its place, over an older one; the answer is its path.
    ///
    /// # Errors
    /// The disk is full or failed.
    pub(super) fn finish(self) -> Result<PathBuf, CliError> {
        let Self { beside, path } = self;
        let finish = || -> std::io::Result<()> {
            let beside = beside.into_inner().map_err(std::io::IntoInnerError::into_error)?;
            beside.as_file().sync_all()?;
            beside.persist(&path).map_err(|error| error.error)?;
            Ok(())
        };
        finish().map_err(|error| failed(&path, error))?;
        Ok(path)
    }

    /// Where it will be.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Write for WholeFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.beside.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.beside.flush()
    }
}

/// The error when the file at `path` cannot be written.
pub(super) fn failed(path: &Path, error: std::io::Error) -> CliError {
    CliError::file(format!("write {}", path.display()), error)
}
