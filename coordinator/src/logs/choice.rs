//! Which logs go when all together are larger than they may be. Pure.

/// A removal frees this much more than it must, as a part of the limit, so that the next one is not
/// due with the next piece of a log: each looks at every file.
const SPARE: u64 = 10;

/// How the attempt stands whose log it is. Those before others go before them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// Its trial has ended.
    Ended,
    /// It is over, and its trial is not: somebody may still want to know why it failed.
    Past,
    /// It runs. Its log is never removed.
    Running,
}

/// A log to choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) standing: Standing,
    /// When its last piece came, in milliseconds since the epoch.
    pub(super) changed_ms: i64,
    /// On disk.
    pub(super) bytes: u64,
}

/// The indices of the logs to remove so that the sum of all is below `limit` bytes with something
/// to spare, the first to go first; empty when the sum is within the limit. Oldest logs of ended
/// trials go first, then those of earlier attempts.
pub(super) fn choose(logs: &[Candidate], limit: u64) -> Vec<usize> {
    let mut sum = logs.iter().map(|log| log.bytes).fold(0, u64::saturating_add);
    if sum <= limit {
        return Vec::new();
    }
    let enough = limit - limit / SPARE;
    let mut order: Vec<usize> = (0..logs.len()).collect();
    order.retain(|index| logs[*index].standing != Standing::Running);
    order.sort_by_key(|index| (logs[*index].standing, logs[*index].changed_ms, *index));
    let needed = order.iter().take_while(|index| {
        let goes = sum > enough;
        sum = sum.saturating_sub(logs[**index].bytes);
        goes
    });
    let count = needed.count();
    order.truncate(count);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_of_ended_trials_go_first_and_what_runs_stays() {
        use Standing::{Ended, Past, Running};
        let log = |(standing, changed_ms, bytes)| Candidate { standing, changed_ms, bytes };
        for (logs, limit, expected) in [
            (vec![], 0, vec![]),
            // At the limit is within it.
            (vec![(Ended, 1, 60), (Ended, 2, 40)], 100, vec![]),
            // A tenth to spare: 101 - 10 is 91, which is not yet 90.
            (vec![(Ended, 1, 10), (Ended, 2, 10), (Ended, 3, 81)], 100, vec![0, 1]),
            (vec![(Ended, 1, 11), (Ended, 2, 10), (Ended, 3, 80)], 100, vec![0]),
            // By age, not by place; of one age by place.
            (vec![(Ended, 9, 50), (Ended, 3, 50), (Ended, 3, 50)], 100, vec![1, 2]),
            // Earlier attempts of open trials only when ended trials are not enough.
            (vec![(Past, 1, 50), (Ended, 9, 30), (Past, 2, 50)], 100, vec![1, 0]),
            (vec![(Past, 1, 50), (Ended, 9, 60), (Past, 2, 40)], 100, vec![1]),
            // What runs stays, also alone above the limit.
            (vec![(Running, 1, 500), (Ended, 2, 10), (Running, 0, 5)], 100, vec![1]),
            (vec![(Running, 1, 500)], 100, vec![]),
            // Sums that no disk has do not wrap.
            (vec![(Ended, 1, u64::MAX), (Ended, 2, u64::MAX)], 100, vec![0]),
            (vec![(Ended, 1, 1)], 0, vec![0]),
        ] {
            let candidates: Vec<_> = logs.iter().copied().map(log).collect();
            assert_eq!(choose(&candidates, limit), expected, "{logs:?} with {limit}");
        }
    }
}
