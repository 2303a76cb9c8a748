//! Approach 2 (Hoffmann et al. 2022, arXiv 2203.15556): for each budget a parabola of the loss in
//! log10 N and one in log10 D, whose minima are N* and D*; then straight lines of log10 N* and
//! log10 D* against log10 C.
//!
//! It is biased when the surface is asymmetric or the grid is wide or off-centre
//! (arXiv 2603.22339), so it is always shown beside the parametric fit.

use super::Point;
use super::linear::{Line, solve_positive};
use serde::Serialize;
use std::fmt;

/// Where the Huber loss of a parabola's residual turns from a square into a line, in units of
/// the loss. SODA's value: a run that is off by more than one nat pulls less.
const HUBER_DELTA: f64 = 1.0;
/// A parabola needs three places.
pub const PLACES_MIN: usize = 3;
/// A line needs two budgets.
pub const BUDGETS_MIN: usize = 2;
/// Rounds of reweighting; two are enough unless residuals exceed [`HUBER_DELTA`].
const ROUNDS_MAX: u32 = 100;
/// Distance of a minimum from its grid's middle, as a share of half the grid, from which the
/// report warns of a bias.
pub const OFF_CENTRE_WARNING: f64 = 0.5;

/// The end of a grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// Smaller models.
    Small,
    /// Larger models.
    Large,
}

impl End {
    fn opposite(self) -> Self {
        match self {
            Self::Small => Self::Large,
            Self::Large => Self::Small,
        }
    }
}

/// What came of one budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// The minimum is bracketed and the lines use it.
    Used,
    /// Not enough different model sizes for a parabola.
    TooFewPlaces {
        /// How many there are.
        found: usize,
    },
    /// The parabola has no minimum; the losses fall towards this end.
    NotConvex {
        /// Where the lowest loss is.
        towards: End,
    },
    /// The lowest loss is the outermost point, or the parabola's minimum lies at or beyond it.
    AtEdge {
        /// At which end.
        end: End,
    },
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |end: &End| match end {
            End::Small => "smallest",
            End::Large => "largest",
        };
        match self {
            Self::Used => f.write_str("used"),
            Self::TooFewPlaces { found } => {
                write!(f, "not used: {found} different model sizes, {PLACES_MIN} are needed")
            }
            Self::NotConvex { towards } => write!(
                f,
                "not used: the parabola has no minimum (lowest loss towards the {} model)",
                name(towards)
            ),
            Self::AtEdge { end } => {
                write!(f, "not used: the minimum is not bracketed (at the {} model)", name(end))
            }
        }
    }
}

/// A parabola `c0 + c1 s + c2 s^2` in `s = (log10 x - middle) / half`, so that the grid is [-1, 1].
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Parabola {
    /// Middle of the grid in log10.
    pub middle: f64,
    /// Half the grid's width in log10.
    pub half: f64,
    /// Constant, linear and quadratic coefficient.
    pub coefficients: [f64; 3],
}

impl Parabola {
    /// The loss at `x` (N or D).
    pub fn at(&self, x: f64) -> f64 {
        let s = (x.log10() - self.middle) / self.half;
        let [c0, c1, c2] = self.coefficients;
        c0 + s * (c1 + s * c2)
    }

    /// Place of the minimum on the grid's scale, where the ends are -1 and 1.
    fn vertex(&self) -> Option<f64> {
        let [c0, c1, c2] = self.coefficients;
        // A curvature at the rounding of the losses is flat, not convex.
        (c2 > 1e-12 * c0.abs()).then(|| -c1 / (2.0 * c2))
    }

    fn minimum(&self, vertex: f64) -> (f64, f64) {
        let [c0, c1, c2] = self.coefficients;
        (10f64.powf(self.middle + self.half * vertex), c0 + vertex * (c1 + vertex * c2))
    }

