//! The bootstrap: runs are drawn with replacement within each budget, so that every resample has
//! as many runs per budget as the table has. Budgets of one or two runs are drawn from together:
//! a budget of one would always draw the same run, and its intervals would have no width.

use super::Point;
use super::approach2::PLACES_MIN;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

/// Fewest usable resamples for an interval: its ends are single draws below this.
pub(crate) const USABLE_MIN: usize = 40;

/// Draws resamples.
#[derive(Debug)]
pub(crate) struct Resampler {
    /// Places of the points of each budget; points without a budget are one group.
    groups: Vec<Vec<usize>>,
    random: ChaCha8Rng,
    points: usize,
}

impl Resampler {
    pub(crate) fn new(points: &[Point], seed: u64) -> Self {
        let mut groups = BTreeMap::<Option<u64>, Vec<usize>>::new();
        for (index, point) in points.iter().enumerate() {
            groups.entry(point.budget.map(f64::to_bits)).or_default().push(index);
        }
        Self {
            groups: pooled(groups.into_values()),
            random: ChaCha8Rng::seed_from_u64(seed),
            points: points.len(),
        }
    }

    /// How often each point is in the next resample.
    pub(crate) fn draw(&mut self) -> Vec<u32> {
        let mut counts = vec![0; self.points];
        for group in &self.groups {
            for _ in group {
                // u64, because the stream of random numbers must not depend on the machine.
                let place = self.random.random_range(0..group.len() as u64);
                counts[group[place as usize]] += 1;
            }
        }
        counts
    }
}

/// The groups that are large enough to be drawn from alone, and all others as one.
fn pooled(groups: impl Iterator<Item = Vec<usize>>) -> Vec<Vec<usize>> {
    let (mut alone, small): (Vec<_>, Vec<_>) = groups.partition(|group| group.len() >= PLACES_MIN);
    let small = small.concat();
    if !small.is_empty() {
        alone.push(small);
    }
    alone
}

/// The percentile interval of 95 %, or `None` with fewer than [`USABLE_MIN`] draws.
pub(crate) fn interval95(draws: impl IntoIterator<Item = f64>) -> Option<[f64; 2]> {
    let mut draws: Vec<f64> = draws.into_iter().filter(|draw| draw.is_finite()).collect();
    if draws.len() < USABLE_MIN {
        return None;
    }
    draws.sort_by(f64::total_cmp);
    Some([percentile(&draws, 0.025), percentile(&draws, 0.975)])
}

/// Linear interpolation between the two nearest of the sorted values.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let below = sorted[place.floor() as usize];
    let above = sorted[place.ceil() as usize];
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(budgets: &[f64]) -> Vec<Point> {
        let point =
            |budget: &f64| Point { parameters: 1.0, tokens: 1.0, loss: 1.0, budget: Some(*budget) };
        budgets.iter().map(point).collect()
    }

    #[test]
    fn a_resample_keeps_the_size_of_every_budget() {
        let points = points(&[1.0, 2.0, 1.0, 1.0, 2.0, 2.0, 2.0]);
        let mut resampler = Resampler::new(&points, 0);
        for _ in 0..50 {
            let counts = resampler.draw();
            assert_eq!(counts[0] + counts[2] + counts[3], 3);
            assert_eq!(counts[1] + counts[4] + counts[5] + counts[6], 4);
        }
    }

    #[test]
    fn budgets_of_one_run_are_drawn_from_together() {
        let points = points(&[1.0, 2.0, 3.0, 4.0, 5.0, 5.0]);
        let mut resampler = Resampler::new(&points, 0);
        let draws: Vec<Vec<u32>> = (0..20).map(|_| resampler.draw()).collect();
        assert!(draws.iter().all(|counts| counts.iter().sum::<u32>() == 6));
        assert!(draws.iter().any(|counts| counts.iter().any(|count| *count > 1)));
    }

    #[test]
    fn the_seed_decides_the_resamples() {
        let points = points(&[1.0; 20]);
        let draws = |seed| {
            let mut resampler = Resampler::new(&points, seed);
            [resampler.draw(), resampler.draw()]
        };
        assert_eq!(draws(7), draws(7));
        assert_ne!(draws(7), draws(8));
    }

    #[test]
    fn an_interval_cuts_both_tails() {
        let draws = (0..=1000).rev().map(f64::from);
        assert_eq!(interval95(draws), Some([25.0, 975.0]));
        assert_eq!(interval95([1.0; USABLE_MIN - 1]), None);
    }
}
