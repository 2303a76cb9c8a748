//! Goal: over a real socket, monitoring reads a page that follows the format, whatever runs, and a
//! caller who misbehaves is bounded.
#![expect(clippy::unwrap_used, reason = "a test")]

use coordinator::{Options, Serving, StartError, start};
use proto::wire::SubmitRequest;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::transport::Channel;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const PATIENCE: Duration = Duration::from_secs(20);

fn options(folder: &Path) -> Options {
    Options {
        data_dir: folder.to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        token: TOKEN.to_owned(),
        lease_ttl_ms: 2_000,
        heartbeat_ms: 500,
        metrics_listen: Some("127.0.0.1:0".parse().unwrap()),
        log_limit_bytes: coordinator::LOG_LIMIT_BYTES,
    }
}

/// Sends `request` and reads to the end of the connection.
async fn exchange(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    // A connection that is closed over unread bytes may end with a reset.
    drop(tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap());
    String::from_utf8(answer).unwrap()
}

async fn scrape(serving: &Serving) -> String {
    let address = serving.metrics_address().unwrap();
    let answer = exchange(address, b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    body.to_owned()
}

/// A sample: its name, its labels, its value.
type Sample = (String, BTreeMap<String, String>, f64);

fn name(text: &str) -> bool {
    let mut characters = text.chars();
    characters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && characters.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Reads a line of the OpenMetrics text format, version 1.0.0.
fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((metric, labels)) = series.split_once('{') else {
        return name(series).then(|| (series.to_owned(), BTreeMap::new(), value));
    };
    let mut read = BTreeMap::new();
    let labels = labels.strip_suffix('}')?;
    for pair in labels.split(',').filter(|pair| !pair.is_empty()) {
        let (label, quoted) = pair.split_once('=')?;
        let text = quoted.strip_prefix('"')?.strip_suffix('"')?;
        if !name(label) || text.contains(['"', '\n']) {
            return None;
        }
        read.insert(label.to_owned(), text.to_owned());
    }
    name(metric).then(|| (metric.to_owned(), read, value))
}

/// Checks a page against the grammar: every family has its type and its help before its samples,
/// whose names have the endings of the type, and the page ends with its mark.
fn check(page: &str) -> Vec<Sample> {
    let mut families: BTreeMap<String, String> = BTreeMap::new();
    let (mut helped, mut samples) = (Vec::new(), Vec::new());
    let body = page.strip_suffix("# EOF\n").expect("the mark of the end");
    for line in body.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let [kind, family, rest] = [(); 3].map(|()| words.next().unwrap_or_default());
            assert!(name(family) && !rest.is_empty(), "{line}");
            match kind {
                "TYPE" => assert!(families.insert(family.into(), rest.into()).is_none(), "{line}"),
                "HELP" => helped.push(family.to_owned()),
                "UNIT" => assert!(family.ends_with(&format!("_{rest}")), "{line}"),
                _ => panic!("{line}"),
            }
            continue;
        }
        let read = sample(line).unwrap_or_else(|| panic!("no sample: {line:?}"));
        let endings: [(&str, &[&str]); 4] = [
            ("counter", &["_total"]),
            ("gauge", &[""]),
            ("info", &["_info"]),
            ("histogram", &["_bucket", "_sum", "_count"]),
        ];
        let belongs = families.iter().any(|(family, kind)| {
            let (_, endings) = endings.iter().find(|(known, _)| known == kind).expect(kind);
            endings.iter().any(|ending| read.0 == format!("{family}{ending}"))
        });
        assert!(belongs, "no family of {line}");
        samples.push(read);
    }
    assert!(families.keys().all(|family| helped.contains(family)), "{families:?} {helped:?}");
    samples
}

fn value(samples: &[Sample], metric: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let wanted = labels.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    let wanted: BTreeMap<String, String> = wanted.collect();
    samples.iter().find(|(name, has, _)| name == metric && *has == wanted).map(|found| found.2)
}

