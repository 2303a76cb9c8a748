//! The files that `brine` itself keeps in a data folder. The coordinator's journal and blobs lie in
//! the same folder, and only the coordinator touches those.
//!
//! ```text
//! token             shared secret, mode 0600; made once, so that agents can come back
//! address           URL of the coordinator that serves this folder, while it does
//! agents/local-0/   data folder of the first local agent, with its log
//! reports/NAME/     the report of experiment NAME
//! ```

use crate::error::CliError;
use proto::ExperimentId;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

/// Longest token and address file; both are one short line.
const LINE_BYTES_MAX: u64 = 1_024;
/// Random bytes of a token: as many as an AES-256 key.
const TOKEN_BYTES: usize = 32;

/// A data folder; it may not exist yet.
#[derive(Debug, Clone)]
pub(crate) struct DataDir(PathBuf);

impl DataDir {
    /// The folder at `path`.
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Makes it if it is missing.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub(crate) fn create(&self) -> Result<(), CliError> {
        let what = || format!("create the data folder {}", self.0.display());
        fs::create_dir_all(&self.0).map_err(|error| CliError::file(what(), error))
    }

    /// The token's file.
    pub(crate) fn token_path(&self) -> PathBuf {
        self.0.join("token")
    }

    /// The address's file.
    pub(crate) fn address_path(&self) -> PathBuf {
        self.0.join("address")
    }

    /// Folder of the local agent with this name.
    pub(crate) fn agent_path(&self, agent: &str) -> PathBuf {
        self.0.join("agents").join(agent)
    }

    /// Folder of an experiment's report.
    pub(crate) fn report_path(&self, experiment: &ExperimentId) -> PathBuf {
        self.0.join("reports").join(experiment.as_str())
    }

    /// Whether a coordinator ever served it.
    pub(crate) fn is_used(&self) -> bool {
        self.0.join("journal").exists()
    }

    /// The folder's token; a new random one in a file of mode 0600 when there is none.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub(crate) fn token_or_new(&self) -> Result<String, CliError> {
        let path = self.token_path();
        let bytes: [u8; TOKEN_BYTES] = rand::random();
        let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let what = || format!("write the token file {}", path.display());
        // A named temporary file has mode 0600 from the start; two starters cannot both win.
        let written = tempfile::NamedTempFile::new_in(&self.0).and_then(|mut file| {
            file.write_all(token.as_bytes())?;
            file.as_file().sync_all()?;
            Ok(file)
        });
        let file = written.map_err(|error| CliError::file(what(), error))?;
        match file.persist_noclobber(&path) {
            Ok(_file) => Ok(token),
            Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => {
                read_line(&path, "token")
            }
            Err(error) => Err(CliError::file(what(), error.error)),
        }
    }

    /// The URL of the coordinator that serves the folder, as it was written last. The coordinator
    /// may be gone.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub(crate) fn address(&self) -> Result<Option<String>, CliError> {
        let path = self.address_path();
        if !path.exists() {
            return Ok(None);
        }
        read_line(&path, "address").map(Some)
    }

    /// Tells other commands where the coordinator listens; forgotten when the answer is dropped.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn publish_address(&self, url: &str) -> Result<Published, CliError> {
        let path = self.address_path();
        write_whole(&path, url.as_bytes())?;
        Ok(Published(path))
    }
}

/// An address that other commands find. See [`DataDir::publish_address`].
pub(crate) struct Published(PathBuf);

impl Drop for Published {
    fn drop(&mut self) {
        // A stale address only costs the next command one refused connection.
        let _stale = fs::remove_file(&self.0);
    }
}

/// Writes a file so that readers see the old content or the new one, never a part.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn write_whole(path: &Path, content: &[u8]) -> Result<(), CliError> {
    let write = || -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::Builder::new()
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(folder)?;
        file.write_all(content)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(|error| CliError::file(format!("write {}", path.display()), error))
}

/// The one line of a small file, without the white space around it.
///
/// # Errors
/// The file cannot be read, or holds something else.
pub(crate) fn read_line(path: &Path, what: &str) -> Result<String, CliError> {
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(LINE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| {
            CliError::file(format!("read the {what} file {}", path.display()), error)
        })?;
    let text = String::from_utf8(bytes).unwrap_or_default();
    let line = text.trim();
    let is_line = !line.is_empty()
        && text.len() as u64 <= LINE_BYTES_MAX
        && line.chars().all(|c| c.is_ascii_graphic());
    if is_line {
        return Ok(line.to_owned());
    }
    Err(CliError::user(format!(
        "the {what} file {} does not hold one line of at most {LINE_BYTES_MAX} visible ASCII characters",
        path.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_token_is_secret_and_stays_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = DataDir::new(folder.path());
        let token = data_dir.token_or_new().unwrap();
        assert_eq!(token.len(), 2 * TOKEN_BYTES);
        assert_eq!(data_dir.token_or_new().unwrap(), token);
        let mode = fs::metadata(data_dir.token_path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // The temporary file of the second call is gone.
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_address_is_known_only_while_it_is_published() {
        let folder = tempfile::tempdir().unwrap();
        let data_dir = DataDir::new(folder.path());
        assert_eq!(data_dir.address().unwrap(), None);
        let published = data_dir.publish_address("http://127.0.0.1:1").unwrap();
        assert_eq!(data_dir.address().unwrap().unwrap(), "http://127.0.0.1:1");
        drop(published);
        assert_eq!(data_dir.address().unwrap(), None);
    }

    #[test]
    fn a_file_that_is_not_one_line_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        for content in [&b""[..], b"\n", b"a\nb", b"a\xffb", &[b'x'; 2_000]] {
            fs::write(&path, content).unwrap();
            let error = read_line(&path, "token").unwrap_err();
            assert!(error.to_string().contains("one line"), "{error}");
        }
    }
}
