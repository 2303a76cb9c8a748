//! Whatever a chaos ends of, its janitor cleans up: a process of its own, which waits for the end
//! of its standard input. So Ctrl-C, a panic and even kill -9 leave nothing behind.

use std::fs;
use std::io::{self, BufRead as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::process::Signal;

use super::processes;
use crate::terminal::say;

/// The hidden chore that the janitor's process performs.
pub(crate) const CHORE: &str = "chaos-janitor";
/// The word that says that nobody has to look at the folder any more.
const REMOVE: &str = "remove";
/// Rounds of killing: each catches what was started during the one before.
const KILL_ROUNDS_MAX: u32 = 100;
/// Pause between two rounds.
const KILL_PAUSE: Duration = Duration::from_millis(50);

/// The janitor, as the chaos sees it.
#[derive(Debug)]
pub(crate) struct Janitor {
    process: Child,
}

impl Janitor {
    /// Starts the janitor of `folder`.
    ///
    /// # Errors
    /// This program cannot be started once more.
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let process = Command::new(program)
            .arg(CHORE)
            .arg(folder)
            .stdin(Stdio::piped())
            // Not in the terminal's group, so Ctrl-C does not reach it.
            .process_group(0)
            .spawn()
            .context("cannot start the janitor")?;
        Ok(Self { process })
    }

    /// Has everything stopped and, unless `keep`, the folder removed.
    ///
    /// # Errors
    /// Something is left.
    pub(crate) fn finish(mut self, keep: bool) -> Result<()> {
        if let Some(mut input) = self.process.stdin.take()
            && !keep
        {
            writeln!(input, "{REMOVE}").context("the janitor is gone")?;
        }
        let status = self.process.wait().context("cannot wait for the janitor")?;
        ensure!(status.success(), "the janitor ended with {status}");
        Ok(())
    }
}

/// The chore: waits for the end of the chaos in `folder`, then cleans up.
///
/// # Errors
/// Something is left.
pub(crate) fn serve(folder: &Path) -> Result<ExitCode> {
    let mut word = String::new();
    // An input that breaks is at its end too.
    let read = io::stdin().lock().read_line(&mut word);
    let keep = read.is_err() || word.trim() != REMOVE;
    kill_all(folder)?;
    clean(folder, keep)?;
    if keep {
        say(&format!("chaos: every process is stopped; kept {}", folder.display()));
    }
    Ok(ExitCode::SUCCESS)
}

fn kill_all(folder: &Path) -> Result<()> {
    for _ in 0..KILL_ROUNDS_MAX {
        let found = processes::of(folder);
        if found.is_empty() {
            return Ok(());
        }
        for process in found {
            processes::signal(process.pid, Signal::KILL);
        }
        thread::sleep(KILL_PAUSE);
    }
    let left: Vec<String> = processes::of(folder).iter().map(processes::Process::words).collect();
    ensure!(left.is_empty(), "cannot stop {}", left.join(", "));
    Ok(())
}

/// Unmounts the small disks. What is kept of them is copied into their place.
fn clean(folder: &Path, keep: bool) -> Result<()> {
    let entries = fs::read_dir(folder).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
    for entry in entries.with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry.path();
        if !is_mounted(&path)? {
            continue;
        }
        let copy = path.with_extension("kept");
        if keep {
            copy_tree(&path, &copy).with_context(|| format!("cannot copy {}", path.display()))?;
        }
        unmount(&path)?;
        if keep {
            fs::remove_dir(&path)
                .and_then(|()| fs::rename(&copy, &path))
                .with_context(|| format!("cannot put a copy at {}", path.display()))?;
        }
    }
    if !keep {
        fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}

/// Whether a file system begins at `path`: it is on another device than its parent.
fn is_mounted(path: &Path) -> Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let device = |path: &Path| fs::symlink_metadata(path).map(|metadata| metadata.dev());
    let parent = path.parent().context("a folder without a parent")?;
    let differ = device(path).and_then(|here| Ok(here != device(parent)?));
    differ.with_context(|| format!("cannot look at {}", path.display()))
}

fn unmount(path: &Path) -> Result<()> {
    match rustix::mount::unmount(path, UnmountFlags::empty()) {
        // Somebody looks at it; it goes when he has gone.
        Err(Errno::BUSY) => rustix::mount::unmount(path, UnmountFlags::DETACH),
        unmounted => unmounted,
    }
    .with_context(|| format!("cannot unmount {}", path.display()))
}

/// Copies folders and plain files. Pipes and links of a trial's folder say nothing.
fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    let mut waiting: Vec<(PathBuf, PathBuf)> = vec![(from.to_owned(), to.to_owned())];
    while let Some((from, to)) = waiting.pop() {
        fs::create_dir(&to)?;
        for entry in fs::read_dir(&from)? {
            let entry = entry?;
            let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
            if kind.is_dir() {
                waiting.push((entry.path(), target));
            } else if kind.is_file() {
                fs::copy(entry.path(), target)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_copied_without_its_pipes() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join("a/b")).unwrap();
        fs::write(from.join("a/b/text"), "x").unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            from.join("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        copy_tree(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("a/b/text")).unwrap(), "x");
        assert!(!to.join("pipe").exists());
        assert!(!is_mounted(&to).unwrap());
    }

    #[test]
    fn everything_of_a_chaos_is_stopped_and_its_folder_removed_or_kept() {
        for keep in [true, false] {
            let folder = tempfile::tempdir().unwrap().keep();
            let mut child = Command::new("sleep")
                .arg("60")
                .env(processes::MARK, &folder)
                .stdin(Stdio::null())
                .spawn()
                .unwrap();
            let reaper = thread::spawn(move || child.wait().unwrap());
            // A process that was just started may not show its environment yet.
            while !reaper.is_finished() {
                kill_all(&folder).unwrap();
            }
            clean(&folder, keep).unwrap();
            assert!(!reaper.join().unwrap().success());
            assert_eq!(folder.exists(), keep);
            if keep {
                fs::remove_dir_all(&folder).unwrap();
            }
        }
    }
}
