//! Whether a trial trains as it did before: the times between the steps that it reports.
//!
//! A trial is known only by its metrics. A beat is a metric with a later step than all before; what
//! is usual is the median of the last beats, so that a pause for validation does not change it.

use crate::clock::Moment;
use proto::spec::Hang;
use proto::{Notice, NoticeKind};
use std::collections::{BTreeSet, VecDeque};

/// Beats whose median is the usual one.
const WINDOW: usize = 32;
/// Beats before anything is judged: the first ones compile, read and warm up.
const BEATS_MIN: usize = 8;
/// A step this many times slower than usual is told,
const SLOW_STEP_TIMES: f64 = 10.0;
/// when it takes at least so long.
const SLOW_STEP_MIN_MS: u64 = 1_000;
/// Steps this many times slower than the best window are told.
const SLOW_TRAINING_TIMES: f64 = 3.0;
/// No silence counts before it is this many times the longest one that ended well.
const LONGEST_TIMES: u64 = 3;
/// Notices of one kind that one attempt gives at most.
const EACH_MAX: u8 = 4;
/// Metrics that are told apart; further ones begin no phase.
const METRICS_MAX: usize = 64;

/// The beats of one attempt.
#[derive(Debug)]
pub(crate) struct Pulse {
    policy: Hang,
    /// The newest step, and when it was heard.
    last: Option<(u64, Moment)>,
    /// Milliseconds between beats, newest last.
    gaps: VecDeque<u64>,
    /// Milliseconds per step, newest last.
    paces: VecDeque<f64>,
    longest_ms: u64,
    /// The smallest median pace of a full window.
    best: Option<f64>,
    is_slow: bool,
    /// Whether the silence that goes on was told.
    is_hung: bool,
    told: [u8; 4],
    /// The metrics that were heard, so that a new one is known.
    metrics: BTreeSet<String>,
}

impl Pulse {
    pub(crate) fn new(policy: Hang) -> Self {
        Self {
            policy,
            last: None,
            gaps: VecDeque::new(),
            paces: VecDeque::new(),
            longest_ms: 0,
            best: None,
            is_slow: false,
            is_hung: false,
            told: [0; 4],
            metrics: BTreeSet::new(),
        }
    }

    /// Whether a hang ends the attempt.
    pub(crate) fn ends_hung(&self) -> bool {
        self.policy.retry
    }

    /// A metric was heard.
    pub(crate) fn beat(&mut self, now: Moment, metric: &str, step: u64, value: f64) -> Vec<Notice> {
        let mut notices = Vec::new();
        if !value.is_finite() {
            let text = format!("{metric} is {value} at step {step}");
            notices.extend(self.tell(NoticeKind::NotANumber, step, text));
        }
        self.begin_phase_with(metric);
        let Some((before, at)) = self.last else {
            self.last = Some((step, now));
            return notices;
        };
        if step <= before {
            return notices;
        }
        self.last = Some((step, now));
        self.is_hung = false;
        let gap_ms = now.since_ms(at);
        let pace = gap_ms as f64 / (step - before) as f64;
        notices.extend(self.slow_step(step, gap_ms, pace));
        self.longest_ms = self.longest_ms.max(gap_ms);
        push(&mut self.gaps, gap_ms);
        push(&mut self.paces, pace);
        notices.extend(self.slow_training(step));
        notices
    }

    /// A training that reports something new does something new, such as answering for rewards
    /// after it has imitated: what was usual before says nothing about its steps now.
    fn begin_phase_with(&mut self, metric: &str) {
        if self.metrics.len() >= METRICS_MAX || self.metrics.contains(metric) {
            return;
        }
        self.metrics.insert(metric.to_owned());
        self.paces.clear();
        (self.best, self.is_slow) = (None, false);
    }

    fn slow_step(&mut self, step: u64, gap_ms: u64, pace: f64) -> Option<Notice> {
        if self.paces.len() < BEATS_MIN || gap_ms < SLOW_STEP_MIN_MS {
            return None;
        }
        let usual = median(self.paces.iter().copied());
        if pace <= SLOW_STEP_TIMES * usual {
            return None;
        }
        let text = format!(
            "the steps up to {step} took {} each; {} is usual",
            seconds(pace),
            seconds(usual)
        );
        self.tell(NoticeKind::SlowStep, step, text)
    }

