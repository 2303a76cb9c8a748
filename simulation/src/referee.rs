//! Reads what became durable, with rules of its own that share no code with the core, and compares
//! it with what really ran.

use proto::{
    AgentId, Attempt, AttemptKey, Devices, Event, ExperimentId, Notice, NoticeKind, Outcome,
    Record, TrialId, TrialSpec,
};
use std::collections::{BTreeMap, BTreeSet};

/// Largest gang of a simulated world.
const MEMBERS_MAX: u32 = 8;
/// From the record of a hang that shall end its attempt to the record of its end. Who hangs is
/// killed after 15 s; the rest is for outages of agent and coordinator, one after the other.
const HUNG_MAX_MS: u64 = 240_000;

/// What the durable records say, and what was promised to the outside.
#[derive(Debug, Default)]
pub(crate) struct Referee {
    last: u64,
    trials: BTreeMap<TrialId, Known>,
    experiments: BTreeSet<ExperimentId>,
    /// Submissions that were acknowledged.
    promised: BTreeSet<ExperimentId>,
    /// Ends that an agent was told to be recorded.
    settled: BTreeMap<AttemptKey, Outcome>,
    /// Ends that really happened: what a process said last.
    happened: BTreeMap<AttemptKey, Outcome>,
    /// Steps at which a process really reported what is no number.
    bad_numbers: BTreeSet<(TrialId, Attempt, u64)>,
    /// Attempts that must end because they hung, and since when.
    hung: BTreeMap<TrialId, (Attempt, u64)>,
}

/// Where the members of a gang are; `None` for one that ended.
type Places = Vec<Option<(AgentId, Devices)>>;

#[derive(Debug, Default)]
struct Known {
    newest: Attempt,
    /// The current attempt and where its members are.
    lease: Option<(Attempt, Places)>,
    /// Whether it was granted for when another attempt has left its places.
    ahead: bool,
    ended: Option<Outcome>,
    /// What was noticed about attempts.
    noticed: BTreeSet<(Attempt, NoticeKind, u64, String)>,
}

impl Referee {
    /// A process said how its attempt ended.
    pub(crate) fn process_said(&mut self, key: AttemptKey, outcome: Outcome) {
        self.happened.insert(key, outcome);
    }

    /// A process reported a number that is none.
    pub(crate) fn bad_number(&mut self, key: &AttemptKey, step: u64) {
        self.bad_numbers.insert((key.trial.clone(), key.attempt, step));
    }

    /// What was noticed so far, by kind.
    pub(crate) fn notices(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        for (_, kind, ..) in self.trials.values().flat_map(|known| &known.noticed) {
            *counts.entry(kind.word()).or_default() += 1;
        }
        counts
    }

    /// No attempt goes on that hung and was to end.
    ///
    /// # Errors
    /// One does.
    pub(crate) fn none_hangs(&self) -> Result<(), String> {
        match self.hung.first_key_value() {
            Some((trial, (attempt, _))) => {
                Err(format!("attempt {attempt} of {trial} hung and goes on"))
            }
            None => Ok(()),
        }
    }

    /// A client was told that its recipe is accepted.
    ///
    /// # Errors
    /// It is not durable.
    pub(crate) fn acknowledged(&mut self, experiment: &ExperimentId) -> Result<(), String> {
        self.promised.insert(experiment.clone());
        self.keeps_promises()
    }

    /// An agent was told that an end is recorded.
    ///
    /// # Errors
    /// It is not durable.
    pub(crate) fn settled(&mut self, key: &AttemptKey, outcome: &Outcome) -> Result<(), String> {
        self.settled.insert(key.clone(), outcome.clone());
        let newest = self.trials.get(&key.trial).map_or(Attempt(0), |known| known.newest);
        if newest < key.attempt {
            return Err(format!("the end of {key} was acknowledged and is not durable"));
        }
        Ok(())
    }

    /// Every acknowledged submission is durable.
    ///
    /// # Errors
    /// One is not.
    pub(crate) fn keeps_promises(&self) -> Result<(), String> {
        match self.promised.iter().find(|id| !self.experiments.contains(id)) {
            Some(lost) => Err(format!("the submission of {lost} was acknowledged and is lost")),
            None => Ok(()),
        }
    }

    /// Begins anew, as a recovery reads the journal from its start. What was promised stays.
    pub(crate) fn recover(&mut self) {
        self.last = 0;
        self.trials.clear();
        self.experiments.clear();
    }

