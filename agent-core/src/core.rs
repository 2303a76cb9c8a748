//! Which attempts this agent holds, and what follows from what it hears. Plain data: nothing here
//! can block, fail on disk or look at a clock.
//!
//! The driver feeds [`Input`]s to [`Core::handle`], carries out the [`Effect`]s, and sends
//! [`Core::report`] whenever [`Core::report_is_due`] and at every heartbeat.
//!
//! An attempt's life: waiting (its devices are still held) -> starting -> running ->
//! stopping (asked, with a time to be killed) -> killed -> listening (for what a GPU says of a
//! failure) -> ended (until the coordinator settles it). The coordinator's wish arrives as a whole
//! set, so a message that is lost, late or repeated changes nothing.

use crate::attempt::{STOP_GRACE_MS, TrialEnd};
use crate::busy::Busy;
use crate::clock::Moment;
use crate::held::{Held, State, StopReason, Unsettled};
use crate::messages::{Assignment, Effect, Input, Report};
use crate::pulse::Pulse;
use crate::session::Session;
use crate::xid::{Heard, Xid};
use proto::{AttemptKey, Devices, FailureClass, Outcome};
use std::collections::{BTreeMap, BTreeSet};

/// Time that a trial has, beyond what it gives its own program, to save a checkpoint and end.
pub const KILL_AFTER_MS: u64 = STOP_GRACE_MS + 5_000;
/// A driver that hands in nothing for a lease's term, and for so long, stood still: there are
/// several heartbeats in a term, and each brings an answer.
const STANDSTILL_MS: u64 = 5_000;
/// Notices in one report; the others are said in the next ones.
const NOTICES_AT_ONCE: usize = 1_024;
/// Reports whose reply may still come. More than this many heartbeats without a reply are longer
/// than any lease, so an older reply could renew nothing.
const REPORTS_IN_FLIGHT_MAX: usize = 256;

/// The state of an agent.
#[derive(Debug, Default)]
pub struct Core {
    attempts: BTreeMap<AttemptKey, Held>,
    /// Those of them that have no process yet, so that a long list of others costs nothing.
    waiting: BTreeSet<AttemptKey>,
    /// No deadline is earlier. A renewal may leave it too early, which the next look corrects;
    /// so an input that concerns one attempt need not look at all the others.
    due: Option<Moment>,
    /// When the last input came.
    looked_at: Option<Moment>,
    session: Option<Session>,
    /// What the GPUs reported.
    heard: Heard,
    shutting_down: bool,
    report_is_due: bool,
}

impl Core {
    /// Takes in what happened and says what to do.
    pub fn handle(&mut self, now: Moment, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.excuse_standstill(now);
        // Nothing else brings an attempt that waits, frees what one waits for or renews its lease.
        let mut may_start =
            matches!(input, Input::Assignment(_) | Input::Exited { .. } | Input::Reply { .. });
        match input {
            Input::Connected { hello_sent, lease_ttl_ms, heeds_withdrawn } => {
                self.connected(Session::new(hello_sent, lease_ttl_ms, heeds_withdrawn));
            }
            Input::Disconnected => self.session = None,
            Input::Assignment(assignment) => self.assigned(now, assignment, &mut effects),
            Input::Reply { sequence, refused } => {
                self.replied(now, sequence, &refused, &mut effects);
            }
            Input::Started(key) => {
                if let Some(held) = self.attempts.get_mut(&key) {
                    held.started = true;
                    self.report_is_due = true;
                }
            }
            Input::Metric { key, metric, step, value } => {
                if let Some(held) = self.attempts.get_mut(&key)
                    && let Some(pulse) = &mut held.pulse
                {
                    let notices = pulse.beat(now, &metric, step, value);
                    held.notice(notices);
                    self.due = earlier(self.due, held.deadline());
                }
            }
            Input::Saved(key, checkpoint) => {
                if let Some(held) = self.attempts.get_mut(&key) {
                    held.checkpoint = Some(Unsettled { fact: checkpoint, said_since: None });
                    self.report_is_due = true;
                }
            }
            Input::Exited { key, end, how } => self.exited(now, &key, end, &how),
            Input::Xid { gpu, number } => {
                if let Some(reason) = self.heard.hear(now, Xid { gpu, number }) {
                    self.report_is_due = true;
                    effects.push(Effect::Withdrawn { gpu, reason });
                    self.give_back_lost();
                }
            }
            Input::Shutdown => self.shut_down(now, &mut effects),
            Input::Tick => {}
        }
        may_start |= self.enforce_deadlines(now, &mut effects);
        if may_start {
            self.start_what_can(now, &mut effects);
        }
        effects
    }

