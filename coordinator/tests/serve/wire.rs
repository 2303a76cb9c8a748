//! Goal: what peers of the current version of the wire say stays readable, and a peer of another
//! version is told what to do. `fixtures/wire-N.txt` holds messages of version N, one a line: a
//! name, and bytes in hexadecimal digits. Never change a line; new fields get lines of their own,
//! and a new version a new file.

use crate::support::{Agent, TOKEN, client, options};
use coordinator::start;
use prost::Message;
use proto::wire::agent_message::Message as FromAgent;
use proto::wire::coordinator_message::Message as ToAgent;
use proto::wire::watch_reply::Message as Watched;
use proto::wire::{self, AgentMessage, CoordinatorMessage, Hello, WatchReply};
use proto::{Checkpoint, FORMAT_VERSION, Inputs, Notice, NoticeKind, Outcome, TrialSpec};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use tonic::Code;

const TRIAL: &str = "0123456789abcdef";
const OUTCOME: &str = r#"{"state":"completed","metrics":{"loss":0.5},"checkpoint":null}"#;
const CHECKPOINT: &str = r#"{"step":9,"attempt":1,"agent":"a","folder":"/checkpoints","files":[]}"#;
const NOTICE: &str = r#"{"kind":"slow_step","step":7,"text":"slow"}"#;
const INPUTS: &str = r#"{"data":null,"files":{}}"#;

fn fixture(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    fs::read_to_string(folder.join(name)).unwrap()
}

type IsRead = Box<dyn Fn(&[u8]) -> bool>;

/// What a message is as bytes, and whether bytes are this message.
struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    is_read: IsRead,
}

fn case<M: Message + Default + PartialEq + 'static>(name: &'static str, message: M) -> Case {
    let bytes = message.encode_to_vec();
    let is_read = move |bytes: &[u8]| M::decode(bytes).is_ok_and(|read| read == message);
    Case { name, bytes, is_read: Box::new(is_read) }
}

fn agent_says(name: &'static str, message: FromAgent) -> Case {
    case(name, AgentMessage { message: Some(message) })
}

fn coordinator_says(name: &'static str, message: ToAgent) -> Case {
    case(name, CoordinatorMessage { message: Some(message) })
}

fn watcher_hears(name: &'static str, message: Watched) -> Case {
    case(name, WatchReply { message: Some(message) })
}

fn attempt_ref() -> wire::AttemptRef {
    wire::AttemptRef { trial: TRIAL.into(), attempt: 3, rank: 2 }
}

fn gpu() -> wire::Gpu {
    wire::Gpu { index: 1, name: "H100".into(), memory_bytes: 80 << 30 }
}

fn withdrawn() -> wire::WithdrawnGpu {
    wire::WithdrawnGpu { index: 1, reason: "lost".into() }
}

fn metrics() -> wire::MetricBatch {
    let (trial, metric) = (TRIAL.to_owned(), "loss".to_owned());
    let point = wire::MetricPoint { trial, attempt: 3, metric, step: 9, value: -0.5, rank: 2 };
    let series = wire::Series { metric: "loss".into(), points: 1_000_000, rank: 2 };
    wire::MetricBatch { points: vec![point], notes: vec!["thinned".into()], series: Some(series) }
}

fn log_chunk() -> wire::LogChunk {
    let (trial, text) = (TRIAL.to_owned(), b"\xff\n".to_vec());
    wire::LogChunk { trial, attempt: 3, offset: 65_536, text, rank: 2, ..<_>::default() }
}

