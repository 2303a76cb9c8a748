//! Agents as child processes of `brine run`.
//!
//! Each has its own process group, so that a terminal's Ctrl-C reaches only `brine`, which then
//! asks the agents by closing their stdin. The same happens when `brine` is killed, so no agent is
//! left behind.

use crate::error::CliError;
use crate::number;
use crate::output::Printer;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Most local agents; one per GPU or per group of CPUs is enough for any machine.
pub(crate) const AGENTS_MAX: u32 = 256;
/// An agent that ends this often in a row will not do better the next time.
const RESTARTS_MAX: u32 = 8;
/// Pause before the first restart; doubled up to the largest.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// An agent that ran this long was well; its restarts are counted anew.
const WELL_AFTER: Duration = Duration::from_secs(30);
/// Time for trials to write a checkpoint after they are asked to stop.
const STOP_GRACE: Duration = Duration::from_secs(60);
/// Piece of an agent's log that an error repeats.
const LOG_TAIL_BYTES: u64 = 2_000;
/// Lines of it.
const LOG_TAIL_LINES: usize = 5;

/// How to start one agent.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    /// The agent's id.
    pub(crate) name: String,
    /// The program `brine-agent`.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<OsString>,
    /// Where its stdout and stderr go.
    pub(crate) log: PathBuf,
}

/// Running agents. Dropping it kills them.
pub(crate) struct LocalAgents {
    spawned: JoinSet<Result<(), CliError>>,
    stop: watch::Sender<Stop>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stop {
    No,
    /// Close stdin and wait for the trials' checkpoints.
    Ask,
    Kill,
}

impl LocalAgents {
    /// No agents.
    pub(crate) fn none() -> Self {
        Self { spawned: JoinSet::new(), stop: watch::Sender::new(Stop::No) }
    }

    /// Starts an agent, and again whenever it dies.
    pub(crate) fn add(&mut self, launch: Launch, printer: &Printer) {
        let stop = self.stop.subscribe();
        self.spawned.spawn(keep_alive(launch, stop, printer.clone()));
    }

    /// Whether there are any.
    pub(crate) fn any(&self) -> bool {
        !self.spawned.is_empty()
    }

    /// Waits until an agent cannot be kept alive. Never ends well.
    pub(crate) async fn failed(&mut self) -> CliError {
        loop {
            match self.spawned.join_next().await {
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(error))) => return error,
                Some(Err(error)) => {
                    return CliError::internal("an agent's supervisor ended").because(error);
                }
                // Nobody is left to fail.
                None => std::future::pending().await,
            }
        }
    }

    /// Asks the agents to stop their trials and end, and waits for it. `hurry` kills them.
    pub(crate) async fn stop(&mut self, hurry: impl Future<Output = ()>) {
        self.stop.send_replace(Stop::Ask);
        let all = async { while self.spawned.join_next().await.is_some() {} };
        let ended = tokio::select! {
            () = all => true,
            () = hurry => false,
        };
        if !ended {
            self.stop.send_replace(Stop::Kill);
            while self.spawned.join_next().await.is_some() {}
        }
    }
}

/// The program `brine-agent`: `BRINE_AGENT`, else the one beside this program.
///
/// # Errors
/// There is none.
pub(crate) fn find_program() -> Result<PathBuf, CliError> {
    let hint = "build it with `cargo build --release`, or name it in BRINE_AGENT";
    if let Some(path) = std::env::var_os("BRINE_AGENT") {
        let path = PathBuf::from(path);
        return match path.is_file() {
            true => Ok(path),
            false => Err(CliError::user(format!(
                "BRINE_AGENT names {}, which is not a file",
                path.display()
            ))
            .hint(hint)),
        };
    }
    let own = std::env::current_exe()
        .map_err(|error| CliError::user("cannot find this program's own file").because(error))?;
    let beside = own.with_file_name("brine-agent");
    if beside.is_file() {
        return Ok(beside);
    }
    Err(CliError::user(format!(
        "the program brine-agent, which runs the trials, is not beside brine: {}",
        beside.display()
    ))
    .hint(hint))
}

async fn keep_alive(
    launch: Launch,
    mut stop: watch::Receiver<Stop>,
    printer: Printer,
) -> Result<(), CliError> {
    let mut restarts = 0;
    loop {
        let mut child = launch.spawn()?;
        // `wait` would close it.
        let stdin = child.stdin.take();
        let began = Instant::now();
        let status = tokio::select! {
            status = child.wait() => Some(status),
            () = asked(&mut stop) => None,
        };
        let Some(status) = status else {
            drop(stdin);
            return end(&mut child, &mut stop).await;
        };
        let status = status.map_err(|error| {
            CliError::internal(format!("cannot wait for the agent {}", launch.name)).because(error)
        })?;
        if began.elapsed() >= WELL_AFTER {
            restarts = 0;
        }
        restarts += 1;
        let ending = ending(status);
        if restarts > RESTARTS_MAX {
            return Err(launch.gave_up(&ending, restarts));
        }
        let pause = PAUSE_MAX.min(PAUSE_MIN * 2_u32.pow(restarts - 1));
        printer.warning(&format!(
            "the agent {} {ending}; starting it again in {} ({restarts} of {RESTARTS_MAX})",
            launch.name,
            number::duration_s(pause.as_secs_f64())
        ));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = asked(&mut stop) => return Ok(()),
        }
    }
}

/// Waits until the agents shall stop, or nobody is left to say so.
async fn asked(stop: &mut watch::Receiver<Stop>) {
    drop(stop.wait_for(|stop| *stop != Stop::No).await);
}

/// Waits for an agent that was asked to stop; kills it when its time is over or somebody hurries.
async fn end(child: &mut Child, stop: &mut watch::Receiver<Stop>) -> Result<(), CliError> {
    let pid = child.id();
    let ended = tokio::select! {
        _status = child.wait() => true,
        () = tokio::time::sleep(STOP_GRACE) => false,
        _hurry = stop.wait_for(|stop| *stop == Stop::Kill) => false,
    };
    if !ended {
        kill_group(pid);
        let _killed = child.wait().await;
    }
    Ok(())
}

fn kill_group(pid: Option<u32>) {
    let pid = pid.and_then(|pid| i32::try_from(pid).ok());
    if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
        // It fails only when the group is gone already.
        let _gone = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
}

impl Launch {
    fn spawn(&self) -> Result<Child, CliError> {
        let folder = self.log.parent().unwrap_or(Path::new("."));
        let opened = std::fs::create_dir_all(folder)
            .and_then(|()| File::options().create(true).append(true).open(&self.log));
        let log = opened.and_then(|log| Ok((log.try_clone()?, log)));
        let (stdout, stderr) = log.map_err(|error| {
            CliError::file(format!("write the agent's log {}", self.log.display()), error)
        })?;
        Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(stderr)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                CliError::user(format!("cannot start {}", self.program.display())).because(error)
            })
    }

    fn gave_up(&self, ending: &str, times: u32) -> CliError {
        CliError::user(format!("the agent {} {ending}, {times} times in a row", self.name))
            .because(format!("the end of its log:\n{}", tail(&self.log)))
            .hint(format!("its whole log is {}", self.log.display()))
            .hint("`brine doctor` says what works on this machine")
    }
}

fn ending(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// The last lines of a log; empty when there is none.
fn tail(path: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
}
