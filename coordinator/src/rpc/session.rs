//! An agent's session: its stream in, its stream out. Level-triggered: what goes out is always the
//! newest complete assignment, however many were skipped.

use super::{ANSWERS_MAX, Answers, Service, bad, reject, stopped};
use crate::core::state::{Capacity, Gpu};
use crate::core::{Heard, LeaseView, Report};
use crate::driver::{Message, Wanted};
use crate::store::METRIC_NAME_BYTES_MAX;
use proto::wire::agent_message::Message as FromAgent;
use proto::wire::coordinator_message::Message as ToAgent;
use proto::wire::{
    self, AgentMessage, Assignment, AttemptRef, CoordinatorMessage, Hello, LOG_CHUNK_BYTES, Lease,
    METRIC_BATCH_MAX, Reply, Welcome,
};
use proto::{AgentId, Attempt, Checkpoint, FORMAT_VERSION, MetricPoint, Outcome, TrialId};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

/// CPU slots that one agent may offer; more than any machine has.
const CPUS_MAX: u32 = 4_096;
/// Kept of an agent's version; it stands in every lease's record.
const VERSION_CHARACTERS_MAX: usize = 64;
/// GPUs that one agent may offer.
const GPUS_MAX: usize = 256;
/// Attempts in one report; an agent cannot hold more than it has CPU slots.
const ATTEMPTS_MAX: usize = 3 * CPUS_MAX as usize;
/// A session that says nothing for this many lease terms is closed: the connection is dead, even
/// if the network has not noticed.
const SILENCE_TERMS: u64 = 3;

type Outgoing = mpsc::Sender<Result<CoordinatorMessage, Status>>;

pub(super) async fn open(
    service: Service,
    mut incoming: Streaming<AgentMessage>,
) -> Result<Response<Answers<CoordinatorMessage>>, Status> {
    let first = incoming.message().await?.and_then(|message| message.message);
    let Some(FromAgent::Hello(hello)) = first else {
        return Err(Status::invalid_argument("the first message of a session must be a hello"));
    };
    if hello.format_version > FORMAT_VERSION {
        return Err(Status::failed_precondition(format!(
            "the agent speaks version {}, this coordinator up to {FORMAT_VERSION}; upgrade the \
             coordinator",
            hello.format_version
        )));
    }
    let number = service.sessions.fetch_add(1, Ordering::Relaxed) + 1;
    let (agent, heard) = joined(number, hello)?;
    let (wanted, assignment) = watch::channel(Wanted::default());
    service.call(|answer| Message::Join { heard, wanted, answer }).await?.map_err(reject)?;

    let (outgoing, receiver) = mpsc::channel(ANSWERS_MAX);
    let welcome = Welcome {
        format_version: FORMAT_VERSION,
        lease_ttl_ms: service.lease_ttl_ms,
        heartbeat_ms: service.heartbeat_ms,
    };
    say(&outgoing, ToAgent::Welcome(welcome)).await?;
    let session = Session { service, agent, number, outgoing };
    #[expect(clippy::disallowed_methods, reason = "it ends with the agent's stream")]
    tokio::spawn(session.serve(incoming, assignment));
    Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
}

fn joined(session: u64, hello: Hello) -> Result<(AgentId, Heard), Status> {
    let agent = AgentId::new(hello.agent).map_err(bad("agent"))?;
    if hello.cpus == 0 || hello.cpus > CPUS_MAX || hello.gpus.len() > GPUS_MAX {
        return Err(Status::invalid_argument(format!(
            "an agent offers 1 to {CPUS_MAX} CPU slots and at most {GPUS_MAX} GPUs"
        )));
    }
    let gpu =
        |gpu: wire::Gpu| Gpu { index: gpu.index, name: gpu.name, memory_bytes: gpu.memory_bytes };
    let capacity = Capacity {
        host: hello.host,
        cpus: hello.cpus,
        gpus: hello.gpus.into_iter().map(gpu).collect(),
        memory_bytes: hello.memory_bytes,
        code_version: hello.brine_version.chars().take(VERSION_CHARACTERS_MAX).collect(),
    };
    let running = running(&hello.running)?.into_iter().map(|(t, a, _)| (t, a)).collect();
    Ok((agent.clone(), Heard::Joined { agent, session, capacity, running }))
}

