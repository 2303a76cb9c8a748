//! The metric series: which keys and values mean which points, and how many of them are kept. What
//! keeps the bytes is a `Tree`: sled in production.
//!
//! A point's key is trial, 0, metric, 0, step (u64), attempt (u32), numbers big endian; its value
//! the bits of the number. Metric names hold no 0, so the order is by metric, then by step. Points
//! of a gang's other members have 1 and the rank (u32) instead of the first 0, so that what was
//! stored before members had series means what it meant. A second tree, keyed alike, has notes on
//! what is not kept.
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
/// Metrics of one trial, and of each member of a gang. More is a name made of changing numbers,
/// which nobody can look at.
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
    shards: [Mutex<BTreeMap<Member, Known>>; SHARDS],
}

/// Whose series: a trial and the rank of its process.
type Member = (TrialId, u32);

/// What is known of the series of a member.
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

    /// Stores points. Those of one member are taken in one batch after the other.
    pub(crate) fn put(&self, points: &[MetricPoint]) -> Result<(), T::Error> {
        let mut by_member: BTreeMap<Member, Vec<&MetricPoint>> = BTreeMap::new();
        for point in points {
            by_member.entry((point.trial.clone(), point.rank)).or_default().push(point);
        }
        for (member, points) in by_member {
            let mut shard = self.shard(&member.0);
            let known = match shard.remove(&member) {
                Some(known) => known,
                None => self.known(&member)?,
            };
            if shard.len() >= REMEMBERED_MAX {
                shard.clear();
            }
            // After a failure nothing is known: the disk is asked again.
            let mut taking = Taking { metrics: self, member: &member, known, pending: Vec::new() };
            points.into_iter().try_for_each(|point| taking.take(point))?;
            taking.flush()?;
            let known = taking.known;
            shard.insert(member, known);
        }
        Ok(())
    }

    /// The ranks that have series, ascending: one look at the disk for each.
    pub(crate) fn ranks(&self, trial: &TrialId) -> Result<Vec<u32>, T::Error> {
        let leader = member_key(trial, 0);
        let mut ranks = Vec::new();
        if self.points.range(&leader, &after(&leader)).next().transpose()?.is_some() {
            ranks.push(0);
        }
        let (mut from, name_at) = (after(&leader), trial.as_str().len() + 1);
        let end = after(&from);
        loop {
            let next = self.points.range(&from, &end).next();
            let Some(entry) = next else { break };
            let (key, _) = entry?;
            let rank = key.as_ref().get(name_at..name_at + size_of::<u32>()).ok_or(BadPoint)?;
            let rank = u32::from_be_bytes(rank.try_into().map_err(|_| BadPoint)?);
            ranks.push(rank);
            from = after(&member_key(trial, rank));
        }
        Ok(ranks)
    }

    /// Calls `each` with the points of a member, or of one metric of it, ordered by metric and
    /// step.
    pub(crate) fn read(
        &self,
        trial: &TrialId,
        rank: u32,
        metric: Option<&str>,
        mut each: impl FnMut(&str, Sample),
    ) -> Result<(), T::Error> {
        let from = match metric {
            Some(metric) => series_key(trial, rank, metric),
            None => member_key(trial, rank),
        };
        let name_at = member_key(trial, rank).len();
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

    /// What is not kept of a member's metrics.
    pub(crate) fn notes(&self, trial: &TrialId, rank: u32) -> Result<Vec<Note>, T::Error> {
        let mut notes = Vec::new();
        let from = member_key(trial, rank);
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

    fn shard(&self, trial: &TrialId) -> MutexGuard<'_, BTreeMap<Member, Known>> {
        // The last digit of a hash: as good as any.
        let place = trial.as_str().bytes().last().map_or(0, usize::from) % SHARDS;
        self.shards[place].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The names of a member's series: one look at the disk for each.
    fn known(&self, (trial, rank): &Member) -> Result<Known, T::Error> {
        let mut series = BTreeMap::new();
        let mut from = member_key(trial, *rank);
        let (name_at, end) = (from.len(), after(&from));
        loop {
            let next = self.points.range(&from, &end).next();
            let Some(entry) = next else { break };
            let (key, value) = entry?;
            let key = key.as_ref().get(name_at..).ok_or(BadPoint)?;
            let (metric, _) = parse(key, value.as_ref()).ok_or(BadPoint)?;
            from = after(&series_key(trial, *rank, metric));
            series.insert(metric.to_owned(), None);
        }
        let refused = refused_key(trial, *rank);
        let first = self.notes.range(&refused, &end).next().transpose()?;
        let has_refused = first.is_some_and(|(key, _)| key.as_ref() == refused);
        Ok(Known { series, has_refused })
    }

    fn count(&self, (trial, rank): &Member, metric: &str) -> Result<Count, T::Error> {
        let mut count = Count { points: 0, last_step: 0 };
        self.read(trial, *rank, Some(metric), |_, sample| {
            count.points += 1;
            count.last_step = sample.step;
        })?;
        Ok(count)
    }
}

/// A batch of one member's points on its way.
struct Taking<'a, T> {
    metrics: &'a Metrics<T>,
    member: &'a Member,
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
        let (trial, rank) = self.member;
        match self.known.series.get(metric) {
            Some(Some(count)) => Ok(Some(*count)),
            Some(None) => self.metrics.count(self.member, metric).map(Some),
            None if self.known.series.len() < NAMES_MAX => {
                Ok(Some(Count { points: 0, last_step: 0 }))
            }
            None => {
                if !self.known.has_refused {
                    self.known.has_refused = true;
                    let note = metric.as_bytes().to_vec();
                    let key = refused_key(trial, *rank);
                    self.metrics.notes.write(vec![(key, Some(note))])?;
                    tracing::warn!(%trial, rank, metric, "the trial has too many metrics");
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
        let (trial, rank) = self.member;
        let mut all = Vec::with_capacity(POINTS_MAX + 1);
        self.metrics.read(trial, *rank, Some(metric), |_, sample| all.push(sample))?;
        let before = all.len();
        let kept = thin(all);
        let removed = (before - kept.len()) as u64;
        if removed == 0 {
            return Ok(kept.len());
        }
        let key = series_key(trial, *rank, metric);
        // Noted first: after a crash in between it says too much, not too little.
        self.note_thinned(&key, metric, removed)?;
        let mut stay = kept.iter().map(|sample| sample.step).peekable();
        let mut gone = Vec::new();
        for entry in self.metrics.points.range(&key, &after(&key)) {
            let (point, value) = entry?;
            let rest = point.as_ref().get(member_key(trial, *rank).len()..).ok_or(BadPoint)?;
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
                let (trial, rank) = self.member;
                tracing::warn!(%trial, rank, metric, "a long series was thinned");
                0
            }
        };
        let total = before.saturating_add(removed).to_le_bytes().to_vec();
        self.metrics.notes.write(vec![(key.to_vec(), Some(total))])
    }
}

fn member_key(trial: &TrialId, rank: u32) -> Vec<u8> {
    let mut key = trial.as_str().as_bytes().to_vec();
    if rank == 0 {
        key.push(0);
    } else {
        key.push(1);
        key.extend_from_slice(&rank.to_be_bytes());
    }
    key
}

fn series_key(trial: &TrialId, rank: u32, metric: &str) -> Vec<u8> {
    let mut key = member_key(trial, rank);
    key.extend_from_slice(metric.as_bytes());
    key.push(0);
    key
}

/// Of the note that metrics found no place: before those of series, which all have names.
fn refused_key(trial: &TrialId, rank: u32) -> Vec<u8> {
    member_key(trial, rank)
}

fn point_key(point: &MetricPoint) -> Vec<u8> {
    let mut key = series_key(&point.trial, point.rank, &point.metric);
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

/// A point from its key behind the member.
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