    /// Says everything that the coordinator should know, under the next number.
    /// Empty while there is no session.
    pub fn report(&mut self, now: Moment) -> Report {
        let Some(session) = &mut self.session else {
            return Report::default();
        };
        session.sequence += 1;
        session.sent.push_back((session.sequence, now));
        if session.sent.len() > REPORTS_IN_FLIGHT_MAX {
            session.sent.pop_front();
        }
        let sequence = session.sequence;
        if self.shutting_down {
            session.leaving_since.get_or_insert(sequence);
        }
        let mut report = Report {
            sequence,
            assignment_version: session.assignment_version.unwrap_or(0),
            leaving: self.shutting_down,
            withdrawn: self.heard.lost().clone(),
            ..Report::default()
        };
        for (key, held) in &mut self.attempts {
            if let Some(checkpoint) = &mut held.checkpoint {
                checkpoint.said_since.get_or_insert(sequence);
                report.checkpoints.push((key.clone(), checkpoint.fact.clone()));
            }
            let room = NOTICES_AT_ONCE.saturating_sub(report.notices.len());
            for notice in held.notices.iter_mut().take(room) {
                notice.said_since.get_or_insert(sequence);
                report.notices.push((key.clone(), notice.fact.clone()));
            }
            if let State::Ended(outcome) = &mut held.state {
                outcome.said_since.get_or_insert(sequence);
                report.ended.push((key.clone(), outcome.fact.clone()));
            } else {
                held.listed_since.get_or_insert(sequence);
                report.running.push((key.clone(), held.started));
            }
        }
        self.report_is_due = false;
        report
    }

    /// Every attempt that the agent holds, ended but unsettled ones too, and whether its process
    /// began: what a hello says.
    pub fn held(&self) -> Vec<(AttemptKey, bool)> {
        self.attempts.iter().map(|(key, held)| (key.clone(), held.started)).collect()
    }

    /// GPUs that the agent has and offers no longer, and why: what a hello says. A process that
    /// begins anew knows of none.
    pub fn withdrawn(&self) -> &BTreeMap<u32, String> {
        self.heard.lost()
    }

    /// Whether something happened that the coordinator should hear before the next heartbeat.
    pub fn report_is_due(&self) -> bool {
        self.report_is_due && self.session.is_some()
    }

