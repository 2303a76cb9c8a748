//! Small dense systems: everything here has at most five unknowns.

/// Solves `matrix * x = rhs` for a symmetric positive definite matrix by Cholesky factorisation.
/// `None` when the matrix is not positive definite to working precision.
pub(crate) fn solve_positive<const K: usize>(
    matrix: &[[f64; K]; K],
    rhs: &[f64; K],
) -> Option<[f64; K]> {
    /// A pivot below this share of its diagonal entry is rounding, not information.
    const PIVOT_SHARE_MIN: f64 = 1e-14;
    let mut lower = [[0.0; K]; K];
    for row in 0..K {
        for column in 0..=row {
            let dot: f64 = (0..column).map(|k| lower[row][k] * lower[column][k]).sum();
            let rest = matrix[row][column] - dot;
            if row == column {
                let enough = rest > PIVOT_SHARE_MIN * matrix[row][row].abs();
                if !enough || !rest.is_finite() {
                    return None;
                }
                lower[row][row] = rest.sqrt();
            } else {
                lower[row][column] = rest / lower[column][column];
            }
        }
    }
    let mut x = *rhs;
    for row in 0..K {
        let dot: f64 = (0..row).map(|k| lower[row][k] * x[k]).sum();
        x[row] = (x[row] - dot) / lower[row][row];
    }
    for row in (0..K).rev() {
        let dot: f64 = (row + 1..K).map(|k| lower[k][row] * x[k]).sum();
        x[row] = (x[row] - dot) / lower[row][row];
    }
    x.iter().all(|value| value.is_finite()).then_some(x)
}

/// A straight line `intercept + slope * x`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Line {
    pub(crate) intercept: f64,
    pub(crate) slope: f64,
}

impl Line {
    pub(crate) fn at(self, x: f64) -> f64 {
        self.intercept + self.slope * x
    }

    /// The least-squares line. `None` when fewer than two of the `x` differ.
    pub(crate) fn through(points: &[(f64, f64)]) -> Option<Self> {
        let count = points.len() as f64;
        let mean_x = points.iter().map(|point| point.0).sum::<f64>() / count;
        let mean_y = points.iter().map(|point| point.1).sum::<f64>() / count;
        let spread: f64 = points.iter().map(|point| (point.0 - mean_x).powi(2)).sum();
        let shared: f64 = points.iter().map(|point| (point.0 - mean_x) * (point.1 - mean_y)).sum();
        let slope = shared / spread;
        slope.is_finite().then_some(Self { intercept: mean_y - slope * mean_x, slope })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_positive_definite_system_is_solved() {
        let matrix = [[4.0, 1.0, 0.5], [1.0, 3.0, 0.2], [0.5, 0.2, 2.0]];
        let expected = [1.0, -2.0, 3.0];
        let rhs = std::array::from_fn(|row| (0..3).map(|k| matrix[row][k] * expected[k]).sum());
        let x = solve_positive(&matrix, &rhs).unwrap();
        for (found, wanted) in x.iter().zip(expected) {
            assert!((found - wanted).abs() < 1e-12, "{x:?}");
        }
    }

    #[test]
    fn a_singular_or_indefinite_system_has_no_answer() {
        assert_eq!(solve_positive(&[[1.0, 1.0], [1.0, 1.0]], &[1.0, 1.0]), None);
        assert_eq!(solve_positive(&[[1.0, 2.0], [2.0, 1.0]], &[1.0, 1.0]), None);
        assert_eq!(solve_positive(&[[f64::NAN]], &[1.0]), None);
    }

    #[test]
    fn a_line_needs_two_different_places() {
        assert_eq!(Line::through(&[]), None);
        assert_eq!(Line::through(&[(1.0, 2.0), (1.0, 3.0)]), None);
        let line = Line::through(&[(0.0, 1.0), (2.0, 5.0)]).unwrap();
        assert_eq!((line.slope, line.at(3.0)), (2.0, 7.0));
    }
}
