//! What agents say: that they are there, what they hold, how attempts ended, what was measured.

use super::agent::{Agent, Capacity};
use super::decide::Rejection;
use super::state::{Trial, TrialState};
use super::{AGENTS_MAX, BACKOFF_FIRST_MS, BACKOFF_MAX_MS, Core};
use proto::{
    AgentId, AttemptKey, Checkpoint, Event, FailureClass, Notice, Outcome, Timestamp, TrialId,
};
use std::collections::{BTreeMap, BTreeSet};

/// An agent's session begins.
#[derive(Debug, Clone)]
pub struct Join {
    /// Who.
    pub agent: AgentId,
    /// Random number of the agent's process.
    pub instance: u64,
    /// Which hello of that process this is, from 1.
    pub number: u64,
    /// Number of the session, unique in this process; the newest one speaks for the agent.
    pub session: u64,
    /// What it has.
    pub capacity: Capacity,
    /// The attempts it still holds from before.
    pub running: Vec<AttemptKey>,
}

/// What an agent says of its attempts. May be repeated, late, or from a session that was replaced.
#[derive(Debug, Clone)]
pub struct Report {
    /// Who.
    pub agent: AgentId,
    /// In which session.
    pub session: u64,
    /// From 1 in each session.
    pub sequence: u64,
    /// The attempts it holds, and whether their process runs.
    pub running: Vec<(AttemptKey, bool)>,
    /// Attempts that ended; said again until a reply settles them.
    pub ended: Vec<(AttemptKey, Outcome)>,
    /// Checkpoints; likewise.
    pub checkpoints: Vec<(TrialId, Checkpoint)>,
    /// What was noticed about attempts; likewise.
    pub notices: Vec<(AttemptKey, Notice)>,
    /// The newest assignment it knew.
    pub assignment_version: u64,
    /// It is stopping and must get no further leases.
    pub leaving: bool,
    /// All GPUs that it offers no longer, by their index, and why.
    pub withdrawn: BTreeMap<u32, String>,
}

/// What a report's reply tells the agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    /// Attempts in the report that are not (any longer) leased to this agent.
    pub refused: Vec<AttemptKey>,
}

/// A metric point that a study may want to see.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Who measured it.
    pub agent: AgentId,
    /// Of which attempt.
    pub key: AttemptKey,
    /// Name of the metric.
    pub metric: String,
    /// Step, from 0.
    pub step: u64,
    /// Value; may be NaN or infinite.
    pub value: f64,
}

impl Core {
    pub(super) fn decide_join(&self, now: Timestamp, join: &Join) -> Result<Vec<Event>, Rejection> {
        match self.agents.get(&join.agent) {
            None if self.agents.all().len() >= AGENTS_MAX => return Err(Rejection::TooManyAgents),
            Some(known) if known.instance == join.instance && join.number <= known.hello => {
                return Err(Rejection::StaleSession(join.agent.clone()));
            }
            Some(known)
                if known.instance != join.instance
                    && known.is_available(now, self.lease_ttl_ms) =>
            {
                return Err(Rejection::NameTaken(join.agent.clone()));
            }
            Some(_) | None => {}
        }
        let held: BTreeSet<&AttemptKey> = join.running.iter().collect();
        let mut lost = self.leases_of(&join.agent);
        lost.retain(|key| !held.contains(key));
        Ok(self.lost(now, join, lost))
    }

    /// The live leases of an agent, also of one that has not been heard in this process.
    fn leases_of(&self, agent: &AgentId) -> Vec<AttemptKey> {
        let mut keys: Vec<AttemptKey> = match self.agents.get(agent) {
            Some(known) => known.leases.keys().cloned().collect(),
            None => self.unheard.get(agent).cloned().unwrap_or_default(),
        };
        keys.retain(|key| {
            self.trials.get(&key.trial).is_some_and(|trial| trial.member(agent, key).is_some())
        });
        keys
    }

