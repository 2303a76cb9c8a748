//! A coordinator whose every word the test says: a real gRPC server on a real socket.

use proto::wire::coordinator_server::{Coordinator, CoordinatorServer};
use proto::wire::*;
use proto::{AgentId, BlobId, BlobRef, Outcome, TrialSpec};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

pub(crate) const TOKEN: &str = "secret";
/// Longest wait for one message.
const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const HEARTBEAT_MS: u64 = 50;

/// A server that listens, and the sessions that agents open.
pub(crate) struct Lab {
    pub(crate) address: SocketAddr,
    sessions: mpsc::Receiver<Session>,
    door: Arc<Mutex<Door>>,
    threads: Option<Runtime>,
}

/// Whether sessions are refused, and how many were.
#[derive(Default)]
struct Door {
    refusal: Option<Status>,
    refused: u32,
}

/// One agent's session, seen from the coordinator.
pub(crate) struct Session {
    pub(crate) hello: Hello,
    incoming: Streaming<AgentMessage>,
    outgoing: mpsc::Sender<Result<CoordinatorMessage, Status>>,
    version: u64,
    pub(crate) metrics: Vec<MetricPoint>,
    /// Pieces of text by the member's rank and their place.
    pub(crate) log: BTreeMap<(u32, u64), Vec<u8>>,
}

impl Lab {
    pub(crate) async fn start(lease_ttl_ms: u64, blobs: Vec<Vec<u8>>) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), lease_ttl_ms, blobs).await
    }

    pub(crate) async fn start_at(
        address: SocketAddr,
        lease_ttl_ms: u64,
        blobs: Vec<Vec<u8>>,
    ) -> Self {
        let (sender, sessions) = mpsc::channel(8);
        let blobs = blobs.into_iter().map(|content| (blob(&content).blob.to_string(), content));
        let door = Arc::new(Mutex::new(Door::default()));
        let (blobs, watched) = (blobs.collect(), Arc::clone(&door));
        let service = Scripted { sender, lease_ttl_ms, blobs, door: watched };
        let server = CoordinatorServer::with_interceptor(service, |request: Request<()>| {
            let token = request.metadata().get("authorization").map(|value| value.as_bytes());
            if token == Some(format!("Bearer {TOKEN}").as_bytes()) {
                return Ok(request);
            }
            Err(Status::unauthenticated("wrong token"))
        });
        // Threads of its own: a test blocks while it waits for processes.
        let threads = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        // Another connection of this machine may have the port for a moment, when it is one that
        // was used before.
        let bind = async move {
            loop {
                match TcpListener::bind(address).await {
                    Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                    }
                    bound => return bound.unwrap(),
                }
            }
        };
        let listener = tokio::time::timeout(PATIENCE, threads.spawn(bind));
        let listener = listener.await.expect("the port never became free").unwrap();
        let address = listener.local_addr().unwrap();
        threads.spawn(tonic::transport::Server::builder().add_service(server).serve_with_incoming(
            TcpListenerStream::new(listener).map(|stream| {
                // Two answers in a row must not wait for the acknowledgement of the first.
                stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream))
            }),
        ));
        Self { address, sessions, door, threads: Some(threads) }
    }

    /// From now on sessions are refused.
    pub(crate) fn refuse(&self, status: Status) {
        self.door.lock().unwrap().refusal = Some(status);
    }

    pub(crate) fn accept(&self) {
        self.door.lock().unwrap().refusal = None;
    }

    pub(crate) fn refused(&self) -> u32 {
        self.door.lock().unwrap().refused
    }

    pub(crate) async fn session(&mut self) -> Session {
        let session = tokio::time::timeout(PATIENCE, self.sessions.recv());
        session.await.expect("no agent came").unwrap()
    }

    /// Goes away with all its connections, as a coordinator that was killed does.
    pub(crate) fn stop(self) -> SocketAddr {
        self.address
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}

impl Session {
    pub(crate) async fn assign(&mut self, leases: Vec<Lease>) {
        self.version += 1;
        let assignment = Assignment { version: self.version, leases, ..Default::default() };
        self.say(coordinator_message::Message::Assignment(assignment)).await;
    }

    /// Assigns what changed since the last assignment.
    pub(crate) async fn change(&mut self, leases: Vec<Lease>, dropped: Vec<AttemptRef>) {
        let base = self.version;
        self.version += 1;
        let assignment = Assignment { version: self.version, base, leases, dropped };
        self.say(coordinator_message::Message::Assignment(assignment)).await;
    }

    pub(crate) async fn reply(&mut self, sequence: u64) {
        let reply = Reply { sequence, refused: Vec::new() };
        self.say(coordinator_message::Message::Reply(reply)).await;
    }

    async fn say(&mut self, message: coordinator_message::Message) {
        self.outgoing.send(Ok(CoordinatorMessage { message: Some(message) })).await.unwrap();
    }