    /// Weighted Huber fit by iterative reweighting; each item is (log10 x, loss, weight).
    fn through(points: &[(f64, f64, f64)], middle: f64, half: f64) -> Option<Self> {
        let mut coefficients = [0.0; 3];
        let mut shares = vec![1.0; points.len()];
        for round in 0..ROUNDS_MAX {
            let mut matrix = [[0.0; 3]; 3];
            let mut rhs = [0.0; 3];
            for ((x, loss, weight), share) in points.iter().zip(&shares) {
                let s = (x - middle) / half;
                let powers = [1.0, s, s * s];
                for row in 0..3 {
                    rhs[row] += weight * share * powers[row] * loss;
                    for column in 0..3 {
                        matrix[row][column] += weight * share * powers[row] * powers[column];
                    }
                }
            }
            let next = solve_positive(&matrix, &rhs)?;
            let moved = (0..3).map(|k| (next[k] - coefficients[k]).abs()).fold(0.0, f64::max);
            coefficients = next;
            let parabola = Self { middle, half, coefficients };
            let mut outliers = false;
            for ((x, loss, _), share) in points.iter().zip(&mut shares) {
                let residual = (parabola.at(10f64.powf(*x)) - loss).abs();
                outliers |= residual > HUBER_DELTA;
                *share = HUBER_DELTA / residual.max(HUBER_DELTA);
            }
            let settled = round > 0 && moved <= 1e-12 * coefficients[0].abs();
            if !outliers || settled {
                break;
            }
        }
        Some(Self { middle, half, coefficients })
    }
}

/// The two parabolas of one budget and their minima.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Minimum {
    /// Loss against N.
    pub(crate) by_parameters: Parabola,
    /// Compute-optimal parameters N*.
    pub(crate) parameters: f64,
    /// Compute-optimal tokens D*.
    pub(crate) tokens: f64,
    /// Loss at N*.
    pub(crate) loss: f64,
    /// Place of N* between the grid's ends -1 and 1.
    pub(crate) place: f64,
}

/// The runs of one budget.
#[derive(Debug)]
pub(crate) struct Isoflop {
    /// The budget C in FLOPs.
    pub(crate) flops: f64,
    /// Places of its runs in the whole table.
    pub(crate) members: Vec<usize>,
    /// log10 N, log10 D, loss.
    logs: Vec<[f64; 3]>,
    /// Middle and half width of the grid in log10 N and in log10 D.
    frames: [(f64, f64); 2],
}

impl Isoflop {
    /// Groups the points that carry a budget, smallest budget first.
    pub(crate) fn group(points: &[Point]) -> Vec<Self> {
        let mut budgets = std::collections::BTreeMap::<u64, Vec<usize>>::new();
        for (index, point) in points.iter().enumerate() {
            if let Some(budget) = point.budget {
                // The bits of positive floats order as the numbers do.
                budgets.entry(budget.to_bits()).or_default().push(index);
            }
        }
        let build = |(bits, members)| Self::new(f64::from_bits(bits), members, points);
        budgets.into_iter().map(build).collect()
    }

    fn new(flops: f64, members: Vec<usize>, points: &[Point]) -> Self {
        let log = |index: &usize| {
            let point = &points[*index];
            [point.parameters.log10(), point.tokens.log10(), point.loss]
        };
        let logs: Vec<[f64; 3]> = members.iter().map(log).collect();
        let frame = |axis: usize| {
            let low = logs.iter().map(|log| log[axis]).fold(f64::INFINITY, f64::min);
            let high = logs.iter().map(|log| log[axis]).fold(f64::NEG_INFINITY, f64::max);
            (0.5 * (low + high), 0.5 * (high - low))
        };
        let frames = [frame(0), frame(1)];
        Self { flops, members, logs, frames }
    }

    /// Different places on an axis (0 is N, 1 is D) among the points with a positive count.
    fn places(&self, axis: usize, counts: impl Fn(usize) -> f64) -> usize {
        let drawn = (0..self.logs.len()).filter(|i| counts(*i) > 0.0);
        let mut places: Vec<u64> = drawn.map(|i| self.logs[i][axis].to_bits()).collect();
        places.sort_unstable();
        places.dedup();
        places.len()
    }

