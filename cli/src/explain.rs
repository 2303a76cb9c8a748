//! Why a trial is where it is: a coordinator's explanation as data, and in words.

use crate::error::CliError;
use crate::number;
use crate::snapshot::{TrialState, parse_json};
use crate::stored::WAITS;
use crate::table::{Align, Table};
use crate::words;
use proto::wire::{AttemptRef, ExplainReply, Shortage};
use proto::{Attempt, Checkpoint, Notice, Outcome, TrialId};
use serde_json::{Value, json};

/// How a coordinator's words for a reason begin. The test below holds them to the coordinator's.
const BEGINNINGS: [(&str, Reason); 7] = [
    (WAITS, Reason::Nobody),
    ("its experiment to be submitted again", Reason::Unwanted),
    ("room below a limit of its recipe", Reason::Limit),
    ("an agent: none is connected", Reason::NoAgent),
    ("an agent that can run it", Reason::Unfit),
    ("its turn on agent ", Reason::Line),
    ("agent ", Reason::Stopping),
];

/// Metrics that are named in place of a missing one.
const METRICS_NAMED_MAX: usize = 20;

/// Why a trial waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// No coordinator runs.
    Nobody,
    /// A pause after a failed attempt.
    Pause,
    Unwanted,
    Limit,
    NoAgent,
    /// No connected agent could run it even when empty.
    Unfit,
    /// An agent may still be stopping its last attempt.
    Stopping,
    /// An agent has it already and begins it after another one.
    Line,
    /// Agents are full, or others go first.
    Turn,
}

/// One trial, and all that a coordinator says about its place.
#[derive(Debug, Clone)]
pub(crate) struct Explanation {
    pub(crate) trial: TrialState,
    /// Those that want it.
    pub(crate) experiments: Vec<String>,
    ahead: u64,
    shortages: Vec<Shortage>,
    yielding: Vec<String>,
    failed: Vec<Failed>,
    noticed: Vec<Noticed>,
    wait_ms: u64,
    checkpoint: Option<Checkpoint>,
    running: Vec<(AttemptRef, String)>,
    preempted_by: String,
}

/// A failed attempt.
#[derive(Debug, Clone)]
struct Failed {
    attempt: Attempt,
    at_ms: u64,
    agent: String,
    outcome: Outcome,
}

/// What an agent noticed about an attempt.
#[derive(Debug, Clone)]
struct Noticed {
    attempt: Attempt,
    at_ms: u64,
    notice: Notice,
}

impl Explanation {
    /// Reads a coordinator's answer.
    ///
    /// # Errors
    /// Something in it is malformed: the two programs are of different versions.
    pub(crate) fn parse(reply: ExplainReply) -> Result<Self, CliError> {
        let failed = |failed: proto::wire::FailedAttempt| {
            Ok(Failed {
                attempt: Attempt(failed.attempt),
                at_ms: failed.at_ms,
                agent: failed.agent,
                outcome: parse_json("outcome", &failed.outcome_json)?,
            })
        };
        let noticed = |known: proto::wire::KnownNotice| {
            let notice = parse_json("notice", &known.notice_json)?;
            Ok(Noticed { attempt: Attempt(known.attempt), at_ms: known.at_ms, notice })
        };
        let checkpoint = match reply.checkpoint_json.as_str() {
            "" => None,
            text => Some(parse_json("checkpoint", text)?),
        };
        Ok(Self {
            trial: TrialState::parse(reply.trial.unwrap_or_default())?,
            experiments: reply.experiments,
            ahead: reply.ahead,
            shortages: reply.shortages,
            yielding: reply.yielding,
            failed: reply.failed.into_iter().map(failed).collect::<Result<_, CliError>>()?,
            noticed: reply.notices.into_iter().map(noticed).collect::<Result<_, CliError>>()?,
            wait_ms: reply.wait_ms,
            checkpoint,
            running: reply.running.into_iter().zip(reply.agents).collect(),
            preempted_by: reply.preempted_by,
        })
    }

    /// The trial's id.
    pub(crate) fn id(&self) -> &TrialId {
        &self.trial.id
    }

    fn reason(&self) -> Option<Reason> {
        let words = self.trial.waiting_for.as_str();
        if words.is_empty() {
            return None;
        }
        if self.wait_ms > 0 {
            return Some(Reason::Pause);
        }
        let known = BEGINNINGS.iter().find(|(beginning, _)| words.starts_with(beginning));
        Some(known.map_or(Reason::Turn, |(_, reason)| *reason))
    }

