//! What tests over real sockets share: options, clients, and an agent made by hand.

use coordinator::{Options, Serving};
use proto::wire::agent_message::Message as FromAgent;
use proto::wire::coordinator_client::CoordinatorClient;
use proto::wire::coordinator_message::Message as ToAgent;
use proto::wire::{AgentMessage, Assignment, CoordinatorMessage, Ended, Hello, Reply, Report};
use std::path::Path;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

pub(crate) const TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// Nothing here takes longer unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn options(folder: &Path) -> Options {
    Options {
        data_dir: folder.to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        token: TOKEN.to_owned(),
        lease_ttl_ms: 2_000,
        heartbeat_ms: 500,
        metrics_listen: None,
        log_limit_bytes: coordinator::LOG_LIMIT_BYTES,
    }
}

pub(crate) type Client = CoordinatorClient<
    InterceptedService<Channel, Box<dyn FnMut(Request<()>) -> Result<Request<()>, Status>>>,
>;

pub(crate) async fn client(serving: &Serving, token: &str) -> Client {
    let endpoint = Channel::from_shared(format!("http://{}", serving.address())).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let bearer: MetadataValue<_> = format!("Bearer {token}").parse().unwrap();
    let show = move |mut request: Request<()>| {
        request.metadata_mut().insert("authorization", bearer.clone());
        Ok(request)
    };
    CoordinatorClient::new(InterceptedService::new(channel, Box::new(show)))
}

/// An agent made by hand.
pub(crate) struct Agent {
    outgoing: mpsc::Sender<AgentMessage>,
    incoming: Streaming<CoordinatorMessage>,
    sequence: u64,
}

impl Agent {
    pub(crate) fn hello(name: &str, cpus: u32) -> Hello {
        Hello {
            format_version: proto::FORMAT_VERSION,
            agent: name.to_owned(),
            host: "here".to_owned(),
            cpus,
            ..Hello::default()
        }
    }

    pub(crate) async fn say_hello(client: &mut Client, hello: Hello) -> Result<Self, Status> {
        let (outgoing, receiver) = mpsc::channel(16);
        outgoing.send(AgentMessage { message: Some(FromAgent::Hello(hello)) }).await.unwrap();
        let incoming = client.session(ReceiverStream::new(receiver)).await?.into_inner();
        Ok(Self { outgoing, incoming, sequence: 0 })
    }

    pub(crate) async fn next(&mut self) -> ToAgent {
        let message = tokio::time::timeout(PATIENCE, self.incoming.message()).await.unwrap();
        message.unwrap().unwrap().message.unwrap()
    }

    pub(crate) async fn assignment(&mut self) -> Assignment {
        loop {
            if let ToAgent::Assignment(assignment) = self.next().await
                && !assignment.leases.is_empty()
            {
                return assignment;
            }
        }
    }

    pub(crate) async fn say(&mut self, message: FromAgent) {
        self.outgoing.send(AgentMessage { message: Some(message) }).await.unwrap();
    }

    pub(crate) async fn report_end(&mut self, trial: &str, attempt: u32) -> Reply {
        self.sequence += 1;
        let outcome_json =
            r#"{"state":"completed","metrics":{"loss":0.5},"checkpoint":null}"#.to_owned();
        let ended = vec![Ended { trial: trial.to_owned(), attempt, outcome_json, rank: 0 }];
        let report = Report { sequence: self.sequence, ended, ..Report::default() };
        self.say(FromAgent::Report(report)).await;
        loop {
            if let ToAgent::Reply(reply) = self.next().await {
                return reply;
            }
        }
    }
}
