//! Hyperband.

use serde::Serialize;

/// Hyperband (Li et al. 2018, arXiv 1603.06560, Algorithm 1) with asynchronous brackets: one
/// bracket of successive halving for every guess of how early a trial's end can be told. The unit
/// of resource is `min_steps`, so with R = `max_steps / min_steps` and the algorithm's first lines
///
/// ```text
/// s_max = floor(log_eta R)
/// n_s   = ceil((s_max + 1) eta^s / (s + 1))     trials of bracket s = s_max, ..., 0
/// r_s   = max_steps eta^-s                      its first rung, in steps
/// ```
///
/// Bracket s has the rungs `floor(max_steps / eta^i)`, i = s, ..., 1; bracket 0 stops nobody. At a
/// rung the trials of the bracket that arrive are judged as in [`Asha`](super::Asha), without
/// waiting for the others. With R = 81 and eta = 3 the brackets have 81, 34, 15, 8 and 5 trials.
///
/// The algorithm runs one bracket after the other; here all run at once. Of every
/// `n_0 + ... + n_s_max` points in planning order each bracket gets its n_s, spread evenly, so that
/// no bracket has a corner of a grid to itself. All seeds of a point are in one bracket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Hyperband {
    /// Least steps of a bracket's first rung; at least 1.
    pub min_steps: u64,
    /// Steps of a trial that nobody stops; at least `eta * min_steps`.
    pub max_steps: u64,
    /// One in `eta` goes on at a rung; at least 2.
    pub eta: u32,
}

impl Hyperband {
    /// Number of the bracket with the earliest rung.
    pub(super) fn s_max(&self) -> u32 {
        let room = self.max_steps / self.min_steps;
        room.checked_ilog(self.eta.into()).unwrap_or(0)
    }

    /// `eta^s`, at most `max_steps` for every bracket.
    fn power(&self, s: u32) -> u64 {
        u64::from(self.eta).saturating_pow(s)
    }

    /// Rungs of bracket `s`, ascending.
    pub(super) fn rungs(&self, s: u32) -> Vec<u64> {
        (1..=s).rev().map(|i| self.max_steps / self.power(i)).collect()
    }

    /// n_s, the share of bracket `s`.
    fn size(&self, s: u32) -> u64 {
        let all = u64::from(self.s_max() + 1).saturating_mul(self.power(s));
        all.div_ceil(u64::from(s + 1))
    }

    pub(super) fn schedule(&self) -> Schedule {
        let sizes: Vec<u64> = (0..=self.s_max()).map(|s| self.size(s)).collect();
        let cycle: u64 = sizes.iter().sum();
        // Multiples of the golden section of a circle spread over it more evenly than those of any
        // other length; a stride without a common divisor meets every place once.
        const GOLDEN: f64 = 0.618_033_988_749_895;
        let golden = (cycle as f64 * GOLDEN) as u64;
        let stride = (golden.max(1)..).find(|stride| divisor(*stride, cycle) == 1).unwrap_or(1);
        Schedule { sizes, cycle, stride }
    }
}

fn divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { divisor(b, a % b) }
}

/// Which point belongs to which bracket.
#[derive(Debug)]
pub(super) struct Schedule {
    /// Points of every bracket in one cycle.
    sizes: Vec<u64>,
    cycle: u64,
    stride: u64,
}

impl Schedule {
    /// The bracket of the point at `index` in planning order.
    pub(super) fn bracket(&self, index: u64) -> usize {
        let product = u128::from(index % self.cycle) * u128::from(self.stride);
        let mut place = product % u128::from(self.cycle);
        for (s, size) in self.sizes.iter().enumerate() {
            match place.checked_sub(u128::from(*size)) {
                Some(rest) => place = rest,
                None => return s,
            }
        }
        unreachable!("a place in the cycle is in a bracket")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAPER: Hyperband = Hyperband { min_steps: 1, max_steps: 81, eta: 3 };

    #[test]
    fn brackets_are_those_of_algorithm_1() {
        assert_eq!(PAPER.s_max(), 4);
        assert_eq!([4, 3, 2, 1, 0].map(|s| PAPER.size(s)), [81, 34, 15, 8, 5]);
        let expected: [&[u64]; 5] = [&[], &[27], &[9, 27], &[3, 9, 27], &[1, 3, 9, 27]];
        for (s, rungs) in (0..).zip(expected) {
            assert_eq!(PAPER.rungs(s), rungs);
        }
        // No power of eta fits exactly: 100 / 7 is between 3^2 and 3^3.
        let uneven = Hyperband { min_steps: 7, max_steps: 100, eta: 3 };
        assert_eq!((uneven.s_max(), uneven.rungs(2)), (2, vec![11, 33]));
    }

    #[test]
    fn every_cycle_gives_each_bracket_its_share_and_spreads_it() {
        let schedule = PAPER.schedule();
        let shares = |range: std::ops::Range<u64>| {
            let mut found = [0u64; 5];
            range.for_each(|index| found[schedule.bracket(index)] += 1);
            found
        };
        assert_eq!(shares(0..143), [5, 8, 15, 34, 81]);
        assert_eq!(shares(143_000..143_143), [5, 8, 15, 34, 81]);
        // Any 13 points in a row: within two of each bracket's share.
        for start in 0..143 {
            for (s, found) in shares(start..start + 13).into_iter().enumerate() {
                let share = 13.0 * schedule.sizes[s] as f64 / 143.0;
                assert!((found as f64 - share).abs() < 2.0, "{start} {s}: {found}, {share}");
            }
        }
    }
}
