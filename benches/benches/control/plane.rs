//! A control plane of real processes: a coordinator, agents, and clients over gRPC.

use brine_benches::{LIBRARY_PATH, program};
use proto::wire::coordinator_client::CoordinatorClient;
use proto::wire::watch_reply::Message;
use proto::wire::{MESSAGE_BYTES_MAX, SubmitRequest, WatchReply, WatchRequest};
use proto::{Inputs, Record};
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

/// Nothing here takes longer unless it hangs.
const PATIENCE: Duration = Duration::from_secs(120);

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

/// Processes that end with this value.
pub(crate) struct Plane {
    folder: TempDir,
    port: u16,
    coordinator: Option<Child>,
    agents: Vec<Child>,
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Plane {
    /// A coordinator on the disk of the current folder, without agents.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir_in(".").unwrap();
        let port = free_port();
        let mut plane = Self { folder, port, coordinator: None, agents: Vec::new() };
        plane.start_coordinator();
        plane
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn start_coordinator(&mut self) {
        let listen = format!("127.0.0.1:{}", self.port);
        let child = Command::new(program("brine"))
            .args(["coordinator", "--listen", &listen, "--data-dir"])
            .arg(self.data())
            .env("BRINE_LOG", "warn")
            .env_remove(LIBRARY_PATH)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.coordinator = Some(child);
    }

    /// kill -9 of the coordinator.
    pub(crate) fn kill_coordinator(&mut self) {
        let mut child = self.coordinator.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub(crate) fn start_agent(&mut self, cpus: u32) {
        let name = format!("bench-{}", self.agents.len());
        let child = Command::new(program("brine-agent"))
            .args(["--coordinator", &self.url(), "--token-file"])
            .arg(self.data().join("token"))
            .args(["--id", &name, "--cpus", &cpus.to_string(), "--gpus", "none", "--data-dir"])
            .arg(self.folder.path().join(&name))
            .env_remove(LIBRARY_PATH)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.agents.push(child);
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A client, as soon as the coordinator serves.
    pub(crate) async fn client(&self) -> Client {
        let begun = Instant::now();
        loop {
            let connected =
                Endpoint::from_shared(self.url()).unwrap().tcp_nodelay(true).connect().await;
            let token = fs::read_to_string(self.data().join("token"));
            if let (Ok(channel), Ok(token)) = (connected, token) {
                let bearer = Bearer(format!("Bearer {}", token.trim()).parse().unwrap());
                let client = CoordinatorClient::with_interceptor(channel, bearer)
                    .max_decoding_message_size(MESSAGE_BYTES_MAX);
                return client;
            }
            assert!(begun.elapsed() < PATIENCE, "the coordinator does not serve");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until this many agents are connected.
    pub(crate) async fn joined(&self, client: &mut Client, agents: usize) {
        let begun = Instant::now();
        loop {
            let reply = client.agents(proto::wire::AgentsRequest {}).await.unwrap().into_inner();
            if reply.agents.iter().filter(|agent| agent.connected).count() >= agents {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "the agents do not come");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn coordinator_pid(&self) -> u32 {
        self.coordinator.as_ref().unwrap().id()
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        for child in self.agents.iter_mut().chain(&mut self.coordinator) {
            // It may have ended by itself.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

pub(crate) async fn submit(client: &mut Client, recipe: &str) -> String {
    let request = SubmitRequest {
        recipe: recipe.to_owned(),
        inputs_json: serde_json::to_string(&Inputs::default()).unwrap(),
        ..SubmitRequest::default()
    };
    client.submit(request).await.unwrap().into_inner().experiment
}

/// A watch, record by record.
pub(crate) struct Watch {
    stream: Streaming<WatchReply>,
    records: std::collections::VecDeque<Record>,
}

impl Watch {
    /// All records of an experiment (or of all, when it is empty) from `from` on.
    pub(crate) async fn new(client: &mut Client, experiment: &str, from: u64) -> Self {
        let experiment = experiment.to_owned();
        let request = WatchRequest { from_sequence: from, experiment, metrics: false };
        let stream = client.watch(request).await.unwrap().into_inner();
        Self { stream, records: std::collections::VecDeque::new() }
    }

    pub(crate) async fn next(&mut self) -> Record {
        loop {
            if let Some(record) = self.records.pop_front() {
                return record;
            }
            let reply = tokio::time::timeout(PATIENCE, self.stream.message()).await.unwrap();
            if let Some(Message::Records(lines)) = reply.unwrap().unwrap().message {
                let records = serde_json::Deserializer::from_slice(&lines).into_iter();
                self.records.extend(records.map(|record| record.unwrap()));
            }
        }
    }
}

/// CPU time that a process has used, in seconds.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // Linux counts in hundredths of a second on every machine that Brine runs on.
    ticks as f64 / 100.0
}

/// Memory that a process holds, in MiB.
pub(crate) fn resident_mib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}
