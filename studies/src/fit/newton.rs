//! Minimises the parametric objective: a damped Newton method with exact first and second
//! derivatives of
//!
//! `sum_i w_i rho(lse(a - p u_i, b - q v_i, e) - z_i)`
//!
//! in the five unknowns (a, b, e, p, q), where `lse` is log-sum-exp.
//!
//! A Huber loss with a delta far below the noise is nearly a sum of absolute values: its Hessian
//! counts only the few points within delta and changes by jumps. The damping therefore adds a
//! multiple of the matrix of iteratively reweighted least squares, which bounds the curvature
//! from above and has the right scale in every direction.

use super::linear::solve_positive;
use super::parametric::Objective;

/// Unknowns: ln A, ln B, ln E, alpha, beta, all in the standardised coordinates.
pub(crate) type Theta = [f64; 5];
type Matrix = [[f64; 5]; 5];

/// Most accepted steps. Tables that have a minimum need 10 to 40.
const STEPS_MAX: u32 = 300;
/// Largest damping; beyond it a step no longer changes the unknowns.
const DAMPING_MAX: f64 = 1e12;
/// Damping below which the Newton decrement says how far the minimum is.
const DAMPING_TRUSTED: f64 = 1.0;
/// The search ends when the next step would lower the objective by less than this share of it.
const DECREASE_SHARE_MIN: f64 = 1e-12;
/// ... or by less than this per point, which is the rounding of a perfect fit.
const DECREASE_PER_POINT_MIN: f64 = 1e-27;

/// One observation in standardised coordinates.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Observation {
    /// Standardised ln N.
    pub(crate) u: f64,
    /// Standardised ln D.
    pub(crate) v: f64,
    /// Centred ln L.
    pub(crate) z: f64,
    /// How often it counts.
    pub(crate) weight: f64,
}

/// Where a search ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Minimum {
    pub(crate) theta: Theta,
    pub(crate) objective: f64,
    /// Whether the search ended because no step lowers the objective any more.
    pub(crate) converged: bool,
}

/// Walks down from `start`.
pub(crate) fn minimise(points: &[Observation], objective: Objective, start: Theta) -> Minimum {
    let weight: f64 = points.iter().map(|point| point.weight).sum();
    let floor = DECREASE_PER_POINT_MIN * weight;
    let mut theta = start;
    let mut value = evaluate(points, objective, &theta);
    let mut damping = 1e-2;
    for _ in 0..STEPS_MAX {
        let slopes = expand(points, objective, &theta);
        let accepted = loop {
            let Some(step) = damped_step(&slopes, damping) else {
                damping = (damping * 10.0).max(1e-6);
                if damping > DAMPING_MAX {
                    return ended(theta, value, false);
                }
                continue;
            };
            let decrease = -dot(&slopes.gradient, &step);
            if damping <= DAMPING_TRUSTED && decrease <= DECREASE_SHARE_MIN * value + floor {
                return ended(theta, value, true);
            }
            let next: Theta = std::array::from_fn(|k| theta[k] + step[k]);
            let next_value = evaluate(points, objective, &next);
            if next_value < value {
                let share = (value - next_value) / decrease;
                break (next, next_value, share);
            }
            damping *= 10.0;
            if damping > DAMPING_MAX {
                return ended(theta, value, false);
            }
        };
        let share;
        (theta, value, share) = accepted;
        // A full Newton step lowers a quadratic by half of slope times step.
        damping *= if share > 0.35 {
            0.1
        } else if share > 0.1 {
            0.5
        } else {
            3.0
        };
        damping = damping.max(1e-12);
    }
    ended(theta, value, false)
}

fn ended(theta: Theta, objective: f64, converged: bool) -> Minimum {
    Minimum { theta, objective, converged: converged && objective.is_finite() }
}

/// The objective at `theta`.
pub(crate) fn evaluate(points: &[Observation], objective: Objective, theta: &Theta) -> f64 {
    points.iter().map(|point| point.weight * objective.rho(model(point, theta).0 - point.z)).sum()
}

/// ln L of the model and the shares of its three terms.
fn model(point: &Observation, theta: &Theta) -> (f64, [f64; 3]) {
    let [a, b, e, p, q] = *theta;
    let terms = [a - p * point.u, b - q * point.v, e];
    let top = terms[0].max(terms[1]).max(terms[2]);
    let powers = terms.map(|term| (term - top).exp());
    let sum: f64 = powers.iter().sum();
    (top + sum.ln(), powers.map(|power| power / sum))
}

struct Slopes {
    gradient: Theta,
    hessian: Matrix,
    /// The reweighted least-squares matrix, an upper bound of the curvature.
    majorant: Matrix,
}

