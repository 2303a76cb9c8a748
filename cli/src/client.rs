//! The connection to a coordinator: the edge where wire messages become domain types.

use crate::error::CliError;
use crate::series::Shapes;
use crate::snapshot::Snapshot;
use crate::stored::{self, Stored};
use proto::wire::coordinator_client::CoordinatorClient;
use proto::wire::{
    AgentView, AgentsRequest, BLOB_CHUNK_BYTES, BlobChunk, BlobRequest, ExperimentReply,
    ExperimentRequest, ExperimentSummary, ExperimentsRequest, ExplainReply, ExplainRequest,
    InfoReply, InfoRequest, LogChunk, LogsRequest, MESSAGE_BYTES_MAX, MetricBatch, MetricsRequest,
    SubmitRequest, WatchReply, WatchRequest,
};
use proto::{AttemptKey, BlobRef, ExperimentId, FORMAT_VERSION, Inputs, TrialId, WIRE_VERSION_MIN};
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tonic::Streaming;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

/// A coordinator answers a connection at once or is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A coordinator that replays a long journal may be busy, but not for ever.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// A dead network is noticed in about twice this time, even when nothing is said.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Chunks of a file that wait for the network at most.
const CHUNKS_WAITING_MAX: usize = 8;

/// A place behind every trial: an experiment has far fewer.
const NO_TRIALS: u32 = u32::MAX;
/// A sequence number that no record reaches.
const NO_RECORDS: u64 = u64::MAX;

/// A connected client.
#[derive(Clone)]
pub(crate) struct Client {
    calls: CoordinatorClient<InterceptedService<Channel, Bearer>>,
    url: String,
    /// Set where the coordinator was only started to read a folder.
    stored: Option<Stored>,
}

/// A submission's answer.
pub(crate) struct Submitted {
    pub(crate) experiment: ExperimentId,
    /// The same recipe with the same files was submitted before.
    pub(crate) existed: bool,
}

impl Client {
    /// Connects and asks for the version.
    ///
    /// # Errors
    /// The URL is malformed, nothing listens there, the token is wrong, or the version is newer.
    pub(crate) async fn connect(url: &str, token: &str) -> Result<Self, CliError> {
        let endpoint = Endpoint::from_shared(url.to_owned())
            .ok()
            .filter(|endpoint| endpoint.uri().scheme_str() == Some("http"))
            .ok_or_else(|| {
                CliError::usage(format!("{url:?} is not the URL of a coordinator"))
                    .hint("a URL looks like http://127.0.0.1:7600")
            })?;
        let channel = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .connect()
            .await
            .map_err(|error| unreachable_at(url).because(error))?;
        let bearer = Bearer::new(token)?;
        let calls = CoordinatorClient::with_interceptor(channel, bearer)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let mut client = Self { calls, url: url.to_owned(), stored: None };
        let info = within(client.calls.info(InfoRequest {})).await?;
        check_version(url, &info)?;
        Ok(client)
    }

    /// The same client, which says of nothing that it runs.
    pub(crate) fn of_stored(self, stored: Stored) -> Self {
        Self { stored: Some(stored), ..self }
    }

    /// What it reads, when no coordinator runs.
    pub(crate) fn stored(&self) -> Option<&Stored> {
        self.stored.as_ref()
    }

    /// Where it is connected to.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Submits a recipe whose files are there already.
    pub(crate) async fn submit(
        &mut self,
        recipe: String,
        inputs: &Inputs,
        retry_failed: bool,
    ) -> Result<Submitted, CliError> {
        // For fair shares among people; who may submit at all is decided by the token.
        let user = std::env::var("USER").unwrap_or_default();
        let inputs_json = serde_json::to_string(inputs)
            .map_err(|error| CliError::internal("cannot write the inputs").because(error))?;
        let request = SubmitRequest { recipe, inputs_json, retry_failed, user };
        let reply = within(self.calls.submit(request)).await?;
        Ok(Submitted { experiment: parse_experiment(reply.experiment)?, existed: reply.existed })
    }

    /// Sends the content of `files`, one after the other, unless the coordinator has it. `sent` is
    /// told how many bytes went since its last call.
    pub(crate) async fn put_blob(
        &mut self,
        blob: &BlobRef,
        files: Vec<PathBuf>,
        sent: impl Fn(u64) + Send + Sync + 'static,
    ) -> Result<(), CliError> {
        let id = blob.blob.to_string();
        let request = BlobRequest { blob: id.clone() };
        if within(self.calls.has_blob(request)).await?.present {
            return Ok(());
        }
        let (sender, receiver) = tokio::sync::mpsc::channel(CHUNKS_WAITING_MAX);
        let read = read_chunks(id, files, sender, sent);
        let chunks = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let (read, reply) = tokio::join!(read, self.calls.put_blob(chunks));
        read?;
        reply?;
        Ok(())
    }

