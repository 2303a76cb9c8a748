//! The connection to the coordinator. The only file that knows gRPC streams; inside there are
//! [`Input`]s and [`Report`]s.

use agent_core::{Assignment, Gang, Input, Lease, Report};
use agent_keeper::clock;
use proto::wire::coordinator_client::CoordinatorClient;
use proto::wire::{self, MESSAGE_BYTES_MAX};
use proto::{AttemptKey, Checkpoint, Devices, FORMAT_VERSION, IdError, TrialSpec};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use wire::agent_message::Message as Out;
use wire::coordinator_message::Message as In;

/// Messages that wait for the network. When it is full, metrics and logs wait in their own bounded
/// buffers and reports wait for the next turn.
const OUTBOUND_MAX: usize = 64;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A coordinator that is alive welcomes at once.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that is silent this long is asked whether it lives, and given up after as much.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Shortest time between two reports that a coordinator may ask for.
const HEARTBEAT_MIN_MS: u64 = 10;
/// First pause before connecting again; doubles up to the longest.
const PAUSE_MIN_MS: u64 = 100;
/// Longest pause. Short against a lease, so that a restart of the coordinator costs no trial.
const PAUSE_MAX_MS: u64 = 3_000;

/// The coordinator's stub with the token in every call.
pub(crate) type Client = CoordinatorClient<InterceptedService<Channel, Bearer>>;

/// Puts the token into a call.
#[derive(Clone)]
pub(crate) struct Bearer(MetadataValue<Ascii>);

impl tonic::service::Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// Why no session is possible, now or later.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    /// The address cannot be one of a coordinator.
    #[error("the coordinator's address {url:?} is not of the form http://HOST:PORT")]
    Address {
        /// What was given.
        url: String,
    },
    /// The token has characters that no token has.
    #[error("the token is not one line of printable ASCII characters")]
    Token,
    /// The coordinator does not accept this agent.
    #[error("the coordinator refused this agent: {}", status.message())]
    Refused {
        /// Its answer.
        status: Box<Status>,
    },
    /// The coordinator is of a newer version.
    #[error(
        "the coordinator speaks format {theirs}, this agent up to {FORMAT_VERSION}: install the same version of Brine on both"
    )]
    Newer {
        /// Its format.
        theirs: u32,
    },
}

/// What a session brings.
pub(crate) enum SessionEvent {
    /// A session is about to begin: what the agent is and holds at this moment.
    Asked(oneshot::Sender<wire::Hello>),
    /// The coordinator welcomed this agent. Messages go to `outbound`.
    Welcomed { outbound: mpsc::Sender<wire::AgentMessage>, heartbeat: Duration, input: Input },
    /// The coordinator said something.
    Said(Input),
    /// The session is over; the next one is being tried.
    Lost,
}

/// Why one session ended.
enum Ending {
    Fatal(SessionError),
    Lost { hindrance: Hindrance, why: String, welcomed: bool },
}

/// What another try may find changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hindrance {
    /// The coordinator or the way to it.
    Network,
    /// An agent of the same name was heard less than a lease's time ago. It may be this machine's
    /// own last life, so it ends by itself.
    Namesake,
}

impl Ending {
    fn network(why: impl Into<String>, welcomed: bool) -> Self {
        Self::Lost { hindrance: Hindrance::Network, why: why.into(), welcomed }
    }
}

/// A stub that connects when it is first used, and again when the connection was lost.
///
/// # Errors
/// The address or the token is malformed.
pub(crate) fn client(url: &str, token: &str) -> Result<Client, SessionError> {
    let address = || SessionError::Address { url: url.to_owned() };
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|_| address())?;
    if endpoint.uri().scheme_str() != Some("http") || endpoint.uri().host().is_none() {
        return Err(address());
    }
    let channel = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .connect_lazy();
    let mut bearer: MetadataValue<Ascii> =
        format!("Bearer {token}").parse().map_err(|_| SessionError::Token)?;
    bearer.set_sensitive(true);
    Ok(CoordinatorClient::with_interceptor(channel, Bearer(bearer))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX))
}

/// Keeps a session with the coordinator, until it refuses this agent for good.
pub(crate) async fn keep(client: Client, events: mpsc::Sender<SessionEvent>) -> SessionError {
    let mut pause_ms = PAUSE_MIN_MS;
    // Said once, and again when the reason changes its kind.
    let mut said: Option<Hindrance> = None;
    loop {
        match hold(client.clone(), &events).await {
            Ending::Fatal(error) => return error,
            Ending::Lost { hindrance, why, welcomed } => {
                if welcomed {
                    pause_ms = PAUSE_MIN_MS;
                    said = None;
                    // Without a driver this future is about to be dropped.
                    drop(events.send(SessionEvent::Lost).await);
                }
                if said != Some(hindrance) {
                    match hindrance {
                        Hindrance::Network => {
                            tracing::warn!(why, "no session with the coordinator; trying again");
                        }
                        Hindrance::Namesake => tracing::warn!(
                            why,
                            "another agent of this name is alive; waiting until it is gone, \
                             or give this one another --id"
                        ),
                    }
                }
                said = Some(hindrance);
            }
        }
        // Spread out, so that the agents of a restarted coordinator do not all come at once.
        let jittered_ms = rand::random_range(pause_ms / 2..=pause_ms);
        tokio::time::sleep(Duration::from_millis(jittered_ms)).await;
        pause_ms = (pause_ms * 2).min(PAUSE_MAX_MS);
    }
}

