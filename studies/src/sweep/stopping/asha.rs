//! Asynchronous successive halving.

use serde::Serialize;

/// Asynchronous successive halving, "ASHA" (Li et al. 2020, arXiv 1810.05934, Algorithm 2), with
/// rungs at `min_steps * eta^k` steps below `max_steps`, k = 0, 1, ...
///
/// The algorithm pauses every trial at a rung and promotes the best 1/eta of those that are there.
/// Here a trial goes on by itself unless it is stopped: when it arrives at a rung as the n-th
/// trial, it goes on if it is among the best `ceil(n / eta)` of these n, ties included. Rounding
/// up, where Algorithm 2 rounds down, lets the first trial pass, who has nobody to be compared
/// with; of n trials it lets pass about `(eta - 1) / (2 eta) * ln n` more than n / eta.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Asha {
    /// Steps of the first rung; at least 1.
    pub min_steps: u64,
    /// Steps of a trial that nobody stops; above `min_steps`.
    pub max_steps: u64,
    /// One in `eta` goes on at a rung; at least 2.
    pub eta: u32,
}

impl Asha {
    pub(super) fn rungs(&self) -> Vec<u64> {
        let next = |rung: &u64| rung.checked_mul(self.eta.into());
        std::iter::successors(Some(self.min_steps), next)
            .take_while(|rung| *rung < self.max_steps)
            .collect()
    }
}

/// The worst loss that goes on, when `own` is above it, given those that arrived `earlier`.
pub(super) fn missed(
    own: f64,
    earlier: impl Iterator<Item = f64> + Clone,
    eta: u32,
) -> Option<f64> {
    let (mut all, mut better) = (1u64, 0u64);
    for loss in earlier.clone() {
        all += 1;
        better += u64::from(loss < own);
    }
    // Rank better + 1 is within ceil(all / eta) exactly if better * eta < all.
    if better * u64::from(eta) < all {
        return None;
    }
    cut(earlier.chain([own]).collect(), eta)
}

/// The worst of the best `ceil(n / eta)` of these n losses.
pub(super) fn cut(mut losses: Vec<f64>, eta: u32) -> Option<f64> {
    let kept = losses.len().div_ceil(eta as usize);
    let place = kept.checked_sub(1)?;
    Some(*losses.select_nth_unstable_by(place, f64::total_cmp).1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rungs_grow_by_eta_and_end_below_the_last_step() {
        for (min_steps, max_steps, eta, expected) in [
            (1, 81, 3, &[1, 3, 9, 27][..]),
            (1, 82, 3, &[1, 3, 9, 27, 81]),
            (10, 120, 3, &[10, 30, 90]),
            (5, 6, 2, &[5]),
            (1 << 62, u64::MAX, 4, &[1 << 62]),
        ] {
            assert_eq!(Asha { min_steps, max_steps, eta }.rungs(), expected);
        }
    }

    #[test]
    fn the_best_third_rounded_up_goes_on() {
        let worst = f64::INFINITY;
        for (earlier, own, expected) in [
            (&[][..], worst, None),
            (&[1.0], 0.5, None),
            (&[1.0], 1.0, None),
            (&[1.0], 2.0, Some(1.0)),
            // Of four the best two go on.
            (&[1.0, 3.0, 4.0], 2.0, None),
            (&[1.0, 2.0, 4.0], 3.0, Some(2.0)),
            (&[1.0, 2.0, 2.0], 2.0, None),
            (&[worst, worst], worst, None),
            (&[worst, 5.0], worst, Some(5.0)),
        ] {
            let found = missed(own, earlier.iter().copied(), 3);
            assert_eq!(found, expected, "{earlier:?} {own}");
        }
    }

    #[test]
    fn the_cut_is_the_worst_that_would_have_gone_on() {
        assert_eq!(cut(Vec::new(), 3), None);
        assert_eq!(cut(vec![4.0], 3), Some(4.0));
        assert_eq!(cut(vec![4.0, 1.0, 3.0, 2.0], 3), Some(2.0));
        assert_eq!(cut(vec![4.0, 1.0, 3.0, 2.0], 2), Some(2.0));
    }
}
