//! The agent's side of its keeper: starts it when there is a program to run, passes on what both
//! say, and ends it when it does not obey.

use crate::lines::Lines;
use crate::supervisor::{Leaders, TrialEvent};
use agent_core::{Moment, TrialEnd};
use agent_keeper::say::{Ask, Say};
use agent_keeper::{clock, process};
use proto::{AttemptKey, FailureClass, Outcome};
use rustix::process::Pid;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;

/// Requests that wait for the keeper. An agent has at most 4,096 programs at once, and each needs
/// a few in a heartbeat's time.
pub(crate) const ASKS_MAX: usize = 32_768;
/// Requests that are written together.
const ASKS_AT_ONCE: usize = 256;
/// A keeper that does not read, or does not end a program it was told to kill, for this long is
/// broken or frozen.
const OBEYS_WITHIN_MS: u64 = 5_000;

/// What a keeper needs to begin.
#[derive(Debug, Clone)]
pub(crate) struct KeeperSetup {
    /// The program `brine-agent`, which programs find on their path.
    pub(crate) agent: PathBuf,
    /// Where the keeper has its pipes.
    pub(crate) folder: PathBuf,
}

impl KeeperSetup {
    /// The keeper lies beside the agent.
    fn program(&self) -> PathBuf {
        self.agent.with_file_name("brine-agent-keeper")
    }
}

/// Why a keeper is no more.
#[derive(Debug, thiserror::Error)]
enum KeeperError {
    #[error("cannot start {}", program.display())]
    Start { program: PathBuf, source: io::Error },
    #[error("it does not obey")]
    Deaf,
    #[error("its words are not understood")]
    Words(#[source] io::Error),
    #[error("the agent is ending")]
    Ending,
}

/// Passes on requests and news until the driver is gone.
pub(crate) async fn serve(
    setup: KeeperSetup,
    mut asks: mpsc::Receiver<Ask>,
    events: mpsc::Sender<TrialEvent>,
    leaders: Leaders,
) {
    while let Some(ask) = asks.recv().await {
        let Ask::Start(order) = &ask else {
            // About a program whose keeper has died; its end was told.
            continue;
        };
        let mut living = Living::new(order.key.clone());
        let how = match spawn(&setup) {
            Ok((child, stdin, stdout)) => {
                run(child, stdin, stdout, ask, &mut asks, &events, &leaders, &mut living).await
            }
            Err(error) => trainer::chain(&error),
        };
        for key in living.0.into_keys() {
            let message = format!("the program lost its keeper: {how}");
            let outcome = Outcome::failed(FailureClass::Infrastructure, message);
            let end = Some(TrialEnd::Outcome(outcome));
            let how = how.clone();
            if events.send(TrialEvent::Exited { key, end, how, kept: None }).await.is_err() {
                return;
            }
        }
    }
}

/// The programs that a keeper has, and when those must be gone that it was told to kill.
struct Living(BTreeMap<AttemptKey, Option<Moment>>);

impl Living {
    fn new(first: AttemptKey) -> Self {
        Self(BTreeMap::from([(first, None)]))
    }

    fn asked(&mut self, ask: &Ask) {
        match ask {
            Ask::Start(order) => {
                self.0.insert(order.key.clone(), None);
            }
            Ask::Kill(key) => {
                if let Some(gone_at) = self.0.get_mut(key) {
                    gone_at.get_or_insert(clock::now().plus_ms(OBEYS_WITHIN_MS));
                }
            }
            Ask::Lease(..) | Ask::Stop(_) => {}
        }
    }

