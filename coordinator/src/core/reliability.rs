//! How long a process runs until the infrastructure fails it, from what was recorded.

use proto::{FailureClass, Outcome};

/// What is believed before anything was seen: one failure in a day of one process. It counts as if
/// it had been seen, so that no failure so far does not mean none ever, and one at once not one
/// every minute.
const PRIOR_MS: u64 = 24 * 3_600 * 1_000;
const PRIOR_FAILURES: u64 = 1;

/// Attempts that are over: their time and their failures. Folded from events, so that a restart
/// knows as much as before. The time of agents that had nothing to run does not count: nothing of
/// theirs could have failed a training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Reliability {
    /// Of all processes, in milliseconds.
    ran_ms: u64,
    failures: u64,
}

impl Reliability {
    /// An attempt of so many processes is over after `ms`. One that its experiment took back has no
    /// outcome.
    pub(super) fn add(&mut self, ms: u64, members: usize, outcome: Option<&Outcome>) {
        self.ran_ms = self.ran_ms.saturating_add(ms.saturating_mul(members as u64));
        if let Some(Outcome::Failed { class: FailureClass::Infrastructure, .. }) = outcome {
            self.failures += 1;
        }
    }

    /// Mean time between failures of a trial of so many processes, in milliseconds, at least 1: the
    /// time that was seen by the failures in it, which is the mean of a rate with a gamma prior.
    /// Each process can fail the others.
    pub(super) fn mtbf_ms(self, members: usize) -> u64 {
        let of_one = self.ran_ms.saturating_add(PRIOR_MS) / (self.failures + PRIOR_FAILURES);
        (of_one / members.max(1) as u64).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    #[test]
    fn failures_by_the_time_of_processes() {
        let lost = Outcome::failed(FailureClass::Infrastructure, "lost");
        let bad = Outcome::failed(FailureClass::Trial, "it ended with 1");
        for (attempts, members, expected) in [
            (vec![], 1, 24 * HOUR),
            (vec![], 4, 6 * HOUR),
            (vec![], 0, 24 * HOUR),
            // 216 hours without a failure, then one in them, then one that is the program's own.
            (vec![(216 * HOUR, 1, None)], 1, 240 * HOUR),
            (vec![(216 * HOUR, 1, Some(&lost))], 1, 120 * HOUR),
            (vec![(216 * HOUR, 1, Some(&bad))], 1, 240 * HOUR),
            // A gang of eight: its hours are eight, and its failure is one.
            (vec![(27 * HOUR, 8, Some(&lost))], 8, 15 * HOUR),
            (vec![(0, 1, Some(&lost)); 99], 1, 24 * HOUR / 100),
            (vec![(u64::MAX, usize::MAX, None); 2], 1, u64::MAX),
            (vec![(0, 1, Some(&lost))], usize::MAX, 1),
        ] {
            let mut reliability = Reliability::default();
            for (ms, members, outcome) in &attempts {
                reliability.add(*ms, *members, *outcome);
            }
            assert_eq!(reliability.mtbf_ms(members), expected, "{attempts:?} of {members}");
        }
    }
}
