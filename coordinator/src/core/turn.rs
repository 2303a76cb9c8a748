//! One turn of the control plane: the requests of one moment go in, the steps that must follow
//! come out in their order. The driver carries them out with a real disk and real streams, the
//! simulation with ones that fail.

use super::Core;
use super::decide::{Rejection, Submission};
use super::report::{Join, Point, Report, Settled};
use super::view::Wanted;
use proto::{AgentId, Event, ExperimentId, Record, Timestamp};
use std::sync::Arc;

/// Rounds of `settle` per turn at most. A study that plans for ever would otherwise stop the
/// world; what is left is taken up with the next turn.
const SETTLE_ROUNDS_MAX: usize = 10_000;

/// Who waits for an answer; chosen by the caller of [`Core::turn`].
pub type Ticket = u64;

/// What somebody wants or says.
#[derive(Debug, Clone)]
pub enum Request {
    /// A client submits a recipe.
    Submit(Submission),
    /// A client ends an experiment. Repeating it changes nothing.
    Cancel(ExperimentId),
    /// An agent's session begins.
    Join(Join),
    /// An agent reports.
    Report(Report),
    /// An agent's session ended. Not answered.
    Leave(AgentId, u64),
    /// Metric points that a study watches. Not answered.
    Measure(Vec<Point>),
}

/// The answer to a request.
#[derive(Debug, Clone)]
pub enum Answer {
    /// To [`Request::Submit`].
    Submitted(Result<Submitted, Rejection>),
    /// To [`Request::Cancel`].
    Cancelled(Result<(), Rejection>),
    /// To [`Request::Join`].
    Joined(Result<(), Rejection>),
    /// To [`Request::Report`].
    Reported(Result<Settled, Rejection>),
}

/// What a submission became.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submitted {
    /// The recipe's experiment.
    pub experiment: ExperimentId,
    /// It was there before.
    pub existed: bool,
}

/// What must be done, in the order of the list.
#[derive(Debug, Clone)]
pub enum Step {
    /// Write the records and wait until they are durable. If that fails nothing later in the list
    /// may happen, and this core must not be used any more.
    Persist(Arc<[Record]>),
    /// Answer.
    Acknowledge(Vec<(Ticket, Answer)>),
    /// Tell the agents what they shall hold now.
    Assign(Vec<(AgentId, Wanted)>),
    /// Show the records to watchers.
    Publish(Arc<[Record]>),
}

/// What a turn has decided so far.
struct Turn<'a> {
    core: &'a mut Core,
    now: Timestamp,
    /// Sequence number of the last record before the turn.
    last: u64,
    records: Vec<Record>,
}

impl Core {
    /// Decides requests at `now`, in their order, and what follows from them. `last` is the
    /// sequence number of the newest record.
    pub fn turn(
        &mut self,
        now: Timestamp,
        last: u64,
        requests: Vec<(Ticket, Request)>,
    ) -> Vec<Step> {
        self.pass_time(now);
        let mut turn = Turn { core: self, now, last, records: Vec::new() };
        let mut answers = Vec::new();
        for (ticket, request) in requests {
            answers.extend(turn.take(request).map(|answer| (ticket, answer)));
        }
        turn.settle();
        let records: Arc<[Record]> = turn.records.into();
        let assignments = std::mem::take(&mut self.changed);
        let assignments: Vec<_> = assignments
            .into_iter()
            .filter_map(|agent| Some((self.wanted(&agent)?, agent)))
            .map(|(wanted, agent)| (agent, wanted))
            .collect();
        let mut steps = Vec::new();
        if !records.is_empty() {
            steps.push(Step::Persist(Arc::clone(&records)));
        }
        if !answers.is_empty() {
            steps.push(Step::Acknowledge(answers));
        }
        if !assignments.is_empty() {
            steps.push(Step::Assign(assignments));
        }
        if !records.is_empty() {
            steps.push(Step::Publish(records));
        }
        if planted!(self, AcknowledgeFirst) {
            steps.reverse();
        }
        steps
    }
}

impl Turn<'_> {
    fn take(&mut self, request: Request) -> Option<Answer> {
        match request {
            Request::Submit(submission) => Some(Answer::Submitted(self.submit(&submission))),
            Request::Cancel(experiment) => {
                let decided = self.core.decide_cancel(&experiment);
                Some(Answer::Cancelled(decided.map(|events| self.apply(events))))
            }
            Request::Join(join) => {
                let decided = self.core.decide_join(self.now, &join);
                Some(Answer::Joined(decided.map(|events| {
                    self.apply(events);
                    self.core.hear_join(self.now, &join);
                })))
            }
            Request::Report(report) => {
                let decided = self.core.decide_report(self.now, &report);
                Some(Answer::Reported(decided.map(|(events, settled)| {
                    self.apply(events);
                    self.core.hear_report(self.now, &report);
                    settled
                })))
            }
            Request::Leave(agent, session) => {
                self.core.hear_leave(&agent, session);
                None
            }
            Request::Measure(points) => {
                for point in points {
                    let events = self.core.decide_point(&point);
                    self.apply(events);
                }
                None
            }
        }
    }

    fn submit(&mut self, submission: &Submission) -> Result<Submitted, Rejection> {
        let (experiment, events) = self.core.decide_submit(submission)?;
        let existed = self.core.experiments.contains_key(&experiment);
        self.apply(events);
        Ok(Submitted { experiment, existed })
    }

    fn settle(&mut self) {
        for _ in 0..SETTLE_ROUNDS_MAX {
            let events = self.core.settle(self.now);
            if events.is_empty() {
                return;
            }
            self.apply(events);
        }
    }

    fn apply(&mut self, events: Vec<Event>) {
        for event in events {
            self.core.apply(self.now, &event);
            let sequence = self.last + self.records.len() as u64 + 1;
            self.records.push(Record { sequence, at: self.now, event });
        }
    }
}