    /// Attempts that their agent does not hold any longer.
    fn lost(&self, now: Timestamp, join: &Join, keys: Vec<AttemptKey>) -> Vec<Event> {
        let mut seen = BTreeSet::new();
        let event = |key: AttemptKey| {
            let trial = self.trials.get(&key.trial)?;
            let message = format!("agent {} came back without the attempt", join.agent);
            let withdrawn = why_withdrawn(trial, &key, &join.capacity.withdrawn);
            let outcome = Outcome::failed(class_of_missing(trial, withdrawn), message);
            // Two members of one gang are one attempt.
            seen.insert(key.trial.clone()).then(|| self.after_attempt(now, &key, trial, outcome))
        };
        keys.into_iter().filter_map(event).collect()
    }

    /// The session begins; its leases get a whole term.
    pub(super) fn hear_join(&mut self, now: Timestamp, join: &Join) {
        let keys = self.leases_of(&join.agent);
        self.unheard.remove(&join.agent);
        keys.iter().for_each(|key| self.renew(now, key));
        let before = self.agents.remove(&join.agent);
        let version = self.agents.next_version(before.as_ref());
        let mut releasing = before.map_or_else(BTreeMap::new, |agent| agent.releasing);
        releasing.retain(|key, _| join.running.contains(key));
        let agent = Agent {
            capacity: join.capacity.clone(),
            instance: join.instance,
            hello: join.number,
            session: join.session,
            sequence: 0,
            heard_at: now,
            connected: true,
            leaving: false,
            leases: keys.into_iter().map(|key| (key, version)).collect(),
            releasing,
            lines: BTreeMap::new(),
            free: None,
            version,
            acknowledged: 0,
            dropped: BTreeMap::new(),
        };
        self.agents.insert(join.agent.clone(), agent);
        self.form_lines(now, &join.agent);
        self.changed.insert(join.agent.clone());
    }

    /// A session ended. Its leases live on until their deadlines; one that was replaced before
    /// changes nothing.
    pub(super) fn hear_leave(&mut self, agent: &AgentId, session: u64) {
        if let Some(agent) = self.agents.get_mut(agent)
            && agent.session == session
        {
            agent.connected = false;
            // Where one agent is missing, another may be kept for a different trial than before.
            self.quiet_since = None;
        }
    }

    /// What a report means, and what its reply says.
    pub(super) fn decide_report(
        &self,
        now: Timestamp,
        report: &Report,
    ) -> Result<(Vec<Event>, Settled), Rejection> {
        let agent = self.agents.get(&report.agent);
        let Some(agent) = agent.filter(|agent| agent.session == report.session) else {
            return Err(Rejection::StaleSession(report.agent.clone()));
        };
        // Not answered either: a reply would settle what only this report said.
        if report.sequence <= agent.sequence && !planted!(self, EndTwice) {
            return Err(Rejection::StaleReport(report.agent.clone()));
        }
        let mut events = Vec::new();
        let mut settled = Settled::default();
        let starting: BTreeSet<&AttemptKey> =
            report.running.iter().filter(|(_, started)| *started).map(|(key, _)| key).collect();
        for (key, _) in &report.running {
            if !self.is_current(&report.agent, key) {
                settled.refused.push(key.clone());
            } else if self.starts_now(key, &starting) {
                let (trial, attempt) = (key.trial.clone(), key.attempt);
                events.push(Event::AttemptStarted { trial, attempt });
            }
        }
        for (id, checkpoint) in &report.checkpoints {
            let key = AttemptKey { trial: id.clone(), attempt: checkpoint.attempt, rank: 0 };
            let newer = |trial: &Trial| trial.checkpoint.as_ref() != Some(checkpoint);
            if self.is_current(&report.agent, &key) && self.trials.get(id).is_some_and(newer) {
                let checkpoint = checkpoint.clone();
                events.push(Event::CheckpointSaved { trial: id.clone(), checkpoint });
            }
        }
        events.extend(self.decide_notices(report));
        self.decide_ended(now, report, &mut events, &mut settled);
        events.extend(self.decide_missing(now, agent, report));
        refuse_survivors(report, &events, &mut settled);
        Ok((events, settled))
    }