fn agents_words() -> Vec<Case> {
    let running = wire::Running { trial: TRIAL.into(), attempt: 3, started: true, rank: 2 };
    let hello = Hello {
        format_version: 2,
        agent: "a".into(),
        host: "here".into(),
        brine_version: "0.1.0".into(),
        cpus: 8,
        gpus: vec![gpu()],
        memory_bytes: 64 << 30,
        running: vec![running.clone()],
        labels: HashMap::from([("zone".into(), "b".into())]),
        extras: HashMap::from([("licence".into(), 4)]),
        instance: u64::MAX,
        number: 5,
        withdrawn: Vec::new(),
    };
    let withdrawing = Hello { withdrawn: vec![withdrawn()], ..hello.clone() };
    let (trial, attempt, rank) = (TRIAL.to_owned(), 3, 2);
    let outcome_json = OUTCOME.to_owned();
    let ended = wire::Ended { trial: trial.clone(), attempt, outcome_json, rank };
    let checkpoint_json = CHECKPOINT.to_owned();
    let saved = wire::SavedCheckpoint { trial: trial.clone(), attempt, checkpoint_json, rank };
    let noticed = wire::Noticed { trial, attempt, notice_json: NOTICE.into(), rank };
    let report = wire::Report {
        sequence: 300,
        running: vec![running],
        ended: vec![ended],
        checkpoints: vec![saved],
        assignment_version: 41,
        leaving: true,
        notices: vec![noticed],
        withdrawn: Vec::new(),
    };
    let withdraws = wire::Report { withdrawn: vec![withdrawn()], ..report.clone() };
    vec![
        agent_says("hello", FromAgent::Hello(hello)),
        agent_says("hello_withdrawn", FromAgent::Hello(withdrawing)),
        agent_says("report", FromAgent::Report(report)),
        agent_says("report_withdrawn", FromAgent::Report(withdraws)),
        agent_says("metrics", FromAgent::Metrics(metrics())),
        agent_says("log", FromAgent::Log(log_chunk())),
    ]
}

fn coordinators_words() -> Vec<Case> {
    let welcome = wire::Welcome {
        format_version: 2,
        lease_ttl_ms: 5_000,
        heartbeat_ms: 1_000,
        heeds_withdrawn: false,
    };
    let heeding = wire::Welcome { heeds_withdrawn: true, ..welcome };
    let gang =
        wire::Gang { rank: 2, world_size: 4, master_addr: "first".into(), master_port: 29_500 };
    let lease = wire::Lease {
        trial: TRIAL.into(),
        attempt: 3,
        spec_json: fixture("spec-2.json").trim().to_owned(),
        cpus: vec![0, 300],
        gpus: vec![1],
        checkpoint_json: CHECKPOINT.into(),
        gpu_share_milli: 250,
        preempted: true,
        recalled: false,
        gang: Some(gang),
        ..<_>::default()
    };
    let later = wire::Assignment {
        version: 43,
        leases: vec![wire::Lease { mtbf_ms: 86_400_000, ..lease.clone() }],
        ..<_>::default()
    };
    let assignment = wire::Assignment {
        version: 42,
        leases: vec![lease],
        base: 41,
        dropped: vec![attempt_ref()],
    };
    let reply = wire::Reply { sequence: 300, refused: vec![attempt_ref()] };
    vec![
        coordinator_says("welcome", ToAgent::Welcome(welcome)),
        coordinator_says("welcome_withdrawn", ToAgent::Welcome(heeding)),
        coordinator_says("reply", ToAgent::Reply(reply)),
        coordinator_says("assignment", ToAgent::Assignment(assignment)),
        coordinator_says("assignment_mtbf", ToAgent::Assignment(later)),
    ]
}

fn files_and_streams() -> Vec<Case> {
    let hash = "0".repeat(64);
    let request = wire::WatchRequest { from_sequence: 7, experiment: "e".into(), metrics: true };
    let series = wire::MetricsRequest {
        trial: TRIAL.into(),
        metric: "loss".into(),
        max_points: 500,
        rank: 2,
        all_ranks: true,
    };
    let logs = wire::LogsRequest { trial: TRIAL.into(), attempt: 3, follow: true, rank: 2 };
    let removed = wire::LogChunk { removed_above_bytes: 8 << 30, ..log_chunk() };
    vec![
        case("blob_request", wire::BlobRequest { blob: hash.clone() }),
        case("has_blob_reply", wire::HasBlobReply { present: true }),
        case("put_blob_reply", wire::PutBlobReply { blob: hash.clone() }),
        case("blob_chunk", wire::BlobChunk { blob: hash, content: vec![0, 255] }),
        case("watch_request", request),
        watcher_hears("watch_records", Watched::Records(b"{}\n".to_vec().into())),
        watcher_hears("watch_caught_up", Watched::CaughtUp(wire::CaughtUp { sequence: 9 })),
        watcher_hears("watch_metrics", Watched::Metrics(metrics())),
        case("metrics_request", series),
        case("logs_request", logs),
        case("removed_log", removed),
    ]
}

