//! A seeded shuffle that needs no memory.

/// A bijection of `0..len` onto itself, chosen by a key. Any place can be asked for by itself, so
/// a training's position in its data is a number, not the state of a generator.
///
/// A balanced Feistel network over the smallest even number of bits that holds `len` (Luby and
/// Rackoff 1988), walked until it lands inside `0..len` (Black and Rogaway 2002). The network's
/// domain is at most four times `len`, so a walk takes four rounds or fewer on average.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Permutation {
    len: u64,
    half_bits: u32,
    keys: [u64; ROUNDS],
}

/// Four rounds give a pseudo-random permutation; two more cost nothing here.
const ROUNDS: usize = 6;

impl Permutation {
    /// The bijection of `0..len` that belongs to `key`.
    pub(crate) fn new(key: [u8; 32], len: u64) -> Self {
        let bits = u64::BITS - len.saturating_sub(1).leading_zeros();
        let mut reader = blake3::Hasher::new_keyed(&key).finalize_xof();
        let keys = [(); ROUNDS].map(|()| {
            let mut bytes = [0; 8];
            reader.fill(&mut bytes);
            u64::from_le_bytes(bytes)
        });
        Self { len, half_bits: bits.div_ceil(2).max(1), keys }
    }

    /// Where `index` goes.
    ///
    /// # Panics
    /// When `index` is not below `len`.
    pub(crate) fn at(&self, index: u64) -> u64 {
        assert!(index < self.len, "{index} is outside 0..{}", self.len);
        let mut place = self.network(index);
        while place >= self.len {
            place = self.network(place);
        }
        place
    }

    fn network(&self, value: u64) -> u64 {
        let mask = u64::MAX >> (u64::BITS - self.half_bits);
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        left << self.half_bits | right
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014).
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_place_is_hit_once(key: [u8; 32], len in 1u64..3000) {
            let permutation = Permutation::new(key, len);
            let mut places: Vec<u64> = (0..len).map(|index| permutation.at(index)).collect();
            places.sort_unstable();
            prop_assert!(places.into_iter().eq(0..len));
        }
    }

    #[test]
    fn small_and_huge_lengths_work() {
        for len in [1, 2, 3, 4, 5, u64::from(u32::MAX), 1 << 62] {
            let permutation = Permutation::new([7; 32], len);
            assert!(permutation.at(0) < len);
            assert!(permutation.at(len - 1) < len);
        }
    }

    #[test]
    fn keys_give_different_orders_that_are_not_the_given_one() {
        let order = |key: u8| -> Vec<u64> {
            let permutation = Permutation::new([key; 32], 1000);
            (0..1000).map(|index| permutation.at(index)).collect()
        };
        assert_ne!(order(1), order(2));
        // A random order of 1,000 leaves one in place on average; 12 or more has a chance of 1e-9.
        let fixed = (0..1000u64).zip(order(1)).filter(|(i, p)| i == p).count();
        assert!(fixed < 12, "{fixed} places did not move");
    }
}