    fn decide_ended(
        &self,
        now: Timestamp,
        report: &Report,
        events: &mut Vec<Event>,
        settled: &mut Settled,
    ) {
        let mut decided: BTreeSet<&TrialId> = BTreeSet::new();
        let mut members_ended: BTreeMap<&TrialId, BTreeSet<u32>> = BTreeMap::new();
        for (key, outcome) in &report.ended {
            let trial = self.trials.get(&key.trial);
            let Some(trial) = trial.filter(|_| self.is_current(&report.agent, key)) else {
                settled.refused.push(key.clone());
                continue;
            };
            let here = members_ended.entry(&key.trial).or_default();
            if decided.contains(&key.trial) || !here.insert(key.rank) {
                settled.refused.push(key.clone());
                continue;
            }
            let said = |rank: u32| {
                let key = AttemptKey { rank, ..key.clone() };
                report.ended.iter().find(|(other, _)| *other == key).map(|(_, outcome)| outcome)
            };
            let leader = if trial.spec.placement.members > 1 { said(0) } else { None };
            let event = self.after_member(now, key, trial, here, outcome, leader);
            if !matches!(event, Event::MemberEnded { .. }) {
                decided.insert(&key.trial);
            }
            events.push(event);
        }
    }

    /// Leases that a report should list and does not: the agent knew the assignment and does not
    /// hold the attempt, for example because it is leaving.
    fn decide_missing(&self, now: Timestamp, agent: &Agent, report: &Report) -> Vec<Event> {
        let running = report.running.iter().map(|(key, _)| key);
        let listed: BTreeSet<&AttemptKey> =
            running.chain(report.ended.iter().map(|(key, _)| key)).collect();
        let missing = agent.leases.iter().filter(|(key, version)| {
            **version <= report.assignment_version && !listed.contains(key)
        });
        let mut seen = BTreeSet::new();
        let event = |(key, _): (&AttemptKey, &u64)| {
            let trial = self.trials.get(&key.trial)?;
            let withdrawn = why_withdrawn(trial, key, &report.withdrawn);
            let class = match report.leaving {
                true => FailureClass::Cancelled,
                false => class_of_missing(trial, withdrawn),
            };
            let recalled = trial.lease().is_some_and(|lease| lease.recalled);
            let message = match (withdrawn, recalled) {
                (Some(why), _) => format!("agent {} gave it back: {why}", report.agent),
                (None, true) => format!("agent {} gave it back before it began", report.agent),
                (None, false) => format!("agent {} does not hold the attempt", report.agent),
            };
            let outcome = Outcome::failed(class, message);
            seen.insert(key.trial.clone()).then(|| self.after_attempt(now, key, trial, outcome))
        };
        missing.filter_map(event).collect()
    }

