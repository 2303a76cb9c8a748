//! The process of one training (`brine-agent run-trial`). It reads an order and then control lines
//! from its standard input, and writes records to its standard output.
//!
//! Nothing of an attempt outlives its agent or its lease: when the input ends, because the agent
//! died, or the lease passes, because the agent is frozen, this process kills its descendants, its
//! process group and so itself.

mod train;

use agent_core::{Moment, STOP_GRACE_MS, TrialEnd};
use agent_keeper::order::{Control, LINE_BYTES_MAX, Metric, Order, TrialRecord};
use agent_keeper::stop::StopCause;
use agent_keeper::{clock, process};
use proto::{AttemptKey, FailureClass, Outcome, Runner};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Stdin, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often the watchdog looks at the clock. A tenth of the shortest lease worth having.
const WATCHDOG_PERIOD: Duration = Duration::from_millis(100);
/// How often orphans of the program are reaped, in watchdog periods: every 5 s.
const REAP_PERIODS: u64 = 50;
/// The trainer gets this much longer than a program to stop at its time limit, because it ends
/// its step and writes a checkpoint first.
const TRAINER_GRACE_MS: u64 = 3 * STOP_GRACE_MS;

/// Why the process could not even begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrialError {
    /// A person started it.
    #[error("run-trial is started by an agent, as the leader of its own process group")]
    NotFromAgent,
    /// The streams to the agent do not work.
    #[error("cannot set up the streams to the agent")]
    Streams(#[from] io::Error),
    /// The first line is not an order.
    #[error("the order cannot be read")]
    Order(#[from] serde_json::Error),
    /// The agent went away before it gave an order.
    #[error("the agent gave no order")]
    NoOrder,
}

/// Runs one attempt from the order on standard input to the outcome on standard output.
///
/// # Errors
/// No work was begun, so the agent finds no outcome.
pub(crate) fn run() -> Result<(), TrialError> {
    if rustix::process::getpgrp() != rustix::process::getpid() {
        return Err(TrialError::NotFromAgent);
    }
    let records = Records::take_stdout()?;
    process::adopt_orphans()?;
    let _signals = catch_terminate()?;
    let mut control = BufReader::new(io::stdin());
    let line = read_line(&mut control)?.ok_or(TrialError::NoOrder)?;
    let order: Order = serde_json::from_str(&line)?;
    let lifeline = Lifeline::new(&order);
    let watched = (Arc::clone(&lifeline), Arc::clone(&records));
    std::thread::spawn(move || listen(control, &watched.0, &watched.1));
    let watched = (Arc::clone(&lifeline), Arc::clone(&records));
    std::thread::spawn(move || watch(&watched.0, &watched.1));
    records.write(&TrialRecord::Started);
    let end = match &order.spec.runner {
        Runner::Train(spec) => train::run(&order, &lifeline, &records, |setting, observer| {
            trainer::train(spec, setting, &order.resume, observer)
        }),
        Runner::Grpo(spec) => train::run(&order, &lifeline, &records, |setting, observer| {
            trainer::train_policy(spec, setting, &order.resume, observer)
        }),
        Runner::Command(_) | Runner::Noop => {
            let message = "this process runs trainings only";
            TrialEnd::Outcome(Outcome::failed(FailureClass::Invalid, message))
        }
    };
    records.write(&TrialRecord::Ended(end));
    Ok(())
}

/// The stream of records. It is the standard output that this process was started with; after
/// [`Records::take_stdout`] what anybody prints goes to the log instead, so that no library can
/// write between the records.
#[derive(Debug)]
pub(crate) struct Records {
    stream: Mutex<File>,
    /// Set when this process is about to kill its program, whose death is then not news.
    silent: AtomicBool,
}

impl Records {
    fn take_stdout() -> io::Result<Arc<Self>> {
        let stream = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
        rustix::stdio::dup2_stdout(rustix::stdio::stderr())?;
        let records = Arc::new(Self {
            stream: Mutex::new(File::from(stream)),
            silent: AtomicBool::new(false),
        });
        // The agent takes the stream's end for the process's end, so it stays open to the last.
        std::mem::forget(Arc::clone(&records));
        Ok(records)
    }

    /// Writes one line. When the agent cannot be told any more there is no use in going on.
    pub(crate) fn write(&self, record: &TrialRecord) {
        let line = serde_json::to_vec(record).map(|mut line| {
            line.push(b'\n');
            line
        });
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        if self.silent.load(Ordering::Acquire) {
            return;
        }
        let written = line.map_err(io::Error::from).and_then(|line| stream.write_all(&line));
        if written.is_err() {
            process::kill_self_and_descendants();
        }
    }

    /// Says no more and ends this process and all that it started.
    fn end_everything(&self) -> ! {
        self.silent.store(true, Ordering::Release);
        process::kill_self_and_descendants()
    }

    pub(crate) fn metric(&self, metric: &str, step: u64, value: f64) {
        let metric = metric.to_owned();
        self.write(&TrialRecord::Metric(Metric { metric, step, value }));
    }
}

/// Until when the process may live, and whether it was asked to stop.
#[derive(Debug)]
pub(crate) struct Lifeline {
    key: AttemptKey,
    lease_until_ms: AtomicU64,
    stop: AtomicBool,
    time_limit_ms: Option<u64>,
    time_out_at: Option<Moment>,
}

impl Lifeline {
    fn new(order: &Order) -> Arc<Self> {
        let time_limit_ms = order.spec.time_limit_ms;
        Arc::new(Self {
            key: order.key.clone(),
            lease_until_ms: AtomicU64::new(order.lease_until.0),
            stop: AtomicBool::new(false),
            time_limit_ms,
            time_out_at: time_limit_ms.map(|limit| clock::now().plus_ms(limit)),
        })
    }

    /// Whether the work has to end, and why.
    pub(crate) fn stop_cause(&self) -> Option<StopCause> {
        if self.time_out_at.is_some_and(|end| end <= clock::now()) {
            return Some(StopCause::TimeOut);
        }
        self.is_asked_to_stop().then_some(StopCause::Asked)
    }

    /// Whether the agent asked for the end.
    pub(crate) fn is_asked_to_stop(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// How an attempt ended that obeyed.
    pub(crate) fn stopped(&self, cause: StopCause) -> TrialEnd {
        cause.end(self.time_limit_ms)
    }
}

/// Follows the agent's control lines until they end, which ends this process.
fn listen(mut control: BufReader<Stdin>, lifeline: &Lifeline, records: &Records) {
    loop {
        let line = match read_line(&mut control) {
            Ok(Some(line)) => line,
            Ok(None) => {
                tracing::warn!(attempt = %lifeline.key, "the agent is gone; ending the attempt");
                records.end_everything();
            }
            Err(error) => {
                tracing::error!(%error, attempt = %lifeline.key, "the control stream broke");
                records.end_everything();
            }
        };
        match serde_json::from_str(&line) {
            Ok(Control::Lease(until)) => {
                lifeline.lease_until_ms.fetch_max(until.0, Ordering::AcqRel);
            }
            Ok(Control::Stop) => lifeline.stop.store(true, Ordering::Release),
            Err(error) => tracing::error!(%error, line, "not a control line"),
        }
    }
}

/// Ends this process when its lease passes, or when a trainer that was to stop at its time limit
/// does not.
fn watch(lifeline: &Lifeline, records: &Records) {
    for period in 1_u64.. {
        std::thread::sleep(WATCHDOG_PERIOD);
        let now = clock::now();
        if lifeline.lease_until_ms.load(Ordering::Acquire) <= now.0 {
            tracing::warn!(attempt = %lifeline.key, "the lease passed; ending the attempt");
            records.end_everything();
        }
        let limit = lifeline.time_out_at.map(|end| end.plus_ms(TRAINER_GRACE_MS));
        if limit.is_some_and(|limit| limit.plus_ms(STOP_GRACE_MS) <= now) {
            records.write(&TrialRecord::Ended(lifeline.stopped(StopCause::TimeOut)));
            records.end_everything();
        }
        if period.is_multiple_of(REAP_PERIODS) {
            process::reap_adopted(None);
        }
    }
}

/// Makes SIGTERM harmless for this process, because a runner sends it to the whole group to reach
/// every process of a program. A handler, unlike an ignored signal, is not inherited by programs.
fn catch_terminate() -> io::Result<(tokio::runtime::Runtime, tokio::signal::unix::Signal)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let entered = runtime.enter();
    let signal = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    drop(entered);
    Ok((runtime, signal))
}

/// One line without its end; `None` at the end of the stream. A last line without an end counts as
/// the end, because its writer died in the middle.
fn read_line(stream: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    stream.by_ref().take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut line)?;
    if line.pop() != Some(b'\n') {
        if line.len() + 1 >= LINE_BYTES_MAX {
            return Err(io::Error::other("a line is too long"));
        }
        return Ok(None);
    }
    String::from_utf8(line).map(Some).map_err(io::Error::other)
}
