//! Starts the process of one training, passes on what it says, and makes sure that nothing of it is
//! left when this is over.

use crate::blobs::Request;
use crate::lines::Lines;
use agent_core::{Moment, TrialEnd};
use agent_keeper::command::Refusal;
use agent_keeper::order::{Control, Order, TrialRecord};
use agent_keeper::{environment, process, work};
use proto::{AttemptKey, BlobRef, FailureClass, Outcome, Runner, TrialSpec};
use rustix::process::Pid;
use serde::Serialize;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot, watch};

/// A process that does not read its control lines for this long is broken: it reads them in a
/// thread that does nothing else.
const CONTROL_WRITE_MAX: Duration = Duration::from_secs(5);
/// How much of the log's end explains a process that died without an outcome.
const LOG_TAIL_BYTES: u64 = 1_200;

/// What the agent wants of an attempt now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) lease_until: Moment,
    pub(crate) life: Life,
}

/// Whether an attempt goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    GoOn,
    /// Save the state and end.
    Stop,
    /// End now.
    Kill,
}

/// What an attempt's process said or did.
#[derive(Debug)]
pub(crate) enum TrialEvent {
    Said(AttemptKey, TrialRecord),
    /// The process and its descendants are gone. Sent once, last.
    Exited {
        key: AttemptKey,
        end: Option<TrialEnd>,
        how: String,
        /// A program's folder, when something was left in it.
        kept: Option<PathBuf>,
    },
    /// The files of a program are there, or why not.
    Fetched(Box<Order>, Result<(), TrialEnd>),
    /// The attempt has a log.
    Logs(AttemptKey, PathBuf),
}

/// The leaders of the attempts that run now, so that any other child is known to be an orphan.
#[derive(Debug, Clone, Default)]
pub(crate) struct Leaders(Arc<Mutex<Vec<Pid>>>);

impl Leaders {
    pub(crate) fn all(&self) -> Vec<Pid> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn add(&self, leader: Pid) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(leader);
    }

    pub(crate) fn remove(&self, leader: Pid) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|known| *known != leader);
    }
}

