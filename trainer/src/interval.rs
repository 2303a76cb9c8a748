//! When the next checkpoint is due: at a time that somebody chose, or at the one that loses least.

use crate::error::TrainError;
use crate::log::now;
use crate::train::Observer;
use std::time::{Duration, Instant};

/// Shortest time that is chosen, and the time before the first checkpoint, whose cost is not known
/// yet: more often, a disk would be busy with nothing else.
const CHOSEN_MIN: Duration = Duration::from_secs(10);
/// Longest time that is chosen: whatever was measured so far, nobody likes to lose more.
const CHOSEN_MAX: Duration = Duration::from_secs(3_600);

/// How often a training saves its state. No number that it computes depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointEvery {
    /// After so much time.
    Fixed(Duration),
    /// After the time that [`best_interval`] finds for what a checkpoint turns out to cost.
    Best {
        /// Mean time to a failure of this training that is not its own.
        mtbf: Duration,
    },
}

/// The time of training between two checkpoints that loses least to failures and checkpoints
/// together, between 10 s and 1 h.
///
/// Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps" (2006),
/// equation 37, for a mean time between failures M and a cost δ below 2M:
///     τ = √(2δM) · (1 + ⅓ √(δ / 2M) + ⅑ (δ / 2M)) − δ
/// and M for a larger cost. The first factor is Young's (1974).
///
/// `cost` is the time for which the training stands still, or its GPU to copy the state. The time
/// until a checkpoint is on disk is not part of it: the training goes on meanwhile, and what a
/// failure in that time loses more is the same however often a checkpoint is made.
pub fn best_interval(mtbf: Duration, cost: Duration) -> Duration {
    let (m, d) = (mtbf.as_secs_f64(), cost.as_secs_f64());
    let ratio = d / (2.0 * m);
    let best = if ratio < 1.0 {
        (2.0 * d * m).sqrt() * (1.0 + ratio.sqrt() / 3.0 + ratio / 9.0) - d
    } else {
        m
    };
    Duration::from_secs_f64(best.clamp(CHOSEN_MIN.as_secs_f64(), CHOSEN_MAX.as_secs_f64()))
}

/// The checkpoints of one training.
#[derive(Debug)]
pub(crate) struct Saves {
    every: CheckpointEvery,
    last: Instant,
    /// How many stood in the way so far, and for how long together.
    count: u32,
    stood_still: Duration,
    /// For how long the last one did, as far as the training itself saw.
    seen: Duration,
    is_noted: bool,
}

impl Saves {
    pub(crate) fn new(every: CheckpointEvery) -> Self {
        Self {
            every,
            last: now(),
            count: 0,
            stood_still: Duration::ZERO,
            seen: Duration::ZERO,
            is_noted: false,
        }
    }

    /// Whether the next one is due, when the one before is written, for which the device was busy
    /// for `copied_in`. What was chosen from the first one is noted.
    pub(crate) fn is_due(&mut self, copied_in: Duration, observer: &mut dyn Observer) -> bool {
        // The training saw a part of it where it had to wait for memory.
        self.stood_still += copied_in.saturating_sub(self.seen);
        if let (CheckpointEvery::Best { mtbf }, 1, false) = (self.every, self.count, self.is_noted)
        {
            self.is_noted = true;
            observer.note(&chosen(mtbf, self.cost()));
        }
        now().duration_since(self.last) >= self.interval()
    }

    fn interval(&self) -> Duration {
        match self.every {
            CheckpointEvery::Fixed(every) => every,
            CheckpointEvery::Best { .. } if self.count == 0 => CHOSEN_MIN,
            CheckpointEvery::Best { mtbf } => best_interval(mtbf, self.cost()),
        }
    }

    /// The mean of all so far. The first one may take longer than others, but not for ever.
    fn cost(&self) -> Duration {
        self.stood_still / self.count.max(1)
    }

    /// Makes a checkpoint and learns what it costs.
    ///
    /// # Errors
    /// Those of `save`.
    pub(crate) fn make(
        &mut self,
        save: impl FnOnce() -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let begun = now();
        save()?;
        self.last = now();
        self.seen = self.last.duration_since(begun);
        self.stood_still += self.seen;
        self.count = self.count.saturating_add(1);
        Ok(())
    }
}