/// Holds one session from hello to its end.
async fn hold(client: Client, events: &mpsc::Sender<SessionEvent>) -> Ending {
    let (ask, hello) = oneshot::channel();
    let asked = events.send(SessionEvent::Asked(ask)).await;
    let (Ok(()), Ok(hello)) = (asked, hello.await) else {
        return Ending::network("the agent is ending", false);
    };
    let (mut event, mut inbound) = match open(client, hello).await {
        Ok(opened) => opened,
        Err(ending) => return ending,
    };
    let lost = |why: String| Ending::network(why, true);
    loop {
        if events.send(event).await.is_err() {
            return lost("the agent is ending".into());
        }
        event = loop {
            match inbound.message().await {
                Ok(Some(said)) => match parse(said) {
                    Ok(Some(input)) => break SessionEvent::Said(input),
                    Ok(None) => {}
                    Err(error) => return lost(error.to_string()),
                },
                Ok(None) => return lost("it closed the session".into()),
                // Whatever it is, the coordinator has accepted this agent once.
                Err(status) => return lost(describe(&status)),
            }
        };
    }
}

/// Says hello and awaits the welcome.
async fn open(
    mut client: Client,
    hello: wire::Hello,
) -> Result<(SessionEvent, Streaming<wire::CoordinatorMessage>), Ending> {
    let lost = |why: &str| Ending::network(why, false);
    let (outbound, messages) = mpsc::channel(OUTBOUND_MAX);
    let hello_sent = clock::now();
    let said = outbound.send(message(Out::Hello(hello))).await;
    said.map_err(|_| lost("the stream closed before the hello"))?;
    let welcome = async {
        let reply = client.session(ReceiverStream::new(messages)).await?;
        let mut inbound = reply.into_inner();
        let first = inbound.message().await?;
        Ok::<_, Status>((inbound, first))
    };
    let (inbound, first) = tokio::time::timeout(WELCOME_TIMEOUT, welcome)
        .await
        .map_err(|_| lost("it did not answer"))?
        .map_err(refusal)?;
    let Some(In::Welcome(welcome)) = first.and_then(|first| first.message) else {
        return Err(lost("it did not begin with a welcome"));
    };
    if welcome.format_version > FORMAT_VERSION {
        let theirs = welcome.format_version;
        return Err(Ending::Fatal(SessionError::Newer { theirs }));
    }
    let wire::Welcome { lease_ttl_ms, heeds_withdrawn, .. } = welcome;
    let input = Input::Connected { hello_sent, lease_ttl_ms, heeds_withdrawn };
    // A heartbeat of zero would spin.
    let heartbeat = Duration::from_millis(welcome.heartbeat_ms.max(HEARTBEAT_MIN_MS));
    let event = SessionEvent::Welcomed { outbound, heartbeat, input };
    Ok((event, inbound))
}

/// Tells a refusal, which another try does not change, from bad luck.
fn refusal(status: Status) -> Ending {
    let final_codes = [
        Code::Unauthenticated,
        Code::PermissionDenied,
        Code::InvalidArgument,
        Code::FailedPrecondition,
        Code::Unimplemented,
    ];
    if final_codes.contains(&status.code()) {
        return Ending::Fatal(SessionError::Refused { status: Box::new(status) });
    }
    if status.code() == Code::AlreadyExists {
        let why = status.message().to_owned();
        return Ending::Lost { hindrance: Hindrance::Namesake, why, welcomed: false };
    }
    Ending::network(describe(&status), false)
}

fn describe(status: &Status) -> String {
    format!("{}: {}", status.code(), status.message())
}

