//! The gRPC service: turns wire messages into inputs of the core and answers from its state.
//! Nothing is decided here.

mod clients;
pub(crate) mod counted;
mod explain;
pub(crate) mod scrape;
mod series;
mod session;
mod streams;

use crate::blobs::{BlobError, Blobs};
use crate::core::{Core, Rejection};
use crate::driver::{Message, Watched};
use crate::logs::Logs;
use crate::published::Published;
use crate::store::Store;
use proto::wire::coordinator_server::Coordinator;
use proto::wire::{self, AgentMessage, BlobChunk, BlobRequest, CoordinatorMessage};
use proto::{BlobId, ExperimentId, MetricPoint, Timestamp};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// A stream of answers.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
/// Answers that wait for a slow reader at most; then the sender waits too.
const ANSWERS_MAX: usize = 64;

/// What every call may use. Cheap to clone: handles only.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) inbox: mpsc::Sender<Message>,
    pub(crate) store: Arc<Store>,
    pub(crate) blobs: Blobs,
    pub(crate) logs: Logs,
    pub(crate) live: broadcast::Sender<Arc<Published>>,
    pub(crate) live_metrics: broadcast::Sender<Arc<Vec<MetricPoint>>>,
    pub(crate) last: watch::Receiver<u64>,
    pub(crate) watched: watch::Receiver<Arc<Watched>>,
    pub(crate) sessions: Arc<AtomicU64>,
    pub(crate) lease_ttl_ms: u64,
    pub(crate) heartbeat_ms: u64,
    /// Ends every stream; without it a stop would wait for clients to go away.
    pub(crate) stopping: CancellationToken,
}

impl Service {
    /// Sends a message to the driver and waits for its answer.
    async fn call<T>(
        &self,
        message: impl FnOnce(oneshot::Sender<T>) -> Message,
    ) -> Result<T, Status> {
        let (answer, answered) = oneshot::channel();
        self.inbox.send(message(answer)).await.map_err(|_| stopped())?;
        answered.await.map_err(|_| stopped())
    }

    /// Reads from the core between two batches.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Core, Timestamp) -> T + Send + 'static,
    ) -> Result<T, Status> {
        self.call(|answer| {
            Message::Ask(Box::new(move |core, now| drop(answer.send(question(core, now)))))
        })
        .await
    }
}

fn stopped() -> Status {
    Status::unavailable("the coordinator is stopping")
}

/// The one place where a rejection becomes a status.
fn reject(rejection: Rejection) -> Status {
    let message = rejection.to_string();
    match rejection {
        Rejection::Recipe(_) | Rejection::Study(_) => Status::invalid_argument(message),
        Rejection::TooManyExperiments | Rejection::TooManyAgents => {
            Status::resource_exhausted(message)
        }
        Rejection::UnknownExperiment(_) => Status::not_found(message),
        Rejection::StaleSession(_) | Rejection::StaleReport(_) => Status::aborted(message),
        Rejection::NameTaken(_) => Status::already_exists(message),
    }
}

/// Something of ours broke: the caller hears that, the log hears what.
fn internal(error: impl std::fmt::Display) -> Status {
    tracing::error!(%error, "a call failed");
    Status::internal("the coordinator failed; its log says why")
}

fn bad<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> Status {
    move |error| Status::invalid_argument(format!("{what}: {error}"))
}

