//! The processes of one chaos, found in `/proc` by a variable that all of them inherit.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Pid, Signal};

/// The variable that marks every process of a chaos; its value is the chaos's folder.
pub(crate) const MARK: &str = "BRINE_CHAOS";
/// The variable that says which life of which agent a process belongs to.
pub(crate) const LIFE: &str = "BRINE_CHAOS_LIFE";

/// A living process of this chaos.
#[derive(Debug)]
pub(crate) struct Process {
    /// Its number.
    pub(crate) pid: Pid,
    parent: i32,
    arguments: Vec<String>,
    variables: BTreeMap<String, String>,
}

impl Process {
    /// Whether it starts an agent's programs and watches over them.
    pub(crate) fn is_keeper(&self) -> bool {
        let program = self.arguments.first().map(Path::new);
        program.and_then(Path::file_name).is_some_and(|name| name == "brine-agent-keeper")
    }

    /// The life of the agent it belongs to.
    pub(crate) fn life(&self) -> Option<&str> {
        self.variables.get(LIFE).map(String::as_str)
    }

    /// The trial and attempt that it works for, when it is a trial's program or started by one.
    pub(crate) fn attempt(&self) -> Option<String> {
        let trial = self.variables.get("BRINE_TRIAL")?;
        let attempt = self.variables.get("BRINE_ATTEMPT")?;
        Some(format!("{trial}#{attempt}"))
    }

    /// What it is, for messages.
    pub(crate) fn words(&self) -> String {
        let attempt = self.attempt().map_or_else(String::new, |of| format!(" of attempt {of}"));
        let arguments = self.arguments.join(" ");
        format!("process {} ({arguments}){attempt}", self.pid.as_raw_nonzero())
    }
}

/// All living processes of the chaos in `folder`.
pub(crate) fn of(folder: &Path) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let folder = folder.to_string_lossy();
    let found = entries.flatten().filter_map(|entry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        // A process that ended meanwhile, or another user's, has nothing to read.
        let variables = parse_variables(&fs::read(entry.path().join("environ")).ok()?);
        if variables.get(MARK).map(String::as_str) != Some(&*folder) {
            return None;
        }
        let arguments = texts(&fs::read(entry.path().join("cmdline")).ok()?);
        let parent = parse_parent(&fs::read_to_string(entry.path().join("stat")).ok()?)?;
        Some(Process { pid, parent, arguments, variables })
    });
    found.collect()
}

/// The trials' own programs among `all`: what a keeper has started.
pub(crate) fn programs(all: &[Process]) -> Vec<&Process> {
    let is_keeper = |pid: i32| {
        all.iter().any(|process| process.pid.as_raw_nonzero().get() == pid && process.is_keeper())
    };
    all.iter().filter(|process| process.attempt().is_some() && is_keeper(process.parent)).collect()
}

/// Sends a signal; whether there was still somebody to hear it.
pub(crate) fn signal(pid: Pid, signal: Signal) -> bool {
    match rustix::process::kill_process(pid, signal) {
        Ok(()) => true,
        Err(Errno::SRCH) => false,
        Err(error) => {
            crate::terminal::say(&format!("chaos: {signal:?} was not sent to {pid:?}: {error}"));
            false
        }
    }
}

fn texts(bytes: &[u8]) -> Vec<String> {
    let parts = bytes.split(|byte| *byte == 0).filter(|part| !part.is_empty());
    parts.map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}

fn parse_variables(bytes: &[u8]) -> BTreeMap<String, String> {
    let pair = |text: &String| {
        text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    texts(bytes).iter().filter_map(pair).collect()
}

/// Reads `pid (name) state parent ...`; the name may hold brackets, so the last one counts.
fn parse_parent(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn what_proc_says_is_parsed() {
        assert_eq!(parse_parent("7 (a) b) S 3 7 7"), Some(3));
        assert_eq!(parse_parent("7 (a"), None);
        let variables = parse_variables(b"A=1\0B=x=y\0broken\0");
        assert_eq!(variables.get("B").map(String::as_str), Some("x=y"));
        assert_eq!(variables.len(), 2);
    }

    #[test]
    fn marked_processes_are_found_until_they_are_killed() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new("sleep")
            .arg("60")
            .env(MARK, folder.path())
            .env("BRINE_TRIAL", "ab")
            .env("BRINE_ATTEMPT", "2")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let found = of(folder.path());
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].attempt().as_deref(), Some("ab#2"));
        assert!(programs(&found).is_empty(), "its parent is no keeper");
        assert!(signal(found[0].pid, Signal::KILL));
        child.wait().unwrap();
        assert!(of(folder.path()).is_empty());
        assert!(!signal(found[0].pid, Signal::KILL));
    }
}
