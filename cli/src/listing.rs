//! The trials of an experiment for people: all of a small one, the first and the newest of a large
//! one.

use crate::client::Client;
use crate::error::CliError;
use crate::live::{self, Newest};
use crate::number;
use crate::snapshot::{Snapshot, TrialState};
use crate::stored::INTERRUPTED;
use crate::table::{Align, Table};
use proto::{ExperimentId, Outcome, TrialId};
use std::collections::BTreeMap;

/// Trials that are shown from the start of the list, and from its end; a smaller experiment is
/// shown whole.
const HEAD_MAX: usize = 100;
const TAIL_MAX: usize = 100;
/// Ended trials above the first open one: enough to see how it went.
const ENDED_ABOVE: usize = TAIL_MAX / 4;

/// A part of an experiment's trials, in planning order.
pub(crate) struct Listing {
    /// The experiment; its trials are the first that are shown.
    pub(crate) snapshot: Snapshot,
    /// Those behind the gap, if any.
    pub(crate) tail: Vec<TrialState>,
    /// Trials that were planned.
    pub(crate) planned: usize,
    pub(crate) ended: usize,
    pub(crate) running: usize,
    /// What running trials said last.
    pub(crate) live: BTreeMap<TrialId, Newest>,
}

impl Listing {
    /// Reads the trials from `from` on, counted from 0.
    ///
    /// # Errors
    /// The coordinator refuses, or went away.
    pub(crate) async fn read(
        client: &mut Client,
        experiment: &ExperimentId,
        from: usize,
    ) -> Result<Self, CliError> {
        let reply = client.page(experiment, place(from)).await?;
        let summary = reply.summary.clone().unwrap_or_default();
        let [planned, ended, running] =
            [summary.trials, summary.ended, summary.running].map(|count| count as usize);
        let mut snapshot = Snapshot::parse(reply)?;
        let mut tail = Vec::new();
        if planned.saturating_sub(from) > HEAD_MAX + TAIL_MAX {
            snapshot.trials.truncate(HEAD_MAX);
            let rest = from + snapshot.trials.len();
            let mut page = page(client, experiment, rest.max(planned - TAIL_MAX)).await?;
            if page.is_empty() {
                // The end of a range is not drawn yet; its newest trials are near those that run.
                let newest = (ended + running).saturating_sub(TAIL_MAX);
                page = self::page(client, experiment, rest.max(newest)).await?;
            }
            tail = newest_of(page);
        }
        let mut listing = Self { snapshot, tail, planned, ended, running, live: BTreeMap::new() };
        let running = listing.trials().filter(|trial| is_told(&trial.word));
        let running: Vec<TrialId> = running.map(|trial| trial.id.clone()).collect();
        listing.live = live::newest(client, &running).await?;
        Ok(listing)
    }

    /// All that are shown.
    pub(crate) fn trials(&self) -> impl Iterator<Item = &TrialState> {
        self.snapshot.trials.iter().chain(&self.tail)
    }

    /// Trials that exist and are not shown.
    pub(crate) fn left_out(&self, from: usize) -> usize {
        self.planned.saturating_sub(from + self.trials().count())
    }

    /// One line per trial.
    pub(crate) fn table(&self) -> Table {
        let columns = [
            ("trial", Align::Left),
            ("state", Align::Left),
            ("attempts", Align::Right),
            ("agent", Align::Left),
            ("parameters", Align::Left),
            ("result", Align::Left),
        ];
        let mut table = Table::new(&columns).cut(&["agent", "parameters", "result"]);
        let mut seeds = self.trials().map(|trial| trial.spec.seed);
        let first = seeds.next();
        let seeds_differ = seeds.any(|seed| Some(seed) != first);
        let row = |trial: &TrialState| {
            [
                trial.id.to_string(),
                trial.word.clone(),
                trial.attempts.to_string(),
                trial.agent.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
                parameters(trial, seeds_differ),
                result(trial, self.live.get(&trial.id)),
            ]
        };
        self.snapshot.trials.iter().for_each(|trial| table.row(row(trial)));
        if !self.tail.is_empty() {
            table.row(["…"; 6]);
        }
        self.tail.iter().for_each(|trial| table.row(row(trial)));
        table
    }
}

/// What tells a trial from the others.
fn parameters(trial: &TrialState, seeds_differ: bool) -> String {
    let text = trial.parameters();
    match (seeds_differ, text.is_empty()) {
        (false, _) => text,
        (true, true) => format!("seed={}", trial.spec.seed),
        (true, false) => format!("seed={} {text}", trial.spec.seed),
    }
}