/// What a report looks like on the wire.
pub(crate) fn report_message(report: Report) -> Result<wire::AgentMessage, serde_json::Error> {
    let ended = report.ended.into_iter().map(|(key, outcome)| {
        let outcome_json = serde_json::to_string(&outcome)?;
        let (trial, attempt, rank) = (key.trial.into(), key.attempt.0, key.rank);
        Ok(wire::Ended { trial, attempt, outcome_json, rank })
    });
    let checkpoints = report.checkpoints.into_iter().map(|(key, checkpoint)| {
        let checkpoint_json = serde_json::to_string(&checkpoint)?;
        let (trial, attempt, rank) = (key.trial.into(), key.attempt.0, key.rank);
        Ok(wire::SavedCheckpoint { trial, attempt, checkpoint_json, rank })
    });
    let notices = report.notices.into_iter().map(|(key, notice)| {
        let notice_json = serde_json::to_string(&notice)?;
        let (trial, attempt, rank) = (key.trial.into(), key.attempt.0, key.rank);
        Ok(wire::Noticed { trial, attempt, notice_json, rank })
    });
    Ok(message(Out::Report(wire::Report {
        sequence: report.sequence,
        running: running(report.running),
        ended: ended.collect::<Result<_, _>>()?,
        checkpoints: checkpoints.collect::<Result<_, _>>()?,
        assignment_version: report.assignment_version,
        leaving: report.leaving,
        notices: notices.collect::<Result<_, _>>()?,
        withdrawn: withdrawn(&report.withdrawn),
    })))
}

/// GPUs that are not offered any longer, as the wire has them.
pub(crate) fn withdrawn(gpus: &BTreeMap<u32, String>) -> Vec<wire::WithdrawnGpu> {
    let gpu = |(index, reason): (&u32, &String)| wire::WithdrawnGpu {
        index: *index,
        reason: reason.clone(),
    };
    gpus.iter().map(gpu).collect()
}

/// Attempts and whether their process began, as the wire has them.
pub(crate) fn running(attempts: Vec<(AttemptKey, bool)>) -> Vec<wire::Running> {
    let running = attempts.into_iter().map(|(key, started)| wire::Running {
        trial: key.trial.into(),
        attempt: key.attempt.0,
        started,
        rank: key.rank,
    });
    running.collect()
}

/// Wraps a message to the coordinator.
pub(crate) fn message(message: Out) -> wire::AgentMessage {
    wire::AgentMessage { message: Some(message) }
}

/// What the coordinator said; `None` when it means nothing to this version.
fn parse(said: wire::CoordinatorMessage) -> Result<Option<Input>, IdError> {
    match said.message {
        Some(In::Reply(reply)) => {
            let refused = keys(&reply.refused)?;
            Ok(Some(Input::Reply { sequence: reply.sequence, refused }))
        }
        Some(In::Assignment(assignment)) => Ok(Some(Input::Assignment(parse_set(assignment)?))),
        Some(In::Welcome(_)) | None => Ok(None),
    }
}

fn keys(attempts: &[wire::AttemptRef]) -> Result<Vec<AttemptKey>, IdError> {
    attempts.iter().map(wire::AttemptRef::parse).collect()
}

fn parse_set(assignment: wire::Assignment) -> Result<Assignment, IdError> {
    let mut leases = Vec::new();
    let mut unreadable = Vec::new();
    for lease in assignment.leases {
        let rank = lease.gang.as_ref().map_or(0, |gang| gang.rank);
        let key = wire::key(&lease.trial, lease.attempt, rank)?;
        match parse_lease(&lease, key.clone()) {
            Ok(lease) => leases.push(lease),
            Err(reason) => unreadable.push((key, reason)),
        }
    }
    let dropped = keys(&assignment.dropped)?;
    let (version, base) = (assignment.version, assignment.base);
    Ok(Assignment { version, base, leases, dropped, unreadable })
}

fn parse_lease(lease: &wire::Lease, key: AttemptKey) -> Result<Lease, String> {
    let unreadable = |error| format!("this agent does not understand the specification: {error}");
    let spec: TrialSpec = serde_json::from_str(&lease.spec_json).map_err(unreadable)?;
    let checkpoint: Option<Checkpoint> = match lease.checkpoint_json.as_str() {
        "" => None,
        text => Some(serde_json::from_str(text).map_err(unreadable)?),
    };
    let gang = lease.gang.as_ref().map(parse_gang).transpose()?;
    let devices = lease.devices();
    if devices.gpu_share_milli > 0
        && (devices.gpus.len() != 1 || devices.gpu_share_milli > Devices::WHOLE_MILLI)
    {
        return Err("a share is of one GPU, and at most the whole of it".into());
    }
    let (preempted, recalled, mtbf_ms) = (lease.preempted, lease.recalled, lease.mtbf_ms);
    Ok(Lease { key, spec, devices, checkpoint, preempted, recalled, gang, mtbf_ms })
}

fn parse_gang(gang: &wire::Gang) -> Result<Gang, String> {
    let wire::Gang { rank, world_size, ref master_addr, master_port } = *gang;
    if rank >= world_size {
        return Err(format!("rank {rank} is not below the gang's size of {world_size}"));
    }
    let master_port = u16::try_from(master_port)
        .map_err(|_| format!("{master_port} is not a port of the gang's first member"))?;
    Ok(Gang { world_size, master_addr: master_addr.clone(), master_port })
}

#[cfg(test)]
mod tests;
