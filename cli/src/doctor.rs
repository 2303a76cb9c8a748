//! What `brine doctor` looks at: this program, the agent and what the agent needs, Python, disk.

use crate::local::agents::find_program;
use crate::number;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// A program that has not answered by then hangs; loading CUDA for the first time takes seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Less free disk than this fills up with checkpoints of small models within hours.
const FREE_BYTES_LOW: u64 = 2 << 30;
/// Why an agent does not start, nearly always.
const LIBTORCH_ADVICE: &str = "libtorch must be found at its start: run `cargo xtask quickstart`, \
                               or put torch/lib of PyTorch 2.11 on LD_LIBRARY_PATH";
/// Longest piece of a program's own words.
const WORDS_CHARS_MAX: usize = 300;

/// One thing that was looked at; `brine-agent doctor --output json` prints the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Check {
    /// A few words.
    pub(crate) name: String,
    /// Whether it works.
    pub(crate) state: State,
    /// What is there.
    pub(crate) found: String,
    /// What to do; empty when there is nothing to do.
    pub(crate) advice: String,
}

/// Whether something works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// Yes.
    Works,
    /// It is not there, and only some recipes need it.
    Absent,
    /// No, and trials need it.
    Broken,
}

impl State {
    /// One word for tables.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Works => "works",
            Self::Absent => "absent",
            Self::Broken => "broken",
        }
    }
}

/// What `brine-agent doctor --output json` prints.
#[derive(Debug, Deserialize)]
struct AgentFindings {
    version: String,
    checks: Vec<Check>,
}

impl AgentFindings {
    fn all(self, program: &Path) -> Vec<Check> {
        let found = format!("{} at {}", self.version, program.display());
        // The commit may differ while somebody develops; the release must not.
        let release = |version: &str| version.split('+').next().map(str::to_owned);
        let state = if release(&self.version) == release(crate::VERSION) {
            State::Works
        } else {
            State::Broken
        };
        let advice = "it is of another version than brine; build both from the same source";
        let mut all = vec![Check::new("brine-agent", state, found, advice)];
        all.extend(self.checks);
        all
    }
}

impl Check {
    fn new(name: &str, state: State, found: impl Into<String>, advice: &str) -> Self {
        Self {
            name: name.to_owned(),
            state,
            found: found.into(),
            advice: if state == State::Works { String::new() } else { advice.to_owned() },
        }
    }
}

/// Looks at everything.
pub(crate) async fn all(data_dir: &Path) -> Vec<Check> {
    let mut checks = vec![Check::new("brine", State::Works, crate::VERSION, "")];
    checks.extend(agent().await);
    checks.push(python().await);
    checks.push(disk(data_dir));
    checks
}

/// The agent program, and what it says about libtorch and GPUs.
async fn agent() -> Vec<Check> {
    let program = match find_program() {
        Ok(program) => program,
        Err(error) => {
            let advice = "build it with `cargo build --release`, or name it in BRINE_AGENT";
            return vec![Check::new("brine-agent", State::Broken, first_line(&error), advice)];
        }
    };
    let mut command = Command::new(&program);
    command.args(["doctor", "--output", "json"]);
    let (printed, words) = match answer(command, Code::Any).await {
        Ok(answer) => answer,
        Err(words) => {
            return vec![Check::new("brine-agent", State::Broken, words, LIBTORCH_ADVICE)];
        }
    };
    match serde_json::from_str::<AgentFindings>(&printed) {
        Ok(findings) => findings.all(&program),
        // It did not get as far as looking: most often the loader did not find libtorch.
        Err(_) if printed.trim().is_empty() => {
            vec![Check::new("brine-agent", State::Broken, words, LIBTORCH_ADVICE)]
        }
        Err(error) => vec![Check::new(
            "brine-agent",
            State::Broken,
            format!("{} answers something else: {error} {words}", program.display()),
            "brine and brine-agent are of different versions; build both from the same source",
        )],
    }
}

async fn python() -> Check {
    let mut command = Command::new("python3");
    command.arg("--version");
    match answer(command, Code::Zero).await {
        Ok((printed, _words)) => Check::new("python3", State::Works, printed.trim(), ""),
        Err(words) => Check::new(
            "python3",
            State::Absent,
            words,
            "its standard library is the default training text: install python3, or name your own \
             text in recipes",
        ),
    }
}

fn disk(data_dir: &Path) -> Check {
    let existing = data_dir.ancestors().find(|folder| folder.is_dir());
    let folder = match existing {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    };
    let name = "data folder";
    let space = match rustix::fs::statvfs(folder) {
        Ok(space) => space,
        Err(error) => {
            let found = format!("{}: {error}", folder.display());
            return Check::new(name, State::Broken, found, "choose another with --data-dir");
        }
    };
    if let Err(error) = tempfile::tempfile_in(folder) {
        let found = format!("{} cannot be written: {error}", folder.display());
        return Check::new(name, State::Broken, found, "choose another with --data-dir");
    }
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let found = format!("{} free at {}", number::bytes(free), folder.display());
    if free < FREE_BYTES_LOW {
        let advice = "free some space, or choose a data folder on another disk with --data-dir";
        return Check::new(name, State::Broken, found, advice);
    }
    Check::new(name, State::Works, found, "")
}

/// Which exit codes are an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    Zero,
    Any,
}

/// What a program prints on stdout and stderr; an error in words when it fails.
async fn answer(mut command: Command, code: Code) -> Result<(String, String), String> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(ANSWER_TIMEOUT, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(format!("cannot be started: {error}")),
        Err(_elapsed) => return Err(format!("no answer in {} s", ANSWER_TIMEOUT.as_secs())),
    };
    let words: String =
        String::from_utf8_lossy(&output.stderr).trim().chars().take(WORDS_CHARS_MAX).collect();
    if output.status.success() || code == Code::Any {
        return Ok((String::from_utf8_lossy(&output.stdout).into_owned(), words));
    }
    Err(format!("{}: {words}", output.status))
}

fn first_line(error: &crate::error::CliError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