    /// The next moment at which [`Input::Tick`] may change something.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.due
    }

    /// Whether an attempt follows on devices that another one still has.
    pub fn has_next(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether a process of any attempt may still exist.
    pub fn holds_processes(&self) -> bool {
        self.attempts.values().any(Held::has_process)
    }

    /// Whether an agent that ends has nothing more to tell: all is settled, and the coordinator
    /// knows that it leaves.
    pub fn has_taken_leave(&self) -> bool {
        let heard = self.session.as_ref().is_none_or(|session| session.leaving_heard);
        self.attempts.is_empty() && heard
    }

    fn connected(&mut self, session: Session) {
        self.session = Some(session);
        // Numbers are per session: what the last session's reports said must be said again.
        for held in self.attempts.values_mut() {
            held.listed_since = None;
            if let Some(checkpoint) = &mut held.checkpoint {
                checkpoint.said_since = None;
            }
            held.notices.iter_mut().for_each(|notice| notice.said_since = None);
            if let State::Ended(outcome) = &mut held.state {
                outcome.said_since = None;
            }
        }
        self.report_is_due = true;
    }

    fn assigned(&mut self, now: Moment, wanted: Assignment, effects: &mut Vec<Effect>) {
        let Some(session) = &mut self.session else {
            return;
        };
        let seen = session.assignment_version;
        let is_news = seen.is_none_or(|seen| wanted.version > seen);
        // What changed since a version that never came means nothing.
        let is_known = wanted.base == 0 || seen.is_some_and(|seen| wanted.base <= seen);
        if !is_news || !is_known {
            return;
        }
        session.assignment_version = Some(wanted.version);
        let lease_until = session.confirmed.plus_ms(session.lease_ttl_ms);
        let unwanted = self.unwanted(&wanted);
        let preempted = wanted.leases.iter().filter(|lease| lease.preempted);
        let preempted: Vec<AttemptKey> = preempted.map(|lease| lease.key.clone()).collect();
        let recalled = wanted.leases.iter().filter(|lease| lease.recalled);
        let recalled: Vec<AttemptKey> = recalled.map(|lease| lease.key.clone()).collect();
        let leased = wanted.leases.into_iter().map(|lease| {
            let devices = lease.devices.clone();
            (lease.key.clone(), devices, State::Waiting(Box::new(lease)))
        });
        let refused = wanted.unreadable.into_iter().map(|(key, reason)| {
            let fact = Outcome::failed(FailureClass::Invalid, reason);
            (key, Devices::default(), State::Ended(Unsettled { fact, said_since: None }))
        });
        for (key, devices, state) in leased.chain(refused) {
            let settled = self.session.as_ref().is_some_and(|s| s.settled.contains(&key));
            if !settled && !self.shutting_down && !self.attempts.contains_key(&key) {
                self.insert(key, Held::new(devices, lease_until, state));
                self.report_is_due = true;
            }
        }
        for key in unwanted {
            self.stop(now, &key, StopReason::Unwanted, effects);
        }
        for key in preempted {
            self.stop(now, &key, StopReason::Preempted, effects);
        }
        // One that has begun is kept: to end it would waste what it has done.
        for key in recalled {
            if self.waiting.contains(&key) {
                self.give_back(&key);
            }
        }
        self.give_back_lost();
    }

    /// What was on its way to a GPU when that was lost would fail there at once. Given back before
    /// it began, it is no failure of its trial.
    fn give_back_lost(&mut self) {
        let lost = self.heard.lost();
        if lost.is_empty() || self.session.as_ref().is_some_and(|known| !known.heeds_withdrawn) {
            return;
        }
        let is_lost = |key: &&AttemptKey| {
            let held = self.attempts.get(*key);
            held.is_some_and(|held| held.devices.gpus.iter().any(|gpu| lost.contains_key(gpu)))
        };
        for key in self.waiting.iter().filter(is_lost).cloned().collect::<Vec<_>>() {
            self.give_back(&key);
        }
    }

    /// Attempts that are held and that an assignment does not want any longer.
    fn unwanted(&self, wanted: &Assignment) -> Vec<AttemptKey> {
        if wanted.base > 0 {
            return wanted.dropped.clone();
        }
        let leases = wanted.leases.iter().map(|lease| &lease.key);
        let kept: BTreeSet<&AttemptKey> =
            leases.chain(wanted.unreadable.iter().map(|(key, _)| key)).collect();
        self.attempts.keys().filter(|key| !kept.contains(key)).cloned().collect()
    }

    fn insert(&mut self, key: AttemptKey, held: Held) {
        if matches!(held.state, State::Waiting(_)) {
            self.waiting.insert(key.clone());
        }
        self.due = earlier(self.due, held.deadline());
        self.attempts.insert(key, held);
    }

    fn remove(&mut self, key: &AttemptKey) {
        self.waiting.remove(key);
        self.attempts.remove(key);
    }

    /// The next report proves that the attempt has no process here, so it must not get one later.
    fn give_back(&mut self, key: &AttemptKey) {
        self.remove(key);
        self.report_is_due = true;
        if let Some(session) = &mut self.session {
            session.remember(key.clone());
        }
    }

    fn replied(
        &mut self,
        now: Moment,
        sequence: u64,
        refused: &[AttemptKey],
        effects: &mut Vec<Effect>,
    ) {
        let Some(session) = &mut self.session else {
            return;
        };
        while session.sent.front().is_some_and(|(sent, _)| *sent < sequence) {
            session.sent.pop_front();
        }
        // A reply that is repeated, older than the window or to a report that was never sent.
        if session.sent.front().is_none_or(|(sent, _)| *sent != sequence) {
            return;
        }
        let Some((_, sent_at)) = session.sent.pop_front() else {
            return;
        };
        session.confirmed = session.confirmed.max(sent_at);
        session.leaving_heard |= session.leaving_since.is_some_and(|since| since <= sequence);
        let lease_until = sent_at.plus_ms(session.lease_ttl_ms);
        let not_renewed: BTreeSet<&AttemptKey> = refused.iter().collect();
        let settled = self.attempts.iter_mut().filter_map(|(key, held)| {
            let renewable = !not_renewed.contains(key);
            held.settle(key, sequence, renewable.then_some(lease_until), effects)
        });
        for key in settled.collect::<Vec<_>>() {
            self.attempts.remove(&key);
            session.remember(key);
        }
        for key in refused {
            self.refused(now, key, effects);
        }
    }

    fn refused(&mut self, now: Moment, key: &AttemptKey, effects: &mut Vec<Effect>) {
        let Some(held) = self.attempts.get(key) else {
            return;
        };
        if matches!(held.state, State::Ended(_)) {
            self.remove(key);
        } else {
            self.stop(now, key, StopReason::Unwanted, effects);
        }
    }

    fn stop(
        &mut self,
        now: Moment,
        key: &AttemptKey,
        reason: StopReason,
        effects: &mut Vec<Effect>,
    ) {
        let Some(held) = self.attempts.get_mut(key) else {
            return;
        };
        match &mut held.state {
            State::Waiting(_) => self.give_back(key),
            State::Active => {
                held.state = State::Stopping { reason, kill_at: now.plus_ms(KILL_AFTER_MS) };
                self.due = earlier(self.due, held.deadline());
                effects.push(Effect::Stop(key.clone()));
            }
            // It is asked only once; an outcome that nobody awaits is forgotten at the exit.
            State::Stopping { reason: old, .. } | State::Killed { reason: old } => {
                if reason == StopReason::Unwanted {
                    *old = reason;
                }
            }
            State::Listening { .. } if reason == StopReason::Unwanted => self.give_back(key),
            State::Listening { .. } | State::Ended(_) => {}
        }
    }

    fn exited(&mut self, now: Moment, key: &AttemptKey, end: Option<TrialEnd>, how: &str) {
        let Some(held) = self.attempts.get_mut(key) else {
            return;
        };
        match &held.state {
            State::Listening { .. } | State::Ended(_) => return,
            State::Stopping { reason: StopReason::Unwanted, .. }
            | State::Killed { reason: StopReason::Unwanted } => return self.remove(key),
            State::Waiting(_) | State::Active | State::Stopping { .. } | State::Killed { .. } => {}
        }
        held.exited(now, end, how);
        self.due = earlier(self.due, held.deadline());
        self.report_is_due = true;
    }

    fn shut_down(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        self.shutting_down = true;
        self.report_is_due = true;
        for key in self.attempts.keys().cloned().collect::<Vec<_>>() {
            self.stop(now, &key, StopReason::Shutdown, effects);
        }
    }

    /// Metrics that came while this process stood still are still unread, so nobody was silent.
    fn excuse_standstill(&mut self, now: Moment) {
        let gap_ms = self.looked_at.map_or(0, |before| now.since_ms(before));
        self.looked_at = Some(now);
        let term_ms = self.session.as_ref().map_or(0, |session| session.lease_ttl_ms);
        if gap_ms > term_ms.max(STANDSTILL_MS) {
            let pulses = self.attempts.values_mut().filter_map(|held| held.pulse.as_mut());
            pulses.for_each(|pulse| pulse.excuse(gap_ms));
        }
    }

    /// Answers whether an attempt let go of its devices.
    fn enforce_deadlines(&mut self, now: Moment, effects: &mut Vec<Effect>) -> bool {
        if self.due.is_none_or(|due| now < due) {
            return false;
        }
        let mut are_free = false;
        for (key, held) in &mut self.attempts {
            let expired = held.lease_until <= now;
            let reason = match &held.state {
                State::Active if expired => StopReason::LeaseExpired,
                State::Active => {
                    let hang = held.pulse.as_mut().and_then(|pulse| pulse.hang(now));
                    let Some(notice) = hang else { continue };
                    held.notice([notice]);
                    self.report_is_due = true;
                    if held.pulse.as_ref().is_some_and(Pulse::ends_hung) {
                        let kill_at = now.plus_ms(KILL_AFTER_MS);
                        held.state = State::Stopping { reason: StopReason::Hung, kill_at };
                        effects.push(Effect::Stop(key.clone()));
                    }
                    continue;
                }
                State::Stopping { reason, kill_at } if expired || *kill_at <= now => *reason,
                State::Listening { .. } => {
                    held.explain(now, &self.heard);
                    are_free |= !held.has_devices();
                    continue;
                }
                State::Waiting(_)
                | State::Stopping { .. }
                | State::Killed { .. }
                | State::Ended(_) => continue,
            };
            held.state = State::Killed { reason };
            effects.push(Effect::Kill(key.clone()));
        }
        self.due = self.attempts.values().filter_map(Held::deadline).min();
        self.report_is_due |= are_free;
        are_free
    }

    /// A lease that has passed, as that of an assignment which comes after a long silence, is held
    /// and not begun before it is renewed.
    fn start_what_can(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        if self.waiting.is_empty() {
            return;
        }
        let mut busy = Busy::default();
        let active = self.attempts.iter().filter(|(_, held)| held.has_devices());
        active.for_each(|(key, held)| busy.take(key, &held.devices));
        let ready = self.waiting.iter().filter(|key| {
            let Some(held) = self.attempts.get(key) else { return false };
            let free = held.lease_until > now && busy.is_free(key, &held.devices);
            if free {
                busy.take(key, &held.devices);
            }
            free
        });
        for key in ready.cloned().collect::<Vec<_>>() {
            self.waiting.remove(&key);
            let Some(held) = self.attempts.get_mut(&key) else { continue };
            let state = std::mem::replace(&mut held.state, State::Active);
            if let State::Waiting(lease) = state {
                held.began = now;
                held.pulse = Some(Pulse::new(lease.spec.hang_policy()));
                self.due = earlier(self.due, held.deadline());
                effects.push(Effect::Start { lease, lease_until: held.lease_until });
            }
        }
    }
}

/// The earlier of two moments that may be absent.
fn earlier(one: Option<Moment>, other: Option<Moment>) -> Option<Moment> {
    one.into_iter().chain(other).min()
}

#[cfg(test)]
mod tests;
