//! Follows an experiment to its end: reads the watch stream, folds it, draws it.

use super::bars::Bars;
use super::note::Note;
use super::plain::Plain;
use super::state::Progress;
use crate::client::Client;
use crate::error::CliError;
use crate::output::{OutputMode, Printer};
use crate::snapshot::Snapshot;
use proto::wire::watch_reply::Message;
use proto::wire::{MetricBatch, WatchReply};
use proto::{Event, ExperimentState, MetricPoint, Record};
use std::time::Duration;
use studies::study::Study;
use tokio::time::Instant;
use tonic::Streaming;

/// Time between two drawings.
const DRAW_EVERY: Duration = Duration::from_millis(100);
/// Failed connections in a row before the command gives up: with the pauses below, some minutes.
const RECONNECTS_MAX: u32 = 12;
/// Pause after the first broken connection; doubled up to the largest.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Trials that wait this long while none runs are explained.
const EXPLAIN_AFTER_MS: u64 = 15_000;

/// What to do with the records themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Records {
    /// Nothing; they only move the bars.
    Fold,
    /// Each is a line of JSON on stdout.
    Print,
}

/// Follows an experiment until it is not running; the answer is its state. A broken connection is
/// taken up again where it broke. May be dropped at any moment.
///
/// # Errors
/// The coordinator refuses, or stays away.
pub(crate) async fn follow(
    client: &mut Client,
    snapshot: &Snapshot,
    printer: &Printer,
    records: Records,
) -> Result<ExperimentState, CliError> {
    let mut following = Following::new(snapshot, printer.clone(), records);
    let mut failures = 0;
    loop {
        let seen = following.next_sequence;
        let error = match following.stream(client).await {
            Ok(state) => return Ok(state),
            Err(error) => error,
        };
        if following.next_sequence > seen {
            failures = 0;
        }
        failures += 1;
        if failures > RECONNECTS_MAX || !error.is_connection() {
            return Err(error);
        }
        let pause = PAUSE_MAX.min(PAUSE_MIN * 2_u32.saturating_pow(failures - 1));
        if failures == 1 {
            printer.warning("the connection to the coordinator broke; trying again");
        }
        tokio::time::sleep(pause).await;
    }
}

struct Following {
    progress: Progress,
    /// Enumerates the trials of planned ranges; `None` when this program cannot read the recipe.
    study: Option<Box<dyn Study>>,
    /// Index of the trial that is drawn next.
    next_index: u64,
    printer: Printer,
    records: Records,
    start: Instant,
    next_sequence: u64,
    is_live: bool,
    idle: Idle,
    bars: Option<Bars>,
    plain: Plain,
}

impl Following {
    fn new(snapshot: &Snapshot, printer: Printer, records: Records) -> Self {
        Self {
            progress: Progress::new(snapshot.experiment.clone()),
            study: snapshot.study().ok(),
            next_index: 0,
            records,
            start: Instant::now(),
            next_sequence: 1,
            is_live: false,
            idle: Idle::No,
            bars: printer.is_live().then(|| Bars::new(printer.screen())),
            plain: Plain::default(),
            printer,
        }
    }