    /// A report was heard: its leases are renewed, and what it proves to be gone is free.
    pub(super) fn hear_report(&mut self, now: Timestamp, report: &Report) {
        for (key, started) in &report.running {
            if self.is_current(&report.agent, key) {
                self.renew(now, key);
                self.note_started(key, *started);
            }
        }
        // The agent counts from this report for what it does not know yet, too.
        let agent = self.agents.get(&report.agent);
        let leases = agent.into_iter().flat_map(|agent| &agent.leases);
        let unknown = leases.filter(|(_, version)| **version > report.assignment_version);
        let unknown: Vec<AttemptKey> = unknown.map(|(key, _)| key.clone()).collect();
        unknown.iter().for_each(|key| self.renew(now, key));
        let Some(agent) = self.agents.get_mut(&report.agent) else {
            return;
        };
        if !agent.is_available(now, self.lease_ttl_ms) || report.leaving != agent.leaving {
            self.quiet_since = None;
        }
        agent.heard_at = now;
        agent.leaving |= report.leaving;
        agent.sequence = report.sequence;
        if agent.capacity.withdrawn != report.withdrawn {
            agent.capacity.withdrawn.clone_from(&report.withdrawn);
            agent.free = None;
        }
        agent.acknowledged = agent.acknowledged.max(report.assignment_version);
        agent.dropped = agent.dropped.split_off(&(agent.acknowledged + 1));
        // What was said last may be lost; it is said until a report knows it.
        if agent.acknowledged < agent.version {
            self.changed.insert(report.agent.clone());
        }
        if agent.releasing.is_empty() {
            return;
        }
        let running: BTreeSet<&AttemptKey> = report.running.iter().map(|(key, _)| key).collect();
        let ended: BTreeSet<&AttemptKey> = report.ended.iter().map(|(key, _)| key).collect();
        // The process of an attempt that ended is gone, whatever the agent knows of its lease.
        agent.forget_releasing(|key, releasing| {
            let is_known = report.assignment_version >= releasing.granted;
            ended.contains(key) || (is_known && !running.contains(key))
        });
    }

    fn note_started(&mut self, key: &AttemptKey, started: bool) {
        if let Some(TrialState::Leased(lease)) =
            self.trials.get_mut(&key.trial).map(|t| &mut t.state)
            && let Some(member) = lease.members.get_mut(key.rank as usize)
        {
            member.started |= started;
        }
    }

    fn renew(&mut self, now: Timestamp, key: &AttemptKey) {
        let deadline = now.plus_ms(self.lease_ttl_ms);
        if let Some(TrialState::Leased(lease)) =
            self.trials.get_mut(&key.trial).map(|t| &mut t.state)
            && let Some(member) = lease.members.get_mut(key.rank as usize)
        {
            self.expiries.remove(&(member.deadline, key.clone()));
            member.deadline = deadline;
            self.expiries.insert((deadline, key.clone()));
        }
    }

    /// Whether `agent` holds the live lease that `key` names. The fence: everything that an attempt
    /// says passes through here.
    pub(super) fn is_current(&self, agent: &AgentId, key: &AttemptKey) -> bool {
        let Some(trial) = self.trials.get(&key.trial) else {
            return false;
        };
        if planted!(self, NoFence) {
            return trial.lease().is_some_and(|lease| lease.members.len() > key.rank as usize);
        }
        if planted!(self, EndTwice)
            && matches!(&trial.state, TrialState::Ended { attempt, .. } if *attempt == key.attempt)
        {
            return true;
        }
        trial.member(agent, key).is_some()
    }

    /// Whether the last member of an attempt is among those that have `starting`.
    fn starts_now(&self, key: &AttemptKey, starting: &BTreeSet<&AttemptKey>) -> bool {
        let Some(lease) = self.trials.get(&key.trial).and_then(Trial::lease) else {
            return false;
        };
        let runs = |(key, member): (AttemptKey, &super::state::Member)| {
            member.started || starting.contains(&key)
        };
        // Said once, by the lowest rank that starts with this report.
        let first = lease.live(&key.trial).find(|(key, m)| !m.started && starting.contains(key));
        first.is_some_and(|(first, _)| first == *key) && lease.live(&key.trial).all(runs)
    }

    /// What the end of one process means. `ended` are the ranks whose end the same report says, and
    /// `leader` is what it says of rank 0.
    fn after_member(
        &self,
        now: Timestamp,
        key: &AttemptKey,
        trial: &Trial,
        ended: &BTreeSet<u32>,
        outcome: &Outcome,
        leader: Option<&Outcome>,
    ) -> Event {
        let Some(lease) = trial.lease().filter(|lease| lease.members.len() > 1) else {
            return self.after_attempt(now, key, trial, outcome.clone());
        };
        match outcome {
            Outcome::Completed { .. } => {}
            Outcome::Diverged { .. } | Outcome::Failed { .. } => {
                return self.after_attempt(now, key, trial, outcome.clone());
            }
        }
        let others_run = lease.live(&key.trial).any(|(key, _)| !ended.contains(&key.rank));
        if others_run {
            return Event::MemberEnded {
                trial: key.trial.clone(),
                attempt: key.attempt,
                rank: key.rank,
                outcome: outcome.clone(),
            };
        }
        // Rank 0 speaks for the gang.
        let leader = lease.leader().outcome.as_ref().or(leader);
        self.after_attempt(now, key, trial, leader.unwrap_or(outcome).clone())
    }

