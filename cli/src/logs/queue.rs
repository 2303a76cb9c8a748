//! Which attempts are followed at once.

use proto::AttemptKey;
use std::collections::{BTreeSet, VecDeque};

/// Attempts that are followed at once: more lines than this nobody reads.
pub(super) const FOLLOWED_MAX: usize = 32;
/// Attempts that wait for a place; of more the oldest are left out.
const WAITING_MAX: usize = 256;
/// Attempts that are remembered so that each is followed once.
const KNOWN_MAX: usize = 100_000;

/// Attempts that want to be followed, the newest first.
#[derive(Debug, Default)]
pub(super) struct Queue {
    known: BTreeSet<AttemptKey>,
    waiting: VecDeque<AttemptKey>,
    followed: usize,
    left_out: u64,
}

impl Queue {
    /// A new attempt; one that was told before changes nothing.
    pub(super) fn add(&mut self, key: AttemptKey) {
        if self.known.len() >= KNOWN_MAX {
            // Only attempts that just started are told again.
            self.known.clear();
        }
        if !self.known.insert(key.clone()) {
            return;
        }
        self.waiting.push_back(key);
        if self.waiting.len() > WAITING_MAX {
            self.waiting.pop_front();
            self.left_out += 1;
        }
    }

    /// The next one to follow, when there is a place.
    pub(super) fn next(&mut self) -> Option<AttemptKey> {
        if self.followed >= FOLLOWED_MAX {
            return None;
        }
        let key = self.waiting.pop_back()?;
        self.followed += 1;
        Some(key)
    }

    /// One that was followed is over.
    pub(super) fn ended(&mut self) {
        self.followed = self.followed.saturating_sub(1);
    }

    /// Whether nothing is followed and nothing waits.
    pub(super) fn is_idle(&self) -> bool {
        self.followed == 0 && self.waiting.is_empty()
    }

    /// Attempts that found no place.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::{Attempt, TrialId};

    fn key(number: usize) -> AttemptKey {
        let trial = TrialId::new(format!("{number:016x}")).unwrap();
        AttemptKey { trial, attempt: Attempt(1), rank: 0 }
    }

    #[test]
    fn the_newest_come_first_and_each_once() {
        let mut queue = Queue::default();
        [1, 2, 2, 1, 3].into_iter().for_each(|number| queue.add(key(number)));
        let order: Vec<AttemptKey> = std::iter::from_fn(|| queue.next()).collect();
        assert_eq!(order, [key(3), key(2), key(1)]);
        assert!(!queue.is_idle());
        (0..3).for_each(|_| queue.ended());
        assert!(queue.is_idle());
    }

    #[test]
    fn places_and_waiting_attempts_are_bounded() {
        let mut queue = Queue::default();
        (0..WAITING_MAX + 5).for_each(|number| queue.add(key(number)));
        assert_eq!(queue.left_out(), 5);
        assert_eq!(std::iter::from_fn(|| queue.next()).count(), FOLLOWED_MAX);
        queue.ended();
        assert_eq!(queue.next(), Some(key(WAITING_MAX + 4 - FOLLOWED_MAX)));
        assert_eq!(queue.next(), None);
    }
}
