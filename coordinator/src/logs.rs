//! What trials print, in `<data folder>/logs/<trial>/<attempt>.log`; of a gang's member of rank
//! r > 0, in `<attempt>.<r>.log` beside it.

use proto::AttemptKey;
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

    fn path(&self, key: &AttemptKey) -> PathBuf {
        let attempt = key.attempt;
        let name = match key.rank {
            0 => format!("{attempt}.log"),
            rank => format!("{attempt}.{rank}.log"),
        };
        self.folder.join(key.trial.as_str()).join(name)
    }

    /// Puts `text` at its place in the attempt's log; a repeated piece changes nothing.
    pub(crate) fn write(&self, key: &AttemptKey, offset: u64, text: &[u8]) -> io::Result<()> {
        let room = LOG_BYTES_MAX.saturating_sub(offset).min(text.len() as u64) as usize;
        if room == 0 {
            return Ok(());
        }
        let path = self.path(key);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        file.write_all_at(&text[..room], offset)
    }

    /// Up to `most` bytes of the attempt's log from `offset`; empty at its end or without a log.
    pub(crate) fn read(&self, key: &AttemptKey, offset: u64, most: usize) -> io::Result<Vec<u8>> {
        let file = match File::open(self.path(key)) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{Attempt, TrialId};

    #[test]
    fn members_of_a_gang_have_files_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let logs = Logs::new(folder.path());
        let key = |rank| AttemptKey {
            trial: TrialId::new("00000000000000aa").unwrap(),
            attempt: Attempt(2),
            rank,
        };
        logs.write(&key(0), 0, b"first").unwrap();
        logs.write(&key(1), 0, b"second").unwrap();
        logs.write(&key(1), 6, b" too").unwrap();
        let read = |rank| String::from_utf8(logs.read(&key(rank), 0, 100).unwrap()).unwrap();
        assert_eq!([read(0), read(1), read(2)], ["first", "second too", ""]);
        // Where earlier versions put it.
        assert!(folder.path().join("00000000000000aa/2.log").is_file());
    }
}
