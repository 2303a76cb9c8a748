//! Trials and points with what they say about the metric.

use super::planner::Sweep;
use super::points::Point;
use super::spec::Metric;
use crate::interval::mean_ci95;
use crate::report::Cell;
use crate::study::{Measured, TrialView};
use proto::{FailureClass, Outcome};
use std::cmp::Ordering;

/// A trial and what it says about the metric.
pub(super) struct TrialResult<'a> {
    pub(super) view: &'a TrialView<'a>,
    pub(super) state: State<'a>,
    /// Its last value at a rung of early stopping.
    pub(super) last: Option<Measured>,
}

#[derive(Clone, Copy)]
pub(super) enum State<'a> {
    Measured(f64),
    /// It completed, but did not report the recipe's metric.
    MetricMissing,
    Diverged {
        metric: &'a str,
        step: u64,
    },
    /// Early stopping ended it after its last value.
    Stopped(Measured),
    Failed {
        class: FailureClass,
        message: &'a str,
    },
    Unfinished,
}

impl<'a> TrialResult<'a> {
    /// The result of the trial at `index` in planning order.
    pub(super) fn new(
        sweep: &Sweep,
        metric: &Metric,
        index: usize,
        view: &'a TrialView<'a>,
    ) -> Self {
        let stopper = sweep.stopper.as_ref();
        let stopped = stopper.and_then(|stopper| stopper.end(index, view));
        let state = match (view.outcome, stopped) {
            (None, _) => State::Unfinished,
            (Some(Outcome::Completed { metrics, .. }), _) => match metrics.get(&metric.name) {
                Some(value) if value.is_finite() => State::Measured(*value),
                Some(_) | None => State::MetricMissing,
            },
            (Some(Outcome::Diverged { metric, step }), _) => {
                State::Diverged { metric, step: *step }
            }
            (Some(Outcome::Failed { .. }), Some(end)) => State::Stopped(end),
            (Some(Outcome::Failed { class, message }), None) => {
                State::Failed { class: *class, message }
            }
        };
        Self { view, state, last: stopper.and_then(|stopper| stopper.last(index, view)) }
    }

    /// Its final value.
    pub(super) fn value(&self) -> Option<f64> {
        match self.state {
            State::Measured(value) => Some(value),
            State::MetricMissing
            | State::Diverged { .. }
            | State::Stopped(_)
            | State::Failed { .. }
            | State::Unfinished => None,
        }
    }

    pub(super) fn word(&self) -> &'static str {
        match self.state {
            State::Measured(_) => "completed",
            State::MetricMissing => "metric missing",
            State::Diverged { .. } => "diverged",
            State::Stopped(_) => "stopped",
            State::Failed { class, .. } => class.word(),
            State::Unfinished => "unfinished",
        }
    }
}

/// A mean and its 95 % interval.
pub(super) type Mean = (f64, Option<[f64; 2]>);

/// All trials with the same parameters.
pub(super) struct Group<'a> {
    pub(super) parameters: &'a Point,
    pub(super) results: &'a [TrialResult<'a>],
    /// Mean of the final values.
    pub(super) mean: Option<Mean>,
    /// The last rung of early stopping that all its seeds reached, and the mean there; `None` when
    /// a value there is not a number.
    pub(super) reached: Option<(u64, Option<Mean>)>,
}

impl<'a> Group<'a> {
    fn new(sweep: &Sweep, results: &'a [TrialResult<'a>]) -> Option<Self> {
        let parameters = &results.first()?.view.spec.parameters;
        let values: Vec<f64> = results.iter().filter_map(TrialResult::value).collect();
        let seeds = sweep.spec.seeds.len();
        let reached = if results.len() == seeds { reached(results) } else { None };
        Some(Self { parameters, results, mean: mean_ci95(&values), reached })
    }

    /// Whether every seed gave a final value. Only such points compete: a point of which the
    /// unlucky seeds failed would win too easily, and values of stopped trials are of other steps.
    pub(super) fn is_complete(&self, sweep: &Sweep) -> bool {
        self.values().count() == sweep.spec.seeds.len()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = f64> {
        self.results.iter().filter_map(TrialResult::value)
    }

    pub(super) fn cell(&self) -> Cell {
        self.mean.map_or_else(|| Cell::missing("no value"), mean_cell)
    }
}

pub(super) fn mean_cell(mean: Mean) -> Cell {
    match mean {
        (value, Some([low, high])) => Cell::Interval { value, low, high },
        (value, None) => Cell::Number(value),
    }
}

fn reached(results: &[TrialResult<'_>]) -> Option<(u64, Option<Mean>)> {
    let lasts: Option<Vec<u64>> =
        results.iter().map(|result| result.last.map(|last| last.rung)).collect();
    let step = lasts?.into_iter().min()?;
    let value = |result: &TrialResult<'_>| {
        let at_step = result.view.measured.iter().find(|measured| measured.rung == step)?;
        at_step.value.is_finite().then_some(at_step.value)
    };
    let values: Option<Vec<f64>> = results.iter().map(value).collect();
    Some((step, values.and_then(|values| mean_ci95(&values))))
}

/// The points: first those with a final value for every seed, best mean first. Then, with early
/// stopping, the others that all seeds took to a rung: those that came further first, as they
/// passed more comparisons, and of those at the same step the best mean there. Last the rest.
/// Values at different steps are never compared.
pub(super) fn ranked<'a>(
    sweep: &Sweep,
    metric: &Metric,
    results: &'a [TrialResult<'a>],
) -> Vec<Group<'a>> {
    // In planning order the seeds of a point stand together.
    let same =
        |a: &TrialResult<'_>, b: &TrialResult<'_>| a.view.spec.parameters == b.view.spec.parameters;
    let chunks = results.chunk_by(same);
    let mut groups: Vec<Group<'a>> = chunks.filter_map(|chunk| Group::new(sweep, chunk)).collect();
    let by_mean = |a: Option<Mean>, b: Option<Mean>| match (a, b) {
        (Some((a, _)), Some((b, _))) => metric.goal.better_first(a, b),
        (a, b) => b.is_some().cmp(&a.is_some()),
    };
    let by_step = |a: &Group<'_>, b: &Group<'_>| match (a.reached, b.reached) {
        (Some((a_step, a)), Some((b_step, b))) => b_step.cmp(&a_step).then_with(|| by_mean(a, b)),
        (a, b) => b.is_some().cmp(&a.is_some()),
    };
    groups.sort_by(|a, b| match (a.is_complete(sweep), b.is_complete(sweep)) {
        (true, true) => by_mean(a.mean, b.mean),
        (false, false) => by_step(a, b).then_with(|| by_mean(a.mean, b.mean)),
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
    });
    groups
}