fn expand(points: &[Observation], objective: Objective, theta: &Theta) -> Slopes {
    let mut slopes = Slopes { gradient: [0.0; 5], hessian: [[0.0; 5]; 5], majorant: [[0.0; 5]; 5] };
    for point in points {
        let (log_loss, [share_n, share_d, share_e]) = model(point, theta);
        let residual = log_loss - point.z;
        let slope = point.weight * objective.slope(residual);
        let bend = point.weight * objective.curvature(residual);
        let bound = point.weight * objective.curvature_bound(residual);
        let (u, v) = (point.u, point.v);
        let jacobian = [share_n, share_d, share_e, -u * share_n, -v * share_d];
        for row in 0..5 {
            slopes.gradient[row] += slope * jacobian[row];
            for column in 0..=row {
                let outer = jacobian[row] * jacobian[column];
                slopes.hessian[row][column] += (bend - slope) * outer;
                slopes.majorant[row][column] += bound * outer;
            }
        }
        // The model's own second derivative: shares on the diagonal blocks (the outer product is
        // subtracted above).
        slopes.hessian[0][0] += slope * share_n;
        slopes.hessian[1][1] += slope * share_d;
        slopes.hessian[2][2] += slope * share_e;
        slopes.hessian[3][0] -= slope * share_n * u;
        slopes.hessian[3][3] += slope * share_n * u * u;
        slopes.hessian[4][1] -= slope * share_d * v;
        slopes.hessian[4][4] += slope * share_d * v * v;
    }
    slopes
}

fn damped_step(slopes: &Slopes, damping: f64) -> Option<Theta> {
    /// Extra weight of the diagonal, so that an unknown that no point sees stays where it is.
    const RIDGE_SHARE: f64 = 1e-4;
    let trace: f64 = (0..5).map(|k| slopes.majorant[k][k]).sum();
    // Only the lower triangles are filled.
    let entry = |row: usize, column: usize| {
        let value = slopes.hessian[row][column] + damping * slopes.majorant[row][column];
        if row != column {
            return value;
        }
        value + damping * (RIDGE_SHARE * slopes.majorant[row][row] + 1e-12 * trace)
    };
    let matrix: Matrix = std::array::from_fn(|row| {
        std::array::from_fn(|column| entry(row.max(column), row.min(column)))
    });
    solve_positive(&matrix, &slopes.gradient.map(|slope| -slope))
}

fn dot(left: &Theta, right: &Theta) -> f64 {
    left.iter().zip(right).map(|(l, r)| l * r).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observations() -> Vec<Observation> {
        (0..30)
            .map(|i| {
                let u = f64::from(i % 6) - 2.5;
                let v = f64::from(i / 6) - 2.0;
                let noise = 0.01 * f64::from((i * 7919) % 13 - 6);
                let z = (0.3 * (-0.8 * u).exp() + 0.2 * (-0.5 * v).exp() + 0.6).ln() + noise;
                Observation { u, v, z, weight: f64::from(1 + i % 3) }
            })
            .collect()
    }

    #[track_caller]
    fn check_derivatives(objective: Objective) {
        let points = observations();
        let theta = [-1.3, -1.4, -0.4, 0.7, 0.6];
        let slopes = expand(&points, objective, &theta);
        let step = 1e-5;
        for k in 0..5 {
            let moved = |by: f64| {
                let mut moved = theta;
                moved[k] += by;
                moved
            };
            let difference = evaluate(&points, objective, &moved(step))
                - evaluate(&points, objective, &moved(-step));
            let numeric = difference / (2.0 * step);
            let scale = 1e-6 * (1.0 + numeric.abs());
            assert!((slopes.gradient[k] - numeric).abs() < scale, "slope {k}");
            let [up, down] =
                [step, -step].map(|by| expand(&points, objective, &moved(by)).gradient);
            for row in k..5 {
                let numeric = (up[row] - down[row]) / (2.0 * step);
                let exact = slopes.hessian[row][k];
                assert!((exact - numeric).abs() < 1e-5 * (1.0 + numeric.abs()), "{row} {k}");
            }
        }
    }

    #[test]
    fn derivatives_agree_with_differences() {
        check_derivatives(Objective::Mse);
        // Far from its kinks, where a difference is meaningful.
        check_derivatives(Objective::Huber { delta: 10.0 });
    }

    #[test]
    fn the_end_of_a_search_has_no_slope() {
        let points = observations();
        for objective in [Objective::Mse, Objective::HUBER] {
            let end = minimise(&points, objective, [-1.0, -1.0, -1.0, 0.5, 0.5]);
            assert!(end.converged);
            let slopes = expand(&points, objective, &end.theta);
            let steepest = slopes.gradient.iter().fold(0.0_f64, |top, s| top.max(s.abs()));
            assert!(steepest < 1e-6, "{steepest} at {:?}", end.theta);
        }
    }
}
