//! The one owner of the core: takes requests in batches, lets the core decide a turn, and carries
//! out its steps in their order: persist, acknowledge, tell the agents, publish.
//!
//! If the journal fails, this thread ends with the error and takes the core with it: what was not
//! persisted was never acknowledged, and a restart does not remember it.

use crate::core::{Answer, Core, Join, Rejection, Report, Request, Settled, Step, Submission};
use crate::core::{Point, Submitted, Ticket, Wanted};
use crate::published::Published;
use crate::store::{Store, StoreError};
use proto::{AgentId, Event, ExperimentId, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

/// Messages that wait for the driver at most; senders then wait, which slows agents down.
pub(crate) const INBOX_MAX: usize = 4_096;
/// Messages decided per turn at most, so that the first of them is answered soon.
const BATCH_MAX: usize = 1_024;
/// Batches of records that a slow watcher may lag behind before it reads from the journal instead.
pub(crate) const LIVE_BATCHES_MAX: usize = 1_024;

/// The newest wish of the coordinator for one agent.
pub(crate) type LatestWanted = Arc<Wanted>;
/// A question to the core, answered between two turns.
type Question = Box<dyn FnOnce(&Core, Timestamp) + Send>;
/// Where an answer goes. A receiver that has gone away needs none.
type Waiting = Box<dyn FnOnce(Answer) + Send>;

/// Who waits for an answer of this turn.
enum Waiter {
    Caller(Waiting),
    /// A session that begins if its agent is accepted.
    Session {
        agent: AgentId,
        wanted: watch::Sender<LatestWanted>,
        answer: oneshot::Sender<Result<(), Rejection>>,
    },
}

/// What the driver is sent. Requests are answered after the flush of their turn.
pub(crate) enum Message {
    /// A request with its answer's destination; `None` for one that is not answered.
    Request(Request, Option<Waiting>),
    /// An agent's session begins; its assignments go to `wanted`.
    Join {
        join: Join,
        wanted: watch::Sender<LatestWanted>,
        answer: oneshot::Sender<Result<(), Rejection>>,
    },
    /// From anyone who wants to see.
    Ask(Question),
    /// From `shutdown`: everything sent before is decided, then the driver ends.
    Stop,
}

impl Message {
    pub(crate) fn submit(
        submission: Submission,
        answer: oneshot::Sender<Result<Submitted, Rejection>>,
    ) -> Self {
        let waiting = move |given| {
            if let Answer::Submitted(result) = given {
                drop(answer.send(result));
            }
        };
        Self::Request(Request::Submit(submission), Some(Box::new(waiting)))
    }

    pub(crate) fn cancel(
        experiment: ExperimentId,
        answer: oneshot::Sender<Result<(), Rejection>>,
    ) -> Self {
        let waiting = move |given| {
            if let Answer::Cancelled(result) = given {
                drop(answer.send(result));
            }
        };
        Self::Request(Request::Cancel(experiment), Some(Box::new(waiting)))
    }

    pub(crate) fn report(
        report: Report,
        answer: oneshot::Sender<Result<Settled, Rejection>>,
    ) -> Self {
        let waiting = move |given| {
            if let Answer::Reported(result) = given {
                drop(answer.send(result));
            }
        };
        Self::Request(Request::Report(report), Some(Box::new(waiting)))
    }

    pub(crate) fn leave(agent: AgentId, session: u64) -> Self {
        Self::Request(Request::Leave(agent, session), None)
    }

    pub(crate) fn measure(points: Vec<Point>) -> Self {
        Self::Request(Request::Measure(points), None)
    }
}

/// The driver's side of the channels.
pub(crate) struct Driver {
    pub(crate) core: Core,
    pub(crate) store: Arc<Store>,
    pub(crate) inbox: mpsc::Receiver<Message>,
    pub(crate) live: broadcast::Sender<Arc<Published>>,
    /// The last journaled sequence number.
    pub(crate) last: watch::Sender<u64>,
    pub(crate) sessions: BTreeMap<AgentId, watch::Sender<LatestWanted>>,
    /// Which metric points the core wants to see.
    pub(crate) watched: watch::Sender<Arc<Watched>>,
}

/// Metrics that studies watch, with their rungs.
pub(crate) type Watched = BTreeMap<String, BTreeSet<u64>>;

impl Driver {
    /// Serves until it is told to stop, or every sender is gone.
    ///
    /// # Errors
    /// The journal cannot be written. Nothing that depended on the failed write was acknowledged.
    pub(crate) async fn serve(mut self) -> Result<(), StoreError> {
        self.core.restart(now());
        self.watched.send_replace(Arc::new(self.core.watched()));
        self.turn(Vec::new())?;
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
            self.turn(messages)?;
        }
    }

    fn turn(&mut self, messages: Vec<Message>) -> Result<(), StoreError> {
        let now = now();
        let mut requests = Vec::with_capacity(messages.len());
        let mut waiting: BTreeMap<Ticket, Waiter> = BTreeMap::new();
        let mut questions: Vec<Question> = Vec::new();
        for (ticket, message) in (0..).zip(messages) {
            match message {
                Message::Request(request, wants) => {
                    waiting.extend(wants.map(|wants| (ticket, Waiter::Caller(wants))));
                    requests.push((ticket, request));
                }
                Message::Join { join, wanted, answer } => {
                    let agent = join.agent.clone();
                    waiting.insert(ticket, Waiter::Session { agent, wanted, answer });
                    requests.push((ticket, Request::Join(join)));
                }
                Message::Ask(question) => questions.push(question),
                Message::Stop => self.inbox.close(),
            }
        }
        let last = *self.last.borrow();
        for step in self.core.turn(now, last, requests) {
            self.carry_out(step, &mut waiting)?;
        }
        self.sessions.retain(|_, session| !session.is_closed());
        questions.into_iter().for_each(|question| question(&self.core, now));
        Ok(())
    }

    fn carry_out(
        &mut self,
        step: Step,
        waiting: &mut BTreeMap<Ticket, Waiter>,
    ) -> Result<(), StoreError> {
        match step {
            Step::Persist(records) => {
                self.store.append(&records)?;
                if let Some(record) = records.last() {
                    self.last.send_replace(record.sequence);
                }
            }
            Step::Assign(assignments) => {
                for (agent, wanted) in assignments {
                    if let Some(session) = self.sessions.get(&agent) {
                        session.send_replace(Arc::new(wanted));
                    }
                }
            }
            Step::Acknowledge(answers) => {
                for (ticket, answer) in answers {
                    if let Some(waiter) = waiting.remove(&ticket) {
                        self.answer(waiter, answer);
                    }
                }
            }
            Step::Publish(records) => {
                records.iter().for_each(|record| log(&record.event));
                if records.iter().any(|record| changes_watched(&record.event)) {
                    self.watched.send_replace(Arc::new(self.core.watched()));
                }
                if self.live.receiver_count() > 0 {
                    // A watcher that has just gone needs nothing.
                    drop(self.live.send(Arc::new(Published::new(&self.core, &records))));
                }
            }
        }
        Ok(())
    }

    fn answer(&mut self, waiter: Waiter, given: Answer) {
        match (waiter, given) {
            (Waiter::Caller(waiting), given) => waiting(given),
            (Waiter::Session { agent, wanted, answer }, Answer::Joined(result)) => {
                if result.is_ok() {
                    tracing::info!(%agent, "agent joined");
                    // Replacing the sender closes the session that spoke for this agent before.
                    self.sessions.insert(agent, wanted);
                }
                drop(answer.send(result));
            }
            // The core answers a request with its own kind.
            (
                Waiter::Session { .. },
                Answer::Submitted(_) | Answer::Cancelled(_) | Answer::Reported(_),
            ) => {}
        }
    }
}

