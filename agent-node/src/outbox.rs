//! What waits for the coordinator: reports, metrics and logs, each when it is due and as far as the
//! network takes it.

use crate::link::{self, Link, News};
use crate::stream::{LogTail, MetricBuffer};
use agent_core::{Core, Moment};
use agent_keeper::order::Metric;
use proto::wire::{self, METRIC_BATCH_MAX, agent_message::Message as Out};
use proto::{AttemptKey, Checkpoint};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use tokio::sync::mpsc;

/// How often running attempts' logs are looked at. One that ended is looked at at once.
const LOG_PERIOD_MS: u64 = 100;
/// How long metric points are gathered before they are sent.
const METRIC_PERIOD_MS: u64 = 200;

/// How often it is said that metric points were dropped.
const DROPPED_PERIOD_MS: u64 = 5_000;

/// How long news that are not urgent wait for others. An attempt that ends sooner is told once.
const SOON_MS: u64 = 50;
/// How long ends are gathered while other attempts are in line for the devices, so that nothing
/// waits for the coordinator's answer.
const GATHER_MS: u64 = 25;

/// What waits, and the session that it waits for.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    link: Option<Link>,
    /// Whether something waits for a place in the link.
    is_crowded: bool,
    /// Whether the coordinator waits for what the next report says.
    is_urgent: bool,
    /// Since when there is something to report.
    news_since: Option<Moment>,
    tails: BTreeMap<AttemptKey, LogTail>,
    logs_due: Moment,
    metrics: MetricBuffer,
    metrics_sent_at: Moment,
    dropped_told_at: Moment,
    is_finishing: bool,
}

impl Outbox {
    /// A session began. Log pieces are not acknowledged, so it gets them again.
    pub(crate) fn joined(&mut self, link: Link) {
        self.link = Some(link);
        self.tails.values_mut().for_each(LogTail::rewind);
        self.logs_due = Moment::default();
    }

    pub(crate) fn left(&mut self) {
        self.link = None;
    }

    pub(crate) fn is_joined(&self) -> bool {
        self.link.is_some()
    }

    /// The coordinator answered; answers the checkpoints that it has now.
    pub(crate) fn replied(
        &mut self,
        sequence: u64,
        refused: &[AttemptKey],
    ) -> Vec<(AttemptKey, Checkpoint)> {
        let link = self.link.as_mut();
        link.map_or(Vec::new(), |link| link.replied(sequence, refused))
    }

    /// A metric of an attempt.
    pub(crate) fn metric(&mut self, key: &AttemptKey, metric: Metric) {
        self.metrics.push(key, metric);
    }

    /// An attempt has a log.
    pub(crate) fn log(&mut self, key: AttemptKey, path: PathBuf) {
        self.tails.insert(key, LogTail::new(path));
    }

    /// Something was written into an attempt's log that its program did not print. It may have
    /// ended, or print nothing, so of a log that nobody follows only what is there now is sent.
    pub(crate) fn noted(&mut self, key: AttemptKey, path: PathBuf) {
        let tail = self.tails.entry(key).or_insert_with(|| {
            let mut tail = LogTail::new(path);
            tail.end();
            tail
        });
        if tail.has_ended() {
            self.logs_due = Moment::default();
        }
    }

    /// Nothing more comes into an attempt's log; the rest of it goes out at once.
    pub(crate) fn log_ended(&mut self, key: &AttemptKey) {
        if let Some(tail) = self.tails.get_mut(key) {
            tail.end();
            self.logs_due = Moment::default();
        }
    }

    /// Something happened that the coordinator waits for.
    pub(crate) fn urgent(&mut self) {
        self.is_urgent = true;
    }

    /// Sends what is due: metrics and logs before the report, so that what a reply settles is
    /// complete.
    pub(crate) fn send(&mut self, now: Moment, core: &mut Core) {
        self.is_crowded = false;
        let Some(mut link) = self.link.take() else { return };
        let news = self.news(now, core, &link);
        let reports = link.report_is_due(now, news);
        let metrics_due = now.since_ms(self.metrics_sent_at) >= METRIC_PERIOD_MS
            || self.metrics.len() >= METRIC_BATCH_MAX
            || reports;
        if metrics_due {
            self.metrics_sent_at = now;
            self.send_metrics(&mut link);
        }
        if self.logs_due <= now {
            self.logs_due = now.plus_ms(LOG_PERIOD_MS);
            self.send_logs(&link);
        }
        if reports {
            if link.send_report(now, news, || core.report(now)) {
                (self.is_urgent, self.news_since) = (false, None);
            } else {
                self.is_crowded = true;
            }
        }
        self.link = Some(link);
    }

