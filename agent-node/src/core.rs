//! Which attempts this agent holds, and what follows from what it hears. Plain data: nothing here
//! can block, fail on disk or look at a clock.
//!
//! The driver feeds [`Input`]s to [`Core::handle`], carries out the [`Effect`]s, and sends
//! [`Core::report`] whenever [`Core::report_is_due`] and at every heartbeat.
//!
//! An attempt's life: waiting (its devices are still held) -> starting -> running ->
//! stopping (asked, with a time to be killed) -> killed -> ended (until the coordinator settles
//! it). The coordinator's wish arrives as a whole set, so a message that is lost, late or repeated
//! changes nothing.

use crate::clock::Moment;
use crate::order::{AttemptKey, STOP_GRACE_MS, TrialEnd};
use proto::{Devices, FailureClass, Outcome};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

mod held;
mod messages;
use held::{Held, State, StopReason, Unsettled, interrupted, overlap};
pub(crate) use messages::{Effect, Input, Lease, Report};

/// Time that a trial has, beyond what it gives its own program, to save a checkpoint and end.
pub(crate) const KILL_AFTER_MS: u64 = STOP_GRACE_MS + 5_000;
/// Reports whose reply may still come. More than this many heartbeats without a reply are longer
/// than any lease, so an older reply could renew nothing.
const REPORTS_IN_FLIGHT_MAX: usize = 256;
/// Settled attempts that are remembered in a session, so that a late assignment cannot start one
/// again. Assignments are settled in order, so a few would do.
const SETTLED_MAX: usize = 4_096;

/// The state of an agent.
#[derive(Debug, Default)]
pub(crate) struct Core {
    attempts: BTreeMap<AttemptKey, Held>,
    session: Option<Session>,
    shutting_down: bool,
    report_is_due: bool,
}

#[derive(Debug)]
struct Session {
    lease_ttl_ms: u64,
    sequence: u64,
    sent: VecDeque<(u64, Moment)>,
    /// When the newest message was sent that the coordinator answered.
    confirmed: Moment,
    assignment_version: Option<u64>,
    settled: BTreeSet<AttemptKey>,
    /// First report that said that the agent ends, and whether the coordinator heard it.
    leaving_since: Option<u64>,
    leaving_heard: bool,
}

impl Core {
    /// Takes in what happened and says what to do.
    pub(crate) fn handle(&mut self, now: Moment, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        match input {
            Input::Connected { hello_sent, lease_ttl_ms } => {
                self.connected(hello_sent, lease_ttl_ms);
            }
            Input::Disconnected => self.session = None,
            Input::Assignment { version, leases, unreadable } => {
                self.assigned(now, version, leases, unreadable, &mut effects);
            }
            Input::Reply { sequence, refused } => {
                self.replied(now, sequence, &refused, &mut effects);
            }
            Input::Started(key) => {
                if let Some(held) = self.attempts.get_mut(&key) {
                    held.started = true;
                    self.report_is_due = true;
                }
            }
            Input::Saved(key, checkpoint) => {
                if let Some(held) = self.attempts.get_mut(&key) {
                    held.checkpoint = Some(Unsettled { fact: checkpoint, said_since: None });
                    self.report_is_due = true;
                }
            }
            Input::Exited { key, end, how } => self.exited(&key, end, &how),
            Input::Shutdown => self.shut_down(now, &mut effects),
            Input::Tick => {}
        }
        self.enforce_deadlines(now, &mut effects);
        self.start_what_can(&mut effects);
        effects
    }