    fn slow_training(&mut self, step: u64) -> Option<Notice> {
        if self.paces.len() < WINDOW {
            return None;
        }
        let pace = median(self.paces.iter().copied());
        let best = *self.best.get_or_insert(pace);
        self.best = Some(best.min(pace));
        let was_slow = std::mem::replace(&mut self.is_slow, pace > SLOW_TRAINING_TIMES * best);
        if was_slow || !self.is_slow {
            return None;
        }
        let text = format!(
            "a step takes {} now; it took {} when it was fastest",
            seconds(pace),
            seconds(best)
        );
        self.tell(NoticeKind::SlowTraining, step, text)
    }

    /// From when on the silence counts as a hang; `None` when nothing is usual yet, or when it was
    /// told.
    pub(crate) fn hangs_at(&self) -> Option<Moment> {
        let (_, at) = self.last?;
        if self.is_hung || self.gaps.len() < BEATS_MIN {
            return None;
        }
        let usual_ms = median(self.gaps.iter().map(|gap| *gap as f64));
        let times = (usual_ms * f64::from(self.policy.steps)) as u64;
        let longest = self.longest_ms.saturating_mul(LONGEST_TIMES);
        Some(at.plus_ms(times.max(longest).max(self.policy.at_least_ms)))
    }

    /// The silence counts as a hang at `now`, for the first time.
    pub(crate) fn hang(&mut self, now: Moment) -> Option<Notice> {
        let (step, at) = self.last?;
        if self.hangs_at().is_none_or(|hangs_at| now < hangs_at) {
            return None;
        }
        self.is_hung = true;
        let usual = median(self.gaps.iter().map(|gap| *gap as f64));
        let silent = seconds(now.since_ms(at) as f64);
        let text = format!(
            "nothing was heard for {silent} after step {step}; a report every {} is usual",
            seconds(usual)
        );
        self.tell(NoticeKind::Hang, step, text)
    }

    /// Time in which this machine stood still, and the trial with it.
    pub(crate) fn excuse(&mut self, ms: u64) {
        if let Some((_, at)) = &mut self.last {
            *at = at.plus_ms(ms);
        }
    }

    fn tell(&mut self, kind: NoticeKind, step: u64, text: String) -> Option<Notice> {
        let told = self.told.get_mut(kind as usize)?;
        if *told >= EACH_MAX {
            return None;
        }
        *told += 1;
        Some(Notice::new(kind, step, text))
    }
}

fn push<T>(window: &mut VecDeque<T>, value: T) {
    if window.len() == WINDOW {
        window.pop_front();
    }
    window.push_back(value);
}

