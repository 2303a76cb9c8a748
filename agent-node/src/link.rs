//! The way to the coordinator while a session lasts: which report goes when, and which of the
//! checkpoints that were said the coordinator has.

use crate::session;
use agent_core::{Moment, Report};
use proto::wire::{self, agent_message::Message as Out};
use proto::{AttemptKey, Checkpoint};
use std::collections::{BTreeSet, VecDeque};
use tokio::sync::mpsc;

/// Reports whose checkpoints are remembered until their reply; as many as the core waits for.
const REPORTS_IN_FLIGHT_MAX: usize = 256;
/// Places for messages that logs leave to metrics and reports, and metrics to reports.
const PLACES_KEPT: usize = 16;
/// Batches of metrics that the coordinator has not answered for. It takes messages in their order,
/// so they hold up the next report: these many for a fraction of a second, some thousands of points
/// each, while a lease lasts seconds.
const BATCHES_MAX: u64 = 4;

/// What the next report has to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// Only that the agent lives.
    Nothing,
    /// What the coordinator should know before long: attempts that were taken up or have begun; or
    /// that metrics wait for its reply.
    Soon,
    /// What it waits for: ends and checkpoints.
    Urgent,
}

/// One session, as the driver uses it.
#[derive(Debug)]
pub(crate) struct Link {
    outbound: mpsc::Sender<wire::AgentMessage>,
    heartbeat_ms: u64,
    reported_at: Option<Moment>,
    last_sequence: u64,
    /// The newest report that was answered.
    answered: u64,
    /// The report with urgent news that has no reply. What happens meanwhile goes together into
    /// the next one, so a flood of outcomes is said once and not again with each of them.
    awaited: Option<u64>,
    /// Checkpoints of reports without a reply, oldest first.
    said: VecDeque<(u64, Vec<(AttemptKey, Checkpoint)>)>,
    /// Batches of metrics sent in this session, and of those how many went before each report
    /// without a reply, and before the newest answered one.
    batches: u64,
    batches_before: VecDeque<(u64, u64)>,
    batches_answered: u64,
}

impl Link {
    pub(crate) fn new(outbound: mpsc::Sender<wire::AgentMessage>, heartbeat_ms: u64) -> Self {
        Self {
            outbound,
            heartbeat_ms,
            reported_at: None,
            last_sequence: 0,
            answered: 0,
            awaited: None,
            said: VecDeque::new(),
            batches: 0,
            batches_before: VecDeque::new(),
            batches_answered: 0,
        }
    }

    /// Whether a report goes now: a heartbeat, or `news` that no earlier report holds up.
    pub(crate) fn report_is_due(&self, now: Moment, news: News) -> bool {
        let goes = match news {
            News::Nothing => false,
            News::Soon => self.answered >= self.last_sequence,
            News::Urgent => self.awaited.is_none(),
        };
        goes || self.heartbeat_at().is_none_or(|at| at <= now)
    }

    /// When the next report goes even without news; `None` is at once.
    pub(crate) fn heartbeat_at(&self) -> Option<Moment> {
        self.reported_at.map(|at| at.plus_ms(self.heartbeat_ms))
    }

    /// A place for a message that is no report, which leaves others free; `None` while the network
    /// is behind.
    pub(crate) fn place_beside(&self) -> Option<mpsc::Permit<'_, wire::AgentMessage>> {
        let is_free = self.outbound.capacity() > PLACES_KEPT;
        is_free.then(|| self.outbound.try_reserve().ok()).flatten()
    }

    /// Whether a batch of metrics must wait for the reply to a report.
    pub(crate) fn has_batches_enough(&self) -> bool {
        self.batches - self.batches_answered >= BATCHES_MAX
    }

    /// Whether batches of metrics were sent that no reply has answered for.
    pub(crate) fn awaits_metrics(&self) -> bool {
        self.batches > self.batches_answered
    }

    /// Sends a batch of metrics. Answers whether there was a place for it.
    pub(crate) fn send_metrics(
        &mut self,
        batch: impl FnOnce() -> Option<wire::MetricBatch>,
    ) -> bool {
        let Some(place) = self.place_beside() else { return false };
        if let Some(batch) = batch() {
            send(place, Out::Metrics(batch));
            self.batches += 1;
        }
        true
    }

    /// Where to wait for a place.
    pub(crate) fn outbound(&self) -> mpsc::Sender<wire::AgentMessage> {
        self.outbound.clone()
    }

    /// Sends what `report` answers, which says `news`. Answers whether there was a place for it; if
    /// not, it goes later and is then newer.
    pub(crate) fn send_report(
        &mut self,
        now: Moment,
        news: News,
        report: impl FnOnce() -> Report,
    ) -> bool {
        let Ok(place) = self.outbound.try_reserve() else {
            return false;
        };
        let report = report();
        let sequence = report.sequence;
        let checkpoints = report.checkpoints.clone();
        match session::report_message(report) {
            Ok(message) => place.send(message),
            Err(error) => tracing::error!(%error, "a report cannot be written"),
        }
        self.reported_at = Some(now);
        self.last_sequence = sequence;
        self.batches_before.push_back((sequence, self.batches));
        if self.batches_before.len() > REPORTS_IN_FLIGHT_MAX {
            self.batches_before.pop_front();
        }
        if news == News::Urgent {
            self.awaited.get_or_insert(sequence);
        }
        if !checkpoints.is_empty() {
            self.said.push_back((sequence, checkpoints));
            if self.said.len() > REPORTS_IN_FLIGHT_MAX {
                self.said.pop_front();
            }
        }
        true
    }

    /// Takes in the reply to report `sequence`; answers the checkpoints that the coordinator has
    /// now, oldest first.
    pub(crate) fn replied(
        &mut self,
        sequence: u64,
        refused: &[AttemptKey],
    ) -> Vec<(AttemptKey, Checkpoint)> {
        if sequence > self.last_sequence {
            return Vec::new();
        }
        self.answered = self.answered.max(sequence);
        if self.awaited.is_some_and(|awaited| awaited <= sequence) {
            self.awaited = None;
        }
        let count = self.batches_before.partition_point(|(at, _)| *at <= sequence);
        if let Some((_, batches)) = self.batches_before.drain(..count).next_back() {
            self.batches_answered = batches;
        }
        let refused: BTreeSet<&AttemptKey> = refused.iter().collect();
        let count = self.said.partition_point(|(said, _)| *said <= sequence);
        let heard = self.said.drain(..count).flat_map(|(_, checkpoints)| checkpoints);
        heard.filter(|(key, _)| !refused.contains(key)).collect()
    }
}