/// Whether other metrics may be watched after this.
fn changes_watched(event: &Event) -> bool {
    matches!(
        event,
        Event::ExperimentSubmitted { .. }
            | Event::ExperimentResumed { .. }
            | Event::ExperimentEnded { .. }
    )
}

fn log(event: &Event) {
    match event {
        Event::ExperimentSubmitted { experiment, .. } => {
            tracing::info!(%experiment, "experiment submitted");
        }
        Event::RecipeChanged { experiment, .. } => {
            tracing::info!(%experiment, "its recipe's policy changed");
        }
        Event::TrialsPlanned { experiment, reason, trials } => {
            tracing::info!(%experiment, trials = trials.len(), reason, "trials planned");
        }
        Event::RangePlanned { experiment, reason, count, .. } => {
            tracing::info!(%experiment, trials = count, reason, "trials planned");
        }
        Event::TrialsDrawn { experiment, count } => {
            tracing::debug!(%experiment, count, "trials drawn");
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
        Event::AttemptPreempted { trial, attempt, by } => {
            tracing::info!(%trial, %attempt, %by, "attempt asked to give way");
        }
        Event::AttemptStarted { trial, attempt } => {
            tracing::debug!(%trial, %attempt, "attempt started");
        }
        Event::MemberEnded { trial, attempt, rank, .. } => {
            tracing::debug!(%trial, %attempt, rank, "member ended");
        }
        Event::Measured { trial, attempt, rung, value } => {
            tracing::debug!(%trial, %attempt, rung, value, "measured");
        }
        Event::Noticed { trial, attempt, notice } => {
            tracing::warn!(%trial, %attempt, kind = notice.kind.word(), text = notice.text, "noticed");
        }
        Event::CheckpointSaved { trial, checkpoint } => {
            tracing::debug!(%trial, step = checkpoint.step, "checkpoint saved");
        }
        Event::AttemptFailed { trial, attempt, outcome, .. } => {
            tracing::info!(%trial, %attempt, outcome = ?outcome, "attempt failed; it will be repeated");
        }
        Event::TrialEnded { trial, attempt, outcome } => {
            tracing::debug!(%trial, %attempt, outcome = outcome.word(), "trial ended");
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
