//! Compiled kernels on disk, so that NVRTC is needed once per source, GPU generation and driver.
//!
//! A file's name is a hash of all that its content depends on; its content begins with its own
//! hash, so one that is torn or damaged is as good as none. Deleting the folder is always safe.

use crate::KernelError;
use crate::compile::{Arch, Cubin, OPTIONS};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process;

/// Files that stay in the folder. All our kernels are some twenty; the rest are those of earlier
/// versions and other GPUs.
const FILES_MAX: usize = 256;
/// Largest file that is read. Ours have some ten thousand bytes.
const BYTES_MAX: u64 = 16 << 20;
const EXTENSION: &str = "cubin";

/// A folder of compiled kernels.
#[derive(Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
}

/// What machine code depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key<'a> {
    pub(crate) source: &'a str,
    pub(crate) options: &'a [&'a str],
    pub(crate) arch: Arch,
    /// As the driver says it.
    pub(crate) driver_version: i32,
}

impl Key<'_> {
    fn file_name(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        // With its length before it, no part can be taken for the end of another.
        let mut part = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        part(self.source.as_bytes());
        part(&(self.options.len() as u64).to_le_bytes());
        self.options.iter().chain(&OPTIONS).for_each(|option| part(option.as_bytes()));
        part(&self.arch.major.to_le_bytes());
        part(&self.arch.minor.to_le_bytes());
        part(&self.driver_version.to_le_bytes());
        format!("{}.{EXTENSION}", hasher.finalize().to_hex())
    }
}

impl Cache {
    pub(crate) fn at(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf() }
    }

    /// The code for `key`, unless it is not there, or is damaged.
    pub(crate) fn read(&self, key: &Key<'_>) -> Option<Cubin> {
        let file = fs::File::open(self.folder.join(key.file_name())).ok()?;
        let mut bytes = Vec::new();
        file.take(BYTES_MAX).read_to_end(&mut bytes).ok()?;
        let (hash, code) = bytes.split_at_checked(blake3::OUT_LEN)?;
        (hash == blake3::hash(code).as_bytes()).then(|| Cubin::from_bytes(code.to_vec()))
    }

    /// Keeps `code` for `key`. Several processes may do so at once.
    ///
    /// # Errors
    /// The folder can not be made or written.
    pub(crate) fn write(&self, key: &Key<'_>, code: &Cubin) -> Result<(), KernelError> {
        let path = self.folder.join(key.file_name());
        let own = path.with_extension(format!("{}.new", process::id()));
        let mut bytes = blake3::hash(code.as_bytes()).as_bytes().to_vec();
        bytes.extend_from_slice(code.as_bytes());
        let written = fs::create_dir_all(&self.folder)
            .and_then(|()| fs::write(&own, bytes))
            .and_then(|()| fs::rename(&own, &path))
            .and_then(|()| self.prune());
        written.map_err(|error| KernelError::Cache { path, error })
    }

    /// Deletes the oldest files beyond the limit, unfinished ones too.
    fn prune(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            // Another process may have deleted it since.
            if let Ok(modified) = entry.metadata().and_then(|metadata| metadata.modified()) {
                files.push((modified, entry.path()));
            }
        }
        files.sort();
        let surplus = files.len().saturating_sub(FILES_MAX);
        for (_, path) in files.into_iter().take(surplus) {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key<'static> = Key {
        source: "source",
        options: &["-DA"],
        arch: Arch { major: 9, minor: 0 },
        driver_version: 13_000,
    };

    #[test]
    fn what_was_kept_is_found_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(&folder.path().join("new"));
        assert_eq!(cache.read(&KEY), None);
        let code = Cubin::from_bytes(vec![1, 2, 3]);
        cache.write(&KEY, &code).unwrap();
        assert_eq!(cache.read(&KEY), Some(code));
        for other in [
            Key { source: "Source", ..KEY },
            Key { options: &["-DB"], ..KEY },
            Key { options: &[], ..KEY },
            Key { source: "source-DA", options: &[], ..KEY },
            Key { arch: Arch { major: 8, minor: 0 }, ..KEY },
            Key { arch: Arch { major: 9, minor: 1 }, ..KEY },
            Key { driver_version: 13_010, ..KEY },
        ] {
            assert_eq!(cache.read(&other), None, "{other:?}");
        }
    }

    #[test]
    fn a_damaged_file_is_as_good_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        cache.write(&KEY, &Cubin::from_bytes(vec![7; 100])).unwrap();
        let path = folder.path().join(KEY.file_name());
        let whole = fs::read(&path).unwrap();
        for length in [0, 10, 32, whole.len() - 1] {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(cache.read(&KEY), None, "{length} bytes");
        }
        for place in [0, 40] {
            let mut damaged = whole.clone();
            damaged[place] ^= 1;
            fs::write(&path, damaged).unwrap();
            assert_eq!(cache.read(&KEY), None, "byte {place}");
        }
    }

    #[test]
    fn the_oldest_files_give_way() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        for driver_version in 0..FILES_MAX as i32 + 5 {
            cache.write(&Key { driver_version, ..KEY }, &Cubin::from_bytes(vec![1])).unwrap();
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), FILES_MAX);
    }

    #[test]
    fn a_folder_that_can_not_be_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Cache::at(&file).write(&KEY, &Cubin::from_bytes(vec![1])).unwrap_err();
        assert!(error.to_string().starts_with("cannot keep a compiled kernel at "), "{error}");
    }
}
