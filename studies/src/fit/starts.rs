//! Where the search of the parametric fit starts: for every pair (alpha, beta) of a grid the
//! other three constants follow from a non-negative linear least squares (variable projection).
//! The grid is in the exponents alone, which have no unit.

use super::linear::solve_positive;
use super::newton::{Observation, Theta, evaluate};
use super::parametric::Objective;

/// Exponents tried on each axis, evenly in the logarithm over [`EXPONENT_RANGE`].
const EXPONENTS: usize = 16;
/// Published exponents lie between 0.05 and 1.3.
const EXPONENT_RANGE: [f64; 2] = [0.03, 3.0];
/// Most starts: the deepest local minima of the grid.
const STARTS_MAX: usize = 8;
/// Most points that choose the starts; more are thinned evenly, since a start need not be exact.
const POINTS_MAX: usize = 2_000;
/// A term that the linear step puts at zero starts at this share of the loss, so that its
/// logarithm exists and the search can bring it back.
const SHARE_START: f64 = 1e-3;

/// The most promising starts, best first. `spread` are the standard deviations of ln N and ln D.
pub(crate) fn promising(
    points: &[Observation],
    objective: Objective,
    spread: [f64; 2],
) -> Vec<Theta> {
    let stride = points.len().div_ceil(POINTS_MAX).max(1);
    let points: Vec<Observation> = points.iter().step_by(stride).copied().collect();
    let ratio = (EXPONENT_RANGE[1] / EXPONENT_RANGE[0]).powf(1.0 / (EXPONENTS - 1) as f64);
    let exponent = |step: usize| EXPONENT_RANGE[0] * ratio.powi(step as i32);
    let column = |slope: f64, at: fn(&Observation) -> f64| -> Vec<f64> {
        points.iter().map(|point| (-slope * at(point)).exp()).collect()
    };
    let model_terms: Vec<Vec<f64>> =
        (0..EXPONENTS).map(|i| column(exponent(i) * spread[0], |point| point.u)).collect();
    let data_terms: Vec<Vec<f64>> =
        (0..EXPONENTS).map(|j| column(exponent(j) * spread[1], |point| point.v)).collect();
    let mut grid = vec![vec![(f64::INFINITY, [0.0; 5]); EXPONENTS]; EXPONENTS];
    for (i, model) in model_terms.iter().enumerate() {
        for (j, data) in data_terms.iter().enumerate() {
            let [a, b, e] = scales(&points, model, data);
            let slopes = [exponent(i) * spread[0], exponent(j) * spread[1]];
            let theta = [a.ln(), b.ln(), e.ln(), slopes[0], slopes[1]];
            grid[i][j] = (evaluate(&points, objective, &theta), theta);
        }
    }
    deepest(&grid)
}

/// The local minima of the grid, best first.
fn deepest(grid: &[Vec<(f64, Theta)>]) -> Vec<Theta> {
    let value = |i: usize, j: usize| grid.get(i).and_then(|row| row.get(j)).map(|cell| cell.0);
    let mut minima = Vec::new();
    for (i, row) in grid.iter().enumerate() {
        for (j, cell) in row.iter().enumerate() {
            let around = [
                value(i + 1, j),
                value(i, j + 1),
                i.checked_sub(1).and_then(|i| value(i, j)),
                j.checked_sub(1).and_then(|j| value(i, j)),
            ];
            let lowest = around.iter().flatten().all(|other| cell.0 <= *other);
            if lowest && cell.0.is_finite() {
                minima.push(*cell);
            }
        }
    }
    minima.sort_by(|left, right| left.0.total_cmp(&right.0));
    minima.truncate(STARTS_MAX);
    minima.into_iter().map(|(_, theta)| theta).collect()
}

/// Non-negative (A, B, E) that minimise the squared relative residuals, in standardised units,
/// with zeros raised to [`SHARE_START`].
fn scales(points: &[Observation], model: &[f64], data: &[f64]) -> [f64; 3] {
    let mut matrix = [[0.0; 3]; 3];
    let mut rhs = [0.0; 3];
    for ((point, model), data) in points.iter().zip(model).zip(data) {
        let loss = point.z.exp();
        let columns = [model / loss, data / loss, 1.0 / loss];
        for row in 0..3 {
            rhs[row] += point.weight * columns[row];
            for column in 0..3 {
                matrix[row][column] += point.weight * columns[row] * columns[column];
            }
        }
    }
    let solution = non_negative(&matrix, &rhs);
    // The middle of the standardised points is at u = v = 0, where each term equals its scale.
    solution.map(|scale| scale.max(SHARE_START))
}

/// The best solution with no negative entry, over all 7 sets of columns that may be positive.
fn non_negative(matrix: &[[f64; 3]; 3], rhs: &[f64; 3]) -> [f64; 3] {
    let mut best = (f64::INFINITY, [0.0; 3]);
    for set in 1..8_u32 {
        let inside = |k: usize| set & (1 << k) != 0;
        // Columns outside the set become unit rows with solution zero.
        let reduced: [[f64; 3]; 3] = std::array::from_fn(|row| {
            std::array::from_fn(|column| {
                if inside(row) && inside(column) {
                    matrix[row][column]
                } else {
                    f64::from(u8::from(row == column))
                }
            })
        });
        let target = std::array::from_fn(|k| if inside(k) { rhs[k] } else { 0.0 });
        let Some(x) = solve_positive(&reduced, &target) else {
            continue;
        };
        if x.iter().any(|value| *value < 0.0) {
            continue;
        }
        // The squared residual without its constant: x' M x - 2 rhs' x = -rhs' x at the solution.
        let residual: f64 = -(0..3).map(|k| target[k] * x[k]).sum::<f64>();
        if residual < best.0 {
            best = (residual, x);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_linear_step_never_gives_a_negative_scale() {
        let matrix = [[2.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]];
        // Unconstrained, the second unknown would be -0.67.
        let x = non_negative(&matrix, &[2.0, 0.5, 0.3]);
        for (found, wanted) in x.iter().zip([1.0, 0.0, 0.3]) {
            assert!((found - wanted).abs() < 1e-12, "{x:?}");
        }
    }
}
