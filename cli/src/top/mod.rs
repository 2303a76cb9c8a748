//! `brine top`: what a coordinator does now, again every second.
//!
//! * [`sample`]: asks the coordinator, and folds live metric points in.
//! * [`frame`]: what was learned as lines of text; pure.
//! * [`screen`]: the terminal and its keys.

use crate::client::Client;
use crate::error::CliError;
use crate::local::signals::Signals;
use crate::output::{OutputMode, Printer};
use frame::View;
use proto::wire::MetricPoint;
use proto::wire::watch_reply::Message;
use sample::{Known, Sample};
use screen::{Screen, Wish};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

mod frame;
mod sample;
mod screen;

/// Time between two frames.
const REFRESH_EVERY: Duration = Duration::from_secs(1);
/// Pause before a broken stream of points is opened again.
const REOPEN_AFTER: Duration = Duration::from_secs(2);
/// Batches of points that wait at most; the coordinator drops what a slow reader leaves.
const BATCHES_WAITING_MAX: usize = 16;
/// Size of a frame that is printed once, in characters; a terminal has its own.
const PRINTED_WIDTH: usize = 120;
const PRINTED_HEIGHT: usize = 200;

/// Prints one frame.
///
/// # Errors
/// The coordinator refuses or does not answer, or stdout is closed.
pub(crate) async fn once(client: &mut Client, printer: &Printer) -> Result<(), CliError> {
    let mut known = Known::default();
    let sample = Sample::take(client.clone(), known.wanted()).await?;
    known.add(sample, 0);
    let view = known.view(client.url());
    if printer.mode() == OutputMode::Json {
        return printer.json(&view);
    }
    let lines = frame::lines(&view, PRINTED_WIDTH, PRINTED_HEIGHT);
    let lines: Vec<&str> = lines.iter().map(|line| line.text.trim_end()).collect();
    printer.data(lines.join("\n").trim_end())
}

/// Draws frames until `q`, Ctrl-C or SIGTERM.
///
/// # Errors
/// The terminal cannot be used, or the coordinator refuses. When it goes away, the last frame stays
/// and says so.
pub(crate) async fn live(client: &mut Client) -> Result<(), CliError> {
    let mut signals = Signals::new()?;
    // One sample before the screen: a refusal is better read on the usual one.
    let mut known = Known::default();
    let start = Instant::now();
    known.add(Sample::take(client.clone(), known.wanted()).await?, 0);
    let mut screen = Screen::open()?;
    let mut samples: JoinSet<Result<Sample, CliError>> = JoinSet::new();
    let mut readers = JoinSet::new();
    let (sender, mut points) = mpsc::channel(BATCHES_WAITING_MAX);
    readers.spawn(read_points(client.clone(), sender));
    let mut ticks = tokio::time::interval(REFRESH_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _tick = ticks.tick() => {
                screen.draw(&known.view(client.url()))?;
                // A slow answer must not hold the keys, and is not asked for twice.
                if samples.is_empty() {
                    samples.spawn(Sample::take(client.clone(), known.wanted()));
                }
            }
            Some(sample) = samples.join_next() => {
                match sample {
                    Ok(Ok(sample)) => {
                        let at = start.elapsed().as_millis();
                        known.add(sample, u64::try_from(at).unwrap_or(u64::MAX));
                    }
                    Ok(Err(error)) => known.lost(&error),
                    Err(error) => {
                        return Err(CliError::internal("cannot ask the coordinator").because(error));
                    }
                }
            }
            Some(batch) = points.recv() => known.add_points(&batch),
            wish = screen.wish() => match wish {
                Wish::End => return Ok(()),
                Wish::Redraw => screen.draw(&known.view(client.url()))?,
            },
            () = signals.next() => return Ok(()),
        }
    }
}

/// Sends live points until nobody wants them; a broken stream is opened again.
async fn read_points(mut client: Client, sender: mpsc::Sender<Vec<MetricPoint>>) {
    while !sender.is_closed() {
        if let Ok(mut stream) = client.watch_metrics().await {
            while let Ok(Some(reply)) = stream.message().await {
                if let Some(Message::Metrics(batch)) = reply.message
                    && sender.send(batch.points).await.is_err()
                {
                    return;
                }
            }
        }
        tokio::time::sleep(REOPEN_AFTER).await;
    }
}

impl Screen {
    fn draw(&mut self, view: &View) -> Result<(), CliError> {
        self.show(|width, height| frame::lines(view, width, height))
    }
}
