//! The one owner of the core: takes inputs in batches, decides, journals once per batch, and only
//! then acknowledges and publishes.
//!
//! Within a batch each event is applied as soon as it is decided, because the next input must see
//! it. If the journal then fails, this thread ends with the error and takes the core with it: what
//! was not persisted was never acknowledged, and a restart does not remember it.

use crate::core::{Core, Heard, Input, LeaseView, Rejection, Settled};
use crate::store::{Store, StoreError};
use proto::{AgentId, Event, ExperimentId, Inputs, Record, Timestamp};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

/// Messages that wait for the driver at most; senders then wait, which slows agents down.
pub(crate) const INBOX_MAX: usize = 4_096;
/// Messages decided per flush at most, so that the first of them is answered soon.
const BATCH_MAX: usize = 1_024;
/// Rounds of `settle` per batch at most. A study that plans for ever would otherwise stop the
/// world; what is left is taken up with the next batch.
const SETTLE_ROUNDS_MAX: usize = 10_000;
/// Records that a slow watcher may lag behind before it reads from the journal instead.
pub(crate) const LIVE_RECORDS_MAX: usize = 16_384;

/// The set of leases an agent shall hold, with its version.
pub(crate) type Wanted = Arc<(u64, Vec<LeaseView>)>;
/// A question to the core, answered between two batches.
type Question = Box<dyn FnOnce(&Core, Timestamp) + Send>;

/// What the driver is sent. Everything is answered after the flush of its batch.
pub(crate) enum Message {
    /// From a client.
    Submit {
        recipe: String,
        inputs: Inputs,
        retry_failed: bool,
        answer: oneshot::Sender<Result<Submitted, Rejection>>,
    },
    /// From a client.
    Cancel { experiment: ExperimentId, answer: oneshot::Sender<Result<(), Rejection>> },
    /// From `rpc::session` when an agent's stream begins.
    Join {
        heard: Heard,
        wanted: watch::Sender<Wanted>,
        answer: oneshot::Sender<Result<(), Rejection>>,
    },
    /// From `rpc::session` for each report.
    Report {
        report: crate::core::Report,
        heard: Heard,
        answer: oneshot::Sender<Result<Settled, Rejection>>,
    },
    /// From `rpc::session` when an agent's stream ends.
    Leave { heard: Heard },
    /// From anyone who wants to see.
    Ask(Question),
    /// From `shutdown`: everything sent before is decided, then the driver ends.
    Stop,
}

/// The answer to a submission.
#[derive(Debug, Clone)]
pub(crate) struct Submitted {
    pub(crate) experiment: ExperimentId,
    pub(crate) existed: bool,
}

/// The driver's side of the channels.
pub(crate) struct Driver {
    pub(crate) core: Core,
    pub(crate) store: Arc<Store>,
    pub(crate) inbox: mpsc::Receiver<Message>,
    pub(crate) live: broadcast::Sender<Arc<Record>>,
    /// The last journaled sequence number.
    pub(crate) last: watch::Sender<u64>,
    pub(crate) sessions: BTreeMap<AgentId, watch::Sender<Wanted>>,
}

/// Acknowledgements that wait for the flush.
type Acknowledgement = Box<dyn FnOnce()>;

impl Driver {
    /// Serves until it is told to stop, or every sender is gone.
    ///
    /// # Errors
    /// The journal cannot be written. Nothing that depended on the failed write was acknowledged.
    pub(crate) async fn serve(mut self) -> Result<(), StoreError> {
        self.core.restart(now());
        self.batch(Vec::new())?;
        loop {
            let wake = self.core.next_deadline().map(|(at, _)| at.since_ms(now()));
            let first = match wake {
                Some(wait_ms) => {
                    let received = self.inbox.recv();
                    tokio::time::timeout(Duration::from_millis(wait_ms), received).await
                }
                None => Ok(self.inbox.recv().await),
            };
            let mut messages = Vec::new();
            match first {
                Ok(None) => return self.store.flush(),
                Ok(Some(message)) => messages.push(message),
                // The deadline came first.
                Err(_) => {}
            }
            while messages.len() < BATCH_MAX
                && let Ok(message) = self.inbox.try_recv()
            {
                messages.push(message);
            }
            self.batch(messages)?;
        }
    }

    fn batch(&mut self, messages: Vec<Message>) -> Result<(), StoreError> {
        let now = now();
        let mut records = Vec::new();
        let mut acknowledgements: Vec<Acknowledgement> = Vec::new();
        let mut questions: Vec<Question> = Vec::new();
        self.core.pass_time(now);
        for message in messages {
            acknowledgements.extend(self.take(now, message, &mut records, &mut questions));
        }
        for _ in 0..SETTLE_ROUNDS_MAX {
            let events = self.core.settle(now);
            if events.is_empty() {
                break;
            }
            self.apply(now, events, &mut records);
        }
        debug_assert_eq!(self.core.check_invariants(), Ok(()));
        self.store.append(&records)?;
        if let Some(record) = records.last() {
            self.last.send_replace(record.sequence);
        }
        for record in records {
            // No watcher is listening: nothing to tell.
            drop(self.live.send(Arc::new(record)));
        }
        self.publish_assignments();
        acknowledgements.into_iter().for_each(|acknowledge| acknowledge());
        questions.into_iter().for_each(|question| question(&self.core, now));
        Ok(())
    }

