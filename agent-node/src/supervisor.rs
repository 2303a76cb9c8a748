//! Starts the process of one attempt, passes on what it says, and makes sure that nothing of it is
//! left when this is over.

use crate::blobs::Request;
use crate::environment;
use crate::order::{Control, LINE_BYTES_MAX, Order, TrialRecord};
use crate::process;
use agent_core::{Moment, TrialEnd};
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
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
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
    },
}

/// The leaders of the attempts that run now, so that any other child is known to be an orphan.
#[derive(Debug, Clone, Default)]
pub(crate) struct Leaders(Arc<Mutex<Vec<Pid>>>);

impl Leaders {
    pub(crate) fn all(&self) -> Vec<Pid> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn add(&self, leader: Pid) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(leader);
    }

    fn remove(&self, leader: Pid) {
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
        let message = crate::trial::chain(&error);
        let outcome = Outcome::failed(FailureClass::Infrastructure, message.clone());
        (Some(TrialEnd::Outcome(outcome)), message)
    });
    // The driver outlives its trials; without it nobody needs the news.
    drop(events.send(TrialEvent::Exited { key, end, how }).await);
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
    match &spec.runner {
        Runner::Train(train) => vec![train.data.text.clone()],
        Runner::Command(command) => command.files.values().cloned().collect(),
        Runner::Noop => Vec::new(),
    }
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
    let mut records = RecordStream::new(records);
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

/// Lines of records. `next` may be abandoned and called again without losing anything.
struct RecordStream {
    stream: BufReader<ChildStdout>,
    line: Vec<u8>,
}

impl RecordStream {
    fn new(stream: ChildStdout) -> Self {
        Self { stream: BufReader::new(stream), line: Vec::new() }
    }

    async fn next(&mut self) -> io::Result<Option<TrialRecord>> {
        loop {
            let available = self.stream.fill_buf().await?;
            if available.is_empty() {
                // A line without an end was cut by the death of its writer.
                return Ok(None);
            }
            let newline = available.iter().position(|byte| *byte == b'\n');
            let length = newline.map_or(available.len(), |position| position + 1);
            self.line.extend_from_slice(&available[..length]);
            self.stream.consume(length);
            if newline.is_some() {
                let record = serde_json::from_slice(&self.line);
                self.line.clear();
                return record.map(Some).map_err(io::Error::other);
            }
            if self.line.len() > LINE_BYTES_MAX {
                return Err(io::Error::other("a record is too long"));
            }
        }
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
