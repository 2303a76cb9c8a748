//! What running trials said last, read from their stored series. For looking: it is bounded in
//! trials, points and time, and what was not read is left out.

use crate::client::Client;
use crate::error::CliError;
use crate::number;
use proto::TrialId;
use proto::wire::MetricPoint;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Trials that are read at most: more would not fit on a screen.
pub(crate) const TRIALS_MAX: usize = 32;
/// Points of one trial that are read at most: about a second of a slow disk.
const POINTS_MAX: usize = 200_000;
/// All trials together take no longer than this; nobody waits for a look.
const TIME_MAX: Duration = Duration::from_secs(2);
/// The metric that is shown: the first of these that a trial reports, else its own first.
const SHOWN_METRICS: [&str; 3] = ["loss", "training_loss", "validation_loss"];

/// The newest step of a trial, and one metric of it.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub(crate) struct Newest {
    /// The attempt that said it; a later one goes back to its checkpoint.
    pub(crate) attempt: u32,
    pub(crate) step: u64,
    /// Name and newest value.
    pub(crate) shown: Option<(String, f64)>,
}

impl Newest {
    /// Takes in a point; points of one metric and attempt come in the order of their steps.
    pub(crate) fn add(&mut self, point: &MetricPoint) {
        if point.attempt < self.attempt {
            return;
        }
        if point.attempt > self.attempt {
            *self = Self { attempt: point.attempt, ..Self::default() };
        }
        self.step = self.step.max(point.step);
        let rank = |name: &str| {
            let known = SHOWN_METRICS.iter().position(|shown| *shown == name);
            known.unwrap_or(SHOWN_METRICS.len())
        };
        match &mut self.shown {
            Some((name, value)) if *name == point.metric => *value = point.value,
            Some((name, _)) if rank(&point.metric) >= rank(name) => {}
            Some(_) | None => self.shown = Some((point.metric.clone(), point.value)),
        }
    }
}

/// `step 12 loss=2.31`.
impl fmt::Display for Newest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {}", self.step)?;
        match &self.shown {
            Some((name, value)) => write!(f, " {name}={}", number::short(*value)),
            None => Ok(()),
        }
    }
}

/// The newest numbers of the first [`TRIALS_MAX`] of `trials` that have any.
///
/// # Errors
/// The coordinator refuses, or went away.
pub(crate) async fn newest(
    client: &mut Client,
    trials: &[TrialId],
) -> Result<BTreeMap<TrialId, Newest>, CliError> {
    let mut found = BTreeMap::new();
    let reading = async {
        for trial in trials.iter().take(TRIALS_MAX) {
            if let Some(newest) = read(client, trial).await? {
                found.insert(trial.clone(), newest);
            }
        }
        Ok(())
    };
    match tokio::time::timeout(TIME_MAX, reading).await {
        Ok(Err(error)) => Err(error),
        Ok(Ok(())) | Err(_) => Ok(found),
    }
}

async fn read(client: &mut Client, trial: &TrialId) -> Result<Option<Newest>, CliError> {
    let mut stream = client.series(trial).await?;
    let mut newest: Option<Newest> = None;
    let mut points = 0;
    while let Some(batch) = stream.message().await? {
        points += batch.points.len();
        for point in &batch.points {
            newest.get_or_insert_default().add(point);
        }
        if points >= POINTS_MAX {
            // Half of a series has an old end: better nothing than that.
            return Ok(None);
        }
    }
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_step_and_the_best_known_metric_are_shown() {
        let mut newest = Newest::default();
        for (metric, step, value, shown) in [
            ("accuracy", 5, 0.5, ("accuracy", 0.5)),
            ("speed", 9, 7.0, ("accuracy", 0.5)),
            ("validation_loss", 5, 3.0, ("validation_loss", 3.0)),
            ("loss", 1, 4.0, ("loss", 4.0)),
            ("loss", 2, 3.5, ("loss", 3.5)),
            ("accuracy", 10, 0.6, ("loss", 3.5)),
        ] {
            let metric = metric.to_owned();
            newest.add(&MetricPoint { metric, step, value, ..MetricPoint::default() });
            assert_eq!(newest.shown, Some((shown.0.to_owned(), shown.1)));
        }
        assert_eq!(newest.step, 10);
        let point = |attempt, step| MetricPoint { attempt, step, ..MetricPoint::default() };
        newest.add(&point(2, 4));
        newest.add(&point(1, 11));
        assert_eq!((newest.attempt, newest.step), (2, 4), "what an old attempt said is over");
    }
}
