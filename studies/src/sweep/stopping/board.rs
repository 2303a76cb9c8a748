//! What the trials of an experiment measured, rung by rung.

use super::Stopper;
use crate::study::TrialView;

/// One trial at one rung.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its place in planning order.
    pub(super) trial: usize,
    /// Place among all measurements.
    pub(super) order: u64,
    /// As it was measured.
    pub(super) value: f64,
    /// The same, smaller for better ones and infinite for what is not a number.
    pub(super) loss: f64,
    /// Least loss of the trial at its rungs up to here.
    pub(super) best: f64,
    /// Mean of its losses up to here.
    pub(super) mean: f64,
}

/// Where trials are compared: a step of a bracket, with those that were there.
#[derive(Debug)]
pub(super) struct Rung {
    pub(super) bracket: usize,
    pub(super) step: u64,
    pub(super) entries: Vec<Entry>,
}

/// All rungs of all brackets, by bracket and step.
#[derive(Debug)]
pub(super) struct Board {
    pub(super) rungs: Vec<Rung>,
}

impl Board {
    pub(super) fn new(stopper: &Stopper, trials: &[TrialView<'_>]) -> Self {
        let steps = stopper.brackets.iter().enumerate();
        let mut rungs: Vec<Rung> = steps
            .flat_map(|(bracket, steps)| {
                steps.iter().map(move |step| Rung { bracket, step: *step, entries: Vec::new() })
            })
            .collect();
        for (trial, view) in trials.iter().enumerate() {
            let bracket = stopper.bracket(trial);
            let (mut count, mut sum, mut best) = (0.0, 0.0, f64::INFINITY);
            for measured in view.measured {
                let place = (bracket, measured.rung);
                let found = rungs.binary_search_by_key(&place, |rung| (rung.bracket, rung.step));
                // A rung of another bracket, or of another study that shares the trial.
                let Ok(found) = found else {
                    continue;
                };
                let loss = stopper.loss_of(measured.value);
                count += 1.0;
                sum += loss;
                best = loss.min(best);
                rungs[found].entries.push(Entry {
                    trial,
                    order: measured.order,
                    value: measured.value,
                    loss,
                    best,
                    mean: sum / count,
                });
            }
        }
        Self { rungs }
    }
}
