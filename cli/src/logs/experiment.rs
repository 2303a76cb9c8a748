//! The logs of all trials of an experiment at once, each line with its trial before it.

use super::lines::Lines;
use super::queue::{FOLLOWED_MAX, Queue};
use super::removed::Removed;
use crate::client::Client;
use crate::error::CliError;
use crate::listing::Listing;
use crate::output::Printer;
use proto::wire::WatchReply;
use proto::wire::watch_reply::Message;
use proto::{AttemptKey, Event, ExperimentId, ExperimentState, Record, TrialId};
use std::collections::BTreeMap;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Digits of a trial's id before its lines: two of a thousand trials share them with a chance of
/// one in ten thousand.
const SHORT_ID_CHARS: usize = 8;
/// Running trials that are asked for their experiment at the start, one call each; those of a
/// larger cluster are followed from their next attempt on.
const ASKED_MAX: usize = 1_000;
/// Gangs whose size is remembered until they start.
const GANGS_MAX: usize = 10_000;
/// Pieces of text that wait for stdout; whoever writes more waits too.
const PIECES_WAITING_MAX: usize = 64;

/// Prints the logs of the newest trials of an experiment as they are.
///
/// # Errors
/// The coordinator went away, or stdout is closed.
pub(crate) async fn print(
    client: &mut Client,
    experiment: &ExperimentId,
    printer: &Printer,
) -> Result<(), CliError> {
    let listing = Listing::read(client, experiment, 0).await?;
    let begun: Vec<_> = listing.trials().filter(|trial| trial.attempts.0 > 0).collect();
    let shown = &begun[begun.len().saturating_sub(FOLLOWED_MAX)..];
    let left_out = listing.planned.saturating_sub(shown.len());
    let members = shown.iter().flat_map(|trial| {
        (0..trial.spec.placement.members.max(1)).map(|rank| AttemptKey {
            trial: trial.id.clone(),
            attempt: trial.attempts,
            rank,
        })
    });
    if left_out > 0 {
        printer.status(&format!(
            "the logs of {left_out} older or waiting trials are not shown; `brine logs TRIAL` shows one"
        ));
    }
    let mut removed = Removed::default();
    for key in members {
        let mut lines = Lines::new(prefix(&key));
        let mut log = client.logs(&key, false).await?;
        while let Some(chunk) = log.message().await? {
            removed.take(&chunk);
            printer.bytes(&lines.take(&chunk.text))?;
        }
        printer.bytes(&lines.end())?;
    }
    removed.say(printer);
    Ok(())
}

/// Prints what the trials of an experiment write until it ends; those that run now from their
/// start.
///
/// # Errors
/// The coordinator went away, or stdout is closed.
pub(crate) async fn follow(
    client: &mut Client,
    experiment: &ExperimentId,
    printer: &Printer,
) -> Result<(), CliError> {
    let state = client.head(experiment).await?.summary.unwrap_or_default().state;
    if state != ExperimentState::Running.word() {
        printer.status(&format!("{experiment} is {state}; this is what its trials wrote"));
        return print(client, experiment, printer).await;
    }
    // Watched from before the agents are asked, so that no attempt falls between the two.
    let from = client.last_sequence().await?.saturating_add(1);
    let mut records = client.watch(experiment, from).await?;
    let mut following = Following::new(client.clone());
    following.add_running(experiment).await?;
    let mut is_over = false;
    while !(is_over && following.queue.is_idle()) {
        following.fill();
        tokio::select! {
            reply = records.message(), if !is_over => {
                let reply = reply?.ok_or_else(|| {
                    CliError::connection("the coordinator ended the stream")
                })?;
                is_over = following.take(&reply)?;
            }
            Some(text) = following.texts.recv() => printer.bytes(&text)?,
            Some(ended) = following.readers.join_next() => following.ended(ended)?,
        }
    }
    // The readers are gone; what they sent last may still wait.
    while let Ok(text) = following.texts.try_recv() {
        printer.bytes(&text)?;
    }
    following.removed.say(printer);
    if following.queue.left_out() > 0 {
        printer.warning(&format!(
            "{} attempts were not followed: at most {FOLLOWED_MAX} are at once, the newest first",
            following.queue.left_out()
        ));
    }
    Ok(())
}

struct Following {
    client: Client,
    queue: Queue,
    /// Members of gangs that got a lease.
    gangs: BTreeMap<TrialId, u32>,
    readers: JoinSet<Result<Removed, CliError>>,
    removed: Removed,
    sender: mpsc::Sender<Vec<u8>>,
    texts: mpsc::Receiver<Vec<u8>>,
}

impl Following {
    fn new(client: Client) -> Self {
        let (sender, texts) = mpsc::channel(PIECES_WAITING_MAX);
        let (queue, gangs) = (Queue::default(), BTreeMap::new());
        let (readers, removed) = (JoinSet::new(), Removed::default());
        Self { client, queue, gangs, readers, removed, sender, texts }
    }

