//! An agent's session: its stream in, its stream out. Level-triggered: what goes out is always the
//! newest complete assignment, however many were skipped.

use super::{ANSWERS_MAX, Answers, Service, bad, reject, stopped};
use crate::core::{Capacity, Core, Gpu, Join, LeaseView, Point, Report};
use crate::driver::{LatestWanted, Message};
use crate::metrics::METRIC_NAME_BYTES_MAX;
use proto::wire::agent_message::Message as FromAgent;
use proto::wire::coordinator_message::Message as ToAgent;
use proto::wire::{
    self, AgentMessage, Assignment, AttemptRef, CoordinatorMessage, Hello, LOG_CHUNK_BYTES, Lease,
    METRIC_BATCH_MAX, Reply, Welcome,
};
use proto::{
    AgentId, Attempt, AttemptKey, Checkpoint, FORMAT_VERSION, MetricPoint, Notice, Outcome,
    TrialId, WIRE_VERSION_MIN,
};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

/// CPU slots that one agent may offer; more than any machine has.
const CPUS_MAX: u32 = 4_096;
/// Kept of an agent's version; it stands in every lease's record.
const VERSION_CHARACTERS_MAX: usize = 64;
/// Labels, and extras, that one agent may have.
const NAMED_MAX: usize = 64;
/// Longest name or value of one.
const NAME_BYTES_MAX: usize = 128;
/// Members of a gang; no recipe can ask for more.
const MEMBERS_MAX: u32 = 1_024;
/// GPUs that one agent may offer.
const GPUS_MAX: usize = 256;
/// Attempts in one report; an agent cannot hold more than it has CPU slots.
const ATTEMPTS_MAX: usize = 3 * CPUS_MAX as usize;
/// Kept of why a GPU is withdrawn: a sentence.
const REASON_CHARACTERS_MAX: usize = 256;
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
    if hello.format_version < WIRE_VERSION_MIN {
        return Err(Status::failed_precondition(format!(
            "the agent speaks version {}, this coordinator from {WIRE_VERSION_MIN} on; install \
             the coordinator's version of Brine there",
            hello.format_version
        )));
    }
    let number = service.sessions.fetch_add(1, Ordering::Relaxed) + 1;
    let join = join(number, hello)?;
    let agent = join.agent.clone();
    let (wanted, assignment) = watch::channel(LatestWanted::default());
    service.call(|answer| Message::Join { join, wanted, answer }).await?.map_err(reject)?;

    let (outgoing, receiver) = mpsc::channel(ANSWERS_MAX);
    let welcome = Welcome {
        format_version: FORMAT_VERSION,
        lease_ttl_ms: service.lease_ttl_ms,
        heartbeat_ms: service.heartbeat_ms,
        heeds_withdrawn: true,
    };
    say(&outgoing, ToAgent::Welcome(welcome)).await?;
    let passed = Mutex::default();
    let session = Session { service, agent, number, outgoing, passed };
    #[expect(clippy::disallowed_methods, reason = "it ends with the agent's stream")]
    tokio::spawn(session.serve(incoming, assignment));
    Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
}

fn join(session: u64, hello: Hello) -> Result<Join, Status> {
    let agent = AgentId::new(hello.agent).map_err(bad("agent"))?;
    let labels: BTreeMap<String, String> = hello.labels.into_iter().collect();
    let extras: BTreeMap<String, u64> = hello.extras.into_iter().collect();
    let texts = || labels.iter().flat_map(|(name, value)| [name, value]).chain(extras.keys());
    let too_many = labels.len().max(extras.len()) > NAMED_MAX;
    if too_many || texts().any(|text| text.len() > NAME_BYTES_MAX) {
        return Err(Status::invalid_argument(format!(
            "an agent has at most {NAMED_MAX} labels and {NAMED_MAX} extras, each name and value \
             of at most {NAME_BYTES_MAX} bytes"
        )));
    }
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
        withdrawn: withdrawn(hello.withdrawn)?,
        memory_bytes: hello.memory_bytes,
        code_version: hello.brine_version.chars().take(VERSION_CHARACTERS_MAX).collect(),
        labels,
        extras,
    };
    let running = running(&hello.running)?.into_iter().map(|(key, _)| key).collect();
    Ok(Join { agent, instance: hello.instance, number: hello.number, session, capacity, running })
}

