//! Recipes on their way to the coordinator. Each is submitted until it is acknowledged; from then
//! on its experiment must be known for ever.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::client::{Answer, Client, Errand};
use super::sweeps::Sweep;

/// Pause before a recipe that was not acknowledged is submitted again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// A recipe that waits.
#[derive(Debug)]
struct Submission {
    sweep: Sweep,
    /// Whether it is submitted once more when it is acknowledged.
    again: bool,
    /// The experiment's id, when it was acknowledged before.
    known: Option<String>,
}

/// The recipes that wait, and the one that is being submitted.
#[derive(Debug, Default)]
pub(crate) struct Submissions {
    waiting: VecDeque<Submission>,
    current: Option<(Submission, Errand)>,
    not_before: Option<Instant>,
    /// The last refusal, for whoever waits in vain.
    refusal: String,
    acknowledged: BTreeMap<String, Sweep>,
}

impl Submissions {
    /// Puts a sweep into the queue.
    ///
    /// # Errors
    /// Its recipe cannot be written.
    pub(crate) fn add(&mut self, client: &Client, sweep: Sweep, again: bool) -> Result<()> {
        let path = client.folder.join("recipes").join(sweep.file_name());
        fs::write(&path, sweep.recipe())
            .with_context(|| format!("cannot write {}", path.display()))?;
        self.waiting.push_back(Submission { sweep, again, known: None });
        Ok(())
    }

    /// Every experiment whose id was printed.
    pub(crate) fn acknowledged(&self) -> &BTreeMap<String, Sweep> {
        &self.acknowledged
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.current.is_none()
    }

    /// What the coordinator said last when it did not take a recipe.
    pub(crate) fn refusal(&self) -> &str {
        &self.refusal
    }

    /// Goes on; says when an acknowledgement contradicts an earlier one.
    ///
    /// # Errors
    /// `brine` cannot be started, or broke.
    pub(crate) fn turn(&mut self, client: &Client, now: Instant) -> Result<Option<String>> {
        if let Some((submission, mut errand)) = self.current.take() {
            let Some(answer) = errand.poll()? else {
                self.current = Some((submission, errand));
                return Ok(None);
            };
            return self.answered(submission, answer, now);
        }
        if self.not_before.is_some_and(|moment| now < moment) {
            return Ok(None);
        }
        if let Some(submission) = self.waiting.pop_front() {
            let errand = client.start("submit", &["submit", &submission.sweep.file_name()])?;
            self.current = Some((submission, errand));
        }
        Ok(None)
    }

    fn answered(
        &mut self,
        submission: Submission,
        answer: Answer,
        now: Instant,
    ) -> Result<Option<String>> {
        if !answer.done {
            self.refusal = answer.words;
            self.waiting.push_front(submission);
            self.not_before = Some(now + AGAIN_AFTER);
            return Ok(None);
        }
        let json: Value = serde_json::from_str(&answer.stdout).context("submit printed no JSON")?;
        let id = json["experiment"].as_str().context("submit printed no id")?.to_owned();
        let Submission { sweep, again, known } = submission;
        if let Some(known) = known.filter(|known| *known != id) {
            return Ok(Some(format!("the recipe of {known} became {id} when submitted again")));
        }
        if again {
            let known = Some(id.clone());
            self.waiting.push_back(Submission { sweep: sweep.clone(), again: false, known });
        }
        self.acknowledged.insert(id, sweep);
        Ok(None)
    }
}