    /// The minimum and what to think of it. The minimum is there whenever the parabolas have one,
    /// even when it is not used.
    pub(crate) fn examine(&self) -> (Option<Minimum>, Verdict) {
        let found = self.places(0, |_| 1.0).min(self.places(1, |_| 1.0));
        if found < PLACES_MIN {
            return (None, Verdict::TooFewPlaces { found });
        }
        let lowest = self.end_of_lowest_loss();
        let middle = self.frames[0].0;
        let towards = {
            let best = self.logs.iter().min_by(|left, right| left[2].total_cmp(&right[2]));
            match best {
                Some(log) if log[0] > middle => End::Large,
                Some(_) | None => End::Small,
            }
        };
        let Some((minimum, by_tokens)) = self.minima(|_| 1.0) else {
            return (None, Verdict::NotConvex { towards });
        };
        let beyond = |place: f64| match place {
            place if place <= -1.0 => Some(End::Small),
            place if place >= 1.0 => Some(End::Large),
            _ => None,
        };
        // Few tokens go with a large model.
        let by_tokens = beyond(by_tokens).map(End::opposite);
        let verdict = match beyond(minimum.place).or(by_tokens).or(lowest) {
            Some(end) => Verdict::AtEdge { end },
            None => Verdict::Used,
        };
        (Some(minimum), verdict)
    }

    /// The end of the grid at which the lowest loss lies, if it does.
    fn end_of_lowest_loss(&self) -> Option<End> {
        let (middle, half) = self.frames[0];
        let best = self.logs.iter().min_by(|left, right| left[2].total_cmp(&right[2]))?;
        let place = (best[0] - middle) / half;
        if place <= -1.0 + 1e-12 {
            Some(End::Small)
        } else if place >= 1.0 - 1e-12 {
            Some(End::Large)
        } else {
            None
        }
    }

    /// The minimum of a resample that holds `count(i)` copies of member i, when it lies inside
    /// the grid of all members.
    pub(crate) fn resampled(&self, count: impl Fn(usize) -> f64 + Copy) -> Option<Minimum> {
        let enough = (0..2).all(|axis| self.places(axis, count) >= PLACES_MIN);
        let (minimum, by_tokens) = enough.then(|| self.minima(count))??;
        (minimum.place.abs() < 1.0 && by_tokens.abs() < 1.0).then_some(minimum)
    }

    /// The minimum, and the place of D* on the grid of log10 D.
    fn minima(&self, count: impl Fn(usize) -> f64) -> Option<(Minimum, f64)> {
        let parabola = |axis: usize| {
            let drawn = self.logs.iter().enumerate().map(|(i, log)| (log[axis], log[2], count(i)));
            let drawn: Vec<_> = drawn.filter(|point| point.2 > 0.0).collect();
            let (middle, half) = self.frames[axis];
            Parabola::through(&drawn, middle, half)
        };
        let (by_parameters, by_tokens) = (parabola(0)?, parabola(1)?);
        let (place, place_of_tokens) = (by_parameters.vertex()?, by_tokens.vertex()?);
        let (parameters, loss) = by_parameters.minimum(place);
        let (tokens, _) = by_tokens.minimum(place_of_tokens);
        let minimum = Minimum { by_parameters, parameters, tokens, loss, place };
        Some((minimum, place_of_tokens))
    }
}

/// Lines of log10 N* and log10 D* against log10 C.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Lines {
    pub(crate) parameters: Line,
    pub(crate) tokens: Line,
}

impl Lines {
    /// `None` with fewer than [`BUDGETS_MIN`] budgets.
    pub(crate) fn through(minima: &[(f64, Minimum)]) -> Option<Self> {
        if minima.len() < BUDGETS_MIN {
            return None;
        }
        let line = |of: fn(&Minimum) -> f64| {
            let logs = minima.iter().map(|(flops, minimum)| (flops.log10(), of(minimum).log10()));
            Line::through(&logs.collect::<Vec<_>>())
        };
        let parameters = line(|minimum| minimum.parameters)?;
        let tokens = line(|minimum| minimum.tokens)?;
        Some(Self { parameters, tokens })
    }

    /// N* and D* at a budget.
    pub(crate) fn optimum(&self, flops: f64) -> Option<(f64, f64)> {
        let at = |line: Line| 10f64.powf(line.at(flops.log10()));
        let (parameters, tokens) = (at(self.parameters), at(self.tokens));
        let usable = |x: f64| x.is_finite() && x > 0.0;
        (usable(parameters) && usable(tokens)).then_some((parameters, tokens))
    }
}