    /// Asks for an experiment's end; the answer is its state's word.
    pub(crate) async fn cancel(&mut self, experiment: &ExperimentId) -> Result<String, CliError> {
        let experiment = experiment.to_string();
        let request = ExperimentRequest { experiment, first_trial: 0 };
        Ok(within(self.calls.cancel(request)).await?.state)
    }

    /// All experiments.
    pub(crate) async fn experiments(&mut self) -> Result<Vec<ExperimentSummary>, CliError> {
        let mut reply = within(self.calls.experiments(ExperimentsRequest {})).await?;
        if self.stored.is_some() {
            reply.experiments.iter_mut().for_each(stored::settle_summary);
        }
        Ok(reply.experiments)
    }

    /// All that is known about one.
    pub(crate) async fn snapshot(
        &mut self,
        experiment: &ExperimentId,
    ) -> Result<Snapshot, CliError> {
        let mut whole = ExperimentReply::default();
        loop {
            let mut page = self.page(experiment, whole.trials.len() as u32).await?;
            let is_last = page.trials.is_empty();
            // The head of the newest page; the trials of all.
            whole.trials.append(&mut page.trials);
            whole = ExperimentReply { trials: whole.trials, ..page };
            let total = whole.summary.as_ref().map_or(0, |summary| summary.trials as usize);
            if is_last || whole.trials.len() >= total {
                return Snapshot::parse(whole);
            }
        }
    }

    /// The trials from `first_trial` on, counted from 0 in planning order: as many as fit into a
    /// message, and none past the last one.
    pub(crate) async fn page(
        &mut self,
        experiment: &ExperimentId,
        first_trial: u32,
    ) -> Result<ExperimentReply, CliError> {
        let request = ExperimentRequest { experiment: experiment.to_string(), first_trial };
        let mut reply = within(self.calls.experiment(request)).await?;
        if self.stored.is_some() {
            stored::settle_experiment(&mut reply);
        }
        Ok(reply)
    }

    /// An experiment's counts, recipe and inputs, without its trials.
    pub(crate) async fn head(
        &mut self,
        experiment: &ExperimentId,
    ) -> Result<ExperimentReply, CliError> {
        self.page(experiment, NO_TRIALS).await
    }

    /// Why the trial whose id begins with `prefix` is where it is.
    pub(crate) async fn explain(&mut self, prefix: &str) -> Result<ExplainReply, CliError> {
        let request = ExplainRequest { trial: prefix.to_owned() };
        let mut reply = within(self.calls.explain(request)).await?;
        if self.stored.is_some() {
            stored::settle_explanation(&mut reply);
        }
        Ok(reply)
    }

    /// Sequence number of the newest record.
    pub(crate) async fn last_sequence(&mut self) -> Result<u64, CliError> {
        Ok(within(self.calls.info(InfoRequest {})).await?.last_sequence)
    }

    /// Every metric of a trial: by name, then by step, one value per step.
    pub(crate) async fn series(
        &mut self,
        trial: &TrialId,
    ) -> Result<Streaming<MetricBatch>, CliError> {
        let request = MetricsRequest { trial: trial.to_string(), ..MetricsRequest::default() };
        within(self.calls.metrics(request)).await
    }

    /// The same of all members of a gang, rank 0 first.
    pub(crate) async fn series_of_all_ranks(
        &mut self,
        trial: &TrialId,
    ) -> Result<Streaming<MetricBatch>, CliError> {
        let trial = trial.to_string();
        let request = MetricsRequest { trial, all_ranks: true, ..MetricsRequest::default() };
        within(self.calls.metrics(request)).await
    }

    /// The live metric points of all experiments, and no records.
    pub(crate) async fn watch_metrics(&mut self) -> Result<Streaming<WatchReply>, CliError> {
        let request =
            WatchRequest { from_sequence: NO_RECORDS, experiment: String::new(), metrics: true };
        within(self.calls.watch(request)).await
    }

    /// All agents.
    pub(crate) async fn agents(&mut self) -> Result<Vec<AgentView>, CliError> {
        Ok(within(self.calls.agents(AgentsRequest {})).await?.agents)
    }

    /// Records from `from_sequence` on, then live ones and metric points.
    pub(crate) async fn watch(
        &mut self,
        experiment: &ExperimentId,
        from_sequence: u64,
    ) -> Result<Streaming<WatchReply>, CliError> {
        let request =
            WatchRequest { from_sequence, experiment: experiment.to_string(), metrics: true };
        within(self.calls.watch(request)).await
    }

