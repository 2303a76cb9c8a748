//! Fits of tables that are made from known surfaces.

mod reading;
mod recovery;

use super::{Point, Surface};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Close to what Hoffmann's points give.
pub(super) const CHINCHILLA: Surface =
    Surface { e: 1.82, a: 478.0, b: 2144.0, alpha: 0.347, beta: 0.367 };

/// Sizes N of `cells` models in each budget, `C = 6 N D`, spread evenly over `decades` around the
/// true optimum moved by `offset` decades.
pub(super) fn isoflop_points(
    surface: &Surface,
    budgets: &[f64],
    cells: usize,
    decades: f64,
    offset: f64,
) -> Vec<Point> {
    let mut points = Vec::new();
    for budget in budgets {
        let (optimum, _) = surface.optimum(*budget, 6.0).unwrap();
        for cell in 0..cells {
            let place = cell as f64 / (cells - 1) as f64 - 0.5;
            let parameters = optimum * 10f64.powf(decades * place + offset);
            let tokens = budget / (6.0 * parameters);
            let loss = surface.loss(parameters, tokens);
            points.push(Point { parameters, tokens, loss, budget: Some(*budget) });
        }
    }
    points
}

/// Multiplies every loss by about `1 + deviation * normal`.
pub(super) fn with_noise(mut points: Vec<Point>, deviation: f64, seed: u64) -> Vec<Point> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for point in &mut points {
        // The sum of twelve uniform numbers is close to normal, with variance 1.
        let normal = (0..12).map(|_| random.random::<f64>()).sum::<f64>() - 6.0;
        point.loss *= (deviation * normal).exp();
    }
    points
}

#[track_caller]
pub(super) fn assert_near(found: f64, wanted: f64, tolerance: f64) {
    let error = (found / wanted - 1.0).abs();
    assert!(error <= tolerance, "found {found}, wanted {wanted}, off by {error:.2e}");
}