#[tonic::async_trait]
impl Coordinator for Service {
    type SessionStream = Answers<CoordinatorMessage>;
    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        session::open(self.clone(), request.into_inner()).await
    }

    async fn has_blob(
        &self,
        request: Request<BlobRequest>,
    ) -> Result<Response<wire::HasBlobReply>, Status> {
        let blob = BlobId::new(request.into_inner().blob).map_err(bad("blob"))?;
        Ok(Response::new(wire::HasBlobReply { present: self.blobs.contains(&blob) }))
    }

    async fn put_blob(
        &self,
        request: Request<Streaming<BlobChunk>>,
    ) -> Result<Response<wire::PutBlobReply>, Status> {
        let mut chunks = request.into_inner();
        let mut writing = self.blobs.create().map_err(blob_status)?;
        let mut expected = None;
        while let Some(chunk) = chunks.message().await? {
            if expected.is_none() {
                expected = Some(BlobId::new(chunk.blob).map_err(bad("blob"))?);
            }
            writing.write(&chunk.content).map_err(blob_status)?;
        }
        let (blob, _) = writing.finish(expected.as_ref()).map_err(blob_status)?;
        Ok(Response::new(wire::PutBlobReply { blob: blob.into() }))
    }

    type GetBlobStream = Answers<BlobChunk>;
    async fn get_blob(
        &self,
        request: Request<BlobRequest>,
    ) -> Result<Response<Self::GetBlobStream>, Status> {
        let blob = BlobId::new(request.into_inner().blob).map_err(bad("blob"))?;
        streams::blob(self, blob).await
    }

    async fn info(
        &self,
        _: Request<wire::InfoRequest>,
    ) -> Result<Response<wire::InfoReply>, Status> {
        Ok(Response::new(wire::InfoReply {
            format_version: proto::FORMAT_VERSION,
            brine_version: env!("CARGO_PKG_VERSION").to_owned(),
            last_sequence: *self.last.borrow(),
        }))
    }

    async fn submit(
        &self,
        request: Request<wire::SubmitRequest>,
    ) -> Result<Response<wire::SubmitReply>, Status> {
        clients::submit(self, request.into_inner()).await.map(Response::new)
    }

    async fn cancel(
        &self,
        request: Request<wire::ExperimentRequest>,
    ) -> Result<Response<wire::CancelReply>, Status> {
        clients::cancel(self, &request.into_inner()).await.map(Response::new)
    }

    async fn experiments(
        &self,
        _: Request<wire::ExperimentsRequest>,
    ) -> Result<Response<wire::ExperimentsReply>, Status> {
        clients::experiments(self).await.map(Response::new)
    }

    async fn experiment(
        &self,
        request: Request<wire::ExperimentRequest>,
    ) -> Result<Response<wire::ExperimentReply>, Status> {
        clients::experiment(self, &request.into_inner()).await.map(Response::new)
    }

    async fn explain(
        &self,
        request: Request<wire::ExplainRequest>,
    ) -> Result<Response<wire::ExplainReply>, Status> {
        explain::explain(self, request.into_inner()).await.map(Response::new)
    }

    async fn agents(
        &self,
        _: Request<wire::AgentsRequest>,
    ) -> Result<Response<wire::AgentsReply>, Status> {
        clients::agents(self).await.map(Response::new)
    }

    type WatchStream = Answers<wire::WatchReply>;
    async fn watch(
        &self,
        request: Request<wire::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        streams::watch(self.clone(), request.into_inner())
    }

    type MetricsStream = Answers<wire::MetricBatch>;
    async fn metrics(
        &self,
        request: Request<wire::MetricsRequest>,
    ) -> Result<Response<Self::MetricsStream>, Status> {
        series::metrics(self, request.into_inner())
    }

    type LogsStream = Answers<wire::LogChunk>;
    async fn logs(
        &self,
        request: Request<wire::LogsRequest>,
    ) -> Result<Response<Self::LogsStream>, Status> {
        streams::logs(self.clone(), request.into_inner()).await
    }
}

fn experiment_id(text: &str) -> Result<ExperimentId, Status> {
    ExperimentId::new(text).map_err(bad("experiment"))
}

fn blob_status(error: BlobError) -> Status {
    match error {
        BlobError::Hash { .. } | BlobError::TooLarge => Status::invalid_argument(error.to_string()),
        BlobError::Io { ref source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            Status::resource_exhausted("the coordinator's disk is full; free some space there")
        }
        BlobError::Io { .. } => internal(error),
    }
}