    /// The shape of a trial's series, or of one of them, of one member or (`None`) of all: each as
    /// it is when it has no more points than `points_max`.
    pub(crate) async fn shapes(
        &mut self,
        trial: &TrialId,
        rank: Option<u32>,
        metric: Option<&str>,
        points_max: u32,
    ) -> Result<Shapes, CliError> {
        let request = MetricsRequest {
            trial: trial.to_string(),
            metric: metric.unwrap_or_default().to_owned(),
            max_points: points_max,
            rank: rank.unwrap_or_default(),
            all_ranks: rank.is_none(),
        };
        let mut stream = within(self.calls.metrics(request)).await?;
        let mut shapes = Shapes::default();
        while let Some(batch) = stream.message().await? {
            shapes.take(batch)?;
        }
        Ok(shapes)
    }

    /// The log of a member's attempt, from its start.
    pub(crate) async fn logs(
        &mut self,
        key: &AttemptKey,
        follow: bool,
    ) -> Result<Streaming<LogChunk>, CliError> {
        let (trial, attempt, rank) = (key.trial.to_string(), key.attempt.0, key.rank);
        let request = LogsRequest { trial, attempt, follow, rank };
        within(self.calls.logs(request)).await
    }
}

/// Refuses a coordinator whose version of the wire this command does not speak.
fn check_version(url: &str, info: &InfoReply) -> Result<(), CliError> {
    if (WIRE_VERSION_MIN..=FORMAT_VERSION).contains(&info.format_version) {
        return Ok(());
    }
    Err(CliError::user(format!(
        "the coordinator at {url} is Brine {} and speaks format {}; this command knows {FORMAT_VERSION}",
        info.brine_version, info.format_version
    ))
    .hint("install the coordinator's version of Brine here"))
}

/// Adds the token to every call.
#[derive(Clone)]
pub(crate) struct Bearer(MetadataValue<Ascii>);

impl Bearer {
    fn new(token: &str) -> Result<Self, CliError> {
        let mut value: MetadataValue<Ascii> =
            format!("Bearer {token}").parse().map_err(|error| {
                CliError::user("the token holds characters that cannot be sent").because(error)
            })?;
        // Keeps it out of logs.
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

impl Interceptor for Bearer {
    fn call(
        &mut self,
        mut request: tonic::Request<()>,
    ) -> Result<tonic::Request<()>, tonic::Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// The error when nothing answers at `url`.
pub(crate) fn unreachable_at(url: &str) -> CliError {
    CliError::connection(format!("no coordinator answers at {url}")).hint(
        "start one with `brine coordinator`, or give another address with --coordinator or BRINE_COORDINATOR",
    )
}

/// An id that came over the wire.
pub(crate) fn parse_experiment(text: String) -> Result<ExperimentId, CliError> {
    ExperimentId::new(text)
        .map_err(|error| CliError::internal("the coordinator sent a malformed id").because(error))
}

async fn within<T>(
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, CliError> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(reply) => Ok(reply?.into_inner()),
        Err(_elapsed) => Err(CliError::user(format!(
            "the coordinator did not answer within {} s",
            CALL_TIMEOUT.as_secs()
        ))
        .hint("see its log; its disk may be slow or full")),
    }
}

async fn read_chunks(
    blob: String,
    files: Vec<PathBuf>,
    sender: tokio::sync::mpsc::Sender<BlobChunk>,
    sent: impl Fn(u64) + Send + Sync,
) -> Result<(), CliError> {
    let mut name = Some(blob);
    for path in files {
        let failed = |error| CliError::file(format!("read {}", path.display()), error);
        let mut file = tokio::fs::File::open(&path).await.map_err(failed)?;
        loop {
            let mut content = Vec::with_capacity(BLOB_CHUNK_BYTES);
            let read = (&mut file)
                .take(BLOB_CHUNK_BYTES as u64)
                .read_to_end(&mut content)
                .await
                .map_err(failed)?;
            if read == 0 {
                break;
            }
            let blob = name.take().unwrap_or_default();
            if sender.send(BlobChunk { blob, content }).await.is_err() {
                // The call ended early; its own answer says why.
                return Ok(());
            }
            sent(read as u64);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coordinator_of_another_version_is_refused_with_what_to_do() {
        for (format_version, is_spoken) in [
            (0, false),
            (WIRE_VERSION_MIN - 1, false),
            (WIRE_VERSION_MIN, true),
            (FORMAT_VERSION, true),
            (FORMAT_VERSION + 1, false),
            (u32::MAX, false),
        ] {
            let brine_version = "9.8.7".to_owned();
            let info = InfoReply { format_version, brine_version, last_sequence: 0 };
            let said = match check_version("http://there:7600", &info) {
                Ok(()) => None,
                Err(error) => Some(format!("{error:?}")),
            };
            assert_eq!(said.is_none(), is_spoken, "{format_version}");
            let texts = ["http://there:7600", "9.8.7", "install the coordinator's version"];
            for text in texts.iter().filter(|_| !is_spoken) {
                assert!(said.as_ref().is_some_and(|said| said.contains(text)), "{text}: {said:?}");
            }
        }
    }
}
