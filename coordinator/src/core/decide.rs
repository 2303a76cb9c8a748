//! What an input means: events, or a rejection. Nothing changes here.

use super::state::{Lease, Trial, TrialState};
use super::{AGENTS_MAX, BACKOFF_FIRST_MS, BACKOFF_MAX_MS, Core, EXPERIMENTS_MAX};
use proto::{
    AgentId, Attempt, Checkpoint, Event, ExperimentId, ExperimentState, FailureClass, Inputs,
    Outcome, Timestamp, TrialId,
};
use studies::recipe::Recipe;

/// What happened outside.
#[derive(Debug, Clone)]
pub enum Input {
    /// A client submits a recipe. May come twice: the same recipe is the same experiment.
    Submit {
        /// YAML text.
        recipe: String,
        /// The files it names; already stored.
        inputs: Inputs,
        /// Give trials that failed before a new chance.
        retry_failed: bool,
    },
    /// A client ends an experiment. Repeating it changes nothing.
    Cancel {
        /// Which.
        experiment: ExperimentId,
    },
    /// An agent's session begins. Sent by `rpc`, once per session, before
    /// [`Heard::Joined`](super::Heard::Joined).
    Joined {
        /// Who.
        agent: AgentId,
        /// The attempts it still holds from before.
        running: Vec<(TrialId, Attempt)>,
    },
}

/// What an agent says of its attempts; [`Core::decide_report`] takes it, because its answer is more
/// than events. May be repeated, late, or from a session that was replaced.
#[derive(Debug, Clone)]
pub struct Report {
    /// Who.
    pub agent: AgentId,
    /// In which session.
    pub session: u64,
    /// The attempts it holds, and whether their process runs.
    pub running: Vec<(TrialId, Attempt, bool)>,
    /// Attempts that ended; said again until a reply settles them.
    pub ended: Vec<(TrialId, Attempt, Outcome)>,
    /// Checkpoints; likewise.
    pub checkpoints: Vec<(TrialId, Checkpoint)>,
}

/// What a report's reply tells the agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    /// Attempts in the report that are not (any longer) leased to this agent.
    pub refused: Vec<(TrialId, Attempt)>,
}

/// Why an input changes nothing. The text is for the caller and says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The recipe is wrong.
    #[error("{0}")]
    Recipe(String),
    /// The study cannot be planned from this recipe and these files.
    #[error("{0}")]
    Study(String),
    /// [`EXPERIMENTS_MAX`] is reached.
    #[error(
        "this coordinator holds {EXPERIMENTS_MAX} experiments, its limit; use another data folder"
    )]
    TooManyExperiments,
    /// [`AGENTS_MAX`] is reached.
    #[error("this coordinator knows {AGENTS_MAX} agents, its limit")]
    TooManyAgents,
    /// No such experiment.
    #[error("there is no experiment {0}; `brine status` lists them")]
    UnknownExperiment(ExperimentId),
    /// Another session speaks for this agent by now.
    #[error("another session of agent {0} began; is a second agent using this name?")]
    StaleSession(AgentId),
}

impl Core {
    /// What `input` means at `now`.
    ///
    /// # Errors
    /// A [`Rejection`]: nothing happened, and the caller is told why.
    pub fn decide(&self, now: Timestamp, input: &Input) -> Result<Vec<Event>, Rejection> {
        match input {
            Input::Submit { recipe, inputs, retry_failed } => {
                self.decide_submit(recipe, inputs, *retry_failed)
            }
            Input::Cancel { experiment } => self.decide_cancel(experiment),
            Input::Joined { agent, running } => self.decide_joined(now, agent, running),
        }
    }

    /// The id that a submitted recipe has, and its canonical form.
    ///
    /// # Errors
    /// The recipe is wrong.
    pub fn experiment_id(recipe: &str, inputs: &Inputs) -> Result<ExperimentId, Rejection> {
        let recipe = Recipe::parse(recipe).map_err(|error| Rejection::Recipe(error.to_string()))?;
        Ok(recipe.id(inputs))
    }

    fn decide_submit(
        &self,
        text: &str,
        inputs: &Inputs,
        retry_failed: bool,
    ) -> Result<Vec<Event>, Rejection> {
        let recipe = Recipe::parse(text).map_err(|error| Rejection::Recipe(error.to_string()))?;
        let id = recipe.id(inputs);
        if let Some(known) = self.experiments.get(&id) {
            let retried = if retry_failed { self.failed_trials(&known.trials) } else { Vec::new() };
            let goes_on = known.state == ExperimentState::Cancelled || !retried.is_empty();
            let event = Event::ExperimentResumed { experiment: id, retried };
            return Ok(if goes_on { vec![event] } else { Vec::new() });
        }
        if self.experiments.len() >= EXPERIMENTS_MAX {
            return Err(Rejection::TooManyExperiments);
        }
        recipe.study(inputs).map_err(|error| Rejection::Study(error.to_string()))?;
        let event = Event::ExperimentSubmitted {
            experiment: id,
            recipe: text.to_owned(),
            inputs: inputs.clone(),
        };
        Ok(vec![event])
    }

    /// Trials that failed for a reason that another try could remove.
    fn failed_trials(&self, trials: &[TrialId]) -> Vec<TrialId> {
        let failed = |id: &&TrialId| {
            matches!(self.trials.get(*id).and_then(Trial::outcome), Some(Outcome::Failed { .. }))
        };
        trials.iter().filter(failed).cloned().collect()
    }