    /// The next report; metrics and log pieces before it are kept.
    pub(crate) async fn report(&mut self) -> Report {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.incoming.message()).await;
            let message = message.expect("the agent is silent").unwrap();
            match message.expect("the agent is gone").message.unwrap() {
                agent_message::Message::Hello(_) => panic!("a second hello"),
                agent_message::Message::Report(report) => return report,
                agent_message::Message::Metrics(batch) => self.metrics.extend(batch.points),
                agent_message::Message::Log(chunk) => {
                    self.log.insert((chunk.rank, chunk.offset), chunk.text);
                }
            }
        }
    }

    /// Replies to reports until one is as wanted, which is left without a reply.
    pub(crate) async fn report_with(&mut self, wanted: impl Fn(&Report) -> bool) -> Report {
        loop {
            let report = self.report().await;
            if wanted(&report) {
                return report;
            }
            self.reply(report.sequence).await;
        }
    }

    /// Replies until an attempt has ended, and settles it.
    pub(crate) async fn outcome(&mut self) -> Outcome {
        let report = self.report_with(|report| !report.ended.is_empty()).await;
        self.reply(report.sequence).await;
        serde_json::from_str(&report.ended[0].outcome_json).unwrap()
    }
}

pub(crate) fn blob(content: &[u8]) -> BlobRef {
    BlobRef { blob: BlobId::from_hash(blake3::hash(content)), bytes: content.len() as u64 }
}

pub(crate) fn lease(spec: &TrialSpec, attempt: u32) -> Lease {
    Lease {
        trial: spec.id().to_string(),
        attempt,
        spec_json: serde_json::to_string(spec).unwrap(),
        cpus: vec![0],
        ..Default::default()
    }
}

struct Scripted {
    sender: mpsc::Sender<Session>,
    lease_ttl_ms: u64,
    blobs: BTreeMap<String, Vec<u8>>,
    door: Arc<Mutex<Door>>,
}

type Answers<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// For the calls that only clients make.
fn refuse<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("agents do not call this"))
}

#[tonic::async_trait]
impl Coordinator for Scripted {
    type SessionStream = Answers<CoordinatorMessage>;
    type GetBlobStream = Answers<BlobChunk>;
    type WatchStream = Answers<WatchReply>;
    type MetricsStream = Answers<MetricBatch>;
    type LogsStream = Answers<LogChunk>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut incoming = request.into_inner();
        {
            let mut door = self.door.lock().unwrap();
            if let Some(refusal) = door.refusal.clone() {
                door.refused += 1;
                return Err(refusal);
            }
        }
        let first = incoming.message().await?.and_then(|message| message.message);
        let Some(agent_message::Message::Hello(hello)) = first else {
            panic!("the first message is {first:?}")
        };
        AgentId::new(hello.agent.as_str()).unwrap();
        let (outgoing, answers) = mpsc::channel(64);
        let mut session = Session {
            hello,
            incoming,
            outgoing,
            version: 0,
            metrics: Vec::new(),
            log: BTreeMap::new(),
        };
        let welcome = Welcome {
            format_version: proto::FORMAT_VERSION,
            lease_ttl_ms: self.lease_ttl_ms,
            heartbeat_ms: HEARTBEAT_MS,
            heeds_withdrawn: true,
        };
        session.say(coordinator_message::Message::Welcome(welcome)).await;
        self.sender.send(session).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn get_blob(
        &self,
        request: Request<BlobRequest>,
    ) -> Result<Response<Self::GetBlobStream>, Status> {
        let blob = request.into_inner().blob;
        let Some(content) = self.blobs.get(&blob) else {
            return Err(Status::not_found("no such file"));
        };
        let chunks: Vec<_> = content
            .chunks(7)
            .map(|chunk| Ok(BlobChunk { blob: String::new(), content: chunk.to_vec() }))
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks))))
    }

    async fn has_blob(&self, _: Request<BlobRequest>) -> Result<Response<HasBlobReply>, Status> {
        refuse()
    }
    async fn put_blob(
        &self,
        _: Request<Streaming<BlobChunk>>,
    ) -> Result<Response<PutBlobReply>, Status> {
        refuse()
    }
    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<InfoReply>, Status> {
        refuse()
    }
    async fn submit(&self, _: Request<SubmitRequest>) -> Result<Response<SubmitReply>, Status> {
        refuse()
    }
    async fn cancel(&self, _: Request<ExperimentRequest>) -> Result<Response<CancelReply>, Status> {
        refuse()
    }
    async fn experiments(
        &self,
        _: Request<ExperimentsRequest>,
    ) -> Result<Response<ExperimentsReply>, Status> {
        refuse()
    }
    async fn experiment(
        &self,
        _: Request<ExperimentRequest>,
    ) -> Result<Response<ExperimentReply>, Status> {
        refuse()
    }
    async fn explain(
        &self,
        _: Request<proto::wire::ExplainRequest>,
    ) -> Result<Response<proto::wire::ExplainReply>, Status> {
        refuse()
    }
    async fn agents(&self, _: Request<AgentsRequest>) -> Result<Response<AgentsReply>, Status> {
        refuse()
    }
    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        refuse()
    }
    async fn metrics(
        &self,
        _: Request<MetricsRequest>,
    ) -> Result<Response<Self::MetricsStream>, Status> {
        refuse()
    }
    async fn logs(&self, _: Request<LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        refuse()
    }
}
