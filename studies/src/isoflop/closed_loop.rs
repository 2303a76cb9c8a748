//! After a budget's trials have ended: is its minimum known well enough, or which cell is next?

use super::history::{State, Training};
use super::spec::IsoflopSpec;
use crate::fit::approach2::{End, Verdict};
use crate::fit::{BudgetFit, Point, Resamples, fit_budgets};
use std::collections::BTreeSet;
use std::fmt;

/// Most resamples for the interval that a decision needs; more would not change a decision.
const RESAMPLES_MAX: u32 = 1_000;
/// Farthest that one step goes outward, as a factor of the width.
const OUTWARD_FACTOR_MAX: f64 = 2.5;

/// What happens next with one budget.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Decision {
    /// Trials are open.
    Wait,
    /// Train this width as well.
    Ask { width: u32, why: Want },
    /// Nothing more.
    Close(Closing),
}

/// Why a cell is wanted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Want {
    /// The minimum is not bracketed at this end.
    Outward(End),
    /// The minimum's interval, upper over lower end, is too wide.
    Inward(Option<f64>),
}

/// Why a budget gets no more cells.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Closing {
    /// The minimum is bracketed and sharp enough.
    Sharp,
    /// It is bracketed and its interval is narrow enough, but the interval stands on too few of the
    /// resamples to be called sharp: the others have no minimum inside the grid. This asks for no
    /// further cell: with one seed, one resample in ten of five sizes misses three of them, so
    /// nearly every grid would grow.
    Narrow(Resamples),
    /// It is bracketed, and without resamples nobody knows how sharp it is.
    Bracketed,
    /// It may get no more.
    Cap,
    /// No valid width is left where one is wanted.
    NoWidth(Want),
    /// No trial gave a loss.
    NoLoss,
}

impl fmt::Display for Want {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outward(End::Small) => {
                f.write_str("the minimum is not bracketed towards small models")
            }
            Self::Outward(End::Large) => {
                f.write_str("the minimum is not bracketed towards large models")
            }
            Self::Inward(Some(factor)) => {
                write!(f, "the ends of N*'s interval are a factor {factor:.1} apart")
            }
            Self::Inward(None) => f.write_str("too few resamples have a minimum"),
        }
    }
}

impl fmt::Display for Closing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sharp => f.write_str("the minimum is bracketed and sharp enough"),
            Self::Narrow(Resamples { requested, usable }) => write!(
                f,
                "the minimum is bracketed and its interval narrow, but only {usable} of \
                 {requested} resamples have a minimum inside the grid, so it may be too narrow"
            ),
            Self::Bracketed => {
                f.write_str("the minimum is bracketed; no resample says how sharp it is")
            }
            Self::Cap => f.write_str("all extra cells are used (closed_loop.extra_cells_max)"),
            Self::NoWidth(want) => write!(f, "{want}, but no further width is valid"),
            Self::NoLoss => f.write_str("no trial gave a loss"),
        }
    }
}