fn trial_view() -> wire::TrialView {
    wire::TrialView {
        trial: TRIAL.into(),
        state: "running".into(),
        attempts: 3,
        spec_json: "{}".into(),
        outcome_json: OUTCOME.into(),
        agent: "a".into(),
        waiting_for: "a GPU".into(),
        code_version: "0.1.0".into(),
        measured: vec![wire::Measured { rung: 100, value: 0.25, order: 6 }],
    }
}

fn summary() -> wire::ExperimentSummary {
    wire::ExperimentSummary {
        experiment: "e".into(),
        state: "running".into(),
        submitted_ms: 1_700_000_000_000,
        trials: 5,
        ended: 2,
        running: 1,
    }
}

fn clients_words() -> Vec<Case> {
    let info = wire::InfoReply {
        format_version: 2,
        brine_version: "0.1.0".into(),
        last_sequence: 1 << 40,
    };
    let submit = wire::SubmitRequest {
        recipe: "apiVersion: brine.dev/v1\n".into(),
        inputs_json: INPUTS.into(),
        retry_failed: true,
        user: "ada".into(),
    };
    let submitted = wire::SubmitReply { experiment: "e".into(), existed: true, sequence: 8 };
    let request = wire::ExperimentRequest { experiment: "e".into(), first_trial: 100 };
    let experiment = wire::ExperimentReply {
        summary: Some(summary()),
        recipe: "apiVersion: brine.dev/v1\n".into(),
        inputs_json: INPUTS.into(),
        trials: vec![trial_view()],
        reasons: vec!["a grid".into()],
    };
    let agent = wire::AgentView {
        agent: "a".into(),
        host: "here".into(),
        connected: true,
        cpus: 8,
        cpus_free: 6,
        gpus: vec![gpu()],
        gpus_free: 1,
        running: vec![attempt_ref()],
        withdrawn: Vec::new(),
    };
    let lacking = wire::AgentView { withdrawn: vec![withdrawn()], ..agent.clone() };
    vec![
        case("info_request", wire::InfoRequest {}),
        case("info_reply", info),
        case("submit_request", submit),
        case("submit_reply", submitted),
        case("experiment_request", request),
        case("cancel_reply", wire::CancelReply { state: "cancelled".into() }),
        case("experiments_reply", wire::ExperimentsReply { experiments: vec![summary()] }),
        case("experiment_reply", experiment),
        case("agents_reply", wire::AgentsReply { agents: vec![agent] }),
        case("agents_reply_withdrawn", wire::AgentsReply { agents: vec![lacking] }),
        case("explain_request", wire::ExplainRequest { trial: "0123".into() }),
        case("explain_reply", explained()),
    ]
}

