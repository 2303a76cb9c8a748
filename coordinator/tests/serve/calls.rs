//! Goal: over real sockets and a real journal, what was acknowledged is there, everybody sees the
//! same facts in the same order, and only the bearer of the token and of the lease is heard.

use crate::support::{Agent, Client, PATIENCE, TOKEN, client, options};
use coordinator::{Options, Serving, StartError, start};
use proto::wire::agent_message::Message as FromAgent;
use proto::wire::coordinator_message::Message as ToAgent;
use proto::wire::watch_reply::Message as Watched;
use proto::wire::{
    AgentsRequest, BlobChunk, BlobRequest, ExperimentRequest, Gpu, Hello, InfoRequest, Lease,
    MetricBatch, MetricPoint, MetricsRequest, Reply, Report, Series, SubmitRequest, WatchRequest,
    WithdrawnGpu,
};
use proto::{BlobId, Event, Inputs, Record};
use std::collections::VecDeque;
use std::path::Path;
use tokio_stream::StreamExt as _;
use tonic::{Code, Streaming};

const RECIPE: &str = include_str!("../../src/core/tests/sweep.yaml");
async fn submit(client: &mut Client) -> (String, bool) {
    let inputs_json = serde_json::to_string(&Inputs::default()).unwrap();
    let request = SubmitRequest {
        recipe: RECIPE.to_owned(),
        inputs_json,
        retry_failed: false,
        ..SubmitRequest::default()
    };
    let reply = client.submit(request).await.unwrap().into_inner();
    (reply.experiment, reply.existed)
}

/// A coordinator with the recipe, and an agent that got its trial.
async fn leased(folder: &Path) -> (Serving, Client, Agent, Lease) {
    let serving = start(options(folder)).await.unwrap();
    let mut client = client(&serving, TOKEN).await;
    submit(&mut client).await;
    let mut agent = Agent::say_hello(&mut client, Agent::hello("a", 1)).await.unwrap();
    let lease = agent.assignment().await.leases.remove(0);
    (serving, client, agent, lease)
}

/// A watch, record by record.
struct Watch {
    stream: Streaming<proto::wire::WatchReply>,
    records: VecDeque<Record>,
}

impl Watch {
    async fn next(&mut self) -> Option<Record> {
        loop {
            if let Some(record) = self.records.pop_front() {
                return Some(record);
            }
            let reply = tokio::time::timeout(PATIENCE, self.stream.message()).await.unwrap();
            match reply.unwrap()?.message.unwrap() {
                Watched::Records(lines) => {
                    let records = serde_json::Deserializer::from_slice(&lines).into_iter();
                    self.records.extend(records.map(|record| record.unwrap()));
                }
                Watched::CaughtUp(_) | Watched::Metrics(_) => {}
            }
        }
    }
}