    fn news(&mut self, now: Moment, core: &Core, link: &Link) -> News {
        let waits = self.metrics.len() > 0 && link.has_batches_enough();
        let idle = match waits || (self.is_finishing && link.awaits_metrics()) {
            true => News::Soon,
            false => News::Nothing,
        };
        if !core.report_is_due() && !self.is_urgent {
            return idle;
        }
        let since = *self.news_since.get_or_insert(now);
        let gathers_ms = if core.has_next() { GATHER_MS } else { 0 };
        if self.is_urgent && since.plus_ms(gathers_ms) <= now {
            News::Urgent
        } else if since.plus_ms(SOON_MS) <= now {
            News::Soon
        } else {
            idle
        }
    }

    fn send_metrics(&mut self, link: &mut Link) {
        while self.metrics.len() > 0 && !link.has_batches_enough() {
            if !link.send_metrics(|| self.metrics.batch()) {
                self.is_crowded = true;
                return;
            }
        }
    }

    /// How many metric points were dropped of each attempt since this was asked last; now and then.
    pub(crate) fn dropped(&mut self, now: Moment) -> BTreeMap<AttemptKey, u64> {
        if now.since_ms(self.dropped_told_at) < DROPPED_PERIOD_MS {
            return BTreeMap::new();
        }
        self.dropped_told_at = now;
        self.metrics.take_dropped()
    }

    /// No trial says anything any more: what was said shall arrive soon.
    pub(crate) fn finish(&mut self) {
        self.is_finishing = true;
    }

    /// Whether the coordinator has all metrics.
    pub(crate) fn is_finished(&self) -> bool {
        let is_answered = self.link.as_ref().is_none_or(|link| !link.awaits_metrics());
        self.metrics.len() == 0 && is_answered
    }

    fn send_logs(&mut self, link: &Link) {
        self.tails.retain(|key, tail| {
            // One piece of a running attempt, so that a long log does not crowd out the others; all
            // of one that ended, so that it is there before its outcome.
            loop {
                let Some(place) = link.place_beside() else { return true };
                match tail.chunk(key) {
                    Ok(Some(chunk)) => link::send(place, Out::Log(chunk)),
                    Ok(None) => return !tail.has_ended(),
                    // The log appears with the process.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        return !tail.has_ended();
                    }
                    Err(error) => {
                        tracing::warn!(%error, attempt = %key, "the log cannot be read");
                        return false;
                    }
                }
                if !tail.has_ended() {
                    return true;
                }
            }
        });
    }

    /// Where to wait for a place, when something waits for one.
    pub(crate) fn crowded(&self) -> Option<mpsc::Sender<wire::AgentMessage>> {
        self.link.as_ref().filter(|_| self.is_crowded).map(Link::outbound)
    }

    /// When something is due that no event announces; `None` when nothing is.
    pub(crate) fn next_at(&self, now: Moment) -> Option<Moment> {
        // A crowded link wakes the driver itself.
        let link = self.link.as_ref().filter(|_| !self.is_crowded)?;
        let heartbeat = link.heartbeat_at().unwrap_or(now);
        // Those that wait for a reply are sent when it comes.
        let waits = self.metrics.len() > 0 && !link.has_batches_enough();
        let metrics = waits.then(|| self.metrics_sent_at.plus_ms(METRIC_PERIOD_MS));
        let logs = (!self.tails.is_empty()).then_some(self.logs_due);
        // Later than that they wait for a reply, which wakes the driver.
        let patience_ms = if self.is_urgent { GATHER_MS } else { SOON_MS };
        let news = self.news_since.map(|since| since.plus_ms(patience_ms)).filter(|at| *at > now);
        [Some(heartbeat), metrics, logs, news].into_iter().flatten().min()
    }
}

/// Waits until `outbound` has a place; `None` when nobody waits for one.
pub(crate) async fn room(outbound: Option<mpsc::Sender<wire::AgentMessage>>) -> Option<()> {
    outbound?.reserve().await.ok().map(drop)
}