    async fn stream(&mut self, client: &mut Client) -> Result<ExperimentState, CliError> {
        let experiment = self.progress.experiment().clone();
        let mut stream = client.watch(&experiment, self.next_sequence).await?;
        let mut ticks = tokio::time::interval(DRAW_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                reply = next(&mut stream) => {
                    let planned = self.take(reply?)?;
                    // A trial that another experiment shares may be over already; its records
                    // are older than this experiment's plan and not in this stream.
                    if planned && self.is_live {
                        self.adopt(client).await?;
                    }
                    if self.is_live && self.progress.state() != ExperimentState::Running {
                        self.draw();
                        return Ok(self.progress.state());
                    }
                }
                _tick = ticks.tick() => {
                    self.draw();
                    self.explain_idleness(client).await?;
                }
            }
        }
    }

    /// Folds one message; the answer is whether trials are new, or the past is over.
    fn take(&mut self, reply: WatchReply) -> Result<bool, CliError> {
        match reply.message {
            Some(Message::Records(lines)) => {
                let mut planned = false;
                for record in serde_json::Deserializer::from_slice(&lines).into_iter::<Record>() {
                    let record = record.map_err(|error| {
                        CliError::user(
                            "the coordinator sent a record that this command does not know",
                        )
                        .because(error)
                        .hint("install the coordinator's version of Brine here")
                    })?;
                    planned |= self.record(&record)?;
                }
                Ok(planned)
            }
            Some(Message::CaughtUp(_)) => {
                self.is_live = true;
                self.progress.caught_up(self.now_ms());
                let overall = self.progress.overall(self.now_ms());
                if overall.ended > 0 {
                    let line = super::plain::overall_line(&overall);
                    self.printer.status(&format!("so far: {line}"));
                }
                Ok(true)
            }
            Some(Message::Metrics(batch)) => {
                let now_ms = self.now_ms();
                self.progress.metrics(&points(batch), now_ms);
                Ok(false)
            }
            None => Ok(false),
        }
    }

    fn record(&mut self, record: &Record) -> Result<bool, CliError> {
        self.next_sequence = record.sequence.saturating_add(1);
        if self.records == Records::Print {
            self.printer.json_line(record)?;
        }
        self.draw_trials(&record.event);
        let note = self.progress.apply(record);
        if self.is_live
            && let Some(note) = note
        {
            self.say(&note);
        }
        Ok(matches!(record.event, Event::TrialsPlanned { .. }))
    }

    /// Tells the display which trials were drawn from a planned range.
    fn draw_trials(&mut self, event: &Event) {
        match event {
            // A study that enumerates its trials has listed the first ones.
            Event::TrialsPlanned { trials, .. } => self.next_index += trials.len() as u64,
            Event::TrialsDrawn { count, .. } => {
                let (first, end) = (self.next_index, self.next_index.saturating_add(*count));
                self.next_index = end;
                if let Some(study) = &self.study {
                    let specs: Vec<_> = (first..end).map_while(|i| study.trial(i)).collect();
                    self.progress.draw(&specs);
                }
            }
            Event::ExperimentSubmitted { .. }
            | Event::RecipeChanged { .. }
            | Event::RangePlanned { .. }
            | Event::ExperimentResumed { .. }
            | Event::ExperimentEnded { .. }
            | Event::LeaseGranted { .. }
            | Event::AttemptPreempted { .. }
            | Event::AttemptStarted { .. }
            | Event::MemberEnded { .. }
            | Event::Measured { .. }
            | Event::Noticed { .. }
            | Event::CheckpointSaved { .. }
            | Event::AttemptFailed { .. }
            | Event::TrialEnded { .. } => {}
        }
    }

    /// Bars show starts and ends by themselves; failures and plans are worth a line in any case.
    fn say(&mut self, note: &Note) {
        let quiet = self.printer.mode() == OutputMode::Quiet;
        let shown_by_bars = matches!(note, Note::Started { .. });
        if quiet || (self.bars.is_some() && shown_by_bars) {
            return;
        }
        if let Some(line) = self.plain.note(note) {
            self.printer.status(&line);
        }
    }

    async fn adopt(&mut self, client: &mut Client) -> Result<(), CliError> {
        let experiment = self.progress.experiment().clone();
        for trial in client.snapshot(&experiment).await?.trials {
            if let Some(outcome) = trial.outcome {
                self.progress.adopt_ended(&trial.id, outcome);
            }
        }
        Ok(())
    }

    /// Says once why nothing runs, when that lasts.
    async fn explain_idleness(&mut self, client: &mut Client) -> Result<(), CliError> {
        let now_ms = self.now_ms();
        let overall = self.progress.overall(now_ms);
        if !self.is_live || overall.running > 0 || overall.ended == overall.planned {
            self.idle = Idle::No;
            return Ok(());
        }
        match self.idle {
            Idle::No => self.idle = Idle::Since(now_ms),
            Idle::Since(since) if now_ms.saturating_sub(since) >= EXPLAIN_AFTER_MS => {
                self.idle = Idle::Explained;
                let experiment = self.progress.experiment().clone();
                let trials = client.snapshot(&experiment).await?.trials;
                let waiting = trials.iter().find(|trial| !trial.waiting_for.is_empty());
                if let Some(trial) = waiting {
                    let line =
                        format!("nothing runs: {} waits for {}", trial.id, trial.waiting_for);
                    self.printer.warning(&line);
                }
            }
            Idle::Since(_) | Idle::Explained => {}
        }
        Ok(())
    }

    fn draw(&mut self) {
        let now_ms = self.now_ms();
        match &mut self.bars {
            Some(bars) => bars.draw(&self.progress, now_ms),
            None if self.is_live => {
                if let Some(line) = self.plain.tick(&self.progress, now_ms) {
                    self.printer.status(&line);
                }
            }
            None => {}
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Whether trials wait and none runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Idle {
    No,
    Since(u64),
    Explained,
}

async fn next(stream: &mut Streaming<WatchReply>) -> Result<WatchReply, CliError> {
    stream.message().await?.ok_or_else(|| {
        CliError::connection("the coordinator ended the stream")
            .hint("check that the coordinator still runs, then try again")
    })
}

/// Points of malformed trials are dropped: live metrics are for looking.
fn points(batch: MetricBatch) -> Vec<MetricPoint> {
    let points = batch.points.into_iter();
    points.filter_map(|point| point.try_into().ok()).collect()
}