    fn decide_cancel(&self, id: &ExperimentId) -> Result<Vec<Event>, Rejection> {
        let experiment =
            self.experiments.get(id).ok_or_else(|| Rejection::UnknownExperiment(id.clone()))?;
        match experiment.state {
            ExperimentState::Running => Ok(vec![Event::ExperimentEnded {
                experiment: id.clone(),
                state: ExperimentState::Cancelled,
            }]),
            ExperimentState::Complete | ExperimentState::Failed | ExperimentState::Cancelled => {
                Ok(Vec::new())
            }
        }
    }

    fn decide_joined(
        &self,
        now: Timestamp,
        agent: &AgentId,
        running: &[(TrialId, Attempt)],
    ) -> Result<Vec<Event>, Rejection> {
        if !self.agents.contains_key(agent) && self.agents.len() >= AGENTS_MAX {
            return Err(Rejection::TooManyAgents);
        }
        let lost = |(id, trial): (&TrialId, &Trial)| {
            let lease = trial.lease().filter(|lease| lease.agent == *agent)?;
            let held = running.iter().any(|(t, a)| t == id && *a == lease.attempt);
            let message = format!("agent {agent} came back without the attempt");
            (!held).then(|| {
                let outcome = Outcome::failed(FailureClass::Infrastructure, message);
                self.after_attempt(now, id, trial, lease.attempt, outcome)
            })
        };
        Ok(self.trials.iter().filter_map(lost).collect())
    }

    /// What a report means, and what its reply says.
    ///
    /// # Errors
    /// [`Rejection::StaleSession`] when a newer session speaks for the agent.
    pub fn decide_report(
        &self,
        now: Timestamp,
        report: &Report,
    ) -> Result<(Vec<Event>, Settled), Rejection> {
        let session = self.agents.get(&report.agent).map(|agent| agent.session);
        if session != Some(report.session) {
            return Err(Rejection::StaleSession(report.agent.clone()));
        }
        let mut events = Vec::new();
        let mut settled = Settled::default();
        for (id, attempt, started) in &report.running {
            match self.current(&report.agent, id, *attempt) {
                Some((_, false)) if *started => {
                    events.push(Event::AttemptStarted { trial: id.clone(), attempt: *attempt });
                }
                Some(_) => {}
                None => settled.refused.push((id.clone(), *attempt)),
            }
        }
        for (id, checkpoint) in &report.checkpoints {
            let newer = |trial: &Trial| trial.checkpoint.as_ref() != Some(checkpoint);
            if self.current(&report.agent, id, checkpoint.attempt).is_some()
                && self.trials.get(id).is_some_and(newer)
            {
                let checkpoint = checkpoint.clone();
                events.push(Event::CheckpointSaved { trial: id.clone(), checkpoint });
            }
        }
        let mut decided: Vec<&TrialId> = Vec::new();
        for (id, attempt, outcome) in &report.ended {
            let Some(trial) = self.trials.get(id) else {
                settled.refused.push((id.clone(), *attempt));
                continue;
            };
            if self.current(&report.agent, id, *attempt).is_none() || decided.contains(&id) {
                settled.refused.push((id.clone(), *attempt));
                continue;
            }
            decided.push(id);
            events.push(self.after_attempt(now, id, trial, *attempt, outcome.clone()));
        }
        Ok((events, settled))
    }

    /// The live lease of `attempt`, when `agent` holds it, and whether it was started.
    fn current(&self, agent: &AgentId, id: &TrialId, attempt: Attempt) -> Option<(&Lease, bool)> {
        match &self.trials.get(id)?.state {
            TrialState::Leased { lease, started }
                if lease.attempt == attempt && lease.agent == *agent =>
            {
                Some((lease, *started))
            }
            TrialState::Leased { .. } | TrialState::Waiting { .. } | TrialState::Ended { .. } => {
                None
            }
        }
    }

    /// What the end of the current attempt means for its trial: over, or once more after a pause.
    pub(super) fn after_attempt(
        &self,
        now: Timestamp,
        id: &TrialId,
        trial: &Trial,
        attempt: Attempt,
        outcome: Outcome,
    ) -> Event {
        match retry_pause(trial, &outcome) {
            Some(pause_ms) => Event::AttemptFailed {
                trial: id.clone(),
                attempt,
                outcome,
                retry_at: now.plus_ms(pause_ms),
            },
            None => Event::TrialEnded { trial: id.clone(), attempt, outcome },
        }
    }
}

/// Milliseconds until the next attempt, or `None` when the outcome is final.
fn retry_pause(trial: &Trial, outcome: &Outcome) -> Option<u64> {
    let Outcome::Failed { class, .. } = outcome else {
        return None;
    };
    let allowed = match class {
        FailureClass::Infrastructure => trial.spec.retries.infrastructure,
        FailureClass::Trial => trial.spec.retries.trial,
        // The agent gave the attempt back, for example because it was told to stop. The trial
        // itself is as wanted as before.
        FailureClass::Cancelled => return Some(0),
        FailureClass::Invalid
        | FailureClass::Timeout
        | FailureClass::Pruned
        | FailureClass::Cheated => return None,
    };
    let failures = trial.failures.get(class).copied().unwrap_or(0);
    let doubled = BACKOFF_FIRST_MS.checked_shl(failures).unwrap_or(BACKOFF_MAX_MS);
    (failures < allowed).then_some(doubled.min(BACKOFF_MAX_MS))
}