    fn apply(&mut self, now: Timestamp, events: Vec<Event>, records: &mut Vec<Record>) {
        for event in events {
            self.core.apply(now, &event);
            let sequence = *self.last.borrow() + records.len() as u64 + 1;
            log(&event);
            records.push(Record { sequence, at: now, event });
        }
    }

    /// Decides one message. A receiver that has gone away needs no answer.
    fn take(
        &mut self,
        now: Timestamp,
        message: Message,
        records: &mut Vec<Record>,
        questions: &mut Vec<Question>,
    ) -> Option<Acknowledgement> {
        match message {
            Message::Submit { recipe, inputs, retry_failed, answer } => {
                let submitted = self.submit(now, recipe, inputs, retry_failed, records);
                Some(Box::new(move || drop(answer.send(submitted))))
            }
            Message::Cancel { experiment, answer } => {
                let decided = self.core.decide(now, &Input::Cancel { experiment });
                let result = decided.map(|events| self.apply(now, events, records));
                Some(Box::new(move || drop(answer.send(result))))
            }
            Message::Join { heard, wanted, answer } => {
                let result = self.join(now, heard, wanted, records);
                Some(Box::new(move || drop(answer.send(result))))
            }
            Message::Report { report, heard, answer } => {
                let decided = self.core.decide_report(now, &report);
                let result = decided.map(|(events, settled)| {
                    self.apply(now, events, records);
                    self.core.hear(now, &heard);
                    settled
                });
                Some(Box::new(move || drop(answer.send(result))))
            }
            Message::Leave { heard } => {
                self.core.hear(now, &heard);
                None
            }
            Message::Ask(question) => {
                questions.push(question);
                None
            }
            Message::Stop => {
                self.inbox.close();
                None
            }
        }
    }

    fn submit(
        &mut self,
        now: Timestamp,
        recipe: String,
        inputs: Inputs,
        retry_failed: bool,
        records: &mut Vec<Record>,
    ) -> Result<Submitted, Rejection> {
        let experiment = Core::experiment_id(&recipe, &inputs)?;
        let existed = self.core.experiments().contains_key(&experiment);
        let events = self.core.decide(now, &Input::Submit { recipe, inputs, retry_failed })?;
        self.apply(now, events, records);
        Ok(Submitted { experiment, existed })
    }

    fn join(
        &mut self,
        now: Timestamp,
        heard: Heard,
        wanted: watch::Sender<Wanted>,
        records: &mut Vec<Record>,
    ) -> Result<(), Rejection> {
        if let Heard::Joined { agent, running, .. } = &heard {
            let input = Input::Joined { agent: agent.clone(), running: running.clone() };
            let events = self.core.decide(now, &input)?;
            self.apply(now, events, records);
            // Replacing the sender closes the session that spoke for this agent before.
            self.sessions.insert(agent.clone(), wanted);
            tracing::info!(%agent, "agent joined");
        }
        self.core.hear(now, &heard);
        Ok(())
    }

    fn publish_assignments(&mut self) {
        for agent in self.core.take_changed() {
            if let Some(session) = self.sessions.get(&agent) {
                session.send_replace(Arc::new(self.core.assignments(&agent)));
            }
        }
        self.sessions.retain(|_, session| !session.is_closed());
    }
}

fn log(event: &Event) {
    match event {
        Event::ExperimentSubmitted { experiment, .. } => {
            tracing::info!(%experiment, "experiment submitted");
        }
        Event::TrialsPlanned { experiment, reason, trials } => {
            tracing::info!(%experiment, trials = trials.len(), reason, "trials planned");
        }
        Event::ExperimentResumed { experiment, retried } => {
            tracing::info!(%experiment, retried = retried.len(), "experiment resumed");
        }
        Event::ExperimentEnded { experiment, state } => {
            tracing::info!(%experiment, state = state.word(), "experiment ended");
        }
        Event::LeaseGranted { trial, attempt, agent, .. } => {
            tracing::debug!(%trial, %attempt, %agent, "lease granted");
        }
        Event::AttemptStarted { trial, attempt } => {
            tracing::debug!(%trial, %attempt, "attempt started");
        }
        Event::CheckpointSaved { trial, checkpoint } => {
            tracing::debug!(%trial, step = checkpoint.step, "checkpoint saved");
        }
        Event::AttemptFailed { trial, attempt, outcome, .. } => {
            tracing::info!(%trial, %attempt, outcome = ?outcome, "attempt failed; it will be repeated");
        }
        Event::TrialEnded { trial, attempt, outcome } => {
            tracing::info!(%trial, %attempt, outcome = outcome.word(), "trial ended");
        }
    }
}

/// The driver's clock, the only one that decisions see: the wall clock at the first call, and from
/// then on the steady one, so that setting the machine's clock ends no lease.
#[expect(clippy::disallowed_methods, reason = "the driver is where time enters")]
pub(crate) fn now() -> Timestamp {
    static START: OnceLock<(Instant, u64)> = OnceLock::new();
    let (instant, wall_ms) = START.get_or_init(|| {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        (Instant::now(), since_epoch.map_or(0, |elapsed| elapsed.as_millis() as u64))
    });
    Timestamp(wall_ms + instant.elapsed().as_millis() as u64)
}
