//! Opens a sled database after whatever has happened to its machine.

use std::fs;
use std::io;
use std::path::Path;

/// Why a database cannot be opened. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// sled gave up on its files, as it does when something else has cut them.
    #[error("its pages cannot be read")]
    Unreadable,
    /// sled or the disk says why.
    #[error(transparent)]
    Sled(#[from] sled::Error),
}

/// Opens the database in `folder`, creating it when it is missing. `cache_bytes` is the size of its
/// page cache.
///
/// # Errors
/// [`OpenError`]: it is damaged, in use, or the disk fails.
pub fn open(folder: &Path, cache_bytes: u64) -> Result<sled::Db, OpenError> {
    remove_unfinished(folder).map_err(sled::Error::Io)?;
    let open = || sled::Config::new().path(folder).cache_capacity(cache_bytes).open();
    // sled 0.34 can panic while it reads a file that something else has cut.
    let opened = std::panic::catch_unwind(open).map_err(|_| OpenError::Unreadable)?;
    Ok(opened?)
}

/// sled 0.34 writes a summary of its log to `snap.N.generating` and renames it when it is whole. A
/// disk that is full, or a kill, leaves the unfinished file, and the next start takes it for the
/// newest summary, finds its checksum wrong and refuses the database for ever. The file was never
/// in use, and the log holds all that it would say.
fn remove_unfinished(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfinished_summary_keeps_nobody_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        open(&path, 1 << 20).unwrap().insert("a", "b").unwrap();
        let unfinished = path.join("snap.FFFFFFFFFFFFFFFF.generating");
        fs::write(&unfinished, [0; 4_096]).unwrap();
        // The day this works, `remove_unfinished` can go.
        sled::Config::new().path(&path).open().unwrap_err();
        let reopened = open(&path, 1 << 20).unwrap();
        assert_eq!(reopened.get("a").unwrap().unwrap(), "b");
    }
}
