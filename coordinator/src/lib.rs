//! The control plane: one process owns an experiment's truth.
//!
//! * [`core`]: who runs what; pure.
//! * `driver`: the one owner of the core; journals, then acknowledges and publishes.
//! * [`journal`]: what the records look like as bytes.
//! * [`metrics`], [`series`]: the metric series, and which of their points are kept and shown.
//! * [`store`]: where records and series are kept (sled).
//! * [`blobs`], `logs`: files by content, and what trials printed.
//! * `published`: records as watchers get them.
//! * `rpc`: the gRPC service.
//! * `measures`, `monitor`: what monitoring reads, and the page it reads it from.
//!
//! [`start`] puts them together.

pub mod blobs;
pub mod core;
mod driver;
pub mod journal;
mod logs;
mod measures;
pub mod metrics;
mod monitor;
mod published;
mod rpc;
pub mod series;
pub mod store;

use crate::blobs::{BlobError, Blobs};
use crate::core::Core;
use crate::driver::{Driver, INBOX_MAX, LIVE_BATCHES_MAX, Message};
use crate::logs::Logs;
use crate::rpc::Service;
use crate::rpc::counted::Counted;
use crate::store::{Store, StoreError};
use proto::Timestamp;
use proto::wire::MESSAGE_BYTES_MAX;
use proto::wire::coordinator_server::CoordinatorServer;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Status};

/// Batches of live metrics that a slow watcher may lag behind before it misses some.
const LIVE_METRICS_MAX: usize = 1_024;
/// A dead connection is noticed after this long without an answer to a ping.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// How long a stop waits for connections to close.
const STOP_PATIENCE: Duration = Duration::from_secs(2);
/// Open files for the most agents, as many watchers, and the journal.
const FILES_WANTED: u64 = 2 * core::AGENTS_MAX as u64 + 1_024;
/// Bytes on disk that the logs of all trials together may have, unless [`Options`] say otherwise:
/// thousands of the longest, and little beside the journal of as many trials.
pub const LOG_LIMIT_BYTES: u64 = 8 << 30;
/// Shortest token that is accepted, in bytes: 128 random bits as hexadecimal digits.
const TOKEN_BYTES_MIN: usize = 16;

/// How to serve.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where everything is kept; created when missing, locked while it is served.
    pub data_dir: PathBuf,
    /// Where to listen; port 0 chooses one.
    pub listen: SocketAddr,
    /// What every caller must show.
    pub token: String,
    /// How long a lease lives after its agent was last heard.
    pub lease_ttl_ms: u64,
    /// How often an agent reports at least.
    pub heartbeat_ms: u64,
    /// Where monitoring finds `/metrics`, without a token; `None`: nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// Bytes on disk that the logs of all trials together may have: beyond it the oldest of ended
    /// trials are removed. `u64::MAX`: none is.
    pub log_limit_bytes: u64,
}

