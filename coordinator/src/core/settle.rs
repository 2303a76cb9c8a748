//! What follows from the state as it is: leases that ended, attempts nobody wants, trials that a
//! study asks for, experiments that are over, and new leases.

use super::report::class_of_missing;
use super::state::{Experiment, Trial, TrialState};
use super::{Core, TRIALS_MAX, YIELD_MS, schedule};
use proto::{
    AttemptKey, Event, ExperimentId, ExperimentState, FailureClass, Outcome, Timestamp, TrialId,
};
use std::collections::BTreeSet;
use studies::study::{Next, TrialView};

/// An experiment that waits with fewer drawn trials than this gets more of its range, so that a
/// turn's placements never run dry.
const DRAW_BELOW: usize = 512;
/// Trials drawn at once. Each costs a hash, so a turn stays short.
const DRAW_MAX: u64 = 1_024;
/// How long a round that found nothing counts, when nothing but time has passed since: what a wait
/// alone changes (a reservation, an agent that is avoided no longer) may be this late.
const LOOK_AGAIN_MS: u64 = 1_000;

impl Core {
    /// The next facts that follow at `now` without any request; applied by the caller, who asks
    /// again until nothing follows.
    pub(super) fn settle(&mut self, now: Timestamp) -> Vec<Event> {
        let mut events = self.expired(now);
        if events.is_empty() {
            events = self.unwanted(now);
        }
        if events.is_empty() {
            let asked = std::mem::take(&mut self.stale);
            events = asked.iter().flat_map(|id| self.ask_study(id)).collect();
        }
        if events.is_empty() {
            events = self.draw();
        }
        if events.is_empty() {
            events = self.place(now);
        }
        if events.is_empty() {
            self.recall(now);
        }
        events
    }

    /// Leases that ended, and attempts that did not give way in time.
    fn expired(&self, now: Timestamp) -> Vec<Event> {
        let mut seen = BTreeSet::new();
        let due = self.expiries.iter().take_while(|(deadline, _)| *deadline <= now);
        let end = |(_, key): &(Timestamp, AttemptKey)| {
            let trial = self.trials.get(&key.trial)?;
            let agent = &trial.lease()?.members.get(key.rank as usize)?.agent;
            let message = format!(
                "agent {agent} was not heard for {} ms, so its lease ended",
                self.lease_ttl_ms
            );
            let outcome = Outcome::failed(class_of_missing(trial, None), message);
            seen.insert(key.trial.clone()).then(|| self.after_attempt(now, key, trial, outcome))
        };
        let mut events: Vec<Event> = due.filter_map(end).collect();
        let late = self.yielding.iter().take_while(|(at, _)| at.plus_ms(YIELD_MS) <= now);
        let take_back = |(_, id): &(Timestamp, TrialId)| {
            let attempt = self.trials.get(id)?.lease()?.attempt;
            let message = "it did not give way to a trial of higher priority in time";
            Some(taken_back(now, id, attempt, message))
        };
        events.extend(late.filter(|(_, id)| !seen.contains(id)).filter_map(take_back));
        events
    }

    /// Leases of trials that no running experiment wants any longer.
    fn unwanted(&mut self, now: Timestamp) -> Vec<Event> {
        let doubtful = std::mem::take(&mut self.doubtful);
        let take_back = |id: &TrialId| {
            let trial = self.trials.get(id)?;
            let attempt = trial.lease()?.attempt;
            let message = "its experiment was cancelled";
            (!self.is_wanted(trial)).then(|| taken_back(now, id, attempt, message))
        };
        doubtful.iter().filter_map(take_back).collect()
    }