    /// The attempts that agents hold now, of this experiment.
    async fn add_running(&mut self, experiment: &ExperimentId) -> Result<(), CliError> {
        let agents = self.client.agents().await?;
        let held = agents.iter().flat_map(|agent| &agent.running);
        let held: Vec<AttemptKey> = held.filter_map(|held| held.parse().ok()).collect();
        let mut added = 0;
        for key in held.into_iter().take(ASKED_MAX) {
            // As many as are followed; the others have their turn when they are the newest.
            if added == FOLLOWED_MAX {
                break;
            }
            let explained = self.client.explain(key.trial.as_str()).await?;
            if explained.experiments.iter().any(|owner| owner == experiment.as_str()) {
                self.queue.add(key);
                added += 1;
            }
        }
        Ok(())
    }

    /// Learns which attempts started; the answer is whether the experiment is over.
    fn take(&mut self, reply: &WatchReply) -> Result<bool, CliError> {
        let Some(Message::Records(lines)) = &reply.message else {
            return Ok(false);
        };
        let mut is_over = false;
        for record in serde_json::Deserializer::from_slice(lines).into_iter::<Record>() {
            let record = record.map_err(|error| {
                CliError::user("the coordinator sent a record that this command does not know")
                    .because(error)
                    .hint("install the coordinator's version of Brine here")
            })?;
            if let Event::LeaseGranted { trial, members, .. } = &record.event
                && !members.is_empty()
            {
                if self.gangs.len() >= GANGS_MAX {
                    self.gangs.clear();
                }
                self.gangs.insert(trial.clone(), members.len() as u32 + 1);
            }
            // One that was over before its agent could say that it started is only told to be over.
            if let Event::AttemptStarted { trial, attempt }
            | Event::AttemptFailed { trial, attempt, .. }
            | Event::TrialEnded { trial, attempt, .. } = &record.event
                && attempt.0 > 0
            {
                for rank in 0..self.gangs.remove(trial).unwrap_or(1) {
                    self.queue.add(AttemptKey { trial: trial.clone(), attempt: *attempt, rank });
                }
            }
            is_over |= matches!(record.event, Event::ExperimentEnded { .. });
        }
        Ok(is_over)
    }

    /// Starts to read the logs for which there is a place.
    fn fill(&mut self) {
        while let Some(key) = self.queue.next() {
            self.readers.spawn(read(self.client.clone(), key, self.sender.clone()));
        }
    }

    fn ended(
        &mut self,
        ended: Result<Result<Removed, CliError>, tokio::task::JoinError>,
    ) -> Result<(), CliError> {
        self.queue.ended();
        let ended =
            ended.map_err(|error| CliError::internal("cannot read a log").because(error))?;
        self.removed.add(ended?);
        Ok(())
    }
}

async fn read(
    mut client: Client,
    key: AttemptKey,
    sender: mpsc::Sender<Vec<u8>>,
) -> Result<Removed, CliError> {
    let mut removed = Removed::default();
    let mut lines = Lines::new(prefix(&key));
    let mut log = client.logs(&key, true).await?;
    while let Some(chunk) = log.message().await? {
        removed.take(&chunk);
        let text = lines.take(&chunk.text);
        if !text.is_empty() && sender.send(text).await.is_err() {
            return Ok(removed);
        }
    }
    let rest = lines.end();
    if !rest.is_empty() {
        // Nobody is left to read it when stdout is gone.
        let _gone = sender.send(rest).await;
    }
    Ok(removed)
}

/// `3fa2c1d0 | `, with the rank of a gang's other members and the attempt from the second on:
/// `3fa2c1d0/3#2 | `.
fn prefix(AttemptKey { trial, attempt, rank }: &AttemptKey) -> String {
    let short: String = trial.as_str().chars().take(SHORT_ID_CHARS).collect();
    let rank = if *rank > 0 { format!("/{rank}") } else { String::new() };
    let attempt = if attempt.0 > 1 { format!("#{attempt}") } else { String::new() };
    format!("{short}{rank}{attempt} | ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::Attempt;

    #[test]
    fn a_line_names_the_trial_and_what_is_not_the_first() {
        let trial = TrialId::new("3fa2c1d0e4b5a697").unwrap();
        for (attempt, rank, expected) in [
            (1, 0, "3fa2c1d0 | "),
            (2, 0, "3fa2c1d0#2 | "),
            (1, 3, "3fa2c1d0/3 | "),
            (2, 3, "3fa2c1d0/3#2 | "),
        ] {
            let key = AttemptKey { trial: trial.clone(), attempt: Attempt(attempt), rank };
            assert_eq!(prefix(&key), expected);
        }
    }
}
