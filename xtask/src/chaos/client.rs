//! What a person would type: `brine submit`, `brine status`, `brine watch`, each with a time limit.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::story::now;
use super::{POLL_PERIOD, processes};

/// How long a `brine` may take that talks to a coordinator which may be dead, frozen or short of
/// disk; without a limit it would wait for a minute.
pub(crate) const ASK_MAX: Duration = Duration::from_secs(8);
/// `brine` ends with this code when it did what it was asked for.
const DONE: i32 = 0;
/// ... when the coordinator is not there or refuses.
const NOT_NOW: i32 = 1;
/// ... when the experiment has failed trials.
const HAS_FAILURES: i32 = 3;

/// How to call `brine`.
#[derive(Debug)]
pub(crate) struct Client {
    /// The program.
    pub(crate) brine: PathBuf,
    /// Where the coordinator listens.
    pub(crate) url: String,
    /// File with its token.
    pub(crate) token_file: PathBuf,
    /// The chaos's folder.
    pub(crate) folder: PathBuf,
}

/// What a `brine` said.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Whether it did what it was asked for; a coordinator that is not there is no mistake.
    pub(crate) done: bool,
    /// Its standard output.
    pub(crate) stdout: String,
    /// Its last words on standard error, or why there are none.
    pub(crate) words: String,
}

/// A `brine` that is at work.
#[derive(Debug)]
pub(crate) struct Errand {
    what: String,
    process: Child,
    until: Instant,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Client {
    /// Starts `brine` with `arguments`. Its output goes to files named after `name`, so that no
    /// pipe can fill.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start(&self, name: &str, arguments: &[&str]) -> Result<Errand> {
        let file = |extension: &str| {
            let path = self.folder.join("answers").join(name).with_extension(extension);
            let file = File::create(&path);
            file.map(|file| (path.clone(), file))
                .with_context(|| format!("cannot write {}", path.display()))
        };
        let ((stdout, out), (stderr, error)) = (file("out")?, file("err")?);
        let process = Command::new(&self.brine)
            .args(arguments)
            .args(["--output", "json", "--coordinator", &self.url, "--token-file"])
            .arg(&self.token_file)
            .current_dir(self.folder.join("recipes"))
            .env(processes::MARK, &self.folder)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(error)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", self.brine.display()))?;
        let what = format!("brine {}", arguments.join(" "));
        Ok(Errand { what, process, until: now() + ASK_MAX, stdout, stderr })
    }

    /// Starts `brine` and waits for what it says.
    ///
    /// # Errors
    /// It cannot be started, or broke.
    pub(crate) fn ask(&self, name: &str, arguments: &[&str]) -> Result<Answer> {
        let mut errand = self.start(name, arguments)?;
        loop {
            if let Some(answer) = errand.poll()? {
                return Ok(answer);
            }
            thread::sleep(POLL_PERIOD);
        }
    }
}

impl Errand {
    /// What it said, when it has ended or its time is up.
    ///
    /// # Errors
    /// It broke: it ended with an exit code that no state of the coordinator explains.
    pub(crate) fn poll(&mut self) -> Result<Option<Answer>> {
        let ended = self.process.try_wait().context("cannot wait for brine")?;
        let status = match ended {
            Some(status) => status,
            None if now() < self.until => return Ok(None),
            None => {
                self.process.kill().context("cannot stop brine")?;
                self.process.wait().context("cannot wait for brine")?;
                let words = format!("no answer within {} s", ASK_MAX.as_secs());
                return Ok(Some(Answer { done: false, stdout: String::new(), words }));
            }
        };
        let read = |path: &PathBuf| {
            let bytes = fs::read(path);
            bytes
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                .with_context(|| format!("cannot read {}", path.display()))
        };
        let (stdout, stderr) = (read(&self.stdout)?, read(&self.stderr)?);
        let code = status.code();
        let known = [DONE, NOT_NOW, HAS_FAILURES].map(Some).contains(&code);
        ensure!(known, "`{}` ended with {status}: {}", self.what, stderr.trim());
        let words = stderr.trim().to_owned();
        Ok(Some(Answer { done: code != Some(NOT_NOW), stdout, words }))
    }
}