fn explained() -> wire::ExplainReply {
    let failed = wire::FailedAttempt {
        attempt: 2,
        at_ms: 1_700_000_000_000,
        agent: "a".into(),
        outcome_json: OUTCOME.into(),
    };
    let notice =
        wire::KnownNotice { attempt: 3, at_ms: 1_700_000_000_000, notice_json: NOTICE.into() };
    wire::ExplainReply {
        trial: Some(trial_view()),
        experiments: vec!["e".into()],
        ahead: 12,
        shortages: vec![wire::Shortage { agent: "a".into(), lacks: "a GPU".into() }],
        yielding: vec![TRIAL.into()],
        failed: vec![failed],
        wait_ms: 500,
        checkpoint_json: CHECKPOINT.into(),
        running: vec![attempt_ref()],
        agents: vec!["a".into()],
        preempted_by: TRIAL.into(),
        notices: vec![notice],
    }
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_message_of_the_second_version_is_read_and_written_alike() {
    let stored = fixture("wire-2.txt");
    let stored: BTreeMap<&str, Vec<u8>> = stored
        .lines()
        .map(|line| {
            let (name, digits) = line.split_once(' ').unwrap();
            let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
            (name, (0..digits.len()).step_by(2).map(byte).collect())
        })
        .collect();
    let cases: Vec<Case> = [agents_words(), coordinators_words(), files_and_streams()]
        .into_iter()
        .chain([clients_words()])
        .flatten()
        .collect();
    let now: String =
        cases.iter().map(|case| format!("{} {}\n", case.name, digits(&case.bytes))).collect();
    assert_eq!(stored.len(), cases.len(), "each has a line; what is written now:\n{now}");
    for Case { name, bytes, is_read } in &cases {
        assert!(stored.contains_key(name), "{name} has no line; what is written now:\n{now}");
        assert!(is_read(&stored[name]), "{name} is read otherwise; what is written now:\n{now}");
        assert!(stored[name] == *bytes, "{name} is written otherwise; now:\n{now}");
        // What a later version adds is passed over: field 1,000 with the number 1.
        let more = [&stored[name][..], &[0xc0, 0x3e, 0x01]].concat();
        assert!(is_read(&more), "{name} with a field that nobody knows");
        assert!(bytes.is_empty() || !is_read(&stored[name][1..]), "{name} without its first byte");
    }
}

#[test]
fn what_the_messages_carry_as_json_is_read() {
    let outcome: Outcome = serde_json::from_str(OUTCOME).unwrap();
    let metrics = BTreeMap::from([("loss".to_owned(), 0.5)]);
    assert_eq!(outcome, Outcome::Completed { metrics, checkpoint: None });
    let checkpoint: Checkpoint = serde_json::from_str(CHECKPOINT).unwrap();
    assert_eq!((checkpoint.step, checkpoint.agent.as_str()), (9, "a"));
    let notice: Notice = serde_json::from_str(NOTICE).unwrap();
    assert_eq!(notice, Notice::new(NoticeKind::SlowStep, 7, "slow"));
    let inputs: Inputs = serde_json::from_str(INPUTS).unwrap();
    assert_eq!(inputs, Inputs::default());
    let spec: TrialSpec = serde_json::from_str(&fixture("spec-2.json")).unwrap();
    let again: TrialSpec = serde_json::from_str(&serde_json::to_string(&spec).unwrap()).unwrap();
    assert_eq!(spec.id(), again.id());
}

/// The current version is the one that has fixtures.
#[test]
fn the_current_version_has_fixtures() {
    assert_eq!(FORMAT_VERSION, 2, "add fixtures/wire-{FORMAT_VERSION}.txt; keep the older ones");
}

#[tokio::test]
async fn an_agent_of_another_version_is_refused_and_told_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let serving = start(options(folder.path())).await.unwrap();
    let mut client = client(&serving, TOKEN).await;
    let before = client.info(wire::InfoRequest {}).await.unwrap().into_inner();
    assert_eq!(before.format_version, FORMAT_VERSION);
    for (version, what_to_do) in [
        (FORMAT_VERSION + 1, "upgrade the coordinator"),
        (u32::MAX, "upgrade the coordinator"),
        (1, "install the coordinator's version of Brine there"),
        (0, "install the coordinator's version of Brine there"),
    ] {
        let hello = Hello { format_version: version, ..Agent::hello("a", 1) };
        let status = Agent::say_hello(&mut client, hello).await.err().unwrap();
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        let said = status.message();
        assert!(said.contains(&format!("speaks version {version},")), "{said}");
        assert!(said.contains(&FORMAT_VERSION.to_string()) && said.contains(what_to_do), "{said}");
    }
    // Nothing came of them, and their name is free.
    let agents = client.agents(wire::AgentsRequest {}).await.unwrap().into_inner().agents;
    assert_eq!(agents, []);
    let after = client.info(wire::InfoRequest {}).await.unwrap().into_inner();
    assert_eq!(after.last_sequence, before.last_sequence);
    Agent::say_hello(&mut client, Agent::hello("a", 1)).await.unwrap();
    serving.shutdown().await.unwrap();
}