/// The upper median; 0 of nothing.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Milliseconds as seconds with the digits that matter.
fn seconds(ms: f64) -> String {
    if ms < 1_000.0 { format!("{ms:.1} ms") } else { format!("{:.1} s", ms / 1e3) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Hang = Hang { steps: 20, at_least_ms: 60_000, retry: true };

    /// A pulse after steps of these lengths, and the time then.
    fn after(paces_ms: &[u64]) -> (Pulse, Moment, Vec<Notice>) {
        let (mut pulse, mut now, mut told) = (Pulse::new(POLICY), Moment(5), Vec::new());
        told.extend(pulse.beat(now, "loss", 0, 1.0));
        for (step, ms) in (1..).zip(paces_ms) {
            now = now.plus_ms(*ms);
            told.extend(pulse.beat(now, "loss", step, 1.0));
        }
        (pulse, now, told)
    }

    #[test]
    fn a_silence_counts_from_the_usual_time_the_longest_pause_and_the_least() {
        for (paces, hangs_after) in [
            (vec![100; 7], None),
            (vec![100; 8], Some(60_000)),
            (vec![10_000; 9], Some(200_000)),
            // One pause for validation, thirty times as long as a step.
            ([vec![10_000; 9], vec![300_000], vec![10_000; 3]].concat(), Some(900_000)),
        ] {
            let (pulse, now, _) = after(&paces);
            let expected = hangs_after.map(|ms| now.plus_ms(ms));
            assert_eq!(pulse.hangs_at(), expected, "{paces:?}");
        }
    }

    #[test]
    fn steps_of_another_phase_are_not_slow() {
        let (mut pulse, mut now, told) = after(&[10; 2 * WINDOW]);
        assert_eq!(told, []);
        for step in 0..2 * WINDOW as u64 {
            now = now.plus_ms(1_000);
            let step = 2 * WINDOW as u64 + 1 + step;
            assert_eq!(pulse.beat(now, "reward", step, 1.0), []);
            assert_eq!(pulse.beat(now, "loss", step, 1.0), []);
        }
    }

    #[test]
    fn a_hang_is_told_once_and_again_after_it_went_on() {
        let (mut pulse, now, _) = after(&[1_000; 10]);
        assert_eq!(pulse.hang(now.plus_ms(59_999)), None);
        let notice = pulse.hang(now.plus_ms(60_000)).unwrap();
        assert_eq!((notice.kind, notice.step), (NoticeKind::Hang, 10));
        let words = "nothing was heard for 60.0 s after step 10; a report every 1.0 s is usual";
        assert_eq!(notice.text, words);
        assert_eq!((pulse.hang(now.plus_ms(99_000)), pulse.hangs_at()), (None, None));
        pulse.beat(now.plus_ms(100_000), "loss", 11, 1.0);
        assert_eq!(pulse.hangs_at(), Some(now.plus_ms(400_000)), "three times the longest pause");
    }

    #[test]
    fn a_machine_that_stood_still_is_excused() {
        let (mut pulse, now, _) = after(&[1_000; 10]);
        pulse.excuse(500_000);
        assert_eq!(pulse.hangs_at(), Some(now.plus_ms(560_000)));
    }

    #[test]
    fn one_slow_step_and_a_lasting_slowness_are_different() {
        let (_, _, told) = after(&[vec![200; 40], vec![2_500], vec![200; 40]].concat());
        let kinds: Vec<_> = told.iter().map(|notice| (notice.kind, notice.step)).collect();
        assert_eq!(kinds, [(NoticeKind::SlowStep, 41)]);
        assert_eq!(told[0].text, "the steps up to 41 took 2.5 s each; 200.0 ms is usual");
        let (_, _, told) = after(&[vec![200; 40], vec![900; 40], vec![200; 40]].concat());
        let kinds: Vec<_> = told.iter().map(|notice| notice.kind).collect();
        assert_eq!(kinds, [NoticeKind::SlowTraining], "told once");
        assert_eq!(told[0].text, "a step takes 900.0 ms now; it took 200.0 ms when it was fastest");
    }

    #[test]
    fn steps_between_two_reports_share_the_time() {
        let (mut pulse, mut now) = (Pulse::new(POLICY), Moment(0));
        let told: Vec<Notice> = (0..40)
            .flat_map(|beat: u64| {
                now = now.plus_ms(10_000);
                // Every hundredth step; the metrics of one step are one beat.
                let mut told = pulse.beat(now, "loss", beat * 100, 1.0);
                told.extend(pulse.beat(now.plus_ms(1), "accuracy", beat * 100, 1.0));
                told
            })
            .collect();
        assert_eq!(told, []);
        assert_eq!(pulse.hangs_at(), Some(now.plus_ms(200_000)));
    }

    #[test]
    fn what_is_not_a_number_is_told_four_times() {
        let mut pulse = Pulse::new(POLICY);
        let told = (0..9).flat_map(|step| pulse.beat(Moment(step), "loss", step, f64::NAN));
        let texts: Vec<String> = told.map(|notice| notice.text).collect();
        assert_eq!(texts.len(), usize::from(EACH_MAX));
        assert_eq!(texts[0], "loss is NaN at step 0");
    }
}