    /// Takes in a record that is durable at the world's time `now`. `spec` is that of the trial
    /// that it is about.
    ///
    /// # Errors
    /// It contradicts those before it, or what really happened.
    pub(crate) fn durable(
        &mut self,
        now: u64,
        record: &Record,
        spec: Option<&TrialSpec>,
    ) -> Result<(), String> {
        if record.sequence != self.last + 1 {
            return Err(format!("record {} follows record {}", record.sequence, self.last));
        }
        self.last = record.sequence;
        self.take(now, &record.event, spec)
            .map_err(|error| format!("record {}: {error}: {:?}", record.sequence, record.event))
    }

    fn take(&mut self, now: u64, event: &Event, spec: Option<&TrialSpec>) -> Result<(), String> {
        match event {
            Event::ExperimentSubmitted { experiment, .. } => {
                if !self.experiments.insert(experiment.clone()) {
                    return Err("the experiment was there".to_owned());
                }
            }
            Event::RecipeChanged { experiment, .. }
            | Event::TrialsPlanned { experiment, .. }
            | Event::RangePlanned { experiment, .. }
            | Event::TrialsDrawn { experiment, .. }
            | Event::ExperimentEnded { experiment, .. } => {
                if !self.experiments.contains(experiment) {
                    return Err("there is no such experiment".to_owned());
                }
            }
            Event::ExperimentResumed { retried, .. } => {
                for id in retried {
                    let known = self.trials.entry(id.clone()).or_default();
                    if !matches!(known.ended.take(), Some(Outcome::Failed { .. })) {
                        return Err(format!("trial {id} had not failed and begins again"));
                    }
                }
            }
            Event::LeaseGranted {
                trial, attempt, agent, devices, members: others, ahead, ..
            } => {
                let leader = Some((agent.clone(), devices.clone()));
                let others = others.iter().map(|m| Some((m.agent.clone(), m.devices.clone())));
                let places: Places = std::iter::once(leader).chain(others).collect();
                let members = spec.map(|spec| spec.placement.members);
                if members.is_some_and(|members| members as usize != places.len()) {
                    return Err(format!("a gang of {members:?} got {} places", places.len()));
                }
                self.granted(trial, *attempt, places, *ahead)?;
            }
            Event::AttemptPreempted { trial, attempt, .. }
            | Event::AttemptStarted { trial, attempt }
            | Event::Measured { trial, attempt, .. } => {
                self.current(trial, *attempt)?;
            }
            Event::Noticed { trial, attempt, notice } => {
                self.current(trial, *attempt)?;
                self.noticed(now, (trial, *attempt), notice, spec)?;
            }
            Event::CheckpointSaved { trial, checkpoint } => {
                self.current(trial, checkpoint.attempt)?;
            }
            Event::MemberEnded { trial, attempt, rank, .. } => {
                let places = self.current(trial, *attempt)?;
                let place = places.get_mut(*rank as usize).ok_or("there is no such member")?;
                place.take().ok_or("the member had ended")?;
            }
            Event::AttemptFailed { trial, attempt, outcome, .. } => {
                self.current(trial, *attempt)?;
                self.known(trial).lease = None;
                self.hung_ends(now, trial, *attempt)?;
                if matches!(outcome, Outcome::Completed { .. }) {
                    return Err("an attempt that completed is repeated".to_owned());
                }
            }
            Event::TrialEnded { trial, attempt, outcome } => {
                self.over(trial, *attempt, outcome)?;
                self.hung_ends(now, trial, *attempt)?;
            }
        }
        Ok(())
    }

    fn known(&mut self, trial: &TrialId) -> &mut Known {
        self.trials.entry(trial.clone()).or_default()
    }

    fn current(&mut self, trial: &TrialId, attempt: Attempt) -> Result<&mut Places, String> {
        match &mut self.known(trial).lease {
            Some((current, places)) if *current == attempt => Ok(places),
            Some((current, _)) => Err(format!("attempt {current} is the current one")),
            None => Err("no attempt is current".to_owned()),
        }
    }

