//! Streams to clients: past and live records, logs, blobs.

use super::{ANSWERS_MAX, Answers, Service, bad, internal};
use crate::core::Core;
use crate::logs::Piece;
use crate::published::Published;
use crate::store::READ_MAX;
use proto::wire::watch_reply::Message as Watched;
use proto::wire::{
    BLOB_CHUNK_BYTES, BlobChunk, CaughtUp, LOG_CHUNK_BYTES, LogChunk, LogsRequest, MetricBatch,
    WatchReply, WatchRequest,
};
use proto::{Attempt, AttemptKey, BlobId, ExperimentId, MetricPoint, TrialId};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

/// How often `logs --follow` looks for new text.
const LOG_POLL: Duration = Duration::from_millis(200);

pub(super) type Sender<T> = mpsc::Sender<Result<T, Status>>;

/// Runs `work` beside the call; its answers flow through a bounded channel, and it ends when the
/// reader goes away or the coordinator stops.
pub(super) fn spawn<T, F>(
    service: &Service,
    work: impl FnOnce(Sender<T>) -> F,
) -> Response<Answers<T>>
where
    T: Send + 'static,
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    spawn_until(service.stopping.clone().cancelled_owned(), work)
}

/// Like [`spawn`], until `stop`.
fn spawn_until<T, F>(
    stop: impl Future<Output = ()> + Send + 'static,
    work: impl FnOnce(Sender<T>) -> F,
) -> Response<Answers<T>>
where
    T: Send + 'static,
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(ANSWERS_MAX);
    let failed = sender.clone();
    let work = work(sender);
    #[expect(
        clippy::disallowed_methods,
        reason = "it ends with its receiver, which the call owns"
    )]
    tokio::spawn(async move {
        let result = tokio::select! {
            result = work => result,
            () = stop => Err(super::stopped()),
        };
        if let Err(status) = result {
            // The reader is gone: nobody to tell.
            drop(failed.send(Err(status)).await);
        }
    });
    Response::new(Box::pin(ReceiverStream::new(receiver)))
}

/// Sends one answer; an error means that the reader is gone and the work is done.
async fn send<T>(sender: &Sender<T>, answer: T) -> Result<(), Status> {
    sender.send(Ok(answer)).await.map_err(|_| Status::cancelled("the reader is gone"))
}

pub(super) async fn blob(
    service: &Service,
    blob: BlobId,
) -> Result<Response<Answers<BlobChunk>>, Status> {
    let mut file = tokio::fs::File::open(service.blobs.path(&blob))
        .await
        .map_err(|_| Status::not_found(format!("file {blob} is not stored here")))?;
    Ok(spawn(service, |sender| async move {
        loop {
            let mut content = vec![0; BLOB_CHUNK_BYTES];
            let read = file.read(&mut content).await.map_err(internal)?;
            if read == 0 {
                return Ok(());
            }
            content.truncate(read);
            send(&sender, BlobChunk { blob: String::new(), content }).await?;
        }
    }))
}

pub(super) fn watch(
    service: Service,
    request: WatchRequest,
) -> Result<Response<Answers<WatchReply>>, Status> {
    let experiment = match request.experiment.as_str() {
        "" => None,
        text => Some(super::experiment_id(text)?),
    };
    // Subscribed before the past is read, so that nothing falls between the two.
    let live = service.live.subscribe();
    let metrics = request.metrics.then(|| service.live_metrics.subscribe());
    let from = request.from_sequence.max(1);
    Ok(spawn(&service.clone(), |sender| async move {
        let mut watching = Watching { service, sender, experiment, next: from };
        watching.past().await?;
        let caught_up = CaughtUp { sequence: watching.next - 1 };
        send(&watching.sender, WatchReply { message: Some(Watched::CaughtUp(caught_up)) }).await?;
        watching.live(live, metrics).await
    }))
}

struct Watching {
    service: Service,
    sender: Sender<WatchReply>,
    /// Only what concerns this one; `None` is everything.
    experiment: Option<ExperimentId>,
    /// The next sequence number to send.
    next: u64,
}

impl Watching {
    /// Sends everything that is journaled and not sent yet.
    async fn past(&mut self) -> Result<(), Status> {
        loop {
            let (store, next) = (Arc::clone(&self.service.store), self.next);
            let mut records = tokio::task::spawn_blocking(move || store.read(next, READ_MAX))
                .await
                .map_err(internal)?
                .map_err(internal)?;
            // What is written but not flushed yet is not a fact yet.
            let durable = *self.service.last.borrow();
            records.retain(|record| record.sequence <= durable);
            if records.is_empty() {
                return Ok(());
            }
            let published = self.service.ask(move |core, _| Published::new(core, &records)).await?;
            self.send_records(&published).await?;
        }
    }