/// The choice and the figures behind it.
fn chosen(mtbf: Duration, cost: Duration) -> String {
    format!(
        "a checkpoint about every {:.0} s (Daly 2006): the training stands still for {:.2} ms, and \
         one failure in {:.1} h is expected; `checkpoint: {{every: ...}}` in the recipe chooses \
         another time",
        best_interval(mtbf, cost).as_secs_f64(),
        cost.as_secs_f64() * 1e3,
        mtbf.as_secs_f64() / 3_600.0,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::Checkpoint;

    #[derive(Debug, Default)]
    struct Noted(Vec<String>);

    impl Observer for Noted {
        fn metric(&mut self, _: u64, _: &str, _: f64) {}
        fn checkpoint(&mut self, _: Checkpoint) {}
        fn note(&mut self, text: &str) {
            self.0.push(text.to_owned());
        }
        fn stop_requested(&self) -> bool {
            false
        }
    }

    const HOUR: f64 = 3_600.0;

    #[test]
    fn the_interval_is_dalys_within_its_bounds() {
        for (mtbf, cost, expected) in [
            // √(2 · 1 · 86,400) = 415.69; the ratio 1/172,800 adds 0.08 % and the cost goes off.
            (24.0 * HOUR, 1.0, 415.026),
            // Young alone would say 848.53.
            (HOUR, 100.0, 783.171),
            // The dearer, the rarer, up to the failures themselves.
            (100.0, 150.0, 87.639),
            (100.0, 200.0, 100.0),
            (100.0, 5_000.0, 100.0),
            // Bounds.
            (24.0 * HOUR, 0.0, 10.0),
            (24.0 * HOUR, 0.000_1, 10.0),
            (1.0, 0.5, 10.0),
            (0.0, 1.0, 10.0),
            (1e6 * HOUR, 60.0, HOUR),
            (1e12, 1e12, HOUR),
            (0.0, 0.0, 10.0),
        ] {
            let seconds = Duration::from_secs_f64;
            let found = best_interval(seconds(mtbf), seconds(cost)).as_secs_f64();
            assert!((found - expected).abs() < 0.001, "{mtbf} {cost}: {found}, not {expected}");
        }
    }

    /// Against Daly's expected time with failures, for a restart that takes none: no other interval
    /// loses less.
    #[test]
    fn no_other_interval_loses_less() {
        for (mtbf, cost) in [(24.0 * HOUR, 1.0), (HOUR, 2.0), (7.0 * HOUR, 20.0)] {
            // M (exp((τ + δ) / M) − 1) / τ: the whole time relative to that of the training alone.
            let lost = |interval: f64| {
                let whole = mtbf * (((interval + cost) / mtbf).exp() - 1.0);
                whole / interval
            };
            let best = best_interval(Duration::from_secs_f64(mtbf), Duration::from_secs_f64(cost));
            let best = best.as_secs_f64();
            for other in [0.5, 0.9, 0.98, 1.02, 1.1, 2.0] {
                assert!(lost(best) < lost(best * other), "{mtbf} {cost}: {best} times {other}");
            }
        }
    }

    #[test]
    fn the_first_checkpoint_decides_the_next_and_is_noted_with_its_figures() {
        let mtbf = Duration::from_secs(86_400);
        let mut saves = Saves::new(CheckpointEvery::Best { mtbf });
        let mut noted = Noted::default();
        assert!(!saves.is_due(Duration::ZERO, &mut noted));
        assert_eq!(saves.interval(), CHOSEN_MIN);
        saves.make(|| Ok(())).unwrap();
        assert!(!saves.is_due(Duration::from_secs(1), &mut noted));
        assert!(!saves.is_due(Duration::ZERO, &mut noted));
        assert!(saves.cost() >= Duration::from_secs(1), "the device's time counts");
        assert!(noted.0.len() == 1 && noted.0[0].contains("stands still for 1000."), "{noted:?}");
        (saves.count, saves.stood_still) = (2, Duration::from_secs(2));
        assert_eq!(saves.interval(), best_interval(mtbf, Duration::from_secs(1)));
        let mut fixed = Saves::new(CheckpointEvery::Fixed(Duration::ZERO));
        assert!(fixed.is_due(Duration::ZERO, &mut noted));
        let note = chosen(mtbf, Duration::from_secs(1));
        let figures = "every 415 s (Daly 2006): the training stands still for 1000.00 ms, and one \
                       failure in 24.0 h is expected";
        assert!(note.contains(figures), "{note}");
    }
}
