//! Metric series to clients: all points, or the shape of each series.

use super::streams::{Sender, spawn};
use super::{Answers, Service, bad, internal};
use crate::metrics::Note;
use crate::series::{POINTS_MAX, SHAPE_MIN, Sample, shape, thin};
use crate::store::{Store, StoreError};
use proto::TrialId;
use proto::wire::{METRIC_BATCH_MAX, MetricBatch, MetricPoint, MetricsRequest, Series};
use tonic::{Response, Status};

/// Points of a series in memory while it is read. Only one that was stored before there was a limit
/// is longer than that of the store.
const READ_MAX: usize = 2 * POINTS_MAX;

pub(super) fn metrics(
    service: &Service,
    request: MetricsRequest,
) -> Result<Response<Answers<MetricBatch>>, Status> {
    let trial = TrialId::new(request.trial).map_err(bad("trial"))?;
    let most = request.max_points as usize;
    if most > 0 && most < SHAPE_MIN {
        return Err(Status::invalid_argument(format!(
            "max_points: at least {SHAPE_MIN} points show the shape of a series; 0 asks for all"
        )));
    }
    let store = service.store.clone();
    Ok(spawn(service, |sender| async move {
        let read = move || {
            let metric = Some(request.metric.as_str()).filter(|metric| !metric.is_empty());
            let ranks =
                if request.all_ranks { store.metric_ranks(&trial)? } else { vec![request.rank] };
            let mut answer = Answer { trial, rank: 0, sender, is_gone: false };
            for rank in ranks {
                answer.rank = rank;
                answer.notes(&store)?;
                match most {
                    0 => answer.all(&store, metric)?,
                    most => answer.shapes(&store, metric, most)?,
                }
            }
            Ok::<(), StoreError>(())
        };
        tokio::task::spawn_blocking(read).await.map_err(internal)?.map_err(internal)
    }))
}

/// An answer on its way, from a thread that may wait for the disk and for the reader.
struct Answer {
    trial: TrialId,
    /// The member whose series go out.
    rank: u32,
    sender: Sender<MetricBatch>,
    /// Nobody reads it any longer.
    is_gone: bool,
}

impl Answer {
    fn notes(&mut self, store: &Store) -> Result<(), StoreError> {
        let notes = store.metric_notes(&self.trial, self.rank)?;
        if !notes.is_empty() {
            let said = |note: &Note| match self.rank {
                0 => note.to_string(),
                rank => format!("rank {rank}: {note}"),
            };
            let notes = notes.iter().map(said).collect();
            self.send(MetricBatch { notes, ..MetricBatch::default() });
        }
        Ok(())
    }

    fn all(&mut self, store: &Store, metric: Option<&str>) -> Result<(), StoreError> {
        let (trial, rank) = (self.trial.clone(), self.rank);
        let mut points = Vec::new();
        store.metrics(&trial, rank, metric, |metric, sample| {
            if self.is_gone {
                return;
            }
            points.push(self.point(metric, &sample));
            if points.len() == METRIC_BATCH_MAX {
                let points = std::mem::take(&mut points);
                self.send(MetricBatch { points, ..MetricBatch::default() });
            }
        })?;
        if !points.is_empty() {
            self.send(MetricBatch { points, ..MetricBatch::default() });
        }
        Ok(())
    }

    fn shapes(
        &mut self,
        store: &Store,
        metric: Option<&str>,
        most: usize,
    ) -> Result<(), StoreError> {
        let (trial, rank) = (self.trial.clone(), self.rank);
        let mut name = String::new();
        let (mut stored, mut samples) = (0, Vec::new());
        store.metrics(&trial, rank, metric, |metric, sample| {
            if self.is_gone {
                return;
            }
            if metric != name {
                let series = Series { metric: std::mem::take(&mut name), points: stored, rank };
                self.series(&series, &std::mem::take(&mut samples), most);
                metric.clone_into(&mut name);
                stored = 0;
            }
            stored += 1;
            samples.push(sample);
            if samples.len() > READ_MAX {
                samples = thin(std::mem::take(&mut samples));
            }
        })?;
        self.series(&Series { metric: name, points: stored, rank }, &samples, most);
        Ok(())
    }

    /// Sends the shape of a series; before the first and without any there is none.
    fn series(&mut self, series: &Series, samples: &[Sample], most: usize) {
        for samples in shape(samples, most).chunks(METRIC_BATCH_MAX) {
            let points = samples.iter().map(|sample| self.point(&series.metric, sample)).collect();
            let series = Some(series.clone());
            self.send(MetricBatch { points, series, ..MetricBatch::default() });
        }
    }

    fn point(&self, metric: &str, sample: &Sample) -> MetricPoint {
        MetricPoint {
            trial: self.trial.to_string(),
            attempt: sample.attempt.0,
            rank: self.rank,
            metric: metric.to_owned(),
            step: sample.step,
            value: sample.value,
        }
    }

    fn send(&mut self, batch: MetricBatch) {
        self.is_gone = self.is_gone || self.sender.blocking_send(Ok(batch)).is_err();
    }
}