fn running(list: &[wire::Running]) -> Result<Vec<(TrialId, Attempt, bool)>, Status> {
    if list.len() > ATTEMPTS_MAX {
        return Err(Status::invalid_argument(format!("at most {ATTEMPTS_MAX} attempts")));
    }
    let parse = |item: &wire::Running| {
        let trial = TrialId::new(item.trial.as_str()).map_err(bad("trial"))?;
        Ok((trial, Attempt(item.attempt), item.started))
    };
    list.iter().map(parse).collect()
}

async fn say(outgoing: &Outgoing, message: ToAgent) -> Result<(), Status> {
    let message = CoordinatorMessage { message: Some(message) };
    outgoing.send(Ok(message)).await.map_err(|_| Status::cancelled("the agent is gone"))
}

struct Session {
    service: Service,
    agent: AgentId,
    number: u64,
    outgoing: Outgoing,
}

impl Session {
    async fn serve(
        self,
        mut incoming: Streaming<AgentMessage>,
        mut assignment: watch::Receiver<Wanted>,
    ) {
        let result = tokio::select! {
            result = self.exchange(&mut incoming, &mut assignment) => result,
            () = self.service.stopping.cancelled() => Err(stopped()),
        };
        if let Err(status) = result {
            tracing::info!(agent = %self.agent, reason = status.message(), "session ended");
            // The agent may be gone already.
            drop(self.outgoing.send(Err(status)).await);
        }
        let heard = Heard::Left { agent: self.agent.clone(), session: self.number };
        // Without a driver there is nobody to tell.
        drop(self.service.inbox.send(Message::Leave { heard }).await);
    }

    async fn exchange(
        &self,
        incoming: &mut Streaming<AgentMessage>,
        assignment: &mut watch::Receiver<Wanted>,
    ) -> Result<(), Status> {
        let silence = Duration::from_millis(self.service.lease_ttl_ms * SILENCE_TERMS);
        loop {
            tokio::select! {
                message = tokio::time::timeout(silence, incoming.message()) => {
                    let message = message.map_err(|_| Status::deadline_exceeded(format!(
                        "agent {} said nothing for {} ms", self.agent, silence.as_millis()
                    )))?;
                    match message?.and_then(|message| message.message) {
                        Some(message) => self.hear(message).await?,
                        None => return Ok(()),
                    }
                }
                changed = assignment.changed() => {
                    changed.map_err(|_| Status::aborted(format!(
                        "another session of agent {} began, or the coordinator stops", self.agent
                    )))?;
                    let wanted = Wanted::clone(&assignment.borrow_and_update());
                    self.assign(&wanted).await?;
                }
            }
        }
    }

    async fn assign(&self, wanted: &Wanted) -> Result<(), Status> {
        let leases = wanted.1.iter().map(lease).collect::<Result<_, _>>()?;
        say(&self.outgoing, ToAgent::Assignment(Assignment { version: wanted.0, leases })).await
    }

    async fn hear(&self, message: FromAgent) -> Result<(), Status> {
        match message {
            FromAgent::Hello(_) => {
                Err(Status::invalid_argument("a session has one hello, at its start"))
            }
            FromAgent::Report(report) => self.report(report).await,
            FromAgent::Metrics(batch) => self.metrics(batch).await,
            FromAgent::Log(chunk) => self.log(chunk).await,
        }
    }

