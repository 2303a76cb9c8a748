//! Which trials two plans share, matched by [`TrialSpec::id`].

use proto::{TrialId, TrialSpec};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use studies::study::{Next, Study};

/// Trials of the smaller plan that are held in memory; when both have more, trials are not
/// compared one by one.
pub(crate) const COMPARED_MAX: u64 = 100_000;
/// Trials between two signs of life: some milliseconds.
const SEEN_EVERY: u64 = 4_096;
/// Trials of each kind that are listed; the counts are of all.
pub(crate) const LISTED_MAX: usize = 20;

/// The first trials of an experiment, before any result.
pub(crate) struct Plan {
    study: Box<dyn Study>,
    listed: Vec<TrialSpec>,
    /// Trials of the study's own enumeration.
    range: u64,
}

impl Plan {
    /// What the study asks for first.
    pub(crate) fn first(study: Box<dyn Study>) -> Self {
        let (listed, range) = match study.next(&[]) {
            Next::Plan { trials, .. } => (trials, 0),
            Next::PlanRange { count, .. } => (Vec::new(), count),
            Next::Stop { .. } | Next::Wait | Next::Complete => (Vec::new(), 0),
        };
        Self { study, listed, range }
    }

    /// Adds trials that the study asked for after it had seen results; those that are planned
    /// already count once.
    pub(crate) fn extend(&mut self, later: Vec<TrialSpec>) {
        let known: BTreeSet<TrialId> = self.trials().map(|spec| spec.id()).collect();
        self.listed.extend(later.into_iter().filter(|spec| !known.contains(&spec.id())));
    }

    /// How many.
    pub(crate) fn count(&self) -> u64 {
        self.range.saturating_add(self.listed.len() as u64)
    }

    fn trials(&self) -> impl Iterator<Item = Cow<'_, TrialSpec>> {
        let range = (0..self.range).map_while(|index| self.study.trial(index)).map(Cow::Owned);
        range.chain(self.listed.iter().map(Cow::Borrowed))
    }
}

/// What the trials of two plans have in common.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Comparison {
    /// Matched one by one.
    Matched(Matched),
    /// Both plans are too large for that.
    TooMany,
}

/// Two plans, matched.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Matched {
    /// In both.
    pub(crate) kept: u64,
    /// Of these, the ones that ended already.
    pub(crate) kept_ended: u64,
    /// Only in the new one.
    pub(crate) added: Side,
    /// Only in the old one.
    pub(crate) dropped: Side,
}

/// Trials that only one plan has.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Side {
    pub(crate) count: u64,
    /// The first of them.
    pub(crate) listed: Vec<TrialSpec>,
}

impl Side {
    fn add(&mut self, spec: Cow<'_, TrialSpec>) {
        self.count += 1;
        if self.listed.len() < LISTED_MAX {
            self.listed.push(spec.into_owned());
        }
    }
}

/// Matches two plans. `ended` are trials of the old one that are over; `seen` is told how many more
/// trials of the larger one were looked at. Memory is that of the smaller plan's ids, time that of
/// both enumerations.
pub(crate) fn compare(
    old: &Plan,
    new: &Plan,
    ended: &BTreeSet<TrialId>,
    seen: impl Fn(u64),
) -> Comparison {
    let new_is_small = new.count() <= old.count();
    let (small, large) = if new_is_small { (new, old) } else { (old, new) };
    if small.count() > COMPARED_MAX {
        return Comparison::TooMany;
    }
    let mut small_ids: BTreeMap<TrialId, bool> =
        small.trials().map(|spec| (spec.id(), false)).collect();
    let mut matched = Matched::default();
    let mut only_large = Side::default();
    for (index, spec) in (1..).zip(large.trials()) {
        if index % SEEN_EVERY == 0 {
            seen(SEEN_EVERY);
        }
        let id = spec.id();
        match small_ids.get_mut(&id) {
            Some(in_both) => {
                if !*in_both {
                    matched.kept += 1;
                    matched.kept_ended += u64::from(ended.contains(&id));
                }
                *in_both = true;
            }
            None => only_large.add(spec),
        }
    }
    let mut only_small = Side::default();
    for spec in small.trials() {
        // Removed, so that a trial that stands twice in its plan counts once.
        if small_ids.remove(&spec.id()) == Some(false) {
            only_small.add(spec);
        }
    }
    let (added, dropped) =
        if new_is_small { (only_small, only_large) } else { (only_large, only_small) };
    Comparison::Matched(Matched { added, dropped, ..matched })
}

#[cfg(test)]
#[path = "trials_tests.rs"]
mod tests;
