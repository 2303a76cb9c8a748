//! Files known by their content, in `<data folder>/blobs/<hash>`.

use proto::BlobId;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Largest blob in bytes: more than any text that fits on one disk's share of a study.
pub const BLOB_BYTES_MAX: u64 = 1 << 40;

/// A folder of blobs.
#[derive(Debug, Clone)]
pub struct Blobs {
    folder: PathBuf,
}

/// Why a blob was not stored.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The content has another hash than was said.
    #[error("the content's hash is {found}, not {expected}; it was changed on the way")]
    Hash {
        /// What was said.
        expected: BlobId,
        /// What it is.
        found: BlobId,
    },
    /// The content is longer than [`BLOB_BYTES_MAX`].
    #[error("a file has at most {BLOB_BYTES_MAX} bytes")]
    TooLarge,
    /// The disk failed.
    #[error("cannot store a file in {}: {source}", .folder.display())]
    Io {
        /// Where.
        folder: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// A blob on its way to the disk.
pub struct Writing {
    folder: PathBuf,
    file: NamedTempFile,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl Blobs {
    /// The blobs in `folder`, which is created when it is missing.
    ///
    /// # Errors
    /// The folder cannot be created.
    pub fn open(folder: &Path) -> Result<Self, BlobError> {
        fs::create_dir_all(folder)
            .map_err(|source| BlobError::Io { folder: folder.to_owned(), source })?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// Where the blob is, or would be.
    pub fn path(&self, blob: &BlobId) -> PathBuf {
        self.folder.join(blob.as_str())
    }

    /// Whether it is there.
    pub fn contains(&self, blob: &BlobId) -> bool {
        self.path(blob).is_file()
    }

    /// Begins a new blob.
    ///
    /// # Errors
    /// No temporary file can be created.
    pub fn create(&self) -> Result<Writing, BlobError> {
        let file = NamedTempFile::new_in(&self.folder)
            .map_err(|source| BlobError::Io { folder: self.folder.clone(), source })?;
        let hasher = blake3::Hasher::new();
        Ok(Writing { folder: self.folder.clone(), file, hasher, bytes: 0 })
    }
}

impl Writing {
    /// Appends.
    ///
    /// # Errors
    /// The disk failed, or the blob grows too large.
    pub fn write(&mut self, content: &[u8]) -> Result<(), BlobError> {
        self.bytes += content.len() as u64;
        if self.bytes > BLOB_BYTES_MAX {
            return Err(BlobError::TooLarge);
        }
        self.hasher.update(content);
        self.file.write_all(content).map_err(|source| self.io(source))
    }

    /// Makes it durable under its hash, and checks that it is `expected` if that is known.
    /// Returns the id and the length in bytes.
    ///
    /// # Errors
    /// Another hash, or the disk failed; then nothing is kept.
    pub fn finish(self, expected: Option<&BlobId>) -> Result<(BlobId, u64), BlobError> {
        let found = BlobId::from_hash(self.hasher.finalize());
        if let Some(expected) = expected.filter(|expected| **expected != found) {
            return Err(BlobError::Hash { expected: expected.clone(), found });
        }
        self.file.as_file().sync_all().map_err(|source| self.io(source))?;
        let (folder, bytes) = (self.folder, self.bytes);
        let io = |source| BlobError::Io { folder: folder.clone(), source };
        self.file.persist(folder.join(found.as_str())).map_err(|error| io(error.error))?;
        File::open(&folder).and_then(|handle| handle.sync_all()).map_err(io)?;
        Ok((found, bytes))
    }

    fn io(&self, source: std::io::Error) -> BlobError {
        BlobError::Io { folder: self.folder.clone(), source }
    }
}