#[tokio::test]
async fn a_caller_without_the_token_is_turned_away() {
    let folder = tempfile::tempdir().unwrap();
    let serving = start(options(folder.path())).await.unwrap();
    let mut client = client(&serving, "not-the-token").await;
    let status = client.info(InfoRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains("file `token`"), "{}", status.message());
    serving.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_port_that_is_taken_and_a_short_token_are_clear_errors() {
    let folder = tempfile::tempdir().unwrap();
    let serving = start(options(&folder.path().join("a"))).await.unwrap();
    let taken = Options { listen: serving.address(), ..options(&folder.path().join("b")) };
    let error = start(taken).await.err().unwrap();
    assert!(matches!(error, StartError::Listen { .. }), "{error}");
    assert!(error.to_string().contains("--listen"), "{error}");
    let short = Options { token: "x".to_owned(), ..options(&folder.path().join("c")) };
    assert!(matches!(start(short).await, Err(StartError::Token(1))));
    serving.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_experiment_runs_and_is_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let serving = start(options(folder.path())).await.unwrap();
    let mut client = client(&serving, TOKEN).await;
    let (experiment, existed) = submit(&mut client).await;
    assert!(!existed);
    let request = WatchRequest { from_sequence: 1, experiment: experiment.clone(), metrics: false };
    let stream = client.watch(request).await.unwrap().into_inner();
    let mut watch = Watch { stream, records: VecDeque::new() };

    let mut agent = Agent::say_hello(&mut client, Agent::hello("a", 1)).await.unwrap();
    let lease = agent.assignment().await.leases.remove(0);
    assert_eq!(lease.attempt, 1);
    let stale = agent.report_end(&lease.trial, 7).await;
    assert_eq!(stale.refused.len(), 1, "an attempt that was never granted");
    let reply = agent.report_end(&lease.trial, 1).await;
    assert_eq!(reply.refused, []);

    let mut words = Vec::new();
    loop {
        match watch.next().await.unwrap().event {
            Event::ExperimentEnded { state, .. } => {
                words.push(state.word());
                break;
            }
            Event::TrialEnded { outcome, .. } => words.push(outcome.word()),
            Event::LeaseGranted { .. } => words.push("leased"),
            Event::ExperimentSubmitted { .. } => words.push("submitted"),
            Event::RangePlanned { .. } => words.push("planned"),
            Event::TrialsDrawn { .. } => words.push("drawn"),
            other @ (Event::ExperimentResumed { .. }
            | Event::RecipeChanged { .. }
            | Event::TrialsPlanned { .. }
            | Event::AttemptPreempted { .. }
            | Event::MemberEnded { .. }
            | Event::Measured { .. }
            | Event::Noticed { .. }
            | Event::AttemptStarted { .. }
            | Event::CheckpointSaved { .. }
            | Event::AttemptFailed { .. }) => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!(words, ["submitted", "planned", "drawn", "leased", "completed", "complete"]);
    serving.shutdown().await.unwrap();

    let serving = start(options(folder.path())).await.unwrap();
    let mut client = crate::support::client(&serving, TOKEN).await;
    let request = ExperimentRequest { experiment: experiment.clone(), first_trial: 0 };
    let reply = client.experiment(request).await.unwrap().into_inner();
    assert_eq!(reply.summary.unwrap().state, "complete");
    assert_eq!((reply.trials[0].attempts, &*reply.trials[0].state), (1, "completed"));
    assert_eq!(submit(&mut client).await, (experiment, true));
    serving.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_withdrawn_gpu_is_shown_with_its_reason_until_the_agent_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let serving = start(options(folder.path())).await.unwrap();
    let mut client = client(&serving, TOKEN).await;
    let gpu = |index| Gpu { index, name: "H100".into(), memory_bytes: 80 << 30 };
    let hello = Hello { gpus: vec![gpu(0), gpu(1)], ..Agent::hello("a", 1) };
    let mut agent = Agent::say_hello(&mut client, hello.clone()).await.unwrap();
    let lost = WithdrawnGpu { index: 1, reason: "lost".into() };
    let report = Report { sequence: 1, withdrawn: vec![lost.clone()], ..Report::default() };
    agent.say(FromAgent::Report(report)).await;
    while !matches!(agent.next().await, ToAgent::Reply(Reply { sequence: 1, .. })) {}
    let again = |number, withdrawn| Hello { number, withdrawn, ..hello.clone() };
    for (hello, withdrawn, free) in [
        (None, vec![lost.clone()], 1),
        (Some(again(1, vec![lost.clone()])), vec![lost], 1),
        (Some(again(2, Vec::new())), Vec::new(), 2),
    ] {
        if let Some(hello) = hello {
            agent = Agent::say_hello(&mut client, hello).await.unwrap();
            assert!(matches!(agent.next().await, ToAgent::Welcome(_)));
        }
        let agents = client.agents(AgentsRequest {}).await.unwrap().into_inner().agents;
        assert_eq!((agents[0].gpus.len(), agents[0].gpus_free), (2, free));
        assert_eq!(agents[0].withdrawn, withdrawn);
    }
    serving.shutdown().await.unwrap();
}

#[tokio::test]
async fn metrics_are_stored_and_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let (serving, mut client, mut agent, lease) = leased(folder.path()).await;
    let point = |step, value| MetricPoint {
        trial: lease.trial.clone(),
        attempt: 1,
        metric: "loss".to_owned(),
        step,
        value,
        rank: 0,
    };
    let points = (0..3_000).map(|step| point(step, step as f64)).collect();
    agent.say(FromAgent::Metrics(MetricBatch { points, ..MetricBatch::default() })).await;
    // The reply to a report comes after everything the session said before it.
    agent.report_end(&lease.trial, 1).await;
    let request = |max_points| MetricsRequest {
        trial: lease.trial.clone(),
        metric: "loss".to_owned(),
        max_points,
        ..MetricsRequest::default()
    };
    let mut stream = client.metrics(request(0)).await.unwrap().into_inner();
    let mut steps = Vec::new();
    while let Some(batch) = stream.message().await.unwrap() {
        steps.extend(batch.points.iter().map(|point| (point.step, point.value)));
    }
    assert_eq!(steps, (0..3_000).map(|step| (step, step as f64)).collect::<Vec<_>>());

    let mut stream = client.metrics(request(8)).await.unwrap().into_inner();
    let batch = stream.message().await.unwrap().unwrap();
    assert_eq!(batch.points.iter().map(|p| p.step).collect::<Vec<_>>(), [0, 1_499, 1_500, 2_999]);
    assert_eq!(batch.series, Some(Series { metric: "loss".to_owned(), points: 3_000, rank: 0 }));
    assert_eq!(stream.message().await.unwrap(), None);
    let mut stream = client.metrics(request(3_000)).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap().points.len(), 3_000);
    let status = client.metrics(request(6)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("at least 7 points"), "{}", status.message());
    serving.shutdown().await.unwrap();
}

#[tokio::test]
async fn metrics_without_a_place_are_said_in_the_answer() {
    let folder = tempfile::tempdir().unwrap();
    let (serving, mut client, mut agent, lease) = leased(folder.path()).await;
    let point = |number: u32| MetricPoint {
        trial: lease.trial.clone(),
        attempt: 1,
        metric: format!("loss_of_{number:04}"),
        ..MetricPoint::default()
    };
    let points = (0..1_001).map(point).collect();
    agent.say(FromAgent::Metrics(MetricBatch { points, ..MetricBatch::default() })).await;
    agent.report_end(&lease.trial, 1).await;
    let request = MetricsRequest { trial: lease.trial.clone(), ..MetricsRequest::default() };
    let mut stream = client.metrics(request).await.unwrap().into_inner();
    let notes = stream.message().await.unwrap().unwrap().notes;
    assert!(notes[0].contains("the metric loss_of_1000 and those after it"), "{notes:?}");
    assert_eq!(stream.message().await.unwrap().unwrap().points.len(), 1_000);
    serving.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_blob_is_kept_only_under_its_own_hash() {
    let folder = tempfile::tempdir().unwrap();
    let serving = start(options(folder.path())).await.unwrap();
    let mut client = client(&serving, TOKEN).await;
    let content = vec![7; 600_000];
    let blob = BlobId::from_hash(blake3::hash(&content)).to_string();
    let chunk = |blob: &str, content: &[u8]| BlobChunk {
        blob: blob.to_owned(),
        content: content.to_owned(),
    };
    let wrong = BlobId::from_hash(blake3::hash(b"other")).to_string();
    let chunks = tokio_stream::iter([chunk(&wrong, &content)]);
    let status = client.put_blob(chunks).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let request = BlobRequest { blob: wrong };
    assert!(!client.has_blob(request).await.unwrap().into_inner().present);

    let chunks = [chunk(&blob, &content[..300_000]), chunk("", &content[300_000..])];
    client.put_blob(tokio_stream::iter(chunks)).await.unwrap();
    let stream = client.get_blob(BlobRequest { blob }).await.unwrap().into_inner();
    let pieces: Vec<_> = stream.map(|chunk| chunk.unwrap().content).collect().await;
    assert_eq!(pieces.concat(), content);
    serving.shutdown().await.unwrap();
}
