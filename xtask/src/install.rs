//! Installs libtorch into `.libtorch/` from the wheels that `xtask/libtorch.txt` pins by hash.
//!
//! The stamp, a copy of that list, is written last: without the right stamp there is nothing
//! there, whatever an interrupted or older installation has left behind.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::terminal::say;
use crate::workspace::{run, succeeds};

/// Wheels of 0.6 GB, in pip's temporary folder, its cache and ours, and 1.3 GB unpacked.
const FREE_BYTES_MIN: u64 = 3_500 << 20;

/// The pinned hashes are of the wheels for this Python and these platforms. pip is told so because
/// it would otherwise look for wheels for the Python that it runs in.
const WHEEL_TAGS: [&str; 14] = [
    "--only-binary=:all:",
    "--python-version=3.11",
    "--implementation=cp",
    "--abi=cp311",
    "--platform=manylinux_2_28_x86_64",
    "--platform=manylinux_2_27_x86_64",
    "--platform=manylinux_2_25_x86_64",
    "--platform=manylinux_2_24_x86_64",
    "--platform=manylinux_2_17_x86_64",
    "--platform=manylinux_2_12_x86_64",
    "--platform=manylinux_2_5_x86_64",
    "--platform=manylinux2014_x86_64",
    "--platform=manylinux2010_x86_64",
    "--platform=manylinux1_x86_64",
];

/// Makes `.libtorch/` hold exactly what `xtask/libtorch.txt` asks for. Does nothing when it does.
///
/// # Errors
/// When the machine is of another kind than the wheels, a tool is missing, the disk is too full,
/// or the download fails. Running it again starts over; wheels already downloaded are kept.
pub(crate) fn install(root: &Path) -> Result<()> {
    let pins_file = root.join("xtask/libtorch.txt");
    let pins = fs::read_to_string(&pins_file)
        .with_context(|| format!("cannot read {}", pins_file.display()))?;
    let home = Home { path: root.join(".libtorch") };
    if home.is_complete(&pins) {
        return Ok(());
    }
    require_platform()?;
    require_python()?;
    fs::create_dir_all(&home.path)
        .with_context(|| format!("cannot create {}", home.path.display()))?;
    let _lock = home.lock()?;
    if home.is_complete(&pins) {
        return Ok(());
    }
    require_space(&home.path)?;
    say("libtorch: downloading 0.6 GB into .libtorch/ (once; set LIBTORCH to use your own)");
    let partial = home.partial(&pins)?;
    let wheels = download(&pins_file, &partial)?;
    let unpacked = unpack(root, &wheels, &partial)?;
    home.put(&unpacked, &pins).context("cannot move libtorch into place")?;
    remove_if_there(&partial)
}

/// The folder `.libtorch/`.
struct Home {
    path: PathBuf,
}

impl Home {
    fn stamp(&self) -> PathBuf {
        self.path.join("stamp")
    }

    fn is_complete(&self, pins: &str) -> bool {
        has_content(&self.stamp(), pins) && self.path.join("torch/lib/libtorch_cpu.so").is_file()
    }

    /// Keeps a second `cargo xtask` out of the folder for as long as the file lives.
    fn lock(&self) -> Result<File> {
        let path = self.path.join("lock");
        let file =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                say("libtorch: waiting for another cargo xtask to finish its download");
                file.lock().context("cannot lock .libtorch/lock")?;
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).context("cannot lock .libtorch/lock");
            }
        }
        Ok(file)
    }

    /// The folder for half-done work: what an interrupted installation of the same wheels has
    /// left there, else empty.
    fn partial(&self, pins: &str) -> Result<PathBuf> {
        let partial = self.path.join("partial");
        let stamp = partial.join("stamp");
        if !has_content(&stamp, pins) {
            remove_if_there(&partial)?;
            fs::create_dir_all(&partial).context("cannot create .libtorch/partial")?;
            fs::write(&stamp, pins).context("cannot write .libtorch/partial/stamp")?;
        }
        Ok(partial)
    }

    /// Replaces the installed folders by those in `unpacked`; the stamp goes first and comes last.
    fn put(&self, unpacked: &Path, pins: &str) -> Result<()> {
        if self.stamp().exists() {
            fs::remove_file(self.stamp())?;
        }
        for entry in fs::read_dir(unpacked)? {
            let entry = entry?;
            let destination = self.path.join(entry.file_name());
            remove_if_there(&destination)?;
            fs::rename(entry.path(), destination)?;
        }
        fs::write(self.stamp(), pins)?;
        Ok(())
    }
}

/// Has pip download the pinned wheels into `partial`; returns their paths. pip compares the
/// hashes, also of wheels that are there already.
fn download(pins_file: &Path, partial: &Path) -> Result<Vec<PathBuf>> {
    let folder = partial.join("wheels");
    // pip's own temporary files would otherwise fill a /tmp that is held in memory.
    let temporary = partial.join("temporary");
    remove_if_there(&temporary)?;
    fs::create_dir_all(&temporary).context("cannot create .libtorch/partial/temporary")?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--no-deps", "--require-hashes", "--no-input"])
        .arg("--disable-pip-version-check")
        .args(WHEEL_TAGS)
        .arg("--dest")
        .arg(&folder)
        .arg("--requirement")
        .arg(pins_file)
        .env("TMPDIR", &temporary)
        .stdin(Stdio::null())
        .stdout(standard_error()?);
    let status = run(&mut pip)?;
    ensure!(
        status.success(),
        "pip could not download libtorch ({status}); its message is above\n\
         hint: check the network and pip's settings (python3 -m pip config list) and run this \
         again, or set LIBTORCH to a libtorch 2.11 that you have"
    );
    wheels_in(&folder)
}

