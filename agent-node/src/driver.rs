//! The one task that owns the agent: it takes in what trials, coordinator, clock and operator say,
//! asks the core what follows, and does it. It never waits for a disk or a process.

use crate::attempts::{Attempts, KeeperBehind, completed_at_once};
use crate::blobs::{self, Blobs};
use crate::checkpoints::CheckpointStore;
use crate::folders::AttemptNames;
use crate::gpus::{self, Holders, Seen};
use crate::keeper::{self, KeeperSetup};
use crate::link::Link;
use crate::operator::{self, Wanted};
use crate::outbox::{self, Outbox};
use crate::recorder::{self, Answer, Prepared, Recorder, Request};
use crate::session::{self, SessionEvent};
use crate::setup::{DriverError, Setup};
use crate::stream;
use crate::supervisor::{Leaders, Life, TrialEvent, fetch_program, supervise};
use agent_core::{Core, Effect, Input, Lease, Moment, TrialEnd};
use agent_keeper::order::{Folders, Order, TrialRecord};
use agent_keeper::say::Ask;
use agent_keeper::{clock, process};
use proto::{AttemptKey, Checkpoint, FailureClass, Outcome, Runner};
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Longest time between two looks at the clock. Everything that is due has a deadline of its own;
/// this is how long a mistake in one of them could last.
const PAUSE_MAX_MS: u64 = 1_000;
/// Records of trials that wait for the driver; a trial that is faster waits.
const TRIAL_EVENTS_MAX: usize = 1_024;
/// Trial events taken in one turn, so that a flood of metrics cannot delay a heartbeat.
const TRIAL_EVENTS_PER_TURN_MAX: usize = 4_096;
const SESSION_EVENTS_MAX: usize = 64;
/// How long an agent that ends waits for the coordinator to settle what it reported.
const SETTLE_MAX_MS: u64 = 3_000;

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
    let folders = &setup.folders;
    let store = CheckpointStore::open(&folders.records, &folders.checkpoints, &setup.agent)?;
    let (recorder, mut recorded) = Recorder::start(store, folders.attempts()?)?;
    let mut session = Box::pin(session::keep(client, session_sender));
    let (keeper_sender, keeper_asks) = mpsc::channel(keeper::ASKS_MAX);
    let indices = setup.inventory.gpus.iter().map(|gpu| gpu.index);
    let mut gpus = gpus::watch(indices.collect());
    let keeper = KeeperSetup { agent: setup.program.clone(), folder: setup.folders.keeper() };
    let mut driver = Driver::new(setup, recorder, keeper_sender, trial_sender, blob_sender);
    driver.spawned.spawn(blobs.serve(blob_requests));
    let (trials, leaders) = (driver.trial_sender.clone(), driver.leaders.clone());
    driver.spawned.spawn(keeper::serve(keeper, keeper_asks, trials, leaders));
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
            Some(seen) = gpus.recv() => driver.gpus(seen),
            answer = recorded.recv() => match answer {
                Some(answer) => driver.recorded(answer),
                None => break Err(DriverError::Recorder),
            },
            Some(()) = outbox::room(driver.outbox.crowded()) => {}
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
        if driver.has_ended() {
            break Ok(());
        }
    };
    driver.kill_all();
    ended
}

