//! The metric series: which keys and values mean which points, and how many of them are kept. What
//! keeps the bytes is a [`Tree`]: sled in production.
//!
//! A point's key is trial, 0, metric, 0, step (u64), attempt (u32), numbers big endian; its value
//! the bits of the number. Metric names hold no 0, so the order is by metric, then by step. A
//! second tree, keyed alike, has notes on what is not kept.
//!
//! A series has one point a step: that of the newest attempt. An attempt that goes on from a
//! checkpoint overwrites the steps it repeats. A series that grows beyond [`POINTS_MAX`] is thinned
//! ([`thin`]) at that point, wherever a batch ends, so what is kept follows from what was said.

use crate::series::{POINTS_MAX, Sample, thin};
use proto::{Attempt, MetricPoint, TrialId};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Longest metric name in bytes.
pub const METRIC_NAME_BYTES_MAX: usize = 128;
/// Metrics of one trial. More is a name made of changing numbers, which nobody can look at.
pub const NAMES_MAX: usize = 1_000;
/// Trials whose points are taken in at the same time.
const SHARDS: usize = 16;
/// Trials of a shard whose counts are remembered; of more they are read from the disk again.
const REMEMBERED_MAX: usize = 1_024;

/// A sorted map of bytes.
pub(crate) trait Tree {
    /// Why it failed.
    type Error: From<BadPoint>;
    /// A key or a value.
    type Bytes: AsRef<[u8]>;

    /// The entries from `from` on and before `to`.
    fn range(
        &self,
        from: &[u8],
        to: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<(Self::Bytes, Self::Bytes), Self::Error>>;

    /// Writes entries, all or none; `None` removes.
    fn write(&self, entries: Vec<(Vec<u8>, Option<Vec<u8>>)>) -> Result<(), Self::Error>;
}

/// A stored point is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a metric point has the wrong length")]
pub struct BadPoint;

/// What is not kept of a trial's metrics.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Note {
    /// A series was too long.
    #[error(
        "of the metric {metric} {points} older points were thinned out: a series keeps {POINTS_MAX} \
         points, its extremes among them"
    )]
    Thinned {
        /// Which.
        metric: String,
        /// How many are gone.
        points: u64,
    },
    /// There are too many metrics.
    #[error(
        "the metric {metric} and those after it are not kept: a trial has at most {NAMES_MAX} metrics; \
         give them steps instead of new names"
    )]
    Refused {
        /// The first that found no place.
        metric: String,
    },
}

/// All series.
pub(crate) struct Metrics<T> {
    points: T,
    notes: T,
    shards: [Mutex<BTreeMap<TrialId, Known>>; SHARDS],
}

/// What is known of the series of a trial.
struct Known {
    /// `None`: on the disk, and not counted yet.
    series: BTreeMap<String, Option<Count>>,
    has_refused: bool,
}

#[derive(Debug, Clone, Copy)]
struct Count {
    points: usize,
    last_step: u64,
}

impl<T: Tree> Metrics<T> {
    /// The series in `points`, with their notes.
    pub(crate) fn new(points: T, notes: T) -> Self {
        Self { points, notes, shards: Default::default() }
    }

    /// Stores points. Those of one trial are taken in one batch after the other.
    pub(crate) fn put(&self, points: &[MetricPoint]) -> Result<(), T::Error> {
        let mut by_trial: BTreeMap<&TrialId, Vec<&MetricPoint>> = BTreeMap::new();
        for point in points {
            by_trial.entry(&point.trial).or_default().push(point);
        }
        for (trial, points) in by_trial {
            let mut shard = self.shard(trial);
            let known = match shard.remove(trial) {
                Some(known) => known,
                None => self.known(trial)?,
            };
            if shard.len() >= REMEMBERED_MAX {
                shard.clear();
            }
            // After a failure nothing is known: the disk is asked again.
            let mut taking = Taking { metrics: self, trial, known, pending: Vec::new() };
            points.into_iter().try_for_each(|point| taking.take(point))?;
            taking.flush()?;
            shard.insert(trial.clone(), taking.known);
        }
        Ok(())
    }

