//! The one task that owns the agent: it takes in what trials, coordinator, clock and operator say,
//! asks the core what follows, and does it.

use crate::blobs::{self, Blobs};
use crate::checkpoints::{CheckpointError, CheckpointStore};
use crate::clock::Moment;
use crate::core::{Core, Effect, Input, Lease};
use crate::devices::Inventory;
use crate::folders::DataFolders;
use crate::operator::{self, Wanted};
use crate::order::{AttemptKey, Order, TrialEnd, TrialRecord};
use crate::process;
use crate::session::{self, SessionError, SessionEvent};
use crate::stream::{LogTail, MetricBuffer};
use crate::supervisor::{Leaders, Life, TrialEvent, Wish, supervise};
use proto::wire::{self, METRIC_BATCH_MAX};
use proto::{AgentId, FailureClass, Outcome};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use wire::agent_message::Message as Out;

/// Longest time between two looks at the clock, at new log text and at waiting metrics.
const TURN_PERIOD: Duration = Duration::from_millis(100);
/// How long metric points are gathered before they are sent.
const METRIC_PERIOD_MS: u64 = 200;
/// Records of trials that wait for the driver; a trial that is faster waits.
const TRIAL_EVENTS_MAX: usize = 1_024;
/// Trial events taken in one turn, so that a flood of metrics cannot delay a heartbeat.
const TRIAL_EVENTS_PER_TURN_MAX: usize = 4_096;
const SESSION_EVENTS_MAX: usize = 64;
/// How long an agent that ends waits for the coordinator to settle what it reported.
const SETTLE_MAX_MS: u64 = 3_000;

/// What an agent needs to begin.
#[derive(Debug)]
pub(crate) struct Setup {
    /// Its name.
    pub(crate) agent: AgentId,
    /// The program that runs attempts: `brine-agent` itself.
    pub(crate) program: PathBuf,
    /// Where it keeps files.
    pub(crate) folders: DataFolders,
    /// What it offers.
    pub(crate) inventory: Inventory,
    /// The coordinator's address, `http://HOST:PORT`.
    pub(crate) coordinator: String,
    /// What proves that it may join.
    pub(crate) token: String,
    /// Version of the code, for the record.
    pub(crate) version: String,
    /// Whether it ends when its standard input does.
    pub(crate) exit_with_stdin: bool,
}

