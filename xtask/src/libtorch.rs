//! Which libtorch the programs are built against: the one that the user has named, else ours.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::install;
use crate::terminal::say;

/// The version that `tch` in the root `Cargo.toml` is written for.
const VERSION: &str = "2.11";

/// Its C++ headers, needed to compile `torch-sys`.
const HEADER: &str = "include/torch/csrc/api/include/torch/torch.h";

/// The library that every program with tensors loads.
const LIBRARY: &str = "lib/libtorch_cpu.so";

/// A libtorch with headers and libraries.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Libtorch {
    path: PathBuf,
}

impl Libtorch {
    /// The value for `LIBTORCH`: an absolute path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the loader finds libtorch and the CUDA libraries beside it.
    pub(crate) fn library_folders(&self) -> [PathBuf; 2] {
        [self.path.join("lib"), self.cuda_folder()]
    }

    /// Whether the compiler of CUDA C is there.
    pub(crate) fn has_nvrtc(&self) -> bool {
        self.cuda_folder().join("libnvrtc.so.13").is_file()
    }

    /// Wheels put CUDA's libraries beside `torch`, both here and in a Python environment.
    fn cuda_folder(&self) -> PathBuf {
        self.path.with_file_name("nvidia").join("cu13/lib")
    }

    /// Checks that `path` can be built against and run with.
    fn at(path: PathBuf) -> Result<Self> {
        for file in [LIBRARY, HEADER] {
            if !path.join(file).is_file() {
                bail!("{} has no {file}, so it is not a libtorch for building", path.display());
            }
        }
        Ok(Self { path })
    }
}

/// Finds libtorch, and installs it into `.libtorch/` when the user has named none.
///
/// # Errors
/// When the user's is not usable, or the installation fails.
pub(crate) fn ready(root: &Path) -> Result<Libtorch> {
    let ours = root.join(".libtorch/torch");
    let Some(named) = named_by_user(env::var_os("LIBTORCH"), &ours) else {
        install::install(root)?;
        return Libtorch::at(ours);
    };
    let path = std::path::absolute(named).context("LIBTORCH is not a path")?;
    let libtorch =
        Libtorch::at(path).context("LIBTORCH is set; unset it to have libtorch downloaded")?;
    greet(&libtorch);
    Ok(libtorch)
}

/// `.cargo/config.toml` sets `LIBTORCH` to our own folder for every process that cargo starts, so
/// that value says nothing about the user's wish.
fn named_by_user(value: Option<OsString>, ours: &Path) -> Option<PathBuf> {
    let named = PathBuf::from(value.filter(|value| !value.is_empty())?);
    (named != ours).then_some(named)
}

fn greet(libtorch: &Libtorch) {
    let path = libtorch.path().display();
    match version(libtorch.path()) {
        Some(version) if is_expected(&version) => {
            say(&format!("libtorch {version} at {path} (from LIBTORCH)"));
        }
        Some(version) => say(&format!(
            "warning: libtorch {version} at {path} (from LIBTORCH); Brine is built for {VERSION}"
        )),
        None => say(&format!(
            "warning: libtorch at {path} (from LIBTORCH) does not say its version; \
             Brine is built for {VERSION}"
        )),
    }
}

fn is_expected(version: &str) -> bool {
    version.strip_prefix(VERSION).is_some_and(|rest| rest.starts_with('.'))
}

/// The archive of libtorch has its version in `build-version`, the wheel in `version.py`.
fn version(libtorch: &Path) -> Option<String> {
    if let Ok(text) = fs::read_to_string(libtorch.join("build-version")) {
        return Some(text.trim().to_owned());
    }
    let python = fs::read_to_string(libtorch.join("version.py")).ok()?;
    let assigned = python.lines().find_map(|line| line.strip_prefix("__version__ = "))?;
    Some(assigned.trim_matches(['\'', '"']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_libtorch_of_the_users_wins_and_our_own_default_is_not_taken_for_one() {
        let ours = Path::new("repository/.libtorch/torch");
        let check = |value: Option<&str>, expected: Option<&str>| {
            let named = named_by_user(value.map(OsString::from), ours);
            assert_eq!(named, expected.map(PathBuf::from), "LIBTORCH={value:?}");
        };
        check(None, None);
        check(Some(""), None);
        check(Some("repository/.libtorch/torch"), None);
        check(Some("elsewhere/libtorch"), Some("elsewhere/libtorch"));
    }

    #[test]
    fn the_version_is_read_from_the_archive_and_from_the_wheel() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(version(folder.path()), None);
        fs::write(folder.path().join("version.py"), "x = 1\n__version__ = '2.11.0+cu130'\n")
            .unwrap();
        assert_eq!(version(folder.path()).as_deref(), Some("2.11.0+cu130"));
        fs::write(folder.path().join("build-version"), "2.10.0+cpu\n").unwrap();
        assert_eq!(version(folder.path()).as_deref(), Some("2.10.0+cpu"));
    }

    #[test]
    fn only_the_same_minor_version_is_expected() {
        for (version, expected) in
            [("2.11.0+cu130", true), ("2.11.1", true), ("2.1.0", false), ("2.110.0", false)]
        {
            assert_eq!(is_expected(version), expected, "{version}");
        }
    }

    #[test]
    fn a_folder_without_libraries_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let error = Libtorch::at(folder.path().to_path_buf()).unwrap_err();
        assert!(error.to_string().contains("has no lib/libtorch_cpu.so"), "{error}");
    }
}