fn running(list: &[wire::Running]) -> Result<Vec<(AttemptKey, bool)>, Status> {
    if list.len() > ATTEMPTS_MAX {
        return Err(Status::invalid_argument(format!("at most {ATTEMPTS_MAX} attempts")));
    }
    let parse = |item: &wire::Running| {
        let key = wire::key(&item.trial, item.attempt, item.rank).map_err(bad("trial"))?;
        Ok((key, item.started))
    };
    list.iter().map(parse).collect()
}

fn withdrawn(list: Vec<wire::WithdrawnGpu>) -> Result<BTreeMap<u32, String>, Status> {
    if list.len() > GPUS_MAX {
        return Err(Status::invalid_argument(format!("at most {GPUS_MAX} GPUs")));
    }
    let known = |gpu: wire::WithdrawnGpu| {
        (gpu.index, gpu.reason.chars().take(REASON_CHARACTERS_MAX).collect())
    };
    Ok(list.into_iter().map(known).collect())
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
    /// How many rungs each trial's watched metric had passed when it was last shown to the core.
    passed: Mutex<BTreeMap<(TrialId, String), usize>>,
}

impl Session {
    async fn serve(
        self,
        mut incoming: Streaming<AgentMessage>,
        mut assignment: watch::Receiver<LatestWanted>,
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
        let leave = Message::leave(self.agent.clone(), self.number);
        // Without a driver there is nobody to tell.
        drop(self.service.inbox.send(leave).await);
    }