/// Why an agent ended before anybody asked it to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DriverError {
    /// No session is possible.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The records of checkpoints cannot be used.
    #[error(transparent)]
    Checkpoints(#[from] CheckpointError),
    /// The system refuses signals or processes.
    #[error("cannot set up the agent's process")]
    System(#[from] io::Error),
    /// A task of the agent itself broke.
    #[error("a part of the agent broke")]
    Internal(#[from] tokio::task::JoinError),
}

/// Joins the coordinator and runs trials until somebody asks the agent to end.
///
/// # Errors
/// The agent cannot begin, the coordinator refuses it, or a part of it broke. Its trials are dead
/// in every case.
pub(crate) async fn serve(setup: Setup) -> Result<(), DriverError> {
    process::adopt_orphans()?;
    let client = session::client(&setup.coordinator, &setup.token)?;
    let (session_sender, mut session_events) = mpsc::channel(SESSION_EVENTS_MAX);
    let (trial_sender, mut trial_events) = mpsc::channel(TRIAL_EVENTS_MAX);
    let (blob_sender, blob_requests) = mpsc::channel(blobs::REQUESTS_MAX);
    let mut wanted = operator::listen(setup.exit_with_stdin)?;
    let blobs = Blobs::new(setup.folders.blobs.clone(), client.clone());
    let (hello, hellos) = watch::channel(hello(&setup));
    let mut session = Box::pin(session::keep(client, hellos, session_sender));
    let mut driver = Driver::new(setup, trial_sender, blob_sender)?;
    driver.spawned.spawn(blobs.serve(blob_requests));
    let ended = loop {
        let pause = driver.pause();
        tokio::select! {
            Some(event) = trial_events.recv() => {
                driver.trial(event);
                for _ in 0..TRIAL_EVENTS_PER_TURN_MAX {
                    let Ok(event) = trial_events.try_recv() else { break };
                    driver.trial(event);
                }
            }
            Some(event) = session_events.recv() => driver.session(event),
            refused = &mut session => break Err(refused.into()),
            Some(wanted) = wanted.recv() => match wanted {
                Wanted::Shutdown => driver.shut_down(),
                Wanted::StdinEnded => driver.stdin_ended(),
                Wanted::EndNow => break Ok(()),
            },
            Some(Err(error)) = driver.spawned.join_next() => break Err(error.into()),
            () = tokio::time::sleep(pause) => {}
        }
        driver.turn();
        hello.send_modify(|hello| hello.running = session::running(driver.core.held()));
        if driver.has_ended() {
            break Ok(());
        }
    };
    driver.kill_all();
    ended
}

fn hello(setup: &Setup) -> wire::Hello {
    let gpus = setup.inventory.gpus.iter().map(|gpu| wire::Gpu {
        index: gpu.index,
        name: gpu.name.clone(),
        memory_bytes: gpu.memory_bytes,
    });
    wire::Hello {
        format_version: proto::FORMAT_VERSION,
        agent: setup.agent.to_string(),
        host: crate::devices::host(),
        brine_version: setup.version.clone(),
        cpus: setup.inventory.cpus,
        gpus: gpus.collect(),
        memory_bytes: setup.inventory.memory_bytes,
        running: Vec::new(),
    }
}

struct Link {
    outbound: mpsc::Sender<wire::AgentMessage>,
    heartbeat_ms: u64,
    reported_at: Option<Moment>,
}

struct Driver {
    setup: Setup,
    core: Core,
    store: CheckpointStore,
    link: Option<Link>,
    trials: BTreeMap<AttemptKey, watch::Sender<Wish>>,
    tails: BTreeMap<AttemptKey, LogTail>,
    metrics: MetricBuffer,
    metrics_sent_at: Moment,
    leaders: Leaders,
    spawned: JoinSet<()>,
    trial_sender: mpsc::Sender<TrialEvent>,
    blob_sender: mpsc::Sender<blobs::Request>,
    shutdown: Option<Shutdown>,
}

/// An agent that was asked to end.
struct Shutdown {
    /// When the last process was gone.
    idle_since: Option<Moment>,
    /// Whether the agent's parent is gone too.
    orphaned: bool,
}

impl Driver {
    fn new(
        setup: Setup,
        trial_sender: mpsc::Sender<TrialEvent>,
        blob_sender: mpsc::Sender<blobs::Request>,
    ) -> Result<Self, CheckpointError> {
        let folders = &setup.folders;
        let store = CheckpointStore::open(&folders.records, &folders.checkpoints, &setup.agent)?;
        Ok(Self {
            setup,
            core: Core::default(),
            store,
            link: None,
            trials: BTreeMap::new(),
            tails: BTreeMap::new(),
            metrics: MetricBuffer::default(),
            metrics_sent_at: Moment::default(),
            leaders: Leaders::default(),
            spawned: JoinSet::new(),
            trial_sender,
            blob_sender,
            shutdown: None,
        })
    }

    fn session(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Welcomed { outbound, heartbeat, input } => {
                tracing::info!(coordinator = self.setup.coordinator, "joined");
                let heartbeat_ms = u64::try_from(heartbeat.as_millis()).unwrap_or(u64::MAX);
                self.link = Some(Link { outbound, heartbeat_ms, reported_at: None });
                self.tails.values_mut().for_each(LogTail::rewind);
                self.feed(input);
            }
            SessionEvent::Said(input) => self.feed(input),
            SessionEvent::Lost => {
                self.link = None;
                self.feed(Input::Disconnected);
            }
        }
    }

    fn trial(&mut self, event: TrialEvent) {
        match event {
            TrialEvent::Said(key, TrialRecord::Started) => self.feed(Input::Started(key)),
            TrialEvent::Said(key, TrialRecord::Metric(metric)) => self.metrics.push(&key, metric),
            TrialEvent::Said(key, TrialRecord::Checkpoint(checkpoint)) => {
                if checkpoint.attempt != key.attempt || checkpoint.agent != self.setup.agent {
                    tracing::error!(attempt = %key, "a checkpoint names another attempt; ignored");
                    return;
                }
                match self.store.commit(&key.trial, &checkpoint) {
                    Ok(()) => self.feed(Input::Saved(key, checkpoint)),
                    Err(error) => {
                        tracing::error!(%error, attempt = %key, "a checkpoint was not recorded");
                    }
                }
            }
            // The supervisor keeps it for the exit.
            TrialEvent::Said(_, TrialRecord::Ended(_)) => {}
            TrialEvent::Exited { key, end, how } => {
                self.trials.remove(&key);
                if let Some(tail) = self.tails.get_mut(&key) {
                    tail.end();
                }
                process::kill_adopted(&self.leaders.all());
                tracing::info!(attempt = %key, how, "ended");
                let end = end.map(|end| self.with_recorded_checkpoint(&key, end));
                self.feed(Input::Exited { key, end, how });
            }
        }
    }

    /// A completed trial's checkpoint is its result, so it is complete only when that is recorded.
    fn with_recorded_checkpoint(&self, key: &AttemptKey, end: TrialEnd) -> TrialEnd {
        let TrialEnd::Outcome(Outcome::Completed { checkpoint: Some(checkpoint), .. }) = &end
        else {
            return end;
        };
        match self.store.commit(&key.trial, checkpoint) {
            Ok(()) => end,
            Err(error) => {
                let message = format!("the final checkpoint was not recorded: {error}");
                TrialEnd::Outcome(Outcome::failed(FailureClass::Infrastructure, message))
            }
        }
    }

    fn feed(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for effect in self.core.handle(Moment::now(), input) {
                inputs.extend(self.carry_out(effect));
            }
        }
    }

    /// Does what the core wants; answers what came of it at once.
    fn carry_out(&mut self, effect: Effect) -> Option<Input> {
        match effect {
            Effect::Start { lease, lease_until } => {
                let key = lease.key.clone();
                tracing::info!(attempt = %key, "starting");
                self.start(*lease, lease_until).err().map(|message| {
                    let outcome = Outcome::failed(FailureClass::Infrastructure, message);
                    let end = Some(TrialEnd::Outcome(outcome));
                    Input::Exited { key, end, how: "was not started".into() }
                })
            }
            Effect::Renew { key, lease_until } => {
                self.wish(&key, |wish| wish.lease_until = lease_until);
                None
            }
            Effect::Stop(key) => {
                self.wish(&key, |wish| wish.life = Life::Stop);
                None
            }
            Effect::Kill(key) => {
                self.wish(&key, |wish| wish.life = Life::Kill);
                None
            }
            Effect::Settled { key, outcome } => {
                if let Err(error) = self.store.settle(&key.trial, &outcome) {
                    tracing::error!(%error, attempt = %key, "old checkpoints were not removed");
                }
                None
            }
        }
    }

    fn start(&mut self, lease: Lease, lease_until: Moment) -> Result<(), String> {
        let disk = |error: io::Error| format!("cannot make the trial's folders: {error}");
        let resume = self.store.candidates(&lease.key.trial, lease.checkpoint.as_ref());
        let resume = resume.map_err(|error| error.to_string())?;
        let checkpoints = self.store.attempt_folder(&lease.key).map_err(disk)?;
        let folders = self.setup.folders.attempt(&lease.key, checkpoints).map_err(disk)?;
        self.tails.insert(lease.key.clone(), LogTail::new(folders.log()));
        let order = Order {
            key: lease.key.clone(),
            agent: self.setup.agent.clone(),
            spec: lease.spec,
            devices: lease.devices,
            lease_until,
            folders,
            resume,
        };
        let (sender, wish) = watch::channel(Wish { lease_until, life: Life::GoOn });
        self.trials.insert(lease.key, sender);
        self.spawned.spawn(supervise(
            self.setup.program.clone(),
            order,
            wish,
            self.blob_sender.clone(),
            self.trial_sender.clone(),
            self.leaders.clone(),
        ));
        Ok(())
    }

    fn wish(&self, key: &AttemptKey, change: impl FnOnce(&mut Wish)) {
        // A trial that just ended has nobody to tell; its exit is on the way.
        if let Some(sender) = self.trials.get(key) {
            sender.send_modify(change);
        }
    }

    /// Looks at the clock, and sends what there is to send: metrics and logs before the report, so
    /// that what a reply settles is complete.
    fn turn(&mut self) {
        self.feed(Input::Tick);
        let now = Moment::now();
        self.send_metrics(now);
        self.send_logs();
        self.send_report(now);
        if let Some(shutdown) = &mut self.shutdown
            && !self.core.holds_processes()
        {
            shutdown.idle_since.get_or_insert(now);
        }
    }

    /// How long nothing needs to be done unless something happens.
    fn pause(&self) -> Duration {
        let deadline = self.core.next_deadline();
        let left = deadline.map(|at| Duration::from_millis(at.since_ms(Moment::now())));
        left.map_or(TURN_PERIOD, |left| left.min(TURN_PERIOD))
    }

    fn send_metrics(&mut self, now: Moment) {
        let due = now.since_ms(self.metrics_sent_at) >= METRIC_PERIOD_MS
            || self.metrics.len() >= METRIC_BATCH_MAX
            || self.core.report_is_due();
        let Some(link) = self.link.as_ref().filter(|_| due) else {
            return;
        };
        self.metrics_sent_at = now;
        while let Ok(place) = link.outbound.try_reserve() {
            let Some(batch) = self.metrics.batch() else {
                return;
            };
            place.send(session::message(Out::Metrics(batch)));
        }
    }

    fn send_logs(&mut self) {
        let Some(link) = &self.link else { return };
        self.tails.retain(|key, tail| {
            // One piece a turn, so that a long log does not crowd out the others.
            let Ok(place) = link.outbound.try_reserve() else {
                return true;
            };
            match tail.chunk(key) {
                Ok(Some(chunk)) => {
                    place.send(session::message(Out::Log(chunk)));
                    true
                }
                Ok(None) => !tail.has_ended(),
                // The log appears with the process.
                Err(error) if error.kind() == io::ErrorKind::NotFound => !tail.has_ended(),
                Err(error) => {
                    tracing::warn!(%error, attempt = %key, "the log cannot be read");
                    false
                }
            }
        });
    }

    fn send_report(&mut self, now: Moment) {
        let Some(link) = &mut self.link else { return };
        let heard = link.reported_at.map(|at| now.since_ms(at));
        let due = heard.is_none_or(|ms| ms >= link.heartbeat_ms);
        if !due && !self.core.report_is_due() {
            return;
        }
        // When the network is behind, the report waits for the next turn and is then newer.
        let Ok(place) = link.outbound.try_reserve() else {
            return;
        };
        match session::report_message(self.core.report(now)) {
            Ok(message) => {
                place.send(message);
                link.reported_at = Some(now);
            }
            Err(error) => tracing::error!(%error, "a report cannot be written"),
        }
    }

    fn shut_down(&mut self) {
        tracing::info!("ending: trials save their state");
        self.shutdown.get_or_insert(Shutdown { idle_since: None, orphaned: false });
        self.feed(Input::Shutdown);
    }

    fn stdin_ended(&mut self) {
        self.shut_down();
        if let Some(shutdown) = &mut self.shutdown {
            shutdown.orphaned = true;
        }
    }

    fn has_ended(&self) -> bool {
        let Some(shutdown) = &self.shutdown else {
            return false;
        };
        if shutdown.orphaned && self.link.is_none() {
            return true;
        }
        let Some(idle_since) = shutdown.idle_since else {
            return false;
        };
        let waited = Moment::now().since_ms(idle_since) >= SETTLE_MAX_MS;
        self.core.has_taken_leave() || self.link.is_none() || waited
    }

    fn kill_all(&mut self) {
        for leader in self.leaders.all() {
            process::kill_tree(leader);
        }
        self.spawned.abort_all();
        process::kill_adopted(&self.leaders.all());
    }
}
