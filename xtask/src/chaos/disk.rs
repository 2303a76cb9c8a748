//! Disks that can be full. Where this machine allows to mount one, each program has a small file
//! system of its own; elsewhere the kernel refuses its writes by a limit on the size of files.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::mount::MountFlags;
use rustix::process::{Pid, Resource, Rlimit};

/// Size of a small disk: what many cycles need, and soon filled.
const OPTIONS: &CStr = c"size=64m,mode=0700";
/// The file that fills a disk.
const BALLAST: &str = "ballast";
/// The ballast is written in pieces, first large and then small, until not even one byte fits.
const PIECES: [usize; 3] = [1 << 20, 4 << 10, 1];

/// How a disk is made full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Means {
    /// A tmpfs of its own, filled by a file.
    SmallDisk,
    /// No file may grow: `prlimit --fsize=0`.
    FileSizes,
}

/// The disk under the data folder of one program.
#[derive(Debug)]
pub(crate) struct Disk {
    /// Where it is.
    pub(crate) folder: PathBuf,
    means: Means,
    full: bool,
}

impl Disk {
    /// Makes the folder `path`, with a disk of its own where that is allowed.
    ///
    /// # Errors
    /// The folder cannot be made, or mounting fails for another reason than that it is forbidden.
    pub(crate) fn make(folder: PathBuf) -> Result<Self> {
        fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let mounted =
            rustix::mount::mount("brine-chaos", &folder, "tmpfs", MountFlags::NOSUID, OPTIONS);
        let means = match mounted {
            Ok(()) => Means::SmallDisk,
            Err(Errno::PERM | Errno::ACCESS | Errno::NODEV) => Means::FileSizes,
            Err(error) => {
                return Err(error).with_context(|| format!("cannot mount {}", folder.display()));
            }
        };
        Ok(Self { folder, means, full: false })
    }

    /// How it is made full.
    pub(crate) fn means(&self) -> Means {
        self.means
    }

    /// Whether it is full now.
    pub(crate) fn is_full(&self) -> bool {
        self.full
    }

    /// From now on it is full for the process `program`.
    ///
    /// # Errors
    /// The ballast cannot be written, or the limit not be set.
    pub(crate) fn fill(&mut self, program: Option<Pid>) -> Result<()> {
        self.full = true;
        match self.means {
            Means::SmallDisk => write_ballast(&self.folder.join(BALLAST))
                .with_context(|| format!("cannot fill {}", self.folder.display())),
            Means::FileSizes => self.apply_to(program),
        }
    }

    /// A program that starts while its disk is full finds it full.
    ///
    /// # Errors
    /// The limit cannot be set.
    pub(crate) fn apply_to(&self, program: Option<Pid>) -> Result<()> {
        match (self.full && self.means == Means::FileSizes, program) {
            (true, Some(pid)) => limit_files(pid, Some(0)),
            (true, None) | (false, _) => Ok(()),
        }
    }

    /// There is room again, for `family`: the program and what it has started meanwhile.
    ///
    /// # Errors
    /// The ballast cannot be removed, or the limit not be lifted.
    pub(crate) fn free(&mut self, family: &[Pid]) -> Result<()> {
        self.full = false;
        match self.means {
            Means::SmallDisk => fs::remove_file(self.folder.join(BALLAST))
                .with_context(|| format!("cannot empty {}", self.folder.display())),
            Means::FileSizes => family.iter().try_for_each(|pid| limit_files(*pid, None)),
        }
    }
}

/// A command that starts `program`, for which a write over the limit is an error and not its death:
/// an ignored signal stays ignored in what a shell becomes.
pub(crate) fn surviving_limits(program: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]).arg(program);
    command
}

fn write_ballast(path: &Path) -> io::Result<()> {
    let mut ballast = File::create(path)?;
    for piece in PIECES {
        let zeros = vec![0; piece];
        loop {
            match ballast.write(&zeros) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Sets how large files may become that `pid` writes, in bytes; `None` is no limit. Only the soft
/// limit changes, so nobody needs a privilege to lift it.
fn limit_files(pid: Pid, bytes: Option<u64>) -> Result<()> {
    let hard = rustix::process::getrlimit(Resource::Fsize).maximum;
    let limit = Rlimit { current: bytes.or(hard), maximum: hard };
    match rustix::process::prlimit(Some(pid), Resource::Fsize, limit) {
        Ok(_) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error).context("cannot limit the size of files"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;

    /// Tries to write a file until that is refused, then until it is allowed.
    #[test]
    fn a_limit_on_files_is_an_error_for_the_program_and_can_be_lifted() {
        let folder = tempfile::tempdir().unwrap();
        let folder_name = folder.path().join("disk");
        fs::create_dir(&folder_name).unwrap();
        let mut disk = Disk { folder: folder_name, means: Means::FileSizes, full: false };
        let script = "while (echo x > full) 2>/dev/null; do sleep 0.01; done; echo refused
            until (echo x > full) 2>/dev/null; do sleep 0.01; done; echo allowed";
        let mut child = surviving_limits(Path::new("sh"))
            .args(["-c", script])
            .current_dir(&disk.folder)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_child(&child);
        disk.fill(Some(pid)).unwrap();
        let mut output = io::BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        io::BufRead::read_line(&mut output, &mut line).unwrap();
        assert_eq!(line, "refused\n");
        disk.free(&[pid]).unwrap();
        line.clear();
        io::BufRead::read_line(&mut output, &mut line).unwrap();
        assert_eq!(line, "allowed\n");
        assert!(child.wait().unwrap().success());
    }
}
