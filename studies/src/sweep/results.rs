//! Trials and points with what they say about the metric.

use super::interval::mean_ci95;
use super::planner::Sweep;
use super::points::{Point, key};
use crate::report::Cell;
use crate::study::TrialView;
use proto::{FailureClass, Outcome};
use std::collections::BTreeMap;

/// A trial and what it says about the metric.
pub(super) struct TrialResult<'a> {
    pub(super) view: &'a TrialView<'a>,
    pub(super) state: State<'a>,
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
    Failed {
        class: FailureClass,
        message: &'a str,
    },
    Unfinished,
}

impl<'a> TrialResult<'a> {
    pub(super) fn new(view: &'a TrialView<'a>, metric: &str) -> Self {
        let state = match view.outcome {
            None => State::Unfinished,
            Some(Outcome::Completed { metrics, .. }) => match metrics.get(metric) {
                Some(value) if value.is_finite() => State::Measured(*value),
                Some(_) | None => State::MetricMissing,
            },
            Some(Outcome::Diverged { metric, step }) => State::Diverged { metric, step: *step },
            Some(Outcome::Failed { class, message }) => State::Failed { class: *class, message },
        };
        Self { view, state }
    }

    pub(super) fn value(&self) -> Option<f64> {
        match self.state {
            State::Measured(value) => Some(value),
            State::MetricMissing
            | State::Diverged { .. }
            | State::Failed { .. }
            | State::Unfinished => None,
        }
    }

    pub(super) fn word(&self) -> &'static str {
        match self.state {
            State::Measured(_) => "completed",
            State::MetricMissing => "metric missing",
            State::Diverged { .. } => "diverged",
            State::Failed { class, .. } => class.word(),
            State::Unfinished => "unfinished",
        }
    }
}

/// All trials with the same parameters.
pub(super) struct Group<'a> {
    pub(super) parameters: &'a Point,
    pub(super) results: Vec<&'a TrialResult<'a>>,
    /// Mean of the values and its 95 % interval.
    pub(super) mean: Option<(f64, Option<[f64; 2]>)>,
}

impl Group<'_> {
    /// Whether every seed gave a value. Only such points compete: a point of which the unlucky
    /// seeds failed would win too easily.
    pub(super) fn is_complete(&self, sweep: &Sweep) -> bool {
        self.values().count() == sweep.spec.seeds.len()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = f64> {
        self.results.iter().filter_map(|result| result.value())
    }

    pub(super) fn cell(&self) -> Cell {
        match self.mean {
            Some((value, Some([low, high]))) => Cell::Interval { value, low, high },
            Some((value, None)) => Cell::Number(value),
            None => Cell::missing("no value"),
        }
    }
}

/// The points: first those with a value for every seed, best mean first, then the others.
pub(super) fn ranked<'a>(sweep: &Sweep, results: &'a [TrialResult<'a>]) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    let mut places = BTreeMap::new();
    for result in results {
        let parameters = &result.view.spec.parameters;
        let place = *places.entry(key(parameters)).or_insert_with(|| {
            groups.push(Group { parameters, results: Vec::new(), mean: None });
            groups.len() - 1
        });
        groups[place].results.push(result);
    }
    for group in &mut groups {
        let values: Vec<f64> = group.values().collect();
        group.mean = mean_ci95(&values);
    }
    let goal = sweep.spec.metric.goal;
    let by_mean = |a: &Group<'_>, b: &Group<'_>| match (a.mean, b.mean) {
        (Some((a, _)), Some((b, _))) => goal.better_first(a, b),
        (a, b) => b.is_some().cmp(&a.is_some()),
    };
    groups.sort_by(|a, b| {
        let complete = b.is_complete(sweep).cmp(&a.is_complete(sweep));
        complete.then_with(|| by_mean(a, b))
    });
    groups
}