    /// Calls `each` with the points of a trial, or of one metric of it, ordered by metric and step.
    pub(crate) fn read(
        &self,
        trial: &TrialId,
        metric: Option<&str>,
        mut each: impl FnMut(&str, Sample),
    ) -> Result<(), T::Error> {
        let from = match metric {
            Some(metric) => series_key(trial, metric),
            None => trial_key(trial),
        };
        let name_at = trial_key(trial).len();
        // Before the first version that removes them, points of older attempts stay at a step.
        let mut held: Option<(String, Sample)> = None;
        for entry in self.points.range(&from, &after(&from)) {
            let (key, value) = entry?;
            let key = key.as_ref().get(name_at..).ok_or(BadPoint)?;
            let (metric, sample) = parse(key, value.as_ref()).ok_or(BadPoint)?;
            match &mut held {
                Some((name, held)) if name == metric => {
                    if held.step != sample.step {
                        each(name, *held);
                    }
                    *held = sample;
                }
                _ => {
                    if let Some((name, sample)) = held.replace((metric.to_owned(), sample)) {
                        each(&name, sample);
                    }
                }
            }
        }
        if let Some((name, sample)) = held {
            each(&name, sample);
        }
        Ok(())
    }

    /// What is not kept of a trial's metrics.
    pub(crate) fn notes(&self, trial: &TrialId) -> Result<Vec<Note>, T::Error> {
        let mut notes = Vec::new();
        let from = trial_key(trial);
        for entry in self.notes.range(&from, &after(&from)) {
            let (key, value) = entry?;
            let rest = key.as_ref().get(from.len()..).ok_or(BadPoint)?;
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| BadPoint);
            notes.push(match rest.strip_suffix(&[0]) {
                Some(metric) => {
                    let points =
                        u64::from_le_bytes(value.as_ref().try_into().map_err(|_| BadPoint)?);
                    Note::Thinned { metric: text(metric)?, points }
                }
                None => Note::Refused { metric: text(value.as_ref())? },
            });
        }
        Ok(notes)
    }

    fn shard(&self, trial: &TrialId) -> MutexGuard<'_, BTreeMap<TrialId, Known>> {
        // The last digit of a hash: as good as any.
        let place = trial.as_str().bytes().last().map_or(0, usize::from) % SHARDS;
        self.shards[place].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The names of a trial's series: one look at the disk for each.
    fn known(&self, trial: &TrialId) -> Result<Known, T::Error> {
        let mut series = BTreeMap::new();
        let mut from = trial_key(trial);
        let (name_at, end) = (from.len(), after(&from));
        loop {
            let next = self.points.range(&from, &end).next();
            let Some(entry) = next else { break };
            let (key, value) = entry?;
            let key = key.as_ref().get(name_at..).ok_or(BadPoint)?;
            let (metric, _) = parse(key, value.as_ref()).ok_or(BadPoint)?;
            from = after(&series_key(trial, metric));
            series.insert(metric.to_owned(), None);
        }
        let refused = refused_key(trial);
        let first = self.notes.range(&refused, &end).next().transpose()?;
        let has_refused = first.is_some_and(|(key, _)| key.as_ref() == refused);
        Ok(Known { series, has_refused })
    }

    fn count(&self, trial: &TrialId, metric: &str) -> Result<Count, T::Error> {
        let mut count = Count { points: 0, last_step: 0 };
        self.read(trial, Some(metric), |_, sample| {
            count.points += 1;
            count.last_step = sample.step;
        })?;
        Ok(count)
    }
}

