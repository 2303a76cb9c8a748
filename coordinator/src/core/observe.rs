//! What agents observe of a training beside its fate: rungs that a study watches, and notices.

use super::Core;
use super::report::{Point, Report};
use super::state::Noticed;
use proto::notice::NOTICES_MAX;
use proto::{Event, ExperimentId, Notice, TrialId};
use std::collections::{BTreeMap, BTreeSet};
use studies::study::{Measured, RUNGS_MAX};

impl Core {
    /// Notices that are new. They are told again until a reply is heard, and two members of a gang
    /// may tell the same.
    pub(super) fn decide_notices(&self, report: &Report) -> Vec<Event> {
        let mut events = Vec::new();
        let mut new: BTreeMap<&TrialId, Vec<&Notice>> = BTreeMap::new();
        for (key, notice) in &report.notices {
            let Some(trial) = self.trials.get(&key.trial) else { continue };
            let new = new.entry(&key.trial).or_default();
            let known =
                |noticed: &Noticed| noticed.attempt == key.attempt && noticed.notice == *notice;
            let is_known = trial.noticed.iter().any(known) || new.contains(&notice);
            if (is_known && !planted!(self, NoticeTwice))
                || !self.is_current(&report.agent, key)
                || trial.noticed.len() + new.len() >= NOTICES_MAX
            {
                continue;
            }
            new.push(notice);
            let (trial, attempt) = (key.trial.clone(), key.attempt);
            events.push(Event::Noticed { trial, attempt, notice: notice.clone() });
        }
        events
    }

    /// Which rungs of its studies a metric point passes.
    pub(super) fn decide_point(&self, point: &Point) -> Vec<Event> {
        let Some(trial) = self.trials.get(&point.key.trial) else {
            return Vec::new();
        };
        if point.key.rank != 0 || !self.is_current(&point.agent, &point.key) {
            return Vec::new();
        }
        let owners = trial.owners.iter().filter_map(|id| self.experiments.get(id));
        let watches = owners.filter_map(|owner| owner.study.as_ref().ok()?.watch());
        let watched = watches.filter(|watch| watch.metric == point.metric);
        let passed: BTreeSet<u64> = watched
            .flat_map(|watch| watch.rungs.iter().take_while(|rung| **rung <= point.step))
            .copied()
            .filter(|rung| trial.measured.iter().all(|known| known.rung != *rung))
            .collect();
        let event = |rung| Event::Measured {
            trial: point.key.trial.clone(),
            attempt: point.key.attempt,
            rung,
            value: point.value,
        };
        passed.into_iter().map(event).collect()
    }

    pub(super) fn apply_measured(&mut self, id: &TrialId, rung: u64, value: f64) {
        let Some(trial) = self.trials.get_mut(id) else {
            return;
        };
        if trial.measured.len() >= RUNGS_MAX {
            return;
        }
        self.measured += 1;
        trial.measured.push(Measured { rung, value, order: self.measured });
        let owners: Vec<ExperimentId> = trial.owners.iter().cloned().collect();
        owners.iter().for_each(|owner| self.mark_stale(owner));
    }

    pub(super) fn apply_noticed(&mut self, id: &TrialId, noticed: Noticed) {
        if let Some(trial) = self.trials.get_mut(id)
            && trial.noticed.len() < NOTICES_MAX
        {
            trial.noticed.push(noticed);
        }
    }
}