/// Why an attempt did not get a process, or lost it.
#[derive(Debug, thiserror::Error)]
enum SuperviseError {
    #[error(transparent)]
    Blob(#[from] crate::blobs::BlobError),
    #[error("the agent is ending")]
    Ending,
    #[error("cannot start the trial's process ({what})")]
    Start { what: &'static str, source: io::Error },
    #[error("the trial's process no longer reads what the agent says")]
    Deaf,
}

/// Runs one attempt to its end: fetches its files, starts its process, follows `wish`.
pub(crate) async fn supervise(
    program: PathBuf,
    order: Order,
    mut wish: watch::Receiver<Wish>,
    blobs: mpsc::Sender<Request>,
    events: mpsc::Sender<TrialEvent>,
    leaders: Leaders,
) {
    let key = order.key.clone();
    let result = live(&program, &order, &mut wish, &blobs, &events, &leaders).await;
    let (end, how) = result.unwrap_or_else(|error| {
        let message = trainer::chain(&error);
        let outcome = Outcome::failed(FailureClass::Infrastructure, message.clone());
        (Some(TrialEnd::Outcome(outcome)), message)
    });
    // The driver outlives its trials; without it nobody needs the news.
    drop(events.send(TrialEvent::Exited { key, end, how, kept: None }).await);
}

async fn live(
    program: &Path,
    order: &Order,
    wish: &mut watch::Receiver<Wish>,
    blobs: &mpsc::Sender<Request>,
    events: &mpsc::Sender<TrialEvent>,
    leaders: &Leaders,
) -> Result<(Option<TrialEnd>, String), SuperviseError> {
    tokio::select! {
        biased;
        fetched = fetch(&order.spec, blobs) => fetched?,
        () = until_stop(wish) => return Ok((Some(TrialEnd::Stopped), "was not started".into())),
    }
    let mut child = spawn(program, order)?;
    // Between the start and this line nothing is awaited, so no sweep for orphans sees the child.
    let leader = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let (Some(leader), Some(stdin), Some(stdout)) =
        (leader, child.stdin.take(), child.stdout.take())
    else {
        let source = io::Error::other("it ended at once");
        return Err(SuperviseError::Start { what: "its streams are missing", source });
    };
    leaders.add(leader);
    let followed = follow(order, leader, stdin, stdout, wish, events).await;
    // The leader is not reaped yet, so its number still means its group.
    process::kill_tree(leader);
    let status = child.wait().await;
    leaders.remove(leader);
    let how = describe(status, &order.folders.log());
    Ok((followed?, how))
}

/// Fetches the files of a program and puts them into its folders.
pub(crate) async fn fetch_program(
    mut order: Box<Order>,
    mut wish: watch::Receiver<Wish>,
    blobs: mpsc::Sender<Request>,
    events: mpsc::Sender<TrialEvent>,
) {
    let failed = |message: String| {
        Err(TrialEnd::Outcome(Outcome::failed(FailureClass::Infrastructure, message)))
    };
    let fetched = tokio::select! {
        biased;
        fetched = fetch(&order.spec, &blobs) => {
            fetched.or_else(|error| failed(trainer::chain(&error)))
        }
        () = until_stop(&mut wish) => Err(TrialEnd::Stopped),
    };
    let result = match (fetched, &order.spec.runner) {
        (Ok(()), Runner::Command(spec)) => {
            let (spec, mut prepared) = (spec.clone(), order.clone());
            // Copying large files must not hold up the heartbeat.
            let made = tokio::task::spawn_blocking(move || {
                let made = work::prepare(&mut prepared, &spec);
                (prepared, made)
            });
            match made.await {
                Ok((prepared, made)) => {
                    order = prepared;
                    order.is_prepared = made.is_ok();
                    made.map_err(|Refusal { class, message }| {
                        TrialEnd::Outcome(Outcome::failed(class, message))
                    })
                }
                Err(error) => failed(error.to_string()),
            }
        }
        (fetched, _) => fetched,
    };
    // The driver outlives its trials; without it nobody needs the news.
    drop(events.send(TrialEvent::Fetched(order, result)).await);
}

async fn fetch(spec: &TrialSpec, blobs: &mpsc::Sender<Request>) -> Result<(), SuperviseError> {
    for blob in needed_blobs(spec) {
        let (done, answer) = oneshot::channel();
        let request = Request { blob, done };
        blobs.send(request).await.map_err(|_| SuperviseError::Ending)?;
        answer.await.map_err(|_| SuperviseError::Ending)??;
    }
    Ok(())
}

fn needed_blobs(spec: &TrialSpec) -> Vec<BlobRef> {
    spec.runner.files().into_iter().cloned().collect()
}

async fn until_stop(wish: &mut watch::Receiver<Wish>) {
    // An error means that the driver is gone, which is a stop too.
    drop(wish.wait_for(|wish| wish.life != Life::GoOn).await);
}

fn spawn(program: &Path, order: &Order) -> Result<Child, SuperviseError> {
    let path = order.folders.log();
    let log = File::options().append(true).create(true).open(path);
    let log = log.map_err(|source| SuperviseError::Start { what: "its log", source })?;
    Command::new(program)
        .arg("run-trial")
        .envs(environment::variables(order))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .process_group(0)
        .spawn()
        .map_err(|source| SuperviseError::Start { what: "the program of the agent", source })
}

/// Passes on records until their stream ends, which is the end of the process.
async fn follow(
    order: &Order,
    leader: Pid,
    mut control: ChildStdin,
    records: ChildStdout,
    wish: &mut watch::Receiver<Wish>,
    events: &mpsc::Sender<TrialEvent>,
) -> Result<Option<TrialEnd>, SuperviseError> {
    let now = *wish.borrow_and_update();
    let order_now = Order { lease_until: now.lease_until, ..order.clone() };
    say(&mut control, &order_now).await?;
    let mut told = Wish { life: Life::GoOn, ..now };
    let mut records = Lines::<TrialRecord, _>::new(records);
    let mut end = None;
    loop {
        let wanted = *wish.borrow_and_update();
        if wanted.life == Life::Kill && told.life != Life::Kill {
            process::kill_tree(leader);
        } else if wanted.life == Life::Stop && told.life == Life::GoOn {
            say(&mut control, &Control::Stop).await?;
        }
        if wanted.life != Life::Kill && wanted.lease_until != told.lease_until {
            say(&mut control, &Control::Lease(wanted.lease_until)).await?;
        }
        told = wanted;
        tokio::select! {
            record = records.next() => match record {
                Ok(Some(TrialRecord::Ended(said))) => end = Some(said),
                Ok(Some(record)) => {
                    let said = TrialEvent::Said(order.key.clone(), record);
                    events.send(said).await.map_err(|_| SuperviseError::Ending)?;
                }
                Ok(None) => return Ok(end),
                Err(error) => {
                    tracing::error!(%error, attempt = %order.key, "the record stream broke");
                    return Ok(end);
                }
            },
            changed = wish.changed() => changed.map_err(|_| SuperviseError::Ending)?,
        }
    }
}

/// Writes one control line. A process that ended meanwhile is not an error here: its record stream
/// ends too.
async fn say(control: &mut ChildStdin, line: &impl Serialize) -> Result<(), SuperviseError> {
    let mut text = serde_json::to_vec(line)
        .map_err(|error| SuperviseError::Start { what: "its order", source: error.into() })?;
    text.push(b'\n');
    match tokio::time::timeout(CONTROL_WRITE_MAX, control.write_all(&text)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            tracing::debug!(%error, "the trial's process has ended");
            Ok(())
        }
        Err(_) => Err(SuperviseError::Deaf),
    }
}

/// How the process ended, as the end of "it ...", with what its log says last.
fn describe(status: io::Result<ExitStatus>, log: &Path) -> String {
    let how = match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("ended with exit code {code}"),
            (None, Some(signal)) => format!("was killed by signal {signal}"),
            (None, None) => "ended in an unknown way".to_owned(),
        },
        Err(error) => format!("was lost ({error})"),
    };
    match log_tail(log) {
        Ok(tail) if !tail.is_empty() => format!("{how}; its log ends:\n{tail}"),
        Ok(_) => how,
        Err(error) => format!("{how}; its log {} cannot be read: {error}", log.display()),
    }
}

fn log_tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
    let mut tail = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut tail)?;
    Ok(String::from_utf8_lossy(&tail).trim().to_owned())
}
