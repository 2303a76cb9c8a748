//! The median stopping rule.

use serde::Serialize;

/// The median stopping rule of Google Vizier (Golovin et al. 2017, section 3.2): a trial is
/// stopped at a step when its best value so far is strictly worse than the median of the running
/// averages, up to that step, of the other trials.
///
/// It is asked at `grace_steps`, `grace_steps + every_steps`, ... below `max_steps`. The best value
/// and the averages are over the values at these rungs. The others are all that measured at the
/// rung before, where Vizier takes those that completed: a sweep on many agents would otherwise
/// stop nobody until its first trials are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Median {
    /// Steps before the first decision; at least 1.
    pub grace_steps: u64,
    /// Steps between two decisions; at least 1.
    pub every_steps: u64,
    /// Steps of a trial that nobody stops; above `grace_steps`.
    pub max_steps: u64,
    /// Nobody is stopped at a rung before this many others were there; at least 1.
    pub min_trials: u32,
}

impl Median {
    pub(super) fn rungs(&self) -> Vec<u64> {
        let next = |rung: &u64| rung.checked_add(self.every_steps);
        std::iter::successors(Some(self.grace_steps), next)
            .take_while(|rung| *rung < self.max_steps)
            .collect()
    }

    /// How many rungs there are.
    pub(super) fn count(&self) -> u64 {
        self.max_steps.saturating_sub(self.grace_steps).div_ceil(self.every_steps)
    }
}

/// The median of the averages, when `best` is above it and at least `min_trials` others were there.
pub(super) fn missed(
    best: f64,
    earlier: impl Iterator<Item = f64> + Clone,
    min_trials: u32,
) -> Option<f64> {
    let (mut others, mut better) = (0u64, 0u64);
    for mean in earlier.clone() {
        others += 1;
        better += u64::from(mean < best);
    }
    // Cheaper than the median: with fewer than half of them below `best` it is not below either.
    if better * 2 < others {
        return None;
    }
    cut(earlier.collect(), min_trials).filter(|median| best > *median)
}

/// The median of `means`, when there are at least `min_trials`; of an even number the mean of the
/// middle two.
pub(super) fn cut(mut means: Vec<f64>, min_trials: u32) -> Option<f64> {
    if means.is_empty() || means.len() < min_trials as usize {
        return None;
    }
    let half = means.len() / 2;
    let even = means.len().is_multiple_of(2);
    let (below, upper, _) = means.select_nth_unstable_by(half, f64::total_cmp);
    let upper = *upper;
    if !even {
        return Some(upper);
    }
    let lower = below.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    Some(lower / 2.0 + upper / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rungs_have_equal_distances_and_end_below_the_last_step() {
        for (grace_steps, every_steps, max_steps, expected) in [
            (10, 10, 40, &[10, 20, 30][..]),
            (10, 10, 41, &[10, 20, 30, 40]),
            (5, 100, 6, &[5]),
            (u64::MAX - 2, 5, u64::MAX, &[u64::MAX - 2]),
        ] {
            let rule = Median { grace_steps, every_steps, max_steps, min_trials: 5 };
            assert_eq!(rule.rungs(), expected);
            assert_eq!(rule.count(), expected.len() as u64);
        }
    }

    #[test]
    fn a_trial_is_stopped_when_strictly_worse_than_the_median_of_enough_others() {
        let worst = f64::INFINITY;
        for (earlier, best, min_trials, expected) in [
            (&[][..], worst, 1, None),
            (&[1.0], 2.0, 1, Some(1.0)),
            (&[1.0], 2.0, 2, None),
            (&[1.0], 1.0, 1, None),
            (&[3.0, 1.0, 2.0], 2.0, 3, None),
            (&[3.0, 1.0, 2.0], 2.5, 3, Some(2.0)),
            // The median of an even number lies between its middle two.
            (&[1.0, 2.0, 3.0, 4.0], 2.5, 3, None),
            (&[1.0, 2.0, 3.0, 4.0], 2.75, 3, Some(2.5)),
            (&[1.0, worst], 9.0, 1, None),
            (&[1.0, 1.0, worst], worst, 1, Some(1.0)),
            (&[worst, worst], worst, 1, None),
        ] {
            let found = missed(best, earlier.iter().copied(), min_trials);
            assert_eq!(found, expected, "{earlier:?} {best} {min_trials}");
        }
    }
}