    /// How long to wait for the next program that must be gone; `None` when none must.
    fn patience(&self) -> Option<Duration> {
        let first = self.0.values().flatten().min()?;
        Some(Duration::from_millis(first.since_ms(clock::now())))
    }
}

/// Runs one keeper to its end; answers how that came, as the end of "it ...".
#[expect(clippy::too_many_arguments, reason = "one call, and none of them belongs to another")]
async fn run(
    mut child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    first: Ask,
    asks: &mut mpsc::Receiver<Ask>,
    events: &mpsc::Sender<TrialEvent>,
    leaders: &Leaders,
    living: &mut Living,
) -> String {
    // Since the start nothing was awaited, so no sweep for orphans has seen the child.
    let leader = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    leader.iter().for_each(|leader| leaders.add(*leader));
    let followed = follow(stdin, Lines::new(stdout), first, asks, events, living).await;
    // It is not reaped yet, so its number still means its group.
    leader.iter().for_each(|leader| process::kill_tree(*leader));
    let status = child.wait().await;
    leader.iter().for_each(|leader| leaders.remove(*leader));
    process::kill_adopted(&leaders.all());
    let how = match followed {
        Ok(()) => describe(status),
        Err(error) => trainer::chain(&error),
    };
    tracing::error!(how, programs = living.0.len(), "the keeper of programs is gone");
    how
}

async fn follow(
    mut stdin: ChildStdin,
    mut says: Lines<Say, ChildStdout>,
    first: Ask,
    asks: &mut mpsc::Receiver<Ask>,
    events: &mpsc::Sender<TrialEvent>,
    living: &mut Living,
) -> Result<(), KeeperError> {
    tell(&mut stdin, first, asks, living).await?;
    loop {
        let patience = living.patience();
        tokio::select! {
            ask = asks.recv() => {
                let ask = ask.ok_or(KeeperError::Ending)?;
                tell(&mut stdin, ask, asks, living).await?;
            }
            said = says.next() => {
                let event = match said.map_err(KeeperError::Words)? {
                    None => return Ok(()),
                    Some(Say::Said(key, record)) => TrialEvent::Said(key, record),
                    Some(Say::Logs(key, path)) => TrialEvent::Logs(key, path),
                    Some(Say::Exited { key, end, how, kept }) => {
                        living.0.remove(&key);
                        TrialEvent::Exited { key, end, how, kept }
                    }
                };
                events.send(event).await.map_err(|_| KeeperError::Ending)?;
            }
            () = tokio::time::sleep(patience.unwrap_or_default()), if patience.is_some() => {
                if living.0.values().flatten().any(|gone_at| *gone_at <= clock::now()) {
                    return Err(KeeperError::Deaf);
                }
            }
        }
    }
}

/// Writes a request, and those that wait behind it.
async fn tell(
    stdin: &mut ChildStdin,
    first: Ask,
    asks: &mut mpsc::Receiver<Ask>,
    living: &mut Living,
) -> Result<(), KeeperError> {
    let mut text = Vec::new();
    let mut next = Some(first);
    let mut count = 0;
    while let Some(ask) = next {
        living.asked(&ask);
        serde_json::to_writer(&mut text, &ask).map_err(|error| KeeperError::Words(error.into()))?;
        text.push(b'\n');
        count += 1;
        next = if count < ASKS_AT_ONCE { asks.try_recv().ok() } else { None };
    }
    let limit = Duration::from_millis(OBEYS_WITHIN_MS);
    match tokio::time::timeout(limit, stdin.write_all(&text)).await {
        Ok(Ok(())) => Ok(()),
        // It has ended; so does what it says.
        Ok(Err(error)) => {
            tracing::debug!(%error, "the keeper has ended");
            Ok(())
        }
        Err(_) => Err(KeeperError::Deaf),
    }
}

fn spawn(setup: &KeeperSetup) -> Result<(Child, ChildStdin, ChildStdout), KeeperError> {
    let program = setup.program();
    let failed = |source| KeeperError::Start { program: program.clone(), source };
    let mut child = Command::new(&program)
        .arg(&setup.folder)
        .envs(search_path(&setup.agent))
        .env("BRINE_AGENT", &setup.agent)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    match (child.stdin.take(), child.stdout.take()) {
        (Some(stdin), Some(stdout)) => Ok((child, stdin, stdout)),
        _ => Err(failed(io::Error::other("its streams are missing"))),
    }
}

/// So that a script can call `brine-agent report` without knowing where it is. Programs inherit it
/// from the keeper: a search path of their own would make each of them slower to start.
fn search_path(agent: &Path) -> Option<(&'static str, OsString)> {
    let search = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&search).chain(agent.parent().map(Path::to_owned));
    std::env::join_paths(folders).ok().map(|search| ("PATH", search))
}

fn describe(status: io::Result<ExitStatus>) -> String {
    use std::os::unix::process::ExitStatusExt;
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("it ended with exit code {code}"),
            (None, Some(signal)) => format!("it was killed by signal {signal}"),
            (None, None) => "it ended in an unknown way".to_owned(),
        },
        Err(error) => format!("it was lost ({error})"),
    }
}
