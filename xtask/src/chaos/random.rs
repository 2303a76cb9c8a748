//! The one source of chance of `cargo xtask chaos`: the same seed gives the same faults on every
//! machine. A few lines and no crate, because whoever sets a fresh machine up waits for this one
//! to compile.

/// Numbers that follow from a seed (`SplitMix64`).
pub(crate) struct Random(u64);

impl Random {
    /// The numbers of one cycle of one seed; neighbouring cycles have nothing in common.
    pub(crate) fn new(seed: u64, cycle: u64) -> Self {
        let mut random = Self(seed);
        let start = random.next() ^ Self(cycle).next().rotate_left(32);
        Self(start)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`; 0 when the limit is 0. Its slight bias does not matter here.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True once in `times`.
    pub(crate) fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of `items`; `None` when there is none.
    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        let place = usize::try_from(self.below(items.len() as u64)).ok()?;
        items.get(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_from_seed_and_cycle_and_keep_their_bounds() {
        let numbers = |seed, cycle| {
            let mut random = Random::new(seed, cycle);
            [random.next(), random.next()]
        };
        assert_eq!(numbers(1, 2), numbers(1, 2));
        assert_ne!(numbers(1, 2), numbers(2, 1));
        assert_ne!(numbers(1, 2), numbers(1, 3));
        let mut random = Random::new(0, 0);
        let mut seen = [false; 3];
        for _ in 0..100 {
            let drawn = random.between(5, 7);
            seen[usize::try_from(drawn - 5).unwrap()] = true;
        }
        assert_eq!(seen, [true; 3]);
        assert_eq!((random.below(0), random.pick::<u8>(&[])), (0, None));
    }
}