/// Whether what a trial said last belongs to its row.
fn is_told(word: &str) -> bool {
    ["running", INTERRUPTED].contains(&word)
}

/// An experiment has far fewer trials than a place can say.
fn place(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

async fn page(
    client: &mut Client,
    experiment: &ExperimentId,
    first: usize,
) -> Result<Vec<TrialState>, CliError> {
    Ok(Snapshot::parse(client.page(experiment, place(first)).await?)?.trials)
}

/// Those around the first one that is not over, else the last ones.
fn newest_of(mut page: Vec<TrialState>) -> Vec<TrialState> {
    let last = page.len().saturating_sub(TAIL_MAX);
    let open = page.iter().position(|trial| trial.outcome.is_none());
    let first = open.map_or(last, |open| open.saturating_sub(ENDED_ABOVE).min(last));
    page.drain(..first);
    page.truncate(TAIL_MAX);
    page
}

fn result(trial: &TrialState, live: Option<&Newest>) -> String {
    match &trial.outcome {
        Some(Outcome::Completed { metrics, .. }) => match metrics.get("validation_loss") {
            Some(loss) => format!("validation_loss={}", number::short(*loss)),
            None => metrics.iter().next().map_or_else(
                || "-".to_owned(),
                |(name, x)| format!("{name}={}", number::short(*x)),
            ),
        },
        Some(Outcome::Diverged { metric, step }) => format!("{metric} diverged at step {step}"),
        Some(Outcome::Failed { message, .. }) => {
            message.lines().next().unwrap_or_default().to_owned()
        }
        None => match live {
            Some(newest) => newest.to_string(),
            None if trial.waiting_for.is_empty() => "-".to_owned(),
            None => format!("waits for {}", trial.waiting_for),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimate::tests::command;
    use proto::Attempt;

    fn trial(seed: u64, is_over: bool) -> TrialState {
        let spec = command(seed);
        TrialState {
            id: spec.id(),
            spec,
            attempts: Attempt(1),
            word: String::new(),
            outcome: is_over.then(|| Outcome::Diverged { metric: "loss".into(), step: 1 }),
            agent: None,
            waiting_for: String::new(),
            code_version: String::new(),
            measured: Vec::new(),
        }
    }

    #[test]
    fn the_newest_trials_are_those_around_the_first_open_one() {
        let first = |ended: u64, all: u64| {
            let trials = (0..all).map(|seed| trial(seed, seed < ended)).collect();
            let newest = newest_of(trials);
            (newest.first().map(|trial| trial.spec.seed), newest.len())
        };
        assert_eq!(first(300, 1_000), (Some(275), TAIL_MAX));
        assert_eq!(first(10, 1_000), (Some(0), TAIL_MAX));
        assert_eq!(first(990, 1_000), (Some(900), TAIL_MAX));
        assert_eq!(first(1_000, 1_000), (Some(900), TAIL_MAX));
        assert_eq!(first(3, 5), (Some(0), 5));
        assert_eq!(first(0, 0), (None, 0));
    }

    #[test]
    fn trials_that_differ_by_their_seed_show_it() {
        let listing = |seeds: &[u64]| {
            let trials = seeds.iter().map(|seed| trial(*seed, false)).collect();
            let snapshot = Snapshot {
                experiment: ExperimentId::new("e").unwrap(),
                state: proto::ExperimentState::Running,
                is_interrupted: false,
                recipe: String::new(),
                inputs: proto::Inputs::default(),
                trials,
            };
            let (tail, live) = (Vec::new(), BTreeMap::new());
            Listing { snapshot, tail, planned: 2, ended: 0, running: 0, live }.table().render()
        };
        let different = listing(&[3, 4]);
        assert!(different.contains("seed=3") && different.contains("seed=4"), "{different}");
        assert!(!listing(&[3, 3]).contains("seed"));
    }

    #[test]
    fn a_running_trial_shows_its_newest_numbers() {
        let newest = Newest { attempt: 1, step: 12, shown: Some(("loss".to_owned(), 2.5)) };
        assert_eq!(result(&trial(1, false), Some(&newest)), "step 12 loss=2.500");
        assert_eq!(result(&trial(1, false), None), "-");
        let waiting = TrialState { waiting_for: "a GPU".to_owned(), ..trial(1, false) };
        assert_eq!(result(&waiting, None), "waits for a GPU");
        assert_eq!(result(&trial(1, true), None), "loss diverged at step 1");
    }
}