/// Decides on one budget from its own trainings alone.
pub(super) fn decide(spec: &IsoflopSpec, budget: f64, trainings: &[&Training<'_>]) -> Decision {
    if trainings.iter().any(|training| training.state == State::Open) {
        return Decision::Wait;
    }
    let points: Vec<Point> = trainings.iter().filter_map(|training| training.point()).collect();
    if points.is_empty() {
        return Decision::Close(Closing::NoLoss);
    }
    let resamples = spec.fit.resamples.min(RESAMPLES_MAX);
    let fits = fit_budgets(&points, resamples, spec.fit.seed);
    let Some(want) = fits.first().and_then(|fit| wanted(spec, fit, &points)) else {
        return Decision::Close(sharpness(fits.first()));
    };
    let planned: BTreeSet<u32> = trainings.iter().map(|training| training.width).collect();
    let grid: BTreeSet<u32> = spec.cells_at(budget).iter().map(|cell| cell.model.width).collect();
    if planned.difference(&grid).count() >= spec.closed_loop.extra_cells_max as usize {
        return Decision::Close(Closing::Cap);
    }
    let width = match want {
        Want::Outward(end) => outward(spec, budget, &planned, end),
        Want::Inward(_) => inward(spec, budget, &planned, &fits),
    };
    match width {
        Some(width) => Decision::Ask { width, why: want },
        None => Decision::Close(Closing::NoWidth(want)),
    }
}

/// How well a minimum is known that is bracketed and needs no further cell.
fn sharpness(fit: Option<&BudgetFit>) -> Closing {
    match fit.and_then(|fit| fit.minimum).map(|minimum| minimum.resamples) {
        None | Some(Resamples { requested: 0, .. }) => Closing::Bracketed,
        Some(resamples) if resamples.are_few() => Closing::Narrow(resamples),
        Some(_) => Closing::Sharp,
    }
}

fn wanted(spec: &IsoflopSpec, fit: &BudgetFit, points: &[Point]) -> Option<Want> {
    match fit.verdict {
        Verdict::AtEdge { end } => Some(Want::Outward(end)),
        Verdict::NotConvex { towards } => Some(Want::Outward(towards)),
        Verdict::TooFewPlaces { .. } => Some(Want::Outward(end_of_lowest(points))),
        Verdict::Used if spec.fit.resamples == 0 => None,
        Verdict::Used => {
            let interval = fit.minimum.and_then(|minimum| minimum.parameters.ci95);
            let factor = interval.map(|[low, high]| high / low);
            let sharp = factor.is_some_and(|factor| factor <= spec.closed_loop.interval_factor_max);
            (!sharp).then_some(Want::Inward(factor))
        }
    }
}

/// The end at which one or two sizes have the lower loss; with one size, the large end.
fn end_of_lowest(points: &[Point]) -> End {
    let best = points.iter().min_by(|left, right| left.loss.total_cmp(&right.loss));
    let larger = |best: &Point| points.iter().any(|point| point.parameters > best.parameters);
    match best {
        Some(best) if larger(best) => End::Small,
        Some(_) | None => End::Large,
    }
}

/// The valid width beyond the outermost planned one that continues the spacing best.
fn outward(spec: &IsoflopSpec, budget: f64, planned: &BTreeSet<u32>, end: End) -> Option<u32> {
    let (last, before) = match end {
        End::Small => (planned.iter().next()?, planned.iter().nth(1)),
        End::Large => (planned.iter().next_back()?, planned.iter().nth_back(1)),
    };
    let last = f64::from(*last);
    let factor = before.map_or(1.5, |before| last / f64::from(*before));
    let target = last * factor.clamp(1.0 / OUTWARD_FACTOR_MAX, OUTWARD_FACTOR_MAX);
    let range = match end {
        End::Small => (last / OUTWARD_FACTOR_MAX, last),
        End::Large => (last, last * OUTWARD_FACTOR_MAX),
    };
    let distance = |width: u32| (f64::from(width) / target).ln().abs();
    candidates(spec, budget, planned, range)
        .min_by(|left, right| distance(*left).total_cmp(&distance(*right)))
}

/// The valid width near the minimum that is farthest from every planned one, measured by ratio:
/// it lies in the widest gap, where a loss says most.
fn inward(
    spec: &IsoflopSpec,
    budget: f64,
    planned: &BTreeSet<u32>,
    fits: &[BudgetFit],
) -> Option<u32> {
    /// How many planned widths on each side of the minimum still count as near.
    const NEIGHBOURS: usize = 2;
    let optimum = fits.first()?.minimum?.parameters.value;
    let size = |width: u32| spec.cell(budget, width).ok().map(|cell| cell.parameters as f64);
    let below = planned.iter().rev().filter(|width| size(**width).is_some_and(|n| n <= optimum));
    let above = planned.iter().filter(|width| size(**width).is_some_and(|n| n > optimum));
    let low = f64::from(*below.take(NEIGHBOURS).last()?);
    let high = f64::from(*above.take(NEIGHBOURS).last()?);
    let spacing = |width: u32| {
        let ratio = |other: &u32| (f64::from(width) / f64::from(*other)).ln().abs();
        planned.iter().map(ratio).fold(f64::INFINITY, f64::min)
    };
    candidates(spec, budget, planned, (low, high))
        .max_by(|left, right| spacing(*left).total_cmp(&spacing(*right)))
}

/// Widths strictly inside a range that follow the recipe's multiple, are not planned, and give a
/// valid cell; ascending.
fn candidates(
    spec: &IsoflopSpec,
    budget: f64,
    planned: &BTreeSet<u32>,
    (low, high): (f64, f64),
) -> impl Iterator<Item = u32> {
    let multiple = spec.closed_loop.width_multiple;
    let first = (low / f64::from(multiple)).floor() as u32 + 1;
    let last = (high / f64::from(multiple)).ceil() as u32;
    (first..last)
        .filter_map(move |factor| factor.checked_mul(multiple))
        .filter(|width| !planned.contains(width))
        .filter(move |width| spec.cell(budget, *width).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fit::approach2::Parabola;
    use crate::fit::{BudgetMinimum, Estimate};

    fn fit(resamples: Resamples) -> BudgetFit {
        let estimate = Estimate { value: 16_015.0, ci95: Some([7_204.0, 21_610.0]) };
        let parabola = Parabola { middle: 4.0, half: 1.0, coefficients: [2.0, 0.0, 1.0] };
        let minimum = BudgetMinimum {
            parameters: estimate,
            tokens: estimate,
            loss: estimate,
            off_centre: 0.0,
            parabola,
            resamples,
        };
        let verdict = Verdict::Used;
        BudgetFit { flops: 1e15, points: 5, verdict, minimum: Some(minimum) }
    }

    // Goal: a minimum whose interval lacks many resamples is not called sharp.
    #[test]
    fn lost_resamples_forbid_to_call_a_minimum_sharp() {
        for (requested, usable, expected) in [
            (1_000, 1_000, "the minimum is bracketed and sharp enough"),
            (1_000, 900, "the minimum is bracketed and sharp enough"),
            (1_000, 899, "only 899 of 1000 resamples have a minimum inside the grid"),
            (1_000, 424, "only 424 of 1000 resamples have a minimum inside the grid"),
            (0, 0, "no resample says how sharp it is"),
        ] {
            let said = sharpness(Some(&fit(Resamples { requested, usable }))).to_string();
            assert!(said.contains(expected), "{usable} of {requested}: {said}");
        }
    }
}