/// Wraps what every session sends.
pub(crate) fn send(place: mpsc::Permit<'_, wire::AgentMessage>, message: Out) {
    place.send(session::message(message));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{AgentId, Attempt, TrialId};

    #[test]
    fn urgent_news_waits_for_one_reply_and_heartbeats_for_none() {
        let (outbound, mut sent) = mpsc::channel(4);
        let mut link = Link::new(outbound, 100);
        assert!(link.report_is_due(Moment(0), News::Nothing), "the first says that it is there");
        assert!(link.send_report(Moment(0), News::Urgent, || report(1)));
        for (at, due) in [(1, false), (99, false), (100, true)] {
            assert_eq!(link.report_is_due(Moment(at), News::Urgent), due, "at {at}");
        }
        assert!(link.send_report(Moment(100), News::Urgent, || report(2)));
        link.replied(7, &[]);
        assert!(!link.report_is_due(Moment(101), News::Urgent), "nobody sent a report 7");
        link.replied(1, &[]);
        assert!(link.report_is_due(Moment(101), News::Urgent));
        assert!(!link.report_is_due(Moment(101), News::Soon), "report 2 has no reply");
        link.replied(2, &[]);
        assert!(link.report_is_due(Moment(101), News::Soon));
        assert!(!link.report_is_due(Moment(101), News::Nothing));
        assert!(link.send_report(Moment(101), News::Soon, || report(3)));
        assert!(link.report_is_due(Moment(102), News::Urgent), "an outcome waits for no such");
        assert!(sent.try_recv().is_ok() && sent.try_recv().is_ok());
    }

    // Goal: however many metrics there are, only so many go before the next report, and a reply
    // lets as many follow as went before its report.
    #[test]
    fn metrics_wait_for_replies_and_leave_places_to_reports() {
        let (outbound, mut sent) = mpsc::channel(PLACES_KEPT + 6);
        let mut link = Link::new(outbound, 100);
        let send = |link: &mut Link| {
            let mut count = 0;
            while !link.has_batches_enough() && link.send_metrics(|| Some(Default::default())) {
                count += 1;
            }
            count
        };
        assert!(link.send_report(Moment(0), News::Nothing, || report(1)));
        assert_eq!(send(&mut link), BATCHES_MAX);
        assert!(!link.report_is_due(Moment(1), News::Soon), "report 1 has no reply");
        link.replied(1, &[]);
        assert_eq!(send(&mut link), 0, "the batches went after report 1");
        assert!(link.report_is_due(Moment(2), News::Soon));
        assert!(link.send_report(Moment(2), News::Soon, || report(2)));
        assert_eq!(send(&mut link), 0);
        link.replied(2, &[]);
        assert!(!link.has_batches_enough());
        assert_eq!(send(&mut link), 0, "there is no place but those of reports");
        assert!(link.send_report(Moment(100), News::Nothing, || report(3)));
        while sent.try_recv().is_ok() {}
        assert_eq!(send(&mut link), BATCHES_MAX);
    }

    #[test]
    fn a_reply_names_the_checkpoints_that_the_coordinator_has() {
        let (outbound, _sent) = mpsc::channel(4);
        let mut link = Link::new(outbound, 100);
        for sequence in 1..=3 {
            link.send_report(Moment(0), News::Urgent, || Report {
                checkpoints: vec![(key(), checkpoint(sequence))],
                ..report(sequence)
            });
        }
        let steps = |heard: Vec<(AttemptKey, Checkpoint)>| -> Vec<u64> {
            heard.iter().map(|(_, checkpoint)| checkpoint.step).collect()
        };
        assert_eq!(steps(link.replied(2, &[])), [1, 2]);
        assert_eq!(steps(link.replied(2, &[])), [0_u64; 0]);
        assert_eq!(steps(link.replied(3, &[key()])), [0_u64; 0], "a refused one is not had");
    }

    fn report(sequence: u64) -> Report {
        Report { sequence, ..Report::default() }
    }

    fn key() -> AttemptKey {
        let trial = TrialId::new("0123456789abcdef").unwrap();
        AttemptKey { trial, attempt: Attempt(1), rank: 0 }
    }

    fn checkpoint(step: u64) -> Checkpoint {
        let agent = AgentId::new("a").unwrap();
        Checkpoint { step, attempt: Attempt(1), agent, folder: "/x".into(), files: Vec::new() }
    }
}