fn wheels_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>();
    let mut wheels: Vec<PathBuf> = entries
        .with_context(|| format!("cannot read {}", folder.display()))?
        .iter()
        .map(fs::DirEntry::path)
        .filter(|path| path.extension() == Some(OsStr::new("whl")))
        .collect();
    wheels.sort();
    Ok(wheels)
}

/// Unpacks the wheels into a fresh folder inside `partial`, which is returned.
fn unpack(root: &Path, wheels: &[PathBuf], partial: &Path) -> Result<PathBuf> {
    let folder = partial.join("unpacked");
    remove_if_there(&folder)?;
    fs::create_dir_all(&folder).context("cannot create .libtorch/partial/unpacked")?;
    let mut python = Command::new("python3");
    python.arg(root.join("xtask/unpack.py")).arg(&folder).args(wheels).stdin(Stdio::null());
    let status = run(&mut python)?;
    ensure!(status.success(), "cannot unpack libtorch ({status}); the reason is above");
    Ok(folder)
}

fn require_platform() -> Result<()> {
    if cfg!(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")) {
        return Ok(());
    }
    bail!(
        "libtorch can be downloaded for Linux with glibc on x86-64 only\n\
         hint: set LIBTORCH to a libtorch 2.11 for this machine"
    );
}

fn require_python() -> Result<()> {
    for arguments in [&["--version"][..], &["-m", "pip", "--version"]] {
        if !succeeds(Command::new("python3").args(arguments)) {
            bail!(
                "`python3 {}` does not work; pip is needed once, to download libtorch\n\
                 hint: apt-get install python3-pip, or set LIBTORCH to a libtorch 2.11",
                arguments.join(" ")
            );
        }
    }
    Ok(())
}

fn require_space(folder: &Path) -> Result<()> {
    let disk = rustix::fs::statvfs(folder).context("cannot ask for the free disk space")?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    ensure!(
        free >= FREE_BYTES_MIN,
        "{} has {} MiB free; downloading and unpacking libtorch needs {} MiB\n\
         hint: make room there, or set LIBTORCH to a libtorch 2.11 on another disk",
        folder.display(),
        free >> 20,
        FREE_BYTES_MIN >> 20
    );
    Ok(())
}

/// pip draws its progress on standard output, which belongs to the data of `brine`.
fn standard_error() -> Result<Stdio> {
    let copy = io::stderr().as_fd().try_clone_to_owned();
    Ok(Stdio::from(copy.context("cannot copy standard error")?))
}

fn has_content(file: &Path, text: &str) -> bool {
    fs::read_to_string(file).is_ok_and(|content| content == text)
}

fn remove_if_there(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PINS: &str = "torch==1 --hash=sha256:00\n";

    fn home() -> (tempfile::TempDir, Home) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_path_buf();
        (folder, Home { path })
    }

    fn put_library(folder: &Path, content: &str) {
        fs::create_dir_all(folder.join("torch/lib")).unwrap();
        fs::write(folder.join("torch/lib/libtorch_cpu.so"), content).unwrap();
    }

    #[test]
    fn libraries_without_the_right_stamp_are_not_a_complete_installation() {
        let (_folder, home) = home();
        put_library(&home.path, "");
        assert!(!home.is_complete(PINS), "no stamp");
        fs::write(home.stamp(), "torch==0 --hash=sha256:ff\n").unwrap();
        assert!(!home.is_complete(PINS), "the stamp of other wheels");
        fs::write(home.stamp(), PINS).unwrap();
        assert!(home.is_complete(PINS));
        fs::remove_dir_all(home.path.join("torch")).unwrap();
        assert!(!home.is_complete(PINS), "a stamp without libraries");
    }

    #[test]
    fn an_installation_replaces_an_older_one_whole() {
        let (_folder, home) = home();
        put_library(&home.path, "old");
        fs::write(home.path.join("torch/lib/removed.so"), "").unwrap();
        let unpacked = home.path.join("partial/unpacked");
        put_library(&unpacked, "new");
        home.put(&unpacked, PINS).unwrap();
        assert!(home.is_complete(PINS));
        let library = home.path.join("torch/lib/libtorch_cpu.so");
        assert_eq!(fs::read_to_string(library).unwrap(), "new");
        assert!(!home.path.join("torch/lib/removed.so").exists());
    }

    #[test]
    fn half_done_work_is_kept_for_the_same_wheels_and_dropped_for_others() {
        let (_folder, home) = home();
        let wheel = home.partial(PINS).unwrap().join("a.whl");
        fs::write(&wheel, "").unwrap();
        home.partial(PINS).unwrap();
        assert!(wheel.exists());
        home.partial("torch==2 --hash=sha256:11\n").unwrap();
        assert!(!wheel.exists());
    }
}
