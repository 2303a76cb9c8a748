//! What trials print, in `<data folder>/logs/<trial>/<attempt>.log`.

use proto::{Attempt, TrialId};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Bytes of log that one attempt may leave here; the agent keeps the rest of a longer one.
pub(crate) const LOG_BYTES_MAX: u64 = 4 << 20;

/// The folder of logs.
#[derive(Debug, Clone)]
pub(crate) struct Logs {
    folder: PathBuf,
}

impl Logs {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    fn path(&self, trial: &TrialId, attempt: Attempt) -> PathBuf {
        self.folder.join(trial.as_str()).join(format!("{attempt}.log"))
    }

    /// Puts `text` at its place in the attempt's log; a repeated piece changes nothing.
    pub(crate) fn write(
        &self,
        trial: &TrialId,
        attempt: Attempt,
        offset: u64,
        text: &[u8],
    ) -> io::Result<()> {
        let room = LOG_BYTES_MAX.saturating_sub(offset).min(text.len() as u64) as usize;
        if room == 0 {
            return Ok(());
        }
        let path = self.path(trial, attempt);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        file.write_all_at(&text[..room], offset)
    }

    /// Up to `most` bytes of the attempt's log from `offset`; empty at its end or without a log.
    pub(crate) fn read(
        &self,
        trial: &TrialId,
        attempt: Attempt,
        offset: u64,
        most: usize,
    ) -> io::Result<Vec<u8>> {
        let file = match File::open(self.path(trial, attempt)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut text = vec![0; most];
        let read = file.read_at(&mut text, offset)?;
        text.truncate(read);
        Ok(text)
    }
}
