//! The parametric fit `L = E + A / N^alpha + B / D^beta` (Hoffmann et al. 2022, arXiv 2203.15556,
//! Approach 3), minimising the SUM over the points of a loss of the residual
//! `ln(E + A / N^alpha + B / D^beta) - ln L`.
//!
//! The sum matters: Hoffmann's mean made their optimiser stop early (Besiroglu et al. 2024,
//! arXiv 2404.10102).

use super::newton::{self, Observation, Theta};
use super::{FitError, Point, starts};
use serde::{Deserialize, Serialize};

/// Fewest points: one more than the unknowns.
pub const POINTS_MIN: usize = 6;
/// Most points for which every resample is searched from the whole grid of starts. On 240 points
/// warm starts alone found the same minimum in each of 500 resamples; on 20 they missed 2.
const GRID_POINTS_MAX: usize = 100;
/// Correlation of ln N and ln D above which the two terms cannot be told apart.
const CORRELATION_MAX: f64 = 1.0 - 1e-9;
/// A term whose share of every loss is below this is not there.
const SHARE_MIN: f64 = 1e-6;

/// What the parametric fit minimises over residuals r of ln L.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// Sum of Huber losses: `r^2 / 2` up to `delta`, `delta (|r| - delta / 2)` beyond.
    Huber {
        /// Where the square turns into a line, in nats of ln L.
        delta: f64,
    },
    /// Sum of squares `r^2`.
    Mse,
}

impl Objective {
    /// Hoffmann's choice, delta 1e-3.
    pub const HUBER: Self = Self::Huber { delta: 1e-3 };

    /// The loss of one residual.
    pub(crate) fn rho(self, r: f64) -> f64 {
        match self {
            Self::Huber { delta } if r.abs() <= delta => 0.5 * r * r,
            Self::Huber { delta } => delta * (r.abs() - 0.5 * delta),
            Self::Mse => r * r,
        }
    }

    /// First derivative of [`rho`](Self::rho).
    pub(crate) fn slope(self, r: f64) -> f64 {
        match self {
            Self::Huber { delta } => r.clamp(-delta, delta),
            Self::Mse => 2.0 * r,
        }
    }

    /// Second derivative.
    pub(crate) fn curvature(self, r: f64) -> f64 {
        match self {
            Self::Huber { delta } if r.abs() > delta => 0.0,
            Self::Huber { .. } => 1.0,
            Self::Mse => 2.0,
        }
    }

    /// Curvature of the parabola through the same slope that lies above the loss everywhere.
    pub(crate) fn curvature_bound(self, r: f64) -> f64 {
        match self {
            Self::Huber { delta } => delta / r.abs().max(delta),
            Self::Mse => 2.0,
        }
    }
}

/// The five constants of a loss surface `L = E + A / N^alpha + B / D^beta`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Surface {
    /// Loss that no model and no data removes.
    pub e: f64,
    /// Scale of the model term.
    pub a: f64,
    /// Scale of the data term.
    pub b: f64,
    /// Exponent of the model term.
    pub alpha: f64,
    /// Exponent of the data term.
    pub beta: f64,
}

impl Surface {
    /// Loss of a model of `parameters` N after `tokens` D.
    pub fn loss(&self, parameters: f64, tokens: f64) -> f64 {
        self.e + self.a * parameters.powf(-self.alpha) + self.b * tokens.powf(-self.beta)
    }

    /// Exponents (a, b) of N* ~ C^a and D* ~ C^b: `beta / (alpha + beta)`,
    /// `alpha / (alpha + beta)`. `None` when a term does not fall with its size, because then no
    /// compute-optimal point exists.
    pub fn exponents(&self) -> Option<(f64, f64)> {
        let sum = self.alpha + self.beta;
        let falls = self.alpha > 0.0 && self.beta > 0.0 && sum.is_finite();
        falls.then(|| (self.beta / sum, self.alpha / sum))
    }

    /// Compute-optimal (N*, D*) for `flops` C when `C = k N D`, with k = `flops_per_product`
    /// (6 in Chinchilla's convention): `N* = G (C/k)^a`, `D* = (C/k)^b / G`,
    /// `G = (alpha A / (beta B))^(1 / (alpha + beta))`.
    pub fn optimum(&self, flops: f64, flops_per_product: f64) -> Option<(f64, f64)> {
        let (a, b) = self.exponents()?;
        // In logarithms, because A and B may be far outside the range of a double's powers.
        let log_g =
            ((self.alpha / self.beta).ln() + self.a.ln() - self.b.ln()) / (self.alpha + self.beta);
        let log_product = (flops / flops_per_product).ln();
        let parameters = (log_g + a * log_product).exp();
        let tokens = (b * log_product - log_g).exp();
        let usable = |x: f64| x.is_finite() && x > 0.0;
        (usable(parameters) && usable(tokens)).then_some((parameters, tokens))
    }
}

/// Standardised points: every unit (of N, D or L) has dropped out, so the search behaves the same
/// for a table in billions as for one in ones.
#[derive(Debug)]
pub(crate) struct Problem {
    observations: Vec<Observation>,
    objective: Objective,
    mean: [f64; 3],
    /// Standard deviations of ln N and ln D.
    pub(crate) spread: [f64; 2],
}