/// Why a coordinator did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The blobs' folder.
    #[error(transparent)]
    Blobs(#[from] BlobError),
    /// The address.
    #[error("cannot listen on {address}: {source}; choose another port with --listen")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The address for monitoring.
    #[error("cannot listen on {address}: {source}; choose another port with --metrics-listen")]
    MetricsListen {
        /// Which address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The token.
    #[error("the token has {0} bytes, and at least {TOKEN_BYTES_MIN} are needed to be safe")]
    Token(usize),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// Why a coordinator ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// The journal cannot be written. Nothing that was acknowledged is lost.
    #[error("the coordinator stopped: {0}; what was acknowledged is kept")]
    Store(#[from] StoreError),
    /// A bug.
    #[error("the coordinator's driver panicked; its message is in the log")]
    Panicked,
    /// The network part failed.
    #[error("the coordinator's server failed: {0}")]
    Server(#[from] tonic::transport::Error),
}

/// A running coordinator.
pub struct Serving {
    address: SocketAddr,
    metrics_address: Option<SocketAddr>,
    /// Time of the newest record that was there at the start.
    changed_at: Option<Timestamp>,
    inbox: mpsc::Sender<Message>,
    stopping: CancellationToken,
    parts: JoinSet<Result<(), CoordinatorError>>,
    /// Closed when the last stream has let go of the data folder and it is unlocked.
    released: oneshot::Receiver<Infallible>,
}

/// Opens the data folder, replays the journal and serves.
///
/// # Errors
/// [`StartError`] says what is in the way; nothing stored was changed.
pub async fn start(options: Options) -> Result<Serving, StartError> {
    if options.token.len() < TOKEN_BYTES_MIN {
        return Err(StartError::Token(options.token.len()));
    }
    raise_file_limit();
    let (unlocked, released) = oneshot::channel();
    let store = Arc::new(Store::open(&options.data_dir)?.telling(unlocked));
    let mut core = Core::new(options.lease_ttl_ms);
    let mut changed_at = None;
    let last = store.replay(|record| {
        changed_at = Some(record.at);
        core.apply(record.at, &record.event);
    })?;
    let blobs = Blobs::open(&options.data_dir.join("blobs"))?;
    let logs = Logs::new(&options.data_dir.join("logs"), options.log_limit_bytes);
    let (listener, address) = listen(options.listen)
        .await
        .map_err(|source| StartError::Listen { address: options.listen, source })?;
    let monitor = match options.metrics_listen {
        Some(address) => Some(
            listen(address)
                .await
                .map_err(|source| StartError::MetricsListen { address, source })?,
        ),
        None => None,
    };
    let metrics_address = monitor.as_ref().map(|(_, address)| *address);

    let (inbox, messages) = mpsc::channel(INBOX_MAX);
    let (live, _) = broadcast::channel(LIVE_BATCHES_MAX);
    let (live_metrics, _) = broadcast::channel(LIVE_METRICS_MAX);
    let (last, last_seen) = watch::channel(last);
    let (watched, watched_seen) = watch::channel(Arc::default());
    let stopping = CancellationToken::new();
    let service = Service {
        inbox: inbox.clone(),
        store: Arc::clone(&store),
        blobs,
        logs,
        live: live.clone(),
        live_metrics,
        last: last_seen,
        watched: watched_seen,
        sessions: Arc::new(AtomicU64::new(0)),
        lease_ttl_ms: options.lease_ttl_ms,
        heartbeat_ms: options.heartbeat_ms,
        stopping: stopping.clone(),
    };
    let driver =
        Driver { core, store, inbox: messages, live, last, sessions: BTreeMap::new(), watched };
    let mut parts = JoinSet::new();
    let ended = spawn_driver(driver)?;
    parts.spawn(async { ended.await.map_err(|_| CoordinatorError::Panicked)?.map_err(Into::into) });
    if let Some((listener, _)) = monitor {
        parts.spawn(monitor::serve(service.clone(), listener));
    }
    parts.spawn(logs::rotation::keep_below(service.clone()));
    parts.spawn(serve(service, options.token, listener));
    Ok(Serving { address, metrics_address, changed_at, inbox, stopping, parts, released })
}

/// Raises this process's limit of open files as far as it may: every agent and every watcher has a
/// connection, and the usual limit of 1,024 is fewer than [`core::AGENTS_MAX`].
fn raise_file_limit() {
    let old = getrlimit(Resource::Nofile);
    let wanted = old.maximum.map_or(FILES_WANTED, |maximum| maximum.min(FILES_WANTED));
    if old.current.is_none_or(|current| current >= wanted) {
        return;
    }
    let limits = Rlimit { current: Some(wanted), maximum: old.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, limits) {
        tracing::warn!(%error, "the limit of open files stays; that many connections are served");
    }
}

async fn listen(address: SocketAddr) -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// The driver has a thread of its own: it waits for the disk.
fn spawn_driver(driver: Driver) -> Result<oneshot::Receiver<Result<(), StoreError>>, StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(StartError::Thread)?;
    let (sender, ended) = oneshot::channel();
    std::thread::Builder::new()
        .name("brine-driver".to_owned())
        // Nobody waits for the result any longer: the coordinator is being dropped.
        .spawn(move || drop(sender.send(runtime.block_on(driver.serve()))))
        .map_err(StartError::Thread)?;
    Ok(ended)
}

async fn serve(
    service: Service,
    token: String,
    listener: TcpListener,
) -> Result<(), CoordinatorError> {
    let stopping = service.stopping.clone();
    let measures = service.store.measures().clone();
    let server = CoordinatorServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let wanted = format!("Bearer {token}");
    let check = move |request: Request<()>| authorize(&wanted, request);
    // An answer of a few bytes must not wait for the next one. The server's own setting is for
    // connections that it accepts itself.
    let connections = TcpListenerStream::new(listener)
        .map(|connection| connection.and_then(|stream| stream.set_nodelay(true).map(|()| stream)));
    let serving = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_service(Counted::new(InterceptedService::new(server, check), measures))
        .serve_with_incoming_shutdown(connections, stopping.cancelled());
    let overdue = async {
        stopping.cancelled().await;
        tokio::time::sleep(STOP_PATIENCE).await;
    };
    // A client that neither reads nor closes must not keep the coordinator from stopping.
    tokio::select! {
        result = serving => result.map_err(Into::into),
        () = overdue => Ok(()),
    }
}

fn authorize(wanted: &str, request: Request<()>) -> Result<Request<()>, Status> {
    let shown = request.metadata().get("authorization").map(|value| value.as_bytes());
    // Hashes are compared in constant time, so the time tells nothing about the token.
    let is_right =
        shown.is_some_and(|shown| blake3::hash(shown) == blake3::hash(wanted.as_bytes()));
    if is_right {
        return Ok(request);
    }
    Err(Status::unauthenticated(
        "the token is missing or wrong; the coordinator's data folder holds it in the file `token`",
    ))
}

impl Serving {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where monitoring finds `/metrics`, if anywhere.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// When the newest record of the data folder was written that was there at the start.
    pub fn changed_at(&self) -> Option<Timestamp> {
        self.changed_at
    }

    /// Resolves when the coordinator ends by itself, which it only does for a reason.
    pub async fn failed(&mut self) -> CoordinatorError {
        loop {
            match self.parts.join_next().await {
                Some(Ok(Err(error))) => return error,
                Some(Ok(Ok(()))) => {}
                Some(Err(_)) | None => return CoordinatorError::Panicked,
            }
        }
    }

    /// Stops: no more calls, everything on disk, the data folder unlocked.
    ///
    /// # Errors
    /// The last flush failed.
    pub async fn shutdown(mut self) -> Result<(), CoordinatorError> {
        self.stopping.cancel();
        // A driver that has ended already says why through the parts.
        drop(self.inbox.send(Message::Stop).await);
        let mut result = Ok(());
        while let Some(part) = self.parts.join_next().await {
            result = result.and(part.unwrap_or(Err(CoordinatorError::Panicked)));
        }
        // Streams end by themselves now; the folder is unlocked with the last of them.
        if tokio::time::timeout(STOP_PATIENCE, self.released).await.is_err() {
            tracing::warn!("a stream still reads the data folder; it stays locked until it ends");
        }
        result
    }
}