struct Driver {
    setup: Setup,
    /// Tells this process from another one of the same name.
    instance: u64,
    /// Hellos of this process so far.
    hellos: u64,
    core: Core,
    recorder: Recorder,
    outbox: Outbox,
    attempts: Attempts,
    names: AttemptNames,
    /// Attempts that may have checkpoints and are not settled.
    trainings: BTreeSet<AttemptKey>,
    leaders: Leaders,
    holders: Holders,
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
        recorder: Recorder,
        keeper: mpsc::Sender<Ask>,
        trial_sender: mpsc::Sender<TrialEvent>,
        blob_sender: mpsc::Sender<blobs::Request>,
    ) -> Self {
        Self {
            instance: rand::random(),
            hellos: 0,
            core: Core::default(),
            recorder,
            outbox: Outbox::default(),
            attempts: Attempts::new(keeper),
            names: setup.folders.names(),
            trainings: BTreeSet::new(),
            leaders: Leaders::default(),
            holders: Holders::default(),
            spawned: JoinSet::new(),
            trial_sender,
            blob_sender,
            shutdown: None,
            setup,
        }
    }

    fn hello(&mut self) -> proto::wire::Hello {
        self.hellos += 1;
        self.setup.hello(self.instance, self.hellos, &self.core)
    }

    fn session(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Asked(asked) => {
                // The session may have been given up meanwhile.
                drop(asked.send(self.hello()));
            }
            SessionEvent::Welcomed { outbound, heartbeat, input } => {
                tracing::info!(coordinator = self.setup.coordinator, "joined");
                let heartbeat_ms = u64::try_from(heartbeat.as_millis()).unwrap_or(u64::MAX);
                self.outbox.joined(Link::new(outbound, heartbeat_ms));
                self.feed(input);
            }
            SessionEvent::Said(input) => {
                if let Input::Reply { sequence, refused } = &input {
                    for (key, checkpoint) in self.outbox.replied(*sequence, refused) {
                        self.ask(Request::Acknowledged(key, checkpoint));
                    }
                }
                self.feed(input);
            }
            SessionEvent::Lost => {
                self.outbox.left();
                self.feed(Input::Disconnected);
            }
        }
    }

    fn trial(&mut self, event: TrialEvent) {
        match event {
            TrialEvent::Said(key, TrialRecord::Started) => self.feed(Input::Started(key)),
            TrialEvent::Said(key, TrialRecord::Metric(metric)) => {
                let (name, step, value) = (metric.metric.clone(), metric.step, metric.value);
                self.outbox.metric(&key, metric);
                self.holders.step(&key, step);
                self.feed(Input::Metric { key, metric: name, step, value });
            }
            TrialEvent::Said(key, TrialRecord::Checkpoint(checkpoint)) => {
                if checkpoint.attempt != key.attempt || checkpoint.agent != self.setup.agent {
                    tracing::error!(attempt = %key, "a checkpoint names another attempt; ignored");
                    return;
                }
                self.ask(Request::Commit(key, checkpoint));
            }
            // The supervisor keeps it for the exit.
            TrialEvent::Said(_, TrialRecord::Ended(_)) => {}
            TrialEvent::Logs(key, path) => self.outbox.log(key, path),
            TrialEvent::Fetched(order, result) => self.fetched(order, result),
            TrialEvent::Exited { key, end, how, kept } => {
                if let Some(path) = kept {
                    self.ask(Request::Kept(path));
                }
                if self.trainings.contains(&key) {
                    self.training_exited(key, end, how);
                } else {
                    self.exited(key, end, how);
                }
            }
        }
    }

    /// What the GPUs do is no sign that a trial makes steps, so the core does not hear it.
    fn gpus(&mut self, seen: Seen) {
        match seen {
            Seen::Xid { gpu, number } => {
                tracing::warn!(gpu, xid = number, "a GPU reported an error");
                self.feed(Input::Xid { gpu, number });
            }
            Seen::Used(uses) => {
                for (key, metric) in self.holders.metrics(&uses) {
                    self.outbox.metric(&key, metric);
                }
            }
        }
    }

    /// What it saved before must be recorded before its end is told.
    fn training_exited(&mut self, key: AttemptKey, end: Option<TrialEnd>, how: String) {
        process::kill_adopted(&self.leaders.all());
        let asked = Request::Exited { key: key.clone(), end: end.clone(), how: how.clone() };
        if let Err(behind) = self.recorder.ask(asked) {
            let unsaved = |end| match end {
                TrialEnd::Outcome(Outcome::Completed { checkpoint: Some(_), .. }) => {
                    recorder::unrecorded(&behind)
                }
                TrialEnd::Outcome(_) | TrialEnd::Stopped => end,
            };
            self.exited(key, end.map(unsaved), how);
        }
    }

    fn recorded(&mut self, answer: Answer) {
        match answer {
            Answer::Prepared(lease, prepared) => self.prepared(*lease, prepared),
            Answer::Saved(key, checkpoint) => self.feed(Input::Saved(key, checkpoint)),
            Answer::Exited { key, end, how } => self.exited(key, end, how),
        }
    }

    fn exited(&mut self, key: AttemptKey, end: Option<TrialEnd>, how: String) {
        self.attempts.remove(&key);
        self.holders.end(&key);
        self.outbox.log_ended(&key);
        tracing::debug!(attempt = %key, how, "ended");
        self.feed(Input::Exited { key, end, how });
    }

    fn ask(&self, request: Request) {
        if let Err(error) = self.recorder.ask(request) {
            tracing::error!(%error, "something about a checkpoint was not recorded");
        }
    }

    fn feed(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            match &input {
                Input::Exited { .. } | Input::Saved(..) | Input::Shutdown => self.outbox.urgent(),
                Input::Connected { .. }
                | Input::Disconnected
                | Input::Assignment(_)
                | Input::Reply { .. }
                | Input::Started(_)
                | Input::Metric { .. }
                | Input::Xid { .. }
                | Input::Tick => {}
            }
            for effect in self.core.handle(clock::now(), input) {
                inputs.extend(self.carry_out(effect));
            }
        }
    }

    /// Does what the core wants; answers what came of it at once.
    fn carry_out(&mut self, effect: Effect) -> Option<Input> {
        match effect {
            Effect::Start { lease, lease_until } => return self.start(lease, lease_until),
            Effect::Renew { key, lease_until } => self.attempts.renew(key, lease_until),
            Effect::Stop(key) => self.attempts.stop(key),
            Effect::Kill(key) => self.attempts.kill(key),
            Effect::Settled { key, outcome } => {
                if self.trainings.remove(&key) {
                    self.ask(Request::Settled(key, outcome));
                }
            }
            Effect::Withdrawn { gpu, reason } => tracing::error!(
                gpu,
                reason,
                "this GPU is lost and not offered any longer; reset it or restart the machine, \
                 then restart this agent"
            ),
        }
        None
    }

    fn start(&mut self, lease: Box<Lease>, lease_until: Moment) -> Option<Input> {
        let key = lease.key.clone();
        tracing::debug!(attempt = %key, "starting");
        self.holders.begin(&key, &lease.devices);
        let started = match &lease.spec.runner {
            Runner::Noop => return Some(completed_at_once(key)),
            Runner::Command(spec) => {
                let has_files = !spec.files.is_empty();
                self.start_program(*lease, lease_until, has_files).map_err(|e| e.to_string())
            }
            Runner::Train(_) | Runner::Grpo(_) => {
                // Those that the coordinator did not want any more are never settled.
                let held: BTreeSet<_> = self.core.held().into_iter().map(|(key, _)| key).collect();
                self.trainings.retain(|key| held.contains(key));
                self.trainings.insert(key.clone());
                self.attempts.supervised(key.clone(), lease_until);
                self.recorder.ask(Request::Prepare(lease)).map_err(|error| error.to_string())
            }
        };
        started.err().map(|message| self.not_started(key, message))
    }

    fn start_program(
        &mut self,
        lease: Lease,
        lease_until: Moment,
        has_files: bool,
    ) -> Result<(), KeeperBehind> {
        let key = lease.key.clone();
        let folders = self.names.of(&key);
        let order = Box::new(self.order(lease, lease_until, folders, Vec::new()));
        if !has_files {
            return self.attempts.keeper(key, Ask::Start(order));
        }
        let wish = self.attempts.supervised(key, lease_until);
        let (blobs, events) = (self.blob_sender.clone(), self.trial_sender.clone());
        self.spawned.spawn(fetch_program(order, wish, blobs, events));
        Ok(())
    }

    /// A program's files are there, or not.
    fn fetched(&mut self, mut order: Box<Order>, result: Result<(), TrialEnd>) {
        let key = order.key.clone();
        let Some(wish) = self.attempts.wish(&key) else { return };
        let wanted = *wish.borrow();
        let result = match wanted.life {
            Life::GoOn => result,
            Life::Stop | Life::Kill => Err(TrialEnd::Stopped),
        };
        let kept = order.is_prepared.then(|| order.folders.attempt.clone());
        let Err(end) = result else {
            order.lease_until = wanted.lease_until;
            if let Err(error) = self.attempts.keeper(key.clone(), Ask::Start(order)) {
                let input = self.not_started(key, error.to_string());
                self.feed(input);
            }
            return;
        };
        let how = "was not started".to_owned();
        self.trial(TrialEvent::Exited { key, end: Some(end), how, kept });
    }

    /// A training's folders are there, or not.
    fn prepared(&mut self, lease: Lease, prepared: Result<Prepared, String>) {
        let Some(wish) = self.attempts.wish(&lease.key) else { return };
        let wanted = *wish.borrow();
        let Prepared { folders, resume } = match prepared {
            Ok(prepared) => prepared,
            Err(message) => {
                let input = self.not_started(lease.key, message);
                self.feed(input);
                return;
            }
        };
        if wanted.life != Life::GoOn {
            let how = "was not started".to_owned();
            return self.training_exited(lease.key, Some(TrialEnd::Stopped), how);
        }
        self.outbox.log(lease.key.clone(), folders.log());
        let order = self.order(lease, wanted.lease_until, folders, resume);
        self.spawned.spawn(supervise(
            self.setup.program.clone(),
            order,
            wish,
            self.blob_sender.clone(),
            self.trial_sender.clone(),
            self.leaders.clone(),
        ));
    }

    fn order(
        &self,
        lease: Lease,
        lease_until: Moment,
        folders: Folders,
        resume: Vec<Checkpoint>,
    ) -> Order {
        Order {
            key: lease.key,
            agent: self.setup.agent.clone(),
            spec: lease.spec,
            devices: lease.devices,
            gang: lease.gang,
            mtbf_ms: lease.mtbf_ms,
            lease_until,
            folders,
            resume,
            is_prepared: false,
        }
    }

    fn not_started(&mut self, key: AttemptKey, message: String) -> Input {
        self.attempts.remove(&key);
        self.holders.end(&key);
        let outcome = Outcome::failed(FailureClass::Infrastructure, message);
        let end = Some(TrialEnd::Outcome(outcome));
        Input::Exited { key, end, how: "was not started".into() }
    }

    /// Looks at the clock, and sends what there is to send: metrics and logs before the report, so
    /// that what a reply settles is complete.
    fn turn(&mut self) {
        self.feed(Input::Tick);
        let now = clock::now();
        self.outbox.send(now, &mut self.core);
        for (key, points) in self.outbox.dropped(now) {
            if let Some(path) = stream::note_dropped(&self.names.of(&key).attempt, points) {
                self.outbox.noted(key, path);
            }
        }
        if let Some(shutdown) = &mut self.shutdown
            && !self.core.holds_processes()
        {
            shutdown.idle_since.get_or_insert(now);
            self.outbox.finish();
        }
    }

    /// How long nothing needs to be done unless something happens.
    fn pause(&self) -> Duration {
        let now = clock::now();
        let leave = self.shutdown.as_ref().and_then(|shutdown| shutdown.idle_since);
        let leave = leave.map(|since| since.plus_ms(SETTLE_MAX_MS));
        let next = [self.outbox.next_at(now), self.core.next_deadline(), leave]
            .into_iter()
            .flatten()
            .min();
        let left = next.map_or(PAUSE_MAX_MS, |at| at.since_ms(now));
        Duration::from_millis(left.min(PAUSE_MAX_MS))
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
        if shutdown.orphaned && !self.outbox.is_joined() {
            return true;
        }
        let Some(idle_since) = shutdown.idle_since else {
            return false;
        };
        let waited = clock::now().since_ms(idle_since) >= SETTLE_MAX_MS;
        let is_done = self.core.has_taken_leave() && self.outbox.is_finished();
        is_done || !self.outbox.is_joined() || waited
    }

    fn kill_all(&mut self) {
        for leader in self.leaders.all() {
            process::kill_tree(leader);
        }
        self.spawned.abort_all();
        process::kill_adopted(&self.leaders.all());
    }
}