/// A batch of one trial's points on its way.
struct Taking<'a, T> {
    metrics: &'a Metrics<T>,
    trial: &'a TrialId,
    known: Known,
    /// Points at steps that were not there.
    pending: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl<T: Tree> Taking<'_, T> {
    fn take(&mut self, point: &MetricPoint) -> Result<(), T::Error> {
        let Some(mut count) = self.count_of(&point.metric)? else { return Ok(()) };
        if count.points == 0 || point.step > count.last_step {
            self.insert(point);
            count = Count { points: count.points + 1, last_step: point.step };
        } else {
            count.points += self.replace(point)?;
        }
        if count.points > POINTS_MAX {
            self.flush()?;
            count.points = self.thin(&point.metric)?;
        }
        self.known.series.insert(point.metric.clone(), Some(count));
        Ok(())
    }

    /// The count of a series; `None` when there is no place for another one.
    fn count_of(&mut self, metric: &str) -> Result<Option<Count>, T::Error> {
        match self.known.series.get(metric) {
            Some(Some(count)) => Ok(Some(*count)),
            Some(None) => self.metrics.count(self.trial, metric).map(Some),
            None if self.known.series.len() < NAMES_MAX => {
                Ok(Some(Count { points: 0, last_step: 0 }))
            }
            None => {
                if !self.known.has_refused {
                    self.known.has_refused = true;
                    let note = metric.as_bytes().to_vec();
                    self.metrics.notes.write(vec![(refused_key(self.trial), Some(note))])?;
                    tracing::warn!(trial = %self.trial, metric, "the trial has too many metrics");
                }
                Ok(None)
            }
        }
    }

    fn insert(&mut self, point: &MetricPoint) {
        let value = point.value.to_le_bytes().to_vec();
        self.pending.push((point_key(point), Some(value)));
    }

    /// Puts a point to a step that may be there: the newest attempt stays. Answers how many points
    /// came to be.
    fn replace(&mut self, point: &MetricPoint) -> Result<usize, T::Error> {
        self.flush()?;
        let mut from = point_key(point);
        from.truncate(from.len() - size_of::<u32>());
        let mut was_there = false;
        for entry in self.metrics.points.range(&from, &after(&from)) {
            let (key, _) = entry?;
            was_there = true;
            match key.as_ref().cmp(&point_key(point)) {
                std::cmp::Ordering::Less => self.pending.push((key.as_ref().to_vec(), None)),
                std::cmp::Ordering::Equal => {}
                std::cmp::Ordering::Greater => {
                    self.pending.clear();
                    return Ok(0);
                }
            }
        }
        self.insert(point);
        Ok(usize::from(!was_there))
    }

    fn flush(&mut self) -> Result<(), T::Error> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.metrics.points.write(std::mem::take(&mut self.pending))
    }

    /// Thins a series on the disk; answers how many points it has then.
    fn thin(&mut self, metric: &str) -> Result<usize, T::Error> {
        let mut all = Vec::with_capacity(POINTS_MAX + 1);
        self.metrics.read(self.trial, Some(metric), |_, sample| all.push(sample))?;
        let kept = thin(all.clone());
        let removed = (all.len() - kept.len()) as u64;
        if removed == 0 {
            return Ok(kept.len());
        }
        let key = series_key(self.trial, metric);
        // Noted first: after a crash in between it says too much, not too little.
        self.note_thinned(&key, metric, removed)?;
        let mut stay = kept.iter().map(|sample| sample.step).peekable();
        let mut gone = Vec::new();
        for entry in self.metrics.points.range(&key, &after(&key)) {
            let (point, value) = entry?;
            let rest = point.as_ref().get(trial_key(self.trial).len()..).ok_or(BadPoint)?;
            let (_, sample) = parse(rest, value.as_ref()).ok_or(BadPoint)?;
            while stay.next_if(|step| *step < sample.step).is_some() {}
            if stay.peek() != Some(&sample.step) {
                gone.push((point.as_ref().to_vec(), None));
            }
        }
        self.metrics.points.write(gone)?;
        Ok(kept.len())
    }

    fn note_thinned(&self, key: &[u8], metric: &str, removed: u64) -> Result<(), T::Error> {
        let before = self.metrics.notes.range(key, &after(key)).next().transpose()?;
        let before = match &before {
            Some((_, value)) => {
                u64::from_le_bytes(value.as_ref().try_into().map_err(|_| BadPoint)?)
            }
            None => {
                tracing::warn!(trial = %self.trial, metric, "a long series was thinned");
                0
            }
        };
        let total = before.saturating_add(removed).to_le_bytes().to_vec();
        self.metrics.notes.write(vec![(key.to_vec(), Some(total))])
    }
}

fn trial_key(trial: &TrialId) -> Vec<u8> {
    let mut key = trial.as_str().as_bytes().to_vec();
    key.push(0);
    key
}

fn series_key(trial: &TrialId, metric: &str) -> Vec<u8> {
    let mut key = trial_key(trial);
    key.extend_from_slice(metric.as_bytes());
    key.push(0);
    key
}

/// Of the note that metrics found no place: before those of series, which all have names.
fn refused_key(trial: &TrialId) -> Vec<u8> {
    trial_key(trial)
}

fn point_key(point: &MetricPoint) -> Vec<u8> {
    let mut key = series_key(&point.trial, &point.metric);
    key.extend_from_slice(&point.step.to_be_bytes());
    key.extend_from_slice(&point.attempt.0.to_be_bytes());
    key
}

/// The first key behind all that begin with `prefix`, which begins with a digit of an id.
fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while end.pop_if(|last| *last == u8::MAX).is_some() {}
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// A point from its key behind the trial.
fn parse<'a>(rest: &'a [u8], value: &[u8]) -> Option<(&'a str, Sample)> {
    let (name, numbers) = rest.split_at_checked(rest.len().checked_sub(13)?)?;
    let (step, attempt) = numbers.get(1..)?.split_at_checked(8)?;
    let sample = Sample {
        step: u64::from_be_bytes(step.try_into().ok()?),
        attempt: Attempt(u32::from_be_bytes(attempt.try_into().ok()?)),
        value: f64::from_le_bytes(value.try_into().ok()?),
    };
    Some((std::str::from_utf8(name).ok()?, sample))
}

#[cfg(test)]
mod tests;