    async fn send_records(&mut self, published: &Published) -> Result<(), Status> {
        // Turns are published whole, and the past ends between two of them.
        if published.first < self.next {
            return Ok(());
        }
        self.next = published.last + 1;
        if let Some(records) = published.lines(self.experiment.as_ref()) {
            send(&self.sender, WatchReply { message: Some(Watched::Records(records)) }).await?;
        }
        Ok(())
    }

    async fn live(
        &mut self,
        mut live: broadcast::Receiver<Arc<Published>>,
        mut metrics: Option<broadcast::Receiver<Arc<Vec<MetricPoint>>>>,
    ) -> Result<(), Status> {
        loop {
            let points = async {
                match &mut metrics {
                    Some(metrics) => metrics.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                published = live.recv() => match published {
                    Ok(published) => self.send_records(&published).await?,
                    // Too slow for the channel: the journal has everything.
                    Err(RecvError::Lagged(_)) => self.past().await?,
                    Err(RecvError::Closed) => return Err(super::stopped()),
                },
                points = points => match points {
                    Ok(points) => self.points(&points).await?,
                    // Live metrics are for looking; the series itself is complete in the store.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return Err(super::stopped()),
                },
                () = self.sender.closed() => return Ok(()),
            }
        }
    }

    async fn points(&self, points: &Arc<Vec<MetricPoint>>) -> Result<(), Status> {
        let points: Vec<_> = match &self.experiment {
            None => points.iter().cloned().map(Into::into).collect(),
            Some(wanted) => {
                let (points, wanted) = (Arc::clone(points), wanted.clone());
                let own = move |core: &Core, _| {
                    let is_own = |point: &&MetricPoint| core.wants(&wanted, &point.trial);
                    points.iter().filter(is_own).cloned().map(Into::into).collect()
                };
                self.service.ask(own).await?
            }
        };
        if points.is_empty() {
            return Ok(());
        }
        let message = Some(Watched::Metrics(MetricBatch { points, ..MetricBatch::default() }));
        send(&self.sender, WatchReply { message }).await
    }
}

pub(super) async fn logs(
    service: Service,
    request: LogsRequest,
) -> Result<Response<Answers<LogChunk>>, Status> {
    let trial = TrialId::new(request.trial).map_err(bad("trial"))?;
    let id = trial.clone();
    let known = move |core: &Core, _| {
        core.trial(&id).map(|trial| (trial.attempt, trial.spec.placement.members.max(1)))
    };
    let known = service.ask(known).await?;
    let (newest, members) =
        known.ok_or_else(|| Status::not_found(format!("there is no trial {trial}")))?;
    let (rank, last) = (request.rank, members - 1);
    if rank > last {
        return Err(Status::invalid_argument(match last {
            0 => format!("trial {trial} is no gang: it has rank 0 only"),
            last => format!("trial {trial} is a gang with the ranks 0 to {last}, not {rank}"),
        }));
    }
    let attempt = if request.attempt == 0 { newest } else { Attempt(request.attempt) };
    let key = AttemptKey { trial, attempt, rank };
    // A stop ends the wait for more, not the reading of what is there.
    Ok(spawn_until(std::future::pending(), |sender| async move {
        let mut offset = 0;
        loop {
            // Asked before the read, so that text written before the end is not missed.
            let goes_on = request.follow && !service.stopping.is_cancelled();
            let live = goes_on && is_live(&service, &key).await.unwrap_or(false);
            let (logs, wanted) = (service.logs.clone(), key.clone());
            let read = move || logs.read(&wanted, offset, LOG_CHUNK_BYTES);
            let piece =
                tokio::task::spawn_blocking(read).await.map_err(internal)?.map_err(internal)?;
            let trial = key.trial.to_string();
            let chunk = LogChunk { trial, attempt: key.attempt.0, rank, offset, ..<_>::default() };
            match piece {
                Piece::Text(text) if text.is_empty() && live => {
                    tokio::time::sleep(LOG_POLL).await;
                }
                Piece::Text(text) if text.is_empty() => return Ok(()),
                Piece::Text(text) => {
                    offset += text.len() as u64;
                    send(&sender, LogChunk { text, ..chunk }).await?;
                }
                Piece::Removed => {
                    let removed_above_bytes = service.logs.limit();
                    return send(&sender, LogChunk { removed_above_bytes, ..chunk }).await;
                }
            }
        }
    }))
}

async fn is_live(service: &Service, key: &AttemptKey) -> Result<bool, Status> {
    let id = key.trial.clone();
    let lease = service.ask(move |core, _| core.current_lease(&id).map(|l| l.attempt)).await?;
    Ok(lease == Some(key.attempt))
}
