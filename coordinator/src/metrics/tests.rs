//! Goal: a series holds the newest attempt's points within its limits, however they came.

use super::*;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

const TRIAL: &str = "00000000000000aa";

/// A tree in memory.
#[derive(Default)]
struct Memory {
    entries: RefCell<BTreeMap<Vec<u8>, Vec<u8>>>,
    looks: Cell<u64>,
}

#[derive(Debug)]
struct Damaged;

impl From<BadPoint> for Damaged {
    fn from(_: BadPoint) -> Self {
        Self
    }
}

impl Tree for Memory {
    type Error = Damaged;
    type Bytes = Vec<u8>;

    fn range(
        &self,
        from: &[u8],
        to: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<(Vec<u8>, Vec<u8>), Damaged>> {
        self.looks.set(self.looks.get() + 1);
        let entries = self.entries.borrow();
        let found: Vec<_> = entries
            .range(from.to_vec()..to.to_vec())
            .map(|(key, value)| Ok((key.clone(), value.clone())))
            .collect();
        found.into_iter()
    }

    fn write(&self, batch: Vec<(Vec<u8>, Option<Vec<u8>>)>) -> Result<(), Damaged> {
        let mut entries = self.entries.borrow_mut();
        for (key, value) in batch {
            match value {
                Some(value) => drop(entries.insert(key, value)),
                None => drop(entries.remove(&key)),
            }
        }
        Ok(())
    }
}

fn metrics() -> Metrics<Memory> {
    Metrics::new(Memory::default(), Memory::default())
}

fn trial() -> TrialId {
    TrialId::new(TRIAL).unwrap()
}

fn point(attempt: u32, metric: &str, step: u64, value: f64) -> MetricPoint {
    let (trial, attempt, metric) = (trial(), Attempt(attempt), metric.to_owned());
    MetricPoint { trial, attempt, rank: 0, metric, step, value }
}

fn loss(attempt: u32, steps: impl Iterator<Item = u64>) -> Vec<MetricPoint> {
    steps.map(|step| point(attempt, "loss", step, (step % 1_000) as f64)).collect()
}

fn all(metrics: &Metrics<Memory>, metric: Option<&str>) -> Vec<(String, Sample)> {
    let mut seen = Vec::new();
    metrics.read(&trial(), 0, metric, |name, sample| seen.push((name.to_owned(), sample))).unwrap();
    seen
}

fn stored(metrics: &Metrics<Memory>) -> usize {
    metrics.points.entries.borrow().len()
}

/// The same trees, with nothing remembered.
fn restarted(metrics: Metrics<Memory>) -> Metrics<Memory> {
    Metrics::new(metrics.points, metrics.notes)
}

#[test]
fn of_several_attempts_at_one_step_the_newest_counts_and_is_the_only_one_stored() {
    let metrics = metrics();
    let given = [
        point(2, "loss", 10, 2.0),
        point(1, "loss", 10, 1.0),
        point(1, "loss", 255, 3.0),
        point(1, "lossy", 10, 4.0),
        point(1, "loss", 2, 0.5),
        point(2, "loss", 255, 5.0),
        point(2, "loss", 255, 6.0),
    ];
    metrics.put(&given).unwrap();
    let seen = all(&metrics, None).into_iter();
    let seen: Vec<_> = seen.map(|(name, sample)| (name, sample.step, sample.value)).collect();
    let expected = [("loss", 2, 0.5), ("loss", 10, 2.0), ("loss", 255, 6.0), ("lossy", 10, 4.0)];
    assert_eq!(seen, expected.map(|(name, step, value)| (name.to_owned(), step, value)));
    assert_eq!(stored(&metrics), 4);
    assert_eq!(all(&metrics, Some("loss")).len(), 3);
    assert_eq!(metrics.notes(&trial(), 0).unwrap(), []);
}

#[test]
fn keys_of_earlier_versions_are_read_and_their_doubles_go() {
    let metrics = metrics();
    // As version 1 wrote them: trial, 0, metric, 0, step, attempt; two attempts at step 258.
    let key = |attempt: u8| {
        [TRIAL.as_bytes(), b"\0loss\0\0\0\0\0\0\0\x01\x02\0\0\0", &[attempt]].concat()
    };
    let old = [(key(1), 1.5_f64), (key(3), 2.5)];
    let entries = old.map(|(key, value)| (key, Some(value.to_le_bytes().to_vec())));
    metrics.points.write(entries.to_vec()).unwrap();
    let sample = |attempt, value| Sample { step: 258, attempt: Attempt(attempt), value };
    assert_eq!(all(&metrics, None), [("loss".to_owned(), sample(3, 2.5))]);
    metrics.put(&[point(2, "loss", 258, 9.0)]).unwrap();
    assert_eq!(all(&metrics, None), [("loss".to_owned(), sample(3, 2.5))], "an older attempt");
    metrics.put(&[point(4, "loss", 258, 3.5)]).unwrap();
    assert_eq!(
        (all(&metrics, None), stored(&metrics)),
        (vec![("loss".to_owned(), sample(4, 3.5))], 1)
    );
}

#[test]
fn what_is_kept_of_a_long_series_does_not_depend_on_batches_and_restarts() {
    let points = loss(1, 0..POINTS_MAX as u64 + POINTS_MAX as u64 / 2);
    let whole = metrics();
    whole.put(&points).unwrap();
    let mut cut = metrics();
    for (index, batch) in points.chunks(7_001).enumerate() {
        cut.put(batch).unwrap();
        if index % 5 == 0 {
            cut = restarted(cut);
        }
    }
    let kept = all(&whole, None);
    assert_eq!(kept, all(&cut, None));
    assert!(kept.len() <= POINTS_MAX && kept.len() > POINTS_MAX / 2, "{}", kept.len());
    let [first, last] = [kept.first(), kept.last()].map(|sample| sample.unwrap().1.step);
    assert_eq!((first, last), (0, points.last().unwrap().step));
    let gone = (points.len() - kept.len()) as u64;
    let note = Note::Thinned { metric: "loss".to_owned(), points: gone };
    for metrics in [whole, cut] {
        assert_eq!(metrics.notes(&trial(), 0).unwrap(), std::slice::from_ref(&note));
    }
}

#[test]
fn an_attempt_that_goes_on_overwrites_what_it_repeats_of_a_thinned_series() {
    let metrics = metrics();
    let end = POINTS_MAX as u64 + 1_000;
    metrics.put(&loss(1, 0..end)).unwrap();
    let metrics = restarted(metrics);
    let from = 20_000;
    metrics.put(&loss(2, from..end)).unwrap();
    let kept = all(&metrics, None);
    assert!(kept.len() <= POINTS_MAX);
    assert!(kept.iter().all(|(_, sample)| (sample.attempt == Attempt(2)) == (sample.step >= from)));
    assert_eq!(stored(&metrics), kept.len());
}

#[test]
fn a_series_that_grows_is_not_looked_up_point_by_point() {
    let metrics = metrics();
    metrics.put(&loss(1, 0..10)).unwrap();
    let before = metrics.points.looks.get();
    metrics.put(&loss(1, 10..5_000)).unwrap();
    assert_eq!(metrics.points.looks.get(), before);
}

#[test]
fn names_beyond_the_limit_are_refused_and_that_is_noted_once() {
    let metrics = metrics();
    let names = |range: std::ops::Range<usize>| -> Vec<MetricPoint> {
        range.map(|number| point(1, &format!("m{number:05}"), 1, 0.0)).collect()
    };
    metrics.put(&names(0..NAMES_MAX)).unwrap();
    assert_eq!(metrics.notes(&trial(), 0).unwrap(), []);
    metrics.put(&names(NAMES_MAX..NAMES_MAX + 3)).unwrap();
    let metrics = restarted(metrics);
    metrics.put(&names(0..NAMES_MAX + 9)).unwrap();
    assert_eq!(stored(&metrics), NAMES_MAX);
    let notes = metrics.notes(&trial(), 0).unwrap();
    assert_eq!(notes, [Note::Refused { metric: format!("m{NAMES_MAX:05}") }]);
    assert!(notes[0].to_string().contains("at most 1000 metrics"), "{}", notes[0]);
}

#[test]
fn members_of_a_gang_have_series_of_their_own() {
    let metrics = metrics();
    let of = |rank, step| MetricPoint { rank, ..point(1, "loss", step, f64::from(rank)) };
    let given = [(0, 1), (1, 1), (255, 2), (256, 1), (1, 0), (511, 3)].map(|(r, s)| of(r, s));
    metrics.put(&given).unwrap();
    assert_eq!(all(&metrics, None).len(), 1, "rank 0 alone");
    assert_eq!(metrics.ranks(&trial()).unwrap(), [0, 1, 255, 256, 511]);
    let metrics = restarted(metrics);
    metrics.put(&[MetricPoint { attempt: Attempt(2), value: 7.0, ..of(1, 1) }]).unwrap();
    let mut seen = Vec::new();
    metrics.read(&trial(), 1, None, |_, sample| seen.push((sample.step, sample.value))).unwrap();
    assert_eq!(seen, [(0, 1.0), (1, 7.0)]);
    assert_eq!((stored(&metrics), metrics.ranks(&trial()).unwrap().len()), (6, 5));
}