/// A converged fit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fitted {
    pub(crate) surface: Surface,
    /// Value of the minimised sum.
    pub(crate) objective: f64,
    pub(crate) theta: Theta,
    /// Largest share of any loss that the model, data and constant terms have.
    pub(crate) shares: [f64; 3],
}

impl Fitted {
    /// Names of terms that the points do not show.
    pub(crate) fn absent_terms(&self) -> Vec<&'static str> {
        let names = ["A / N^alpha", "B / D^beta", "E"];
        let absent = self.shares.iter().zip(names);
        absent.filter(|(share, _)| **share < SHARE_MIN).map(|(_, name)| name).collect()
    }
}

impl Problem {
    /// Standardises `points`.
    pub(crate) fn new(points: &[Point], objective: Objective) -> Result<Self, FitError> {
        if points.len() < POINTS_MIN {
            return Err(FitError::TooFewPoints { found: points.len(), needed: POINTS_MIN });
        }
        let logs: Vec<[f64; 3]> = points.iter().map(Point::logs).collect();
        let count = logs.len() as f64;
        let mean: [f64; 3] =
            std::array::from_fn(|k| logs.iter().map(|log| log[k]).sum::<f64>() / count);
        let spread: [f64; 3] = std::array::from_fn(|k| {
            (logs.iter().map(|log| (log[k] - mean[k]).powi(2)).sum::<f64>() / count).sqrt()
        });
        for (k, what) in ["parameters N", "tokens D", "losses L"].into_iter().enumerate() {
            if spread[k] <= 1e-12 * mean[k].abs().max(1.0) {
                return Err(FitError::AllEqual { what });
            }
        }
        let shared = logs.iter().map(|log| (log[0] - mean[0]) * (log[1] - mean[1])).sum::<f64>();
        if (shared / count / (spread[0] * spread[1])).abs() > CORRELATION_MAX {
            return Err(FitError::Collinear);
        }
        let observations = logs
            .iter()
            .map(|log| Observation {
                u: (log[0] - mean[0]) / spread[0],
                v: (log[1] - mean[1]) / spread[1],
                z: log[2] - mean[2],
                weight: 1.0,
            })
            .collect();
        let spread = [spread[0], spread[1]];
        Ok(Self { observations, objective, mean, spread })
    }

    /// The best minimum from a grid of starts, and every other local minimum that was met, best
    /// first: a resample may prefer one of those.
    pub(crate) fn fit(&self) -> Result<Vec<Fitted>, FitError> {
        let starts = starts::promising(&self.observations, self.objective, self.spread);
        let mut found: Vec<Fitted> = Vec::new();
        for start in starts {
            let end = newton::minimise(&self.observations, self.objective, start);
            let known = |other: &Fitted| {
                (other.objective - end.objective).abs() <= 1e-6 * end.objective.abs()
            };
            if end.converged && !found.iter().any(known) {
                found.push(self.fitted(&end, &self.observations));
            }
        }
        found.sort_by(|left, right| left.objective.total_cmp(&right.objective));
        if found.is_empty() {
            return Err(FitError::NotConverged);
        }
        Ok(found)
    }

    /// Fits the points with `counts[i]` copies of point i. Starts at each of `warm`, and at the
    /// grid when the table is small (its resamples differ enough to have other minima) or when no
    /// warm search converges. `None` when nothing converges or fewer than [`POINTS_MIN`]
    /// different points are left.
    pub(crate) fn refit(&self, counts: &[u32], warm: &[Theta]) -> Option<Fitted> {
        let drawn: Vec<Observation> = self
            .observations
            .iter()
            .zip(counts)
            .filter(|(_, count)| **count > 0)
            .map(|(point, count)| Observation { weight: f64::from(*count), ..*point })
            .collect();
        if drawn.len() < POINTS_MIN {
            return None;
        }
        let best = |starts: &[Theta]| {
            let ends = starts.iter().map(|start| newton::minimise(&drawn, self.objective, *start));
            ends.filter(|end| end.converged)
                .min_by(|left, right| left.objective.total_cmp(&right.objective))
        };
        let grid = || starts::promising(&drawn, self.objective, self.spread);
        let end = if self.observations.len() <= GRID_POINTS_MAX {
            best(&[warm, &grid()].concat())
        } else {
            best(warm).or_else(|| best(&grid()))
        };
        end.map(|end| self.fitted(&end, &drawn))
    }

    fn fitted(&self, end: &newton::Minimum, points: &[Observation]) -> Fitted {
        let [a, b, e, p, q] = end.theta;
        let (alpha, beta) = (p / self.spread[0], q / self.spread[1]);
        let [mean_n, mean_d, mean_l] = self.mean;
        let mut shares = [0.0_f64; 3];
        for point in points {
            let terms = [a - p * point.u, b - q * point.v, e].map(f64::exp);
            let sum: f64 = terms.iter().sum();
            for (share, term) in shares.iter_mut().zip(terms) {
                *share = share.max(term / sum);
            }
        }
        Fitted {
            surface: Surface {
                e: (e + mean_l).exp(),
                a: (a + mean_l + alpha * mean_n).exp(),
                b: (b + mean_l + beta * mean_d).exp(),
                alpha,
                beta,
            },
            objective: end.objective,
            theta: end.theta,
            shares,
        }
    }
}