    async fn report(&self, report: wire::Report) -> Result<(), Status> {
        let sequence = report.sequence;
        let running = running(&report.running)?;
        if report.ended.len() > ATTEMPTS_MAX || report.checkpoints.len() > ATTEMPTS_MAX {
            return Err(Status::invalid_argument(format!("at most {ATTEMPTS_MAX} attempts")));
        }
        let ended = |item: wire::Ended| {
            let trial = TrialId::new(item.trial).map_err(bad("trial"))?;
            let outcome: Outcome =
                serde_json::from_str(&item.outcome_json).map_err(bad("outcome_json"))?;
            Ok::<_, Status>((trial, Attempt(item.attempt), outcome))
        };
        let saved = |item: wire::SavedCheckpoint| {
            let trial = TrialId::new(item.trial).map_err(bad("trial"))?;
            let checkpoint: Checkpoint =
                serde_json::from_str(&item.checkpoint_json).map_err(bad("checkpoint_json"))?;
            Ok::<_, Status>((trial, checkpoint))
        };
        let ended = report.ended.into_iter().map(ended).collect::<Result<Vec<_>, _>>()?;
        let ended_refs = ended.iter().map(|(trial, attempt, _)| (trial.clone(), *attempt));
        let heard = Heard::Report {
            agent: self.agent.clone(),
            running: running.iter().map(|(t, a, _)| (t.clone(), *a)).chain(ended_refs).collect(),
            assignment_version: report.assignment_version,
            leaving: report.leaving,
        };
        let report = Report {
            agent: self.agent.clone(),
            session: self.number,
            running,
            ended,
            checkpoints: report.checkpoints.into_iter().map(saved).collect::<Result<_, _>>()?,
        };
        let message = |answer| Message::Report { report, heard, answer };
        let settled = self.service.call(message).await?.map_err(reject)?;
        let refused = settled.refused.iter().map(|(t, a)| AttemptRef::new(t, *a)).collect();
        say(&self.outgoing, ToAgent::Reply(Reply { sequence, refused })).await
    }

    async fn metrics(&self, batch: wire::MetricBatch) -> Result<(), Status> {
        if batch.points.len() > METRIC_BATCH_MAX {
            return Err(Status::invalid_argument(format!(
                "a batch has at most {METRIC_BATCH_MAX} metric points"
            )));
        }
        let well_named = |point: &wire::MetricPoint| {
            let name = point.metric.as_bytes();
            !name.is_empty() && name.len() <= METRIC_NAME_BYTES_MAX && !name.contains(&0)
        };
        if !batch.points.iter().all(well_named) {
            return Err(Status::invalid_argument(format!(
                "a metric's name has 1 to {METRIC_NAME_BYTES_MAX} bytes, none of them zero"
            )));
        }
        let points = batch
            .points
            .into_iter()
            .map(|point| MetricPoint::try_from(point).map_err(bad("trial")))
            .collect::<Result<Vec<_>, _>>()?;
        let points = Arc::new(points);
        let (store, stored) = (Arc::clone(&self.service.store), Arc::clone(&points));
        tokio::task::spawn_blocking(move || store.put_metrics(&stored))
            .await
            .map_err(super::internal)?
            .map_err(super::internal)?;
        // Nobody is watching: the series is stored all the same.
        drop(self.service.live_metrics.send(points));
        Ok(())
    }

    async fn log(&self, chunk: wire::LogChunk) -> Result<(), Status> {
        if chunk.text.len() > LOG_CHUNK_BYTES {
            return Err(Status::invalid_argument(format!(
                "a piece of a log has at most {LOG_CHUNK_BYTES} bytes"
            )));
        }
        let trial = TrialId::new(chunk.trial).map_err(bad("trial"))?;
        // Only trials that this coordinator knows get a file.
        let id = trial.clone();
        if !self.service.ask(move |core, _| core.trial(&id).is_some()).await? {
            return Ok(());
        }
        let (logs, attempt) = (self.service.logs.clone(), Attempt(chunk.attempt));
        let write = move || logs.write(&trial, attempt, chunk.offset, &chunk.text);
        tokio::task::spawn_blocking(write).await.map_err(|_| stopped())?.map_err(super::internal)
    }
}

fn lease(view: &LeaseView) -> Result<Lease, Status> {
    let checkpoint = view.checkpoint.as_ref().map(serde_json::to_string).transpose();
    Ok(Lease {
        trial: view.trial.to_string(),
        attempt: view.attempt.0,
        spec_json: serde_json::to_string(&*view.spec).map_err(super::internal)?,
        cpus: view.devices.cpus.clone(),
        gpus: view.devices.gpus.clone(),
        checkpoint_json: checkpoint.map_err(super::internal)?.unwrap_or_default(),
    })
}
