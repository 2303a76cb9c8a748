//! Process groups and descendants, as Linux tells about them in `/proc`. Every signal that Brine
//! sends to processes it did not create itself goes through here.
//!
//! A program is marked by a number in its soft limit of file locks, which all its descendants
//! inherit whatever they do to their group, session or environment. Linux has not used that limit
//! since 2.4.25.

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal, WaitOptions};
use std::collections::{BTreeSet, HashSet};
use std::fs;

/// Rounds of killing descendants. Each one catches what was forked during the one before; a
/// program that forks faster than that is caught by its process group.
const KILL_ROUNDS_MAX: usize = 8;
/// How long the death of a killed process is awaited, in nanoseconds; meanwhile nothing is read
/// from other programs.
const DEATH_PATIENCE_NS: i64 = 200_000_000;

/// Kills the process group of `leader` and every descendant of it, also those that moved to a
/// group or session of their own (as `torchrun` does with its processes).
///
/// The group goes first and at once: a leader that saw its program die would report that death.
/// What was forked meanwhile is orphaned by this, so [`kill_adopted`] finds it.
pub fn kill_tree(leader: Pid) {
    let found = descendants(leader);
    ignore_gone(rustix::process::kill_process_group(leader, Signal::KILL));
    for pid in found {
        ignore_gone(rustix::process::kill_process(pid, Signal::KILL));
    }
}

/// Signals the process group of `leader`, which may be gone.
pub fn signal_group(leader: Pid, signal: Signal) {
    ignore_gone(rustix::process::kill_process_group(leader, signal));
}

/// Kills this process's descendants, then its group, which includes itself. Does not return.
pub fn kill_self_and_descendants() -> ! {
    kill_descendants(rustix::process::getpid());
    ignore_gone(rustix::process::kill_current_process_group(Signal::KILL));
    // Not reached while SIGKILL works; without it there is nothing better left.
    std::process::abort()
}

/// Kills every descendant of `ancestor`, but not itself.
pub fn kill_descendants(ancestor: Pid) {
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
pub fn kill_adopted(known: &[Pid]) {
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
pub fn reap_adopted(known: Option<Pid>) {
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
pub fn adopt_orphans() -> std::io::Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    Ok(())
}

/// Gives the processes that are started from now on this mark.
///
/// # Errors
/// The hard limit is lower, because somebody has lowered it for this process.
pub fn mark(number: u64) -> std::io::Result<()> {
    let maximum = rustix::process::getrlimit(Resource::Locks).maximum;
    rustix::process::setrlimit(Resource::Locks, Rlimit { current: Some(number), maximum })?;
    Ok(())
}

/// Ends and reaps children of this process that are neither in `known` nor marked as belonging to
/// one that `lives`.
pub fn kill_leftovers(known: &HashSet<Pid>, lives: impl Fn(u64) -> bool) {
    let mut awaited = HashSet::new();
    for _ in 0..KILL_ROUNDS_MAX {
        let mut killed = false;
        for entry in children(rustix::process::getpid()) {
            if known.contains(&entry.pid) {
                continue;
            }
            if entry.state == ProcessState::Alive {
                if read_mark(entry.pid).is_some_and(&lives) {
                    continue;
                }
                kill_tree(entry.pid);
                ignore_gone(rustix::process::kill_process(entry.pid, Signal::KILL));
                // One that waits for a disk dies later, and nothing more is to be done about it.
                if awaited.insert(entry.pid) {
                    killed = true;
                    await_death(entry.pid);
                }
            }
            reap(entry.pid);
        }
        if !killed {
            return;
        }
    }
}

/// Waits until a killed child is dead, which on a busy machine is not at once: what it held, such
/// as a GPU's memory, is free only then. Not for ever: one that waits for a disk dies later.
fn await_death(pid: Pid) {
    let Ok(end) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else {
        return;
    };
    let patience = Timespec { tv_sec: 0, tv_nsec: DEATH_PATIENCE_NS };
    let mut ends = [PollFd::new(&end, PollFlags::IN)];
    if let Err(error) = rustix::event::poll(&mut ends, Some(&patience)) {
        tracing::debug!(%error, "the end of an orphan was not awaited");
    }
}

fn read_mark(pid: Pid) -> Option<u64> {
    let limits = fs::read_to_string(format!("/proc/{}/limits", pid.as_raw_nonzero())).ok()?;
    parse_mark(&limits)
}

/// Reads the soft limit of file locks from `/proc/<pid>/limits`.
fn parse_mark(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max file locks"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The number of the process or thread that was made last on this machine, as far as this process
/// can see it; 0 when the system does not tell.
pub fn last_made(loadavg: &fs::File) -> i32 {
    let mut text = [0; 128];
    let length = rustix::io::pread(loadavg, &mut text, 0).unwrap_or(0);
    let text = text.get(..length).and_then(|text| std::str::from_utf8(text).ok());
    let last = text.and_then(|text| text.split_whitespace().next_back());
    last.and_then(|number| number.parse().ok()).unwrap_or(0)
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
    // Many kernels list them, which saves a look at every process of the machine. Orphans and what
    // the main thread started are in its list; no other thread of Brine starts processes.
    if let Ok(list) = fs::read_to_string(format!("/proc/self/task/{parent}/children")) {
        let numbers = list.split_whitespace().filter_map(|number| number.parse().ok());
        return numbers.filter_map(Pid::from_raw).filter_map(entry).collect();
    }
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
        Pid::from_raw(pid)
    });
    numbers.filter_map(entry).collect()
}

/// A process that ended since it was listed has no file any more; that is not news.
fn entry(pid: Pid) -> Option<Entry> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    parse_stat(pid, &stat)
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
    fn a_mark_is_inherited_and_read_back() {
        assert_eq!(parse_mark("Max file locks            77                  9  locks"), Some(77));
        assert_eq!(parse_mark("Max file locks            unlimited       9  locks"), None);
        mark(4_711).unwrap();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
        assert_eq!(read_mark(pid), Some(4_711));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn the_last_process_is_known() {
        let loadavg = fs::File::open("/proc/loadavg").unwrap();
        let before = last_made(&loadavg);
        std::process::Command::new("true").status().unwrap();
        assert!(last_made(&loadavg) > before, "{before}");
    }

    #[test]
    fn a_process_name_with_brackets_does_not_confuse_the_parser() {
        let pid = Pid::from_raw(7).unwrap();
        let entry = parse_stat(pid, "7 (a) b) (c) Z 3 7 7 0 -1").unwrap();
        assert_eq!((entry.parent, entry.state), (3, ProcessState::Zombie));
        assert!(parse_stat(pid, "7 (broken").is_none());
        assert!(parse_stat(pid, "7 (x) S").is_none());
    }
}
