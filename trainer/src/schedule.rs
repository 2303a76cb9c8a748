//! Learning rate over the steps: warm-up, plateau, decay. Cosine and linear schedules are those
//! without a plateau.

use proto::{DecayShape, Schedule};
use std::f64::consts::PI;

/// Share of the peak learning rate in the update numbered `step`, from 0, of `steps`; in (0, 1].
///
/// With w warm-up steps and c decay steps (the shares of all steps, rounded), update k uses
/// `min(1, (k + 1) / w, e + (1 - e) f((steps - k) / c))`, f the shape of the decay and e its end:
/// the line from zero reaches the peak in the last warm-up step, and the decay would reach its end
/// in the step after the last, so no step is wasted.
pub fn rate_share(schedule: &Schedule, step: u64, steps: u64) -> f64 {
    debug_assert!(step < steps);
    let count = |share: f64| (share * steps as f64).round();
    let line = |numerator: u64, steps: f64| {
        if steps > 0.0 { numerator as f64 / steps } else { 1.0 }
    };
    let rise = line(step + 1, count(schedule.warmup));
    // Above 1 before the decay, where the shapes are not defined.
    let left = line(steps - step, count(schedule.decay)).min(1.0);
    let fall = match schedule.shape {
        DecayShape::Linear => left,
        DecayShape::Cosine => (1.0 - (PI * left).cos()) / 2.0,
        DecayShape::OneMinusSqrt => 1.0 - (1.0 - left).sqrt(),
    };
    rise.min(schedule.decay_to + (1.0 - schedule.decay_to) * fall).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(warmup: f64, decay: f64, expected: &[f64]) {
        let schedule = Schedule::linear(warmup, decay);
        let steps = expected.len() as u64;
        let found: Vec<f64> = (0..steps).map(|step| rate_share(&schedule, step, steps)).collect();
        assert_eq!(found, expected, "warmup {warmup}, decay {decay}");
    }

    #[test]
    fn the_rate_rises_stays_and_falls() {
        check(0.0, 0.0, &[1.0, 1.0, 1.0]);
        check(0.5, 0.0, &[0.5, 1.0, 1.0, 1.0]);
        check(0.0, 0.5, &[1.0, 1.0, 1.0, 0.5]);
        check(0.4, 0.4, &[0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]);
        check(1.0, 0.0, &[0.25, 0.5, 0.75, 1.0]);
        check(0.0, 1.0, &[1.0, 0.75, 0.5, 0.25]);
    }

    #[test]
    fn shares_that_round_to_no_step_leave_the_peak() {
        check(0.1, 0.1, &[1.0, 1.0]);
        check(0.01, 0.2, &[1.0]);
    }

    #[test]
    fn every_step_has_a_positive_rate() {
        for steps in [1, 2, 3, 7, 100, 1001] {
            for (warmup, decay) in [(0.0, 0.0), (0.1, 0.2), (0.5, 0.5), (0.9, 0.1), (0.0, 1.0)] {
                for shape in [DecayShape::Linear, DecayShape::Cosine, DecayShape::OneMinusSqrt] {
                    let schedule = Schedule { shape, ..Schedule::linear(warmup, decay) };
                    for step in 0..steps {
                        let share = rate_share(&schedule, step, steps);
                        assert!(
                            share > 0.0 && share <= 1.0,
                            "{schedule:?} {step}/{steps}: {share}"
                        );
                    }
                }
            }
        }
    }

    // Goal: the curves of the papers; the cosine is that of PyTorch's CosineAnnealingLR with T_max
    // equal to the steps of the decay.
    #[test]
    fn the_decay_has_its_shape_and_its_end() {
        let steps = 8;
        let check = |shape, decay_to, expected: &dyn Fn(f64) -> f64| {
            let schedule = Schedule { warmup: 0.0, decay: 1.0, shape, decay_to };
            for step in 0..steps {
                let found = rate_share(&schedule, step, steps);
                let wanted = expected(step as f64 / steps as f64);
                assert!((found - wanted).abs() < 1e-15, "{shape:?} {step}: {found} {wanted}");
            }
        };
        check(DecayShape::Linear, 0.1, &|t| 1.0 - 0.9 * t);
        check(DecayShape::Cosine, 0.0, &|t| (1.0 + (PI * t).cos()) / 2.0);
        check(DecayShape::Cosine, 0.2, &|t| 0.2 + 0.8 * (1.0 + (PI * t).cos()) / 2.0);
        check(DecayShape::OneMinusSqrt, 0.0, &|t| 1.0 - t.sqrt());
    }
}