    /// What to say when the trial completed without `metric`, which `experiment` is about.
    pub(crate) fn lacks_metric(&self, experiment: &str, metric: &str) -> Option<String> {
        let Some(Outcome::Completed { metrics, .. }) = &self.trial.outcome else {
            return None;
        };
        if metrics.contains_key(metric) {
            return None;
        }
        let names: Vec<String> =
            metrics.keys().take(METRICS_NAMED_MAX).map(|name| format!("`{name}`")).collect();
        let reported = if names.is_empty() { "no metric".to_owned() } else { names.join(", ") };
        Some(format!(
            "`{metric}` is missing, so it gave {experiment} no result; it reported {reported}"
        ))
    }

    /// The explanation for people, line by line.
    pub(crate) fn lines(&self) -> Vec<String> {
        let trial = &self.trial;
        let mut lines = vec![format!("trial {} {}", trial.id, words::of_state(&trial.word))];
        let parameters = trial.parameters();
        let joint = if parameters.is_empty() { "" } else { " " };
        lines.push(format!("parameters: {parameters}{joint}seed={}", trial.spec.seed));
        lines.push(format!("wanted by: {}", or_nobody(&self.experiments.join(", "))));
        match &trial.outcome {
            Some(outcome) => lines.push(format!("it ended: {}", words::of_trial(outcome))),
            None if self.running.is_empty() => self.waiting_lines(&mut lines),
            None => self.running_lines(&mut lines),
        }
        if let Some(checkpoint) = &self.checkpoint {
            lines.push(format!(
                "saved state: step {}, by attempt {} on {}",
                checkpoint.step, checkpoint.attempt, checkpoint.agent
            ));
        }
        if !self.failed.is_empty() {
            lines.push("attempts that did not end it, oldest first:".to_owned());
            lines.extend(self.failed_table().render().lines().map(|line| format!("  {line}")));
        }
        for Noticed { attempt, at_ms, notice } in &self.noticed {
            let (when, kind) = (number::local_time(*at_ms), notice.kind.word());
            lines.push(format!("noticed {when}, attempt {attempt}: {kind}: {}", notice.text));
        }
        lines
    }

    fn waiting_lines(&self, lines: &mut Vec<String>) {
        let Some(reason) = self.reason() else { return };
        match reason {
            Reason::Turn => {
                lines.push(match self.ahead {
                    0 => "position: the next trial of its experiment".to_owned(),
                    1 => "position: behind 1 trial of its experiment".to_owned(),
                    ahead => format!("position: behind {ahead} trials of its experiment"),
                });
                let lacks = if self.shortages.is_empty() {
                    "it waits for: its turn; an agent has room for it now"
                } else {
                    "it waits for: room on an agent"
                };
                lines.push(lacks.to_owned());
            }
            Reason::Unfit => lines.push(
                "it waits for: an agent that can run it; none that is connected could".to_owned(),
            ),
            Reason::Pause
            | Reason::Nobody
            | Reason::Unwanted
            | Reason::Limit
            | Reason::NoAgent
            | Reason::Line
            | Reason::Stopping => {
                lines.push(format!("it waits for: {}", self.trial.waiting_for));
            }
        }
        for Shortage { agent, lacks } in &self.shortages {
            lines.push(format!("  {agent}: {lacks}"));
        }
        if !self.yielding.is_empty() {
            lines.push(format!("asked to give way to it: {}", self.yielding.join(", ")));
        }
        lines.push(format!("it starts when {}", self.starts_when(reason)));
    }

    fn starts_when(&self, reason: Reason) -> String {
        match reason {
            Reason::Pause => format!(
                "the pause of {} is over and an agent has room",
                number::duration_s(self.wait_ms as f64 / 1e3)
            ),
            Reason::Nobody => {
                "`brine run` or `brine coordinator` serves this data folder again".to_owned()
            }
            Reason::Unwanted => "its recipe is submitted again".to_owned(),
            Reason::Limit => {
                "other trials end, or the recipe with a higher limit is submitted again".to_owned()
            }
            Reason::NoAgent => "an agent connects that can run it".to_owned(),
            Reason::Unfit => "an agent connects that has what these lack".to_owned(),
            Reason::Stopping => "that agent reports its process gone, or its lease is over".into(),
            Reason::Line => "the trials before it on that agent have ended".to_owned(),
            Reason::Turn if self.shortages.is_empty() => "its turn comes".to_owned(),
            Reason::Turn => "one of these agents has what it lacks and it is its turn".to_owned(),
        }
    }