    async fn exchange(
        &self,
        incoming: &mut Streaming<AgentMessage>,
        assignment: &mut watch::Receiver<LatestWanted>,
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
                    let wanted = LatestWanted::clone(&assignment.borrow_and_update());
                    self.assign(&wanted).await?;
                }
            }
        }
    }

    async fn assign(&self, wanted: &LatestWanted) -> Result<(), Status> {
        let assignment = Assignment {
            version: wanted.version,
            leases: wanted.leases.iter().map(lease).collect::<Result<_, _>>()?,
            base: wanted.base,
            dropped: wanted.dropped.iter().map(AttemptRef::new).collect(),
        };
        say(&self.outgoing, ToAgent::Assignment(assignment)).await
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
        let lists = [report.ended.len(), report.checkpoints.len(), report.notices.len()];
        if lists.into_iter().any(|length| length > ATTEMPTS_MAX) {
            return Err(Status::invalid_argument(format!("at most {ATTEMPTS_MAX} attempts")));
        }
        let ended = |item: wire::Ended| {
            let key = wire::key(&item.trial, item.attempt, item.rank).map_err(bad("trial"))?;
            let outcome: Outcome =
                serde_json::from_str(&item.outcome_json).map_err(bad("outcome_json"))?;
            Ok::<_, Status>((key, outcome))
        };
        let saved = |item: wire::SavedCheckpoint| {
            let trial = TrialId::new(item.trial).map_err(bad("trial"))?;
            let checkpoint: Checkpoint =
                serde_json::from_str(&item.checkpoint_json).map_err(bad("checkpoint_json"))?;
            Ok::<_, Status>((trial, checkpoint))
        };
        let noticed = |item: wire::Noticed| {
            let key = wire::key(&item.trial, item.attempt, item.rank).map_err(bad("trial"))?;
            let notice: Notice =
                serde_json::from_str(&item.notice_json).map_err(bad("notice_json"))?;
            Ok::<_, Status>((key, Notice::new(notice.kind, notice.step, notice.text)))
        };
        let report = Report {
            agent: self.agent.clone(),
            session: self.number,
            sequence,
            running,
            ended: report.ended.into_iter().map(ended).collect::<Result<Vec<_>, _>>()?,
            notices: report.notices.into_iter().map(noticed).collect::<Result<_, _>>()?,
            checkpoints: report.checkpoints.into_iter().map(saved).collect::<Result<_, _>>()?,
            assignment_version: report.assignment_version,
            leaving: report.leaving,
            withdrawn: withdrawn(report.withdrawn)?,
        };
        let message = |answer| Message::report(report, answer);
        let settled = self.service.call(message).await?.map_err(reject)?;
        let refused = settled.refused.iter().map(AttemptRef::new).collect();
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
        if batch.points.iter().any(|point| point.rank >= MEMBERS_MAX) {
            return Err(Status::invalid_argument(format!(
                "a gang has at most {MEMBERS_MAX} members"
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
        let measured = self.passing(&points);
        if !measured.is_empty() {
            let sent = self.service.inbox.send(Message::measure(measured)).await;
            sent.map_err(|_| stopped())?;
        }
        // Who watches a trial sees its first member; the others' series are asked for.
        let points = if points.iter().all(|point| point.rank == 0) {
            points
        } else {
            Arc::new(points.iter().filter(|point| point.rank == 0).cloned().collect())
        };
        // Nobody is watching: the series is stored all the same.
        drop(self.service.live_metrics.send(points));
        Ok(())
    }

    /// The points of watched metrics that pass a rung: few, so that the core sees few.
    fn passing(&self, points: &[MetricPoint]) -> Vec<Point> {
        let watched = Arc::clone(&self.service.watched.borrow());
        if watched.is_empty() {
            return Vec::new();
        }
        let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        if passed.len() > ATTEMPTS_MAX {
            passed.clear();
        }
        let leaders = points.iter().filter(|point| point.rank == 0);
        let passing = leaders.filter(|point| {
            let Some(rungs) = watched.get(&point.metric) else { return false };
            let reached = rungs.range(..=point.step).count();
            let known = passed.entry((point.trial.clone(), point.metric.clone())).or_default();
            reached > std::mem::replace(known, reached.max(*known))
        });
        let point = |point: &MetricPoint| Point {
            agent: self.agent.clone(),
            key: AttemptKey { trial: point.trial.clone(), attempt: point.attempt, rank: 0 },
            metric: point.metric.clone(),
            step: point.step,
            value: point.value,
        };
        passing.map(point).collect()
    }

    async fn log(&self, chunk: wire::LogChunk) -> Result<(), Status> {
        if chunk.text.len() > LOG_CHUNK_BYTES {
            return Err(Status::invalid_argument(format!(
                "a piece of a log has at most {LOG_CHUNK_BYTES} bytes"
            )));
        }
        let trial = TrialId::new(chunk.trial).map_err(bad("trial"))?;
        // Only members of attempts that this coordinator has granted get a file.
        let (id, rank, attempt) = (trial.clone(), chunk.rank, Attempt(chunk.attempt));
        let was_granted = move |core: &Core, _| {
            core.trial(&id).is_some_and(|trial| {
                rank < trial.spec.placement.members.max(1)
                    && (Attempt(1)..=trial.attempt).contains(&attempt)
            })
        };
        if !self.service.ask(was_granted).await? {
            return Ok(());
        }
        let logs = self.service.logs.clone();
        let key = AttemptKey { trial, attempt, rank };
        let write = move || logs.write(&key, chunk.offset, &chunk.text);
        tokio::task::spawn_blocking(write).await.map_err(|_| stopped())?.map_err(super::internal)
    }
}

fn lease(view: &LeaseView) -> Result<Lease, Status> {
    let checkpoint = view.checkpoint.as_ref().map(serde_json::to_string).transpose();
    let gang = view.gang.as_ref().map(|(world_size, master_addr, master_port)| wire::Gang {
        rank: view.key.rank,
        world_size: *world_size,
        master_addr: master_addr.clone(),
        master_port: u32::from(*master_port),
    });
    Ok(Lease {
        trial: view.key.trial.to_string(),
        attempt: view.key.attempt.0,
        spec_json: serde_json::to_string(&*view.spec).map_err(super::internal)?,
        cpus: view.devices.cpus.clone(),
        gpus: view.devices.gpus.clone(),
        checkpoint_json: checkpoint.map_err(super::internal)?.unwrap_or_default(),
        gpu_share_milli: view.devices.gpu_share_milli,
        preempted: view.preempted,
        recalled: view.recalled,
        gang,
        mtbf_ms: view.mtbf_ms,
    })
}
