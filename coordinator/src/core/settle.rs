//! What follows from the state as it is: leases that ended, attempts nobody wants, trials that a
//! study asks for, experiments that are over, and new leases.

use super::state::{Experiment, Trial, TrialState};
use super::{Core, TRIALS_MAX, schedule};
use proto::{Event, ExperimentId, ExperimentState, FailureClass, Outcome, Timestamp, TrialId};
use studies::study::{Next, TrialView};

impl Core {
    /// The next facts that follow at `now` without any input. Called by the driver after inputs
    /// and deadlines, applying the answer each time, until nothing follows.
    pub fn settle(&mut self, now: Timestamp) -> Vec<Event> {
        let mut events = self.expired(now);
        if events.is_empty() {
            events = self.unwanted(now);
        }
        if events.is_empty() {
            let asked = std::mem::take(&mut self.stale);
            events = asked.iter().flat_map(|id| self.ask_study(id)).collect();
        }
        if events.is_empty() {
            events = schedule::place(self, now);
        }
        events
    }

    fn expired(&self, now: Timestamp) -> Vec<Event> {
        let due = self.expiries.iter().take_while(|(deadline, _)| *deadline <= now);
        let end = |(_, id): &(Timestamp, TrialId)| {
            let trial = self.trials.get(id)?;
            let lease = trial.lease()?;
            let message = format!(
                "agent {} was not heard for {} ms, so its lease ended",
                lease.agent, self.lease_ttl_ms
            );
            let outcome = Outcome::failed(FailureClass::Infrastructure, message);
            Some(self.after_attempt(now, id, trial, lease.attempt, outcome))
        };
        due.filter_map(end).collect()
    }

    /// Leases of trials that no running experiment wants any longer.
    fn unwanted(&self, now: Timestamp) -> Vec<Event> {
        let take_back = |(id, trial): (&TrialId, &Trial)| {
            let lease = trial.lease()?;
            (!self.is_wanted(trial)).then(|| Event::AttemptFailed {
                trial: id.clone(),
                attempt: lease.attempt,
                outcome: Outcome::failed(FailureClass::Cancelled, "its experiment was cancelled"),
                retry_at: now,
            })
        };
        let leased = self.expiries.iter().filter_map(|(_, id)| self.trials.get_key_value(id));
        leased.filter_map(take_back).collect()
    }

    fn ask_study(&self, id: &ExperimentId) -> Vec<Event> {
        let Some(experiment) = self.experiments.get(id) else {
            return Vec::new();
        };
        let Ok(study) = &experiment.study else {
            return Vec::new();
        };
        if experiment.open > 0 && !study.wants_each_outcome() {
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
        match study.next(&views) {
            Next::Plan { trials, reason } => {
                if self.trials.len() + trials.len() > TRIALS_MAX {
                    return end(ExperimentState::Failed);
                }
                vec![Event::TrialsPlanned { experiment: id.clone(), reason, trials }]
            }
            Next::Wait if experiment.open > 0 => Vec::new(),
            // A study that waits for nothing would wait for ever.
            Next::Wait | Next::Complete => end(final_state()),
        }
    }

    /// An experiment's trials as its study sees them.
    fn views(&self, experiment: &Experiment) -> Vec<TrialView<'_>> {
        let view = |id: &TrialId| {
            let (id, trial) = self.trials.get_key_value(id)?;
            let outcome = match &trial.state {
                TrialState::Ended { outcome, .. } => Some(outcome),
                TrialState::Waiting { .. } | TrialState::Leased { .. } => None,
            };
            Some(TrialView { id, spec: &trial.spec, attempts: trial.attempt.0, outcome })
        };
        experiment.trials.iter().filter_map(view).collect()
    }
}
