//! Agents that speak to a real coordinator as real ones do, but whose trials are only timers: what
//! a large cluster asks of the control plane, without the cluster.

use crate::plane::Client;
use proto::Outcome;
use proto::wire::coordinator_message::Message as Heard;
use proto::wire::{self, agent_message::Message as Said};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

/// Names an attempt.
type Key = (String, u32);

/// What the agents of a crowd have in common.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    /// Trials whose end the coordinator has settled.
    pub(crate) settled: AtomicU64,
    /// A trial that runs.
    pub(crate) newest: Mutex<String>,
}

/// One agent.
struct Timers {
    crowd: Arc<Crowd>,
    outbound: mpsc::Sender<wire::AgentMessage>,
    /// A trial takes this long: between one and two times the number, by its id.
    trial_ms: u64,
    heartbeat: Duration,
    running: BTreeMap<Key, Instant>,
    /// With the first report that said so.
    ended: BTreeMap<Key, Option<u64>>,
    version: u64,
    sequence: u64,
    reported_at: Instant,
    awaited: Option<u64>,
}

/// Joins and runs trials until the coordinator is gone.
pub(crate) async fn attend(
    mut client: Client,
    name: String,
    cpus: u32,
    trial_ms: u64,
    crowd: Arc<Crowd>,
) {
    let (outbound, messages) = mpsc::channel(64);
    let hello = wire::Hello {
        format_version: proto::FORMAT_VERSION,
        agent: name.clone(),
        host: name,
        brine_version: "0.0.0".into(),
        cpus,
        memory_bytes: 1 << 40,
        instance: 1,
        number: 1,
        ..wire::Hello::default()
    };
    outbound.send(said(Said::Hello(hello))).await.unwrap();
    let mut inbound = client.session(ReceiverStream::new(messages)).await.unwrap().into_inner();
    let welcome = inbound.message().await.unwrap().and_then(|first| first.message);
    let Some(Heard::Welcome(welcome)) = welcome else { panic!("no welcome: {welcome:?}") };
    let mut timers = Timers {
        crowd,
        outbound,
        trial_ms,
        heartbeat: Duration::from_millis(welcome.heartbeat_ms),
        running: BTreeMap::new(),
        ended: BTreeMap::new(),
        version: 0,
        sequence: 0,
        reported_at: Instant::now(),
        awaited: None,
    };
    loop {
        let due = timers.running.values().min().copied();
        let heartbeat_at = timers.reported_at + timers.heartbeat;
        tokio::select! {
            heard = inbound.message() => match heard {
                Ok(Some(heard)) => timers.hear(heard),
                Ok(None) | Err(_) => return,
            },
            () = tokio::time::sleep_until(due.map_or(heartbeat_at, |at| at.min(heartbeat_at))) => {}
        }
        timers.turn().await;
    }
}

fn said(message: Said) -> wire::AgentMessage {
    wire::AgentMessage { message: Some(message) }
}

impl Timers {
    fn hear(&mut self, heard: wire::CoordinatorMessage) {
        match heard.message {
            Some(Heard::Assignment(assignment)) => self.assigned(assignment),
            Some(Heard::Reply(reply)) => {
                if self.awaited.is_some_and(|awaited| awaited <= reply.sequence) {
                    self.awaited = None;
                }
                let before = self.ended.len();
                self.ended.retain(|_, since| since.is_none_or(|since| since > reply.sequence));
                let settled = (before - self.ended.len()) as u64;
                self.crowd.settled.fetch_add(settled, Ordering::Relaxed);
            }
            Some(Heard::Welcome(_)) | None => {}
        }
    }

    fn assigned(&mut self, assignment: wire::Assignment) {
        if assignment.version <= self.version || assignment.base > self.version {
            return;
        }
        self.version = assignment.version;
        for lease in assignment.leases {
            let key = (lease.trial, lease.attempt);
            if self.ended.contains_key(&key) || self.running.contains_key(&key) {
                continue;
            }
            let digits = u64::from_str_radix(&key.0[..8], 16).unwrap();
            let takes_ms = self.trial_ms + digits % self.trial_ms;
            key.0.clone_into(&mut self.crowd.newest.lock().unwrap());
            self.running.insert(key, Instant::now() + Duration::from_millis(takes_ms));
        }
        for dropped in assignment.dropped {
            self.running.remove(&(dropped.trial, dropped.attempt));
        }
    }

    async fn turn(&mut self) {
        let now = Instant::now();
        let due = self.running.extract_if(.., |_, at| *at <= now).map(|(key, _)| key);
        self.ended.extend(due.collect::<Vec<_>>().into_iter().map(|key| (key, None)));
        let has_news = self.ended.values().any(Option::is_none) && self.awaited.is_none();
        if has_news || now >= self.reported_at + self.heartbeat {
            self.report(now).await;
        }
    }

    async fn report(&mut self, now: Instant) {
        self.sequence += 1;
        self.reported_at = now;
        let outcome = Outcome::Completed { metrics: BTreeMap::new(), checkpoint: None };
        let outcome_json = serde_json::to_string(&outcome).unwrap();
        let running = self.running.keys().map(|(trial, attempt)| wire::Running {
            trial: trial.clone(),
            attempt: *attempt,
            started: true,
            rank: 0,
        });
        let mut report = wire::Report {
            sequence: self.sequence,
            running: running.collect(),
            assignment_version: self.version,
            ..wire::Report::default()
        };
        for ((trial, attempt), since) in &mut self.ended {
            if since.is_none() {
                self.awaited = Some(self.sequence);
            }
            since.get_or_insert(self.sequence);
            let (trial, outcome_json) = (trial.clone(), outcome_json.clone());
            report.ended.push(wire::Ended { trial, attempt: *attempt, outcome_json, rank: 0 });
        }
        // Without a coordinator the bench ends anyway.
        drop(self.outbound.send(said(Said::Report(report))).await);
    }
}