    /// Every fact is told once, and what is told is so.
    fn noticed(
        &mut self,
        now: u64,
        (trial, attempt): (&TrialId, Attempt),
        notice: &Notice,
        spec: Option<&TrialSpec>,
    ) -> Result<(), String> {
        let fact = (attempt, notice.kind, notice.step, notice.text.clone());
        if !self.known(trial).noticed.insert(fact) {
            return Err("it was noticed before".to_owned());
        }
        let was_bad = self.bad_numbers.contains(&(trial.clone(), attempt, notice.step));
        if notice.kind == NoticeKind::NotANumber && !was_bad {
            return Err("its process reported a number".to_owned());
        }
        if notice.kind == NoticeKind::Hang && spec.is_some_and(|spec| spec.hang_policy().retry) {
            // A recovery reads of it again.
            self.hung.entry(trial.clone()).or_insert((attempt, now));
        }
        Ok(())
    }

    /// An attempt is over. If it hung and was to end, then soon after.
    fn hung_ends(&mut self, now: u64, trial: &TrialId, over: Attempt) -> Result<(), String> {
        match self.hung.remove(trial) {
            Some((attempt, since)) if attempt == over && now - since > HUNG_MAX_MS => {
                Err(format!("attempt {attempt} hung {} ms before", now - since))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn granted(
        &mut self,
        trial: &TrialId,
        attempt: Attempt,
        places: Places,
        ahead: bool,
    ) -> Result<(), String> {
        if ahead && !self.leases().any(|(other, _)| *other == places) {
            return Err("nothing has the devices for which it is in line".to_owned());
        }
        let known = self.known(trial);
        if known.ended.is_some() {
            return Err("the trial had ended".to_owned());
        }
        if known.lease.is_some() {
            return Err("the trial has a lease".to_owned());
        }
        if attempt <= known.newest {
            return Err(format!("attempt {} was granted before", known.newest));
        }
        known.newest = attempt;
        (known.lease, known.ahead) = (Some((attempt, places)), ahead);
        self.promised_once()
    }

    fn leases(&self) -> impl Iterator<Item = (&Places, bool)> {
        let leased = self.trials.values();
        leased.filter_map(|known| known.lease.as_ref().map(|(_, places)| (places, known.ahead)))
    }

    /// No device is promised twice. Those who are in line for the same places share one promise.
    fn promised_once(&self) -> Result<(), String> {
        let mut cpus = BTreeSet::new();
        let mut gpus: BTreeMap<(&AgentId, u32), u32> = BTreeMap::new();
        let (behind, first): (Vec<_>, Vec<_>) = self.leases().partition(|(_, ahead)| *ahead);
        let mut promised: Vec<&Places> = first.into_iter().map(|(places, _)| places).collect();
        for (places, _) in behind {
            if !promised.contains(&places) {
                promised.push(places);
            }
        }
        for (agent, devices) in promised.into_iter().flatten().flatten() {
            if let Some(cpu) = devices.cpus.iter().find(|cpu| !cpus.insert((agent, **cpu))) {
                return Err(format!("CPU slot {cpu} of {agent} is promised twice"));
            }
            for gpu in &devices.gpus {
                let promised = gpus.entry((agent, *gpu)).or_default();
                *promised += devices.gpu_milli();
                if *promised > Devices::WHOLE_MILLI {
                    return Err(format!("GPU {gpu} of {agent} is promised twice"));
                }
            }
        }
        Ok(())
    }

    fn over(&mut self, trial: &TrialId, attempt: Attempt, outcome: &Outcome) -> Result<(), String> {
        let known = self.trials.entry(trial.clone()).or_default();
        if known.ended.is_some() {
            return Err("the trial had ended".to_owned());
        }
        match known.lease.take() {
            Some((current, _)) if current != attempt => {
                return Err(format!("attempt {current} is the current one"));
            }
            None if known.newest != attempt => {
                return Err(format!("attempt {} is the newest", known.newest));
            }
            Some(_) | None => {}
        }
        known.ended = Some(outcome.clone());
        let said = |rank| {
            let key = AttemptKey { trial: trial.clone(), attempt, rank };
            self.happened.get(&key)
        };
        let is_true = match outcome {
            // Rank 0 speaks for a gang that completed, any member for one that diverged.
            Outcome::Completed { .. } => said(0) == Some(outcome),
            Outcome::Diverged { .. } => (0..MEMBERS_MAX).any(|rank| said(rank) == Some(outcome)),
            Outcome::Failed { .. } => true,
        };
        if !is_true {
            return Err(format!("its process said {:?}", said(0)));
        }
        Ok(())
    }
}
