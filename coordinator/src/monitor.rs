//! `GET /metrics` over plain HTTP: the only file that knows hyper. Nothing secret is told, so there
//! is no token; every caller is bounded in number, size and time.

use crate::CoordinatorError;
use crate::measures::MEDIA_TYPE;
use crate::rpc::{Service, scrape};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Callers at once; a monitoring system is one or two. More are turned away by closing.
const CONNECTIONS_MAX: usize = 16;
/// Bytes of a request's head, hyper's least.
const HEAD_BYTES_MAX: usize = 8 << 10;
/// Time for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Time of a connection, which serves one request. Prometheus gives up after 10 s.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);
/// A look that is no older is shown again, so that many callers cost no more than one.
const FRESH: Duration = Duration::from_secs(1);
/// Pause after an accept that failed, as it does when files run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The newest text, and since when it is shown. Whoever asks meanwhile waits for it.
type Newest = Arc<Mutex<Option<(Instant, Bytes)>>>;

/// Serves until the coordinator stops.
pub(crate) async fn serve(service: Service, listener: TcpListener) -> Result<(), CoordinatorError> {
    let newest = Newest::default();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_ended) = connections.join_next() => continue,
            () = service.stopping.cancelled() => return Ok(()),
        };
        match accepted {
            Ok((stream, _)) if connections.len() < CONNECTIONS_MAX => {
                connections.spawn(connection(service.clone(), Arc::clone(&newest), stream));
            }
            Ok((_turned_away, caller)) => tracing::warn!(%caller, "too many callers of /metrics"),
            Err(error) => {
                tracing::warn!(%error, "a caller of /metrics was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(service: Service, newest: Newest, stream: TcpStream) {
    let answer = service_fn(|request| answer(&service, &newest, request));
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer);
    match tokio::time::timeout(CONNECTION_TIMEOUT, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a caller of /metrics broke off"),
        Err(_elapsed) => tracing::debug!("a caller of /metrics took too long"),
    }
}

async fn answer(
    service: &Service,
    newest: &Newest,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() != "/metrics" {
        return Ok(plain(StatusCode::NOT_FOUND, "there is only /metrics here\n"));
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut refusal = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered\n");
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(refusal);
    }
    Ok(match text(service, newest).await {
        Ok(text) => {
            let mut response = Response::new(Full::new(text));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
            response
        }
        // The log has the reason; a stranger needs none.
        Err(_status) => plain(StatusCode::SERVICE_UNAVAILABLE, "the coordinator does not answer\n"),
    })
}

async fn text(service: &Service, newest: &Newest) -> Result<Bytes, tonic::Status> {
    let mut newest = newest.lock().await;
    if let Some((at, text)) = newest.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
        tracing::trace!(age_ms = at.elapsed().as_millis() as u64, "a look is shown again");
        return Ok(text.clone());
    }
    let seen = scrape::look(service).await?;
    let text = Bytes::from(service.store.measures().text(&seen));
    *newest = Some((Instant::now(), text.clone()));
    Ok(text)
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}
