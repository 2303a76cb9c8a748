//! Ending trials early that do worse than others did at the same step.
//!
//! * `raw.rs`: the keys of `early_stopping` and their checks.
//! * `asha.rs`, `hyperband.rs`, `median.rs`: the rules, each over plain numbers: at which steps it
//!   compares, and whom it stops.
//! * `board.rs`: what the trials of an experiment measured, rung by rung.
//! * `findings.rs`: what stopping did, for the report.
//!
//! A decision at a rung looks only at what was measured there before, by
//! [`Measured::order`](crate::study::Measured::order). So it never changes, whoever asks again and
//! when, and a restart stops the same trials.

mod asha;
mod board;
mod findings;
mod hyperband;
mod median;
pub(super) mod raw;
#[cfg(test)]
mod tests;

use self::board::{Board, Entry};
use super::spec::{Goal, Metric};
use crate::report::Cell;
use crate::study::{Next, TrialView, Watch};
use serde::Serialize;

pub use asha::Asha;
pub use hyperband::Hyperband;
pub use median::Median;

/// Which trials are ended before they are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EarlyStopping {
    /// Asynchronous successive halving.
    Asha(Asha),
    /// Hyperband with asynchronous brackets.
    Hyperband(Hyperband),
    /// The median stopping rule.
    Median(Median),
}

impl EarlyStopping {
    /// Its key in the recipe.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Asha(_) => "asha",
            Self::Hyperband(_) => "hyperband",
            Self::Median(_) => "median",
        }
    }

    /// The steps of a trial that nobody stops.
    pub fn max_steps(&self) -> u64 {
        match self {
            Self::Asha(rule) => rule.max_steps,
            Self::Hyperband(rule) => rule.max_steps,
            Self::Median(rule) => rule.max_steps,
        }
    }

    /// The rungs of every bracket, in steps, ascending. Only Hyperband has several brackets.
    fn brackets(&self) -> Vec<Vec<u64>> {
        match self {
            Self::Asha(rule) => vec![rule.rungs()],
            Self::Hyperband(rule) => (0..=rule.s_max()).map(|s| rule.rungs(s)).collect(),
            Self::Median(rule) => vec![rule.rungs()],
        }
    }

    /// All rungs, ascending.
    fn rungs(&self) -> Vec<u64> {
        let mut rungs = self.brackets().concat();
        rungs.sort_unstable();
        rungs.dedup();
        rungs
    }

    /// The loss that `own` should have reached, when it did not, given what others measured at
    /// this rung before.
    fn missed<'a>(
        &self,
        own: &Entry,
        earlier: impl Iterator<Item = &'a Entry> + Clone,
    ) -> Option<f64> {
        let losses = earlier.clone().map(|entry| entry.loss);
        match self {
            Self::Asha(rule) => asha::missed(own.loss, losses, rule.eta),
            Self::Hyperband(rule) => asha::missed(own.loss, losses, rule.eta),
            Self::Median(rule) => {
                median::missed(own.best, earlier.map(|entry| entry.mean), rule.min_trials)
            }
        }
    }

    /// What a trial that measures here after `entries` has to reach; `None` while everyone passes.
    fn cut(&self, entries: &[Entry]) -> Option<f64> {
        let losses = || entries.iter().map(|entry| entry.loss).collect();
        match self {
            Self::Asha(rule) => asha::cut(losses(), rule.eta),
            Self::Hyperband(rule) => asha::cut(losses(), rule.eta),
            Self::Median(rule) => {
                median::cut(entries.iter().map(|entry| entry.mean).collect(), rule.min_trials)
            }
        }
    }
}

/// A rule at work on one metric.
#[derive(Debug)]
pub(super) struct Stopper {
    rule: EarlyStopping,
    metric: Metric,
    /// Trials of one point, which share a bracket.
    seeds: usize,
    watched: Vec<u64>,
    brackets: Vec<Vec<u64>>,
    /// Where there are several brackets.
    schedule: Option<hyperband::Schedule>,
}

impl Stopper {
    pub(super) fn new(rule: EarlyStopping, metric: Metric, seeds: usize) -> Self {
        let schedule = match &rule {
            EarlyStopping::Hyperband(rule) => Some(rule.schedule()),
            EarlyStopping::Asha(_) | EarlyStopping::Median(_) => None,
        };
        let (watched, brackets) = (rule.rungs(), rule.brackets());
        Self { rule, metric, seeds, watched, brackets, schedule }
    }

    pub(super) fn watch(&self) -> Watch<'_> {
        Watch { metric: &self.metric.name, rungs: &self.watched }
    }

    /// The bracket of the trial at `index` in planning order.
    fn bracket(&self, index: usize) -> usize {
        let point = index / self.seeds;
        self.schedule.as_ref().map_or(0, |schedule| schedule.bracket(point as u64))
    }

    /// The end of the open trial that a rule refused first. One at a time, since the reason
    /// becomes the trial's own message; the outcome brings the question again.
    pub(super) fn next(&self, trials: &[TrialView<'_>]) -> Option<Next> {
        let board = Board::new(self, trials);
        let mut first: Option<(&Entry, String)> = None;
        for rung in &board.rungs {
            for own in &rung.entries {
                let later = first.as_ref().is_some_and(|(entry, _)| entry.order < own.order);
                if later || trials[own.trial].outcome.is_some() {
                    continue;
                }
                let earlier = rung.entries.iter().filter(|entry| entry.order < own.order);
                if let Some(cut) = self.rule.missed(own, earlier.clone()) {
                    let others = earlier.count();
                    first = Some((own, self.reason(rung, own, cut, others)));
                }
            }
        }
        let (entry, reason) = first?;
        Some(Next::Stop { trials: vec![trials[entry.trial].id.clone()], reason })
    }

    fn reason(&self, rung: &board::Rung, own: &Entry, cut: f64, others: usize) -> String {
        let (name, step) = (&self.metric.name, rung.step);
        let (value, cut) = (shown(own.value), shown(self.value_of(cut)));
        match &self.rule {
            EarlyStopping::Asha(Asha { eta, .. }) => format!(
                "stopped at step {step}: {name} {value} is not among the best 1/{eta} of the {} \
                 trials so far (cut {cut})",
                others + 1
            ),
            EarlyStopping::Hyperband(Hyperband { eta, .. }) => format!(
                "stopped at step {step} of bracket {}: {name} {value} is not among the best \
                 1/{eta} of its {} trials so far (cut {cut})",
                rung.bracket,
                others + 1
            ),
            EarlyStopping::Median(_) => format!(
                "stopped at step {step}: the best {name} up to there, {}, is worse than the \
                 median of the means of {others} other trials (cut {cut})",
                shown(self.value_of(own.best)),
            ),
        }
    }

    /// What is smaller for better values, and infinite for what is not a number.
    fn loss_of(&self, value: f64) -> f64 {
        match self.metric.goal {
            _ if !value.is_finite() => f64::INFINITY,
            Goal::Minimize => value,
            Goal::Maximize => -value,
        }
    }

    /// The value with this loss; NaN for what is not a number.
    fn value_of(&self, loss: f64) -> f64 {
        match self.metric.goal {
            _ if !loss.is_finite() => f64::NAN,
            Goal::Minimize => loss,
            Goal::Maximize => -loss,
        }
    }
}

fn shown(value: f64) -> String {
    Cell::Number(value).to_text()
}