    /// What the end of the current attempt means for its trial: over, or once more after a pause.
    pub(super) fn after_attempt(
        &self,
        now: Timestamp,
        key: &AttemptKey,
        trial: &Trial,
        outcome: Outcome,
    ) -> Event {
        let (id, attempt) = (key.trial.clone(), key.attempt);
        match retry_pause(trial, &outcome) {
            Some(pause_ms) => Event::AttemptFailed {
                trial: id,
                attempt,
                outcome,
                retry_at: now.plus_ms(pause_ms),
            },
            None => Event::TrialEnded { trial: id, attempt, outcome },
        }
    }
}

/// Why a GPU of an attempt's member is withdrawn, if one is.
fn why_withdrawn<'a>(
    trial: &Trial,
    key: &AttemptKey,
    withdrawn: &'a BTreeMap<u32, String>,
) -> Option<&'a str> {
    let member = trial.lease()?.members.get(key.rank as usize)?;
    member.devices.gpus.iter().find_map(|gpu| withdrawn.get(gpu)).map(String::as_str)
}

/// Whose fault it is that an agent does not hold an attempt any more. One that was in line, or that
/// was asked for before it began, or whose GPU the agent has `withdrawn` before that, has not run,
/// so nothing of it has failed.
pub(super) fn class_of_missing(trial: &Trial, withdrawn: Option<&str>) -> FailureClass {
    let has_not_run = trial.lease().is_some_and(|lease| {
        let was_held_up = lease.ahead || lease.preempted.is_some() || withdrawn.is_some();
        !lease.started() && was_held_up
    });
    match has_not_run {
        true => FailureClass::Cancelled,
        false => FailureClass::Infrastructure,
    }
}

/// More doublings would exceed every pause.
const DOUBLINGS_MAX: u32 = 16;

/// Milliseconds until the next attempt, or `None` when the outcome is final.
fn retry_pause(trial: &Trial, outcome: &Outcome) -> Option<u64> {
    let Outcome::Failed { class, .. } = outcome else {
        return None;
    };
    let allowed = match class {
        FailureClass::Infrastructure => trial.spec.retries.infrastructure,
        FailureClass::Trial => trial.spec.retries.trial,
        // The agent gave the attempt back, for example because it was told to stop. The trial
        // itself is as wanted as before.
        FailureClass::Cancelled => return Some(0),
        FailureClass::Invalid
        | FailureClass::Timeout
        | FailureClass::Pruned
        | FailureClass::Cheated => return None,
    };
    let failures = trial.failures.get(class).copied().unwrap_or(0);
    let doubled = BACKOFF_FIRST_MS << failures.min(DOUBLINGS_MAX);
    (failures < allowed).then_some(doubled.min(BACKOFF_MAX_MS))
}

/// Members of attempts that end with this report: what is not refused is renewed, and their lease
/// is not.
fn refuse_survivors(report: &Report, events: &[Event], settled: &mut Settled) {
    let mut over: BTreeSet<&TrialId> = BTreeSet::new();
    for event in events {
        if let Event::AttemptFailed { trial, .. } | Event::TrialEnded { trial, .. } = event {
            over.insert(trial);
        }
    }
    for (key, _) in &report.running {
        if over.contains(&key.trial) && !settled.refused.contains(key) {
            settled.refused.push(key.clone());
        }
    }
}