    fn ask_study(&self, id: &ExperimentId) -> Vec<Event> {
        let Some(experiment) = self.experiments.get(id) else {
            return Vec::new();
        };
        let Ok(study) = &experiment.study else {
            return Vec::new();
        };
        // A study sees only drawn trials; before the first one it would plan its range again.
        let is_drawn = experiment.undrawn == 0 || !experiment.trials.is_empty();
        if experiment.unfinished() > 0 && !(study.wants_each_outcome() && is_drawn) {
            return Vec::new();
        }
        let end = |state| vec![Event::ExperimentEnded { experiment: id.clone(), state }];
        let views = self.views(experiment);
        let final_state = || {
            if study.has_result(&views) {
                return ExperimentState::Complete;
            }
            ExperimentState::Failed
        };
        let fits = |more: u64| self.trial_count().saturating_add(more) <= TRIALS_MAX;
        match study.next(&views) {
            Next::Plan { trials, reason } => {
                if !fits(trials.len() as u64) {
                    return end(ExperimentState::Failed);
                }
                vec![Event::TrialsPlanned { experiment: id.clone(), reason, trials }]
            }
            Next::PlanRange { count, reason } => {
                let first = study.trial(experiment.next_index + experiment.undrawn);
                let Some(first) = first.filter(|_| fits(count)).map(|spec| spec.id()) else {
                    return end(ExperimentState::Failed);
                };
                vec![Event::RangePlanned { experiment: id.clone(), reason, count, first }]
            }
            Next::Stop { trials, reason } => self.stop_early(&trials, &reason),
            Next::Wait if experiment.unfinished() > 0 => Vec::new(),
            // A study that waits for nothing would wait for ever.
            Next::Wait | Next::Complete => end(final_state()),
        }
    }

    fn stop_early(&self, trials: &[TrialId], reason: &str) -> Vec<Event> {
        let event = |id: &TrialId| {
            let trial = self.trials.get(id).filter(|trial| trial.outcome().is_none())?;
            let outcome = Outcome::failed(FailureClass::Pruned, reason);
            Some(Event::TrialEnded { trial: id.clone(), attempt: trial.attempt, outcome })
        };
        trials.iter().filter_map(event).collect()
    }

    /// All trials, drawn or not.
    fn trial_count(&self) -> u64 {
        let undrawn: u64 = self.experiments.values().map(|known| known.undrawn).sum();
        undrawn + self.trials.len() as u64
    }

    /// Trials of ranges that agents may soon have room for.
    fn draw(&self) -> Vec<Event> {
        let wants = |experiment: &&Experiment| {
            experiment.state == ExperimentState::Running
                && experiment.undrawn > 0
                && experiment.queue.len() < DRAW_BELOW
                && experiment.study.is_ok()
        };
        let experiments = self.experiments.iter();
        let draw = experiments.filter(|(_, experiment)| wants(experiment)).map(|(id, known)| {
            let count = known.undrawn.min(DRAW_MAX);
            Event::TrialsDrawn { experiment: id.clone(), count }
        });
        draw.collect()
    }

    /// A round of placements, unless the last one found nothing and nothing changed since.
    fn place(&mut self, now: Timestamp) -> Vec<Event> {
        if self.agents.count_free(&self.trials) {
            self.quiet_since = None;
        }
        if self.quiet_since.is_some_and(|since| now.since_ms(since) < LOOK_AGAIN_MS) {
            return Vec::new();
        }
        let events = schedule::place(self, now);
        self.quiet_since = events.is_empty().then_some(now);
        events
    }

    /// An experiment's trials as its study sees them.
    fn views(&self, experiment: &Experiment) -> Vec<TrialView<'_>> {
        let view = |id: &TrialId| {
            let (id, trial) = self.trials.get_key_value(id)?;
            Some(trial_view(id, trial))
        };
        experiment.trials.iter().filter_map(view).collect()
    }
}

fn trial_view<'a>(id: &'a TrialId, trial: &'a Trial) -> TrialView<'a> {
    let outcome = match &trial.state {
        TrialState::Ended { outcome, .. } => Some(outcome),
        TrialState::Waiting { .. } | TrialState::Leased(_) => None,
    };
    let (spec, attempts, measured) = (&*trial.spec, trial.attempt.0, &*trial.measured);
    TrialView { id, spec, attempts, outcome, measured }
}

/// An attempt whose end is nobody's failure.
fn taken_back(now: Timestamp, id: &TrialId, attempt: proto::Attempt, message: &str) -> Event {
    Event::AttemptFailed {
        trial: id.clone(),
        attempt,
        outcome: Outcome::failed(FailureClass::Cancelled, message),
        retry_at: now,
    }
}