    /// Says everything that the coordinator should know, under the next number.
    /// Empty while there is no session.
    pub(crate) fn report(&mut self, now: Moment) -> Report {
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
            ..Report::default()
        };
        for (key, held) in &mut self.attempts {
            if let Some(checkpoint) = &mut held.checkpoint {
                checkpoint.said_since.get_or_insert(sequence);
                report.checkpoints.push((key.clone(), checkpoint.fact.clone()));
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
    pub(crate) fn held(&self) -> Vec<(AttemptKey, bool)> {
        self.attempts.iter().map(|(key, held)| (key.clone(), held.started)).collect()
    }

    /// Whether something happened that the coordinator should hear before the next heartbeat.
    pub(crate) fn report_is_due(&self) -> bool {
        self.report_is_due && self.session.is_some()
    }

    /// The next moment at which [`Input::Tick`] changes something.
    pub(crate) fn next_deadline(&self) -> Option<Moment> {
        let deadline = |held: &Held| match &held.state {
            State::Waiting(_) | State::Active => Some(held.lease_until),
            State::Stopping { kill_at, .. } => Some(held.lease_until.min(*kill_at)),
            State::Killed { .. } | State::Ended(_) => None,
        };
        self.attempts.values().filter_map(deadline).min()
    }

    /// Whether a process of any attempt may still exist.
    pub(crate) fn holds_processes(&self) -> bool {
        self.attempts.values().any(Held::has_process)
    }

    /// Whether an agent that ends has nothing more to tell: all is settled, and the coordinator
    /// knows that it leaves.
    pub(crate) fn has_taken_leave(&self) -> bool {
        let heard = self.session.as_ref().is_none_or(|session| session.leaving_heard);
        self.attempts.is_empty() && heard
    }

    fn connected(&mut self, hello_sent: Moment, lease_ttl_ms: u64) {
        self.session = Some(Session {
            lease_ttl_ms,
            sequence: 0,
            sent: VecDeque::new(),
            confirmed: hello_sent,
            assignment_version: None,
            settled: BTreeSet::new(),
            leaving_since: None,
            leaving_heard: false,
        });
        // Numbers are per session: what the last session's reports said must be said again.
        for held in self.attempts.values_mut() {
            held.listed_since = None;
            if let Some(checkpoint) = &mut held.checkpoint {
                checkpoint.said_since = None;
            }
            if let State::Ended(outcome) = &mut held.state {
                outcome.said_since = None;
            }
        }
        self.report_is_due = true;
    }

    fn assigned(
        &mut self,
        now: Moment,
        version: u64,
        leases: Vec<Lease>,
        unreadable: Vec<(AttemptKey, String)>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(session) = &mut self.session else {
            return;
        };
        if session.assignment_version.is_some_and(|seen| version <= seen) {
            return;
        }
        session.assignment_version = Some(version);
        let lease_until = session.confirmed.plus_ms(session.lease_ttl_ms);
        let wanted: BTreeSet<AttemptKey> = leases
            .iter()
            .map(|lease| lease.key.clone())
            .chain(unreadable.iter().map(|(key, _)| key.clone()))
            .collect();
        let leased = leases.into_iter().map(|lease| {
            let devices = lease.devices.clone();
            (lease.key.clone(), devices, State::Waiting(Box::new(lease)))
        });
        let refused = unreadable.into_iter().map(|(key, reason)| {
            let fact = Outcome::failed(FailureClass::Invalid, reason);
            (key, Devices::default(), State::Ended(Unsettled { fact, said_since: None }))
        });
        for (key, devices, state) in leased.chain(refused) {
            let known = self.attempts.contains_key(&key) || session.settled.contains(&key);
            if !known && !self.shutting_down {
                self.attempts.insert(key, Held::new(devices, lease_until, state));
                self.report_is_due = true;
            }
        }
        let unwanted = self.attempts.keys().filter(|key| !wanted.contains(key));
        for key in unwanted.cloned().collect::<Vec<_>>() {
            self.stop(now, &key, StopReason::Unwanted, effects);
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
        let settled = self.attempts.iter_mut().filter_map(|(key, held)| {
            let renewable = !refused.contains(key);
            held.settle(key, sequence, renewable.then_some(lease_until), effects)
        });
        for key in settled.collect::<Vec<_>>() {
            self.attempts.remove(&key);
            session.settled.insert(key);
        }
        while session.settled.len() > SETTLED_MAX {
            session.settled.pop_first();
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
            self.attempts.remove(key);
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
            State::Waiting(_) => {
                self.attempts.remove(key);
            }
            State::Active => {
                held.state = State::Stopping { reason, kill_at: now.plus_ms(KILL_AFTER_MS) };
                effects.push(Effect::Stop(key.clone()));
            }
            // It is asked only once; an outcome that nobody awaits is forgotten at the exit.
            State::Stopping { reason: old, .. } | State::Killed { reason: old } => {
                if reason == StopReason::Unwanted {
                    *old = reason;
                }
            }
            State::Ended(_) => {}
        }
    }

    fn exited(&mut self, key: &AttemptKey, end: Option<TrialEnd>, how: &str) {
        let Some(held) = self.attempts.get_mut(key) else {
            return;
        };
        let (reason, killed) = match &held.state {
            State::Stopping { reason, .. } => (Some(*reason), false),
            State::Killed { reason } => (Some(*reason), true),
            State::Waiting(_) | State::Active => (None, false),
            State::Ended(_) => return,
        };
        if reason == Some(StopReason::Unwanted) {
            self.attempts.remove(key);
            return;
        }
        let outcome = match end {
            // A failure that was seen while everything was being killed is not the trial's own.
            Some(TrialEnd::Outcome(Outcome::Failed { .. })) if killed => interrupted(reason, how),
            Some(TrialEnd::Outcome(outcome)) => outcome,
            Some(TrialEnd::Stopped) | None => interrupted(reason, how),
        };
        held.state = State::Ended(Unsettled { fact: outcome, said_since: None });
        self.report_is_due = true;
    }

    fn shut_down(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        self.shutting_down = true;
        self.report_is_due = true;
        for key in self.attempts.keys().cloned().collect::<Vec<_>>() {
            self.stop(now, &key, StopReason::Shutdown, effects);
        }
    }

    fn enforce_deadlines(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        self.attempts.retain(|key, held| {
            let expired = held.lease_until <= now;
            let reason = match &held.state {
                State::Waiting(_) => return !expired,
                State::Active if expired => StopReason::LeaseExpired,
                State::Stopping { reason, kill_at } if expired || *kill_at <= now => *reason,
                State::Active | State::Stopping { .. } | State::Killed { .. } | State::Ended(_) => {
                    return true;
                }
            };
            held.state = State::Killed { reason };
            effects.push(Effect::Kill(key.clone()));
            true
        });
    }

    fn start_what_can(&mut self, effects: &mut Vec<Effect>) {
        for key in self.attempts.keys().cloned().collect::<Vec<_>>() {
            let active = self.attempts.iter().filter(|(_, held)| held.has_process());
            let blocked = |held: &Held| {
                let shares = |other: &Held| overlap(&other.devices, &held.devices);
                let mut active = active.clone();
                active.any(|(other, state)| other.trial == key.trial || shares(state))
            };
            if self.attempts.get(&key).is_none_or(blocked) {
                continue;
            }
            let Some(held) = self.attempts.get_mut(&key) else {
                continue;
            };
            if let State::Waiting(lease) = &held.state {
                let lease = lease.clone();
                effects.push(Effect::Start { lease, lease_until: held.lease_until });
                held.state = State::Active;
            }
        }
    }
}

#[cfg(test)]
mod tests;
