//! Process groups and descendants, as Linux tells about them in `/proc`. Every signal that Brine
//! sends to processes it did not create itself goes through here.

use rustix::process::{Pid, Signal, WaitOptions};
use std::collections::BTreeSet;
use std::fs;

/// Rounds of killing descendants. Each one catches what was forked during the one before; a
/// program that forks faster than that is caught by its process group.
const KILL_ROUNDS_MAX: usize = 8;

/// Kills the process group of `leader` and every descendant of it, also those that moved to a
/// group or session of their own (as `torchrun` does with its processes).
///
/// The group goes first and at once: a leader that saw its program die would report that death.
/// What was forked meanwhile is orphaned by this, so [`kill_adopted`] finds it.
pub(crate) fn kill_tree(leader: Pid) {
    let found = descendants(leader);
    ignore_gone(rustix::process::kill_process_group(leader, Signal::KILL));
    for pid in found {
        ignore_gone(rustix::process::kill_process(pid, Signal::KILL));
    }
}

/// Kills this process's descendants, then its group, which includes itself. Does not return.
pub(crate) fn kill_self_and_descendants() -> ! {
    kill_descendants(rustix::process::getpid());
    ignore_gone(rustix::process::kill_current_process_group(Signal::KILL));
    // Not reached while SIGKILL works; without it there is nothing better left.
    std::process::abort()
}

/// Kills every descendant of `ancestor`, but not itself.
pub(crate) fn kill_descendants(ancestor: Pid) {
    for _ in 0..KILL_ROUNDS_MAX {
        let found = descendants(ancestor);
        if found.is_empty() {
            return;
        }
        for pid in found {
            ignore_gone(rustix::process::kill_process(pid, Signal::KILL));
        }
    }
}

/// Ends and reaps children of this process that are not in `known`: orphans of a trial that died,
/// which the kernel gave to this process because it asked for them ([`adopt_orphans`]).
pub(crate) fn kill_adopted(known: &[Pid]) {
    // Killing one may orphan its children, which come here in their turn.
    for _ in 0..KILL_ROUNDS_MAX {
        let mut killed = false;
        for entry in children(rustix::process::getpid()) {
            if known.contains(&entry.pid) {
                continue;
            }
            if entry.state == ProcessState::Alive {
                killed = true;
                kill_tree(entry.pid);
                ignore_gone(rustix::process::kill_process(entry.pid, Signal::KILL));
            }
            reap(entry.pid);
        }
        if !killed {
            return;
        }
    }
}

/// Reaps dead children of this process that are not `known`.
pub(crate) fn reap_adopted(known: Option<Pid>) {
    for entry in children(rustix::process::getpid()) {
        if entry.state == ProcessState::Zombie && Some(entry.pid) != known {
            reap(entry.pid);
        }
    }
}

/// From now on orphaned descendants become children of this process, so that they can be found.
///
/// # Errors
/// The kernel refused.
pub(crate) fn adopt_orphans() -> std::io::Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ProcessState {
    Alive,
    Zombie,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    pid: Pid,
    parent: i32,
    state: ProcessState,
}

fn descendants(ancestor: Pid) -> Vec<Pid> {
    let all = processes();
    let mut family = BTreeSet::from([ancestor.as_raw_nonzero().get()]);
    let mut found = Vec::new();
    // Parents may come after their children in the list, so repeat until nothing is added.
    loop {
        let before = family.len();
        for entry in &all {
            let pid = entry.pid.as_raw_nonzero().get();
            if family.contains(&entry.parent) && family.insert(pid) {
                found.push(*entry);
            }
        }
        if family.len() == before {
            break;
        }
    }
    let alive = |entry: &Entry| entry.state == ProcessState::Alive;
    found.into_iter().filter(alive).map(|entry| entry.pid).collect()
}

fn children(parent: Pid) -> Vec<Entry> {
    let parent = parent.as_raw_nonzero().get();
    let all = processes().into_iter();
    all.filter(|entry| entry.parent == parent).collect()
}

fn processes() -> Vec<Entry> {
    let Ok(folder) = fs::read_dir("/proc") else {
        tracing::warn!("/proc cannot be read; only process groups are ended");
        return Vec::new();
    };
    let numbers = folder.flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        Some((Pid::from_raw(pid)?, entry.path()))
    });
    // A process that ended since the listing has no file any more; that is not news.
    let entries = numbers
        .filter_map(|(pid, path)| parse_stat(pid, &fs::read_to_string(path.join("stat")).ok()?));
    entries.collect()
}

/// Reads state and parent from `/proc/<pid>/stat`: `pid (name) state parent ...`. The name may hold
/// spaces and brackets, so the last bracket counts.
fn parse_stat(pid: Pid, stat: &str) -> Option<Entry> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = match fields.next()? {
        "Z" | "X" => ProcessState::Zombie,
        _ => ProcessState::Alive,
    };
    Some(Entry { pid, parent: fields.next()?.parse().ok()?, state })
}

fn reap(pid: Pid) {
    if let Err(error) = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG) {
        tracing::debug!(%error, pid = pid.as_raw_nonzero(), "an orphan was not reaped");
    }
}

fn ignore_gone(result: rustix::io::Result<()>) {
    match result {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => tracing::warn!(%error, "a process could not be signalled"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_brackets_does_not_confuse_the_parser() {
        let pid = Pid::from_raw(7).unwrap();
        let entry = parse_stat(pid, "7 (a) b) (c) Z 3 7 7 0 -1").unwrap();
        assert_eq!((entry.parent, entry.state), (3, ProcessState::Zombie));
        assert!(parse_stat(pid, "7 (broken").is_none());
        assert!(parse_stat(pid, "7 (x) S").is_none());
    }
}