#[tokio::test]
async fn monitoring_reads_a_page_of_known_families() {
    let folder = tempfile::tempdir().unwrap();
    let serving = start(options(folder.path())).await.unwrap();
    let endpoint = Channel::from_shared(format!("http://{}", serving.address())).unwrap();
    let mut stranger =
        proto::wire::coordinator_client::CoordinatorClient::new(endpoint.connect().await.unwrap());
    stranger.info(proto::wire::InfoRequest {}).await.unwrap_err();
    let recipe = include_str!("../src/core/tests/sweep.yaml").to_owned();
    let inputs_json = serde_json::to_string(&proto::Inputs::default()).unwrap();
    let submission = SubmitRequest { recipe, inputs_json, ..SubmitRequest::default() };
    let mut submission = tonic::Request::new(submission);
    submission.metadata_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
    stranger.submit(submission).await.unwrap();
    let samples = check(&scrape(&serving).await);
    assert_eq!(value(&samples, "brine_trials", &[("state", "waiting")]), Some(1.0));
    assert_eq!(value(&samples, "brine_experiments", &[("state", "running")]), Some(1.0));
    assert!(value(&samples, "brine_journal_appended_bytes_total", &[]).unwrap() > 100.0);
    for metric in [
        "brine_agents",
        "brine_build_info",
        "brine_cpu_slots",
        "brine_cpu_slots_free",
        "brine_gpus",
        "brine_gpus_free",
        "brine_gpus_withdrawn",
        "brine_journal_append_duration_seconds_bucket",
        "brine_journal_append_duration_seconds_count",
        "brine_journal_appended_bytes_total",
        "brine_leases",
        "brine_logs_disk_bytes",
        "brine_store_disk_bytes",
        "brine_watchers",
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
    ] {
        assert!(samples.iter().any(|(name, _, _)| name == metric), "{metric}");
    }
    let call = value(&samples, "brine_requests_total", &[("method", "Info")]);
    assert_eq!(call, Some(1.0));
    let refused = [("method", "Info"), ("code", "Unauthenticated")];
    assert_eq!(value(&samples, "brine_request_errors_total", &refused), Some(1.0));
    assert!(value(&samples, "process_resident_memory_bytes", &[]).unwrap() > 1e6);
    serving.shutdown().await.unwrap();
}

#[tokio::test]
async fn other_paths_methods_and_endless_requests_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let serving = start(options(folder.path())).await.unwrap();
    let address = serving.metrics_address().unwrap();
    let endless = format!("GET /metrics HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(20_000));
    for (request, status) in [
        ("GET / HTTP/1.1\r\nhost: x\r\n\r\n", "404"),
        ("POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n", "405"),
        ("nonsense\r\n\r\n", "400"),
        (&endless, "431"),
    ] {
        let answer = exchange(address, request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {answer}");
    }
    let mut idle = Vec::new();
    for _ in 0..16 {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    let turned_away = exchange(address, b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(turned_away, "");
    drop(idle);
    // Stops although a caller says nothing.
    let _silent = TcpStream::connect(address).await.unwrap();
    tokio::time::timeout(PATIENCE, serving.shutdown()).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_address_that_is_taken_is_a_clear_error_and_none_is_the_default() {
    let folder = tempfile::tempdir().unwrap();
    let none = Options { metrics_listen: None, ..options(&folder.path().join("a")) };
    let serving = start(none).await.unwrap();
    assert_eq!(serving.metrics_address(), None);
    let taken =
        Options { metrics_listen: Some(serving.address()), ..options(&folder.path().join("b")) };
    let error = start(taken).await.err().unwrap();
    assert!(matches!(error, StartError::MetricsListen { .. }), "{error}");
    assert!(error.to_string().contains("--metrics-listen"), "{error}");
    serving.shutdown().await.unwrap();
}