    fn running_lines(&self, lines: &mut Vec<String>) {
        for (held, agent) in &self.running {
            let rank = if self.running.len() > 1 {
                format!(", rank {}", held.rank)
            } else {
                String::new()
            };
            lines.push(format!("attempt {} is on {agent}{rank}", held.attempt));
        }
        if !self.preempted_by.is_empty() {
            let by = &self.preempted_by;
            lines.push(format!("it was asked to give way to {by}, and will go on afterwards"));
        }
    }

    fn failed_table(&self) -> Table {
        let mut table = Table::new(&[
            ("attempt", Align::Right),
            ("when", Align::Left),
            ("agent", Align::Left),
            ("what", Align::Left),
        ]);
        for failed in &self.failed {
            table.row([
                failed.attempt.to_string(),
                number::local_time(failed.at_ms),
                or_nobody(&failed.agent).to_owned(),
                words::of_attempt(&failed.outcome),
            ]);
        }
        table
    }

    /// The command that a person would want next.
    pub(crate) fn hint(&self) -> String {
        let id = self.id();
        let experiment = self.experiments.first().map_or("EXPERIMENT", String::as_str);
        if let Some(outcome) = &self.trial.outcome {
            return match outcome {
                Outcome::Completed { .. } => {
                    format!("see what the experiment found with: brine results {experiment}")
                }
                Outcome::Diverged { .. } | Outcome::Failed { .. } => {
                    format!("read what its program wrote with: brine logs {id}")
                }
            };
        }
        match self.reason() {
            None => format!("follow what it writes with: brine logs --follow {id}"),
            Some(Reason::NoAgent) => {
                "start an agent with: brine-agent --coordinator URL --token-file FILE".to_owned()
            }
            Some(Reason::Nobody) => "go on with: brine run RECIPE".to_owned(),
            Some(Reason::Pause) => {
                format!("read what its last attempt wrote with: brine logs {id}")
            }
            Some(Reason::Unwanted | Reason::Limit) => {
                "submit its recipe with: brine submit RECIPE".to_owned()
            }
            Some(Reason::Unfit) => "see the agents with: brine status; or ask for less in \
                spec.resources or spec.labels"
                .to_owned(),
            Some(Reason::Stopping | Reason::Line | Reason::Turn) => {
                "see what runs with: brine top".to_owned()
            }
        }
    }

    /// The explanation as JSON.
    pub(crate) fn json(&self) -> Value {
        let trial = &self.trial;
        let running = self.running.iter().map(
            |(held, agent)| json!({ "attempt": held.attempt, "rank": held.rank, "agent": agent }),
        );
        let shortages = self.shortages.iter();
        let shortages = shortages.map(|s| json!({ "agent": s.agent, "lacks": s.lacks }));
        let failed = self.failed.iter().map(|failed| {
            json!({
                "attempt": failed.attempt, "at_ms": failed.at_ms, "agent": failed.agent,
                "outcome": failed.outcome,
            })
        });
        let noticed = self.noticed.iter().map(|noticed| {
            json!({
                "attempt": noticed.attempt, "at_ms": noticed.at_ms, "notice": noticed.notice,
            })
        });
        json!({
            "trial": trial.id,
            "state": trial.word,
            "attempts": trial.attempts,
            "experiments": self.experiments,
            "parameters": trial.spec.parameters,
            "seed": trial.spec.seed,
            "agent": trial.agent,
            "outcome": trial.outcome,
            "waiting_for": trial.waiting_for,
            "ahead": self.ahead,
            "shortages": shortages.collect::<Vec<_>>(),
            "yielding": self.yielding,
            "wait_ms": self.wait_ms,
            "running": running.collect::<Vec<_>>(),
            "preempted_by": self.preempted_by,
            "checkpoint": self.checkpoint,
            "failed": failed.collect::<Vec<_>>(),
            "noticed": noticed.collect::<Vec<_>>(),
            "hint": self.hint(),
        })
    }
}

fn or_nobody(text: &str) -> &str {
    if text.is_empty() { "nobody" } else { text }
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
