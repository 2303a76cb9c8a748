//! What a client's request means: events, or a rejection. Nothing changes here.

use super::state::Trial;
use super::{AGENTS_MAX, Core, EXPERIMENTS_MAX};
use proto::{AgentId, Event, ExperimentId, ExperimentState, Inputs, Outcome, TrialId};
use studies::recipe::Recipe;

/// A client submits a recipe. May come twice: the same recipe is the same experiment.
#[derive(Debug, Clone)]
pub struct Submission {
    /// YAML text.
    pub recipe: String,
    /// The files it names; already stored.
    pub inputs: Inputs,
    /// Give trials that failed before a new chance.
    pub retry_failed: bool,
    /// For fair shares; empty when nobody said.
    pub user: String,
}

/// Why a request changes nothing. The text is for the caller and says what to do.
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
    /// Another process speaks for this agent.
    #[error(
        "another agent named {0} is connected; give each its own name with --id, or stop the \
         other one"
    )]
    NameTaken(AgentId),
    /// Another session speaks for this agent by now.
    #[error("another session of agent {0} began")]
    StaleSession(AgentId),
    /// A newer report of the same session was heard already; this one says nothing.
    #[error("a newer report of agent {0} was heard")]
    StaleReport(AgentId),
}

impl Core {
    pub(super) fn decide_submit(
        &self,
        submission: &Submission,
    ) -> Result<(ExperimentId, Vec<Event>), Rejection> {
        let text = &submission.recipe;
        let recipe = Recipe::parse(text).map_err(|error| Rejection::Recipe(error.to_string()))?;
        let id = recipe.id(&submission.inputs);
        if let Some(known) = self.experiments.get(&id) {
            let mut events = Vec::new();
            if known.policy != recipe.policy {
                let (experiment, recipe) = (id.clone(), text.clone());
                events.push(Event::RecipeChanged { experiment, recipe });
            }
            let retried = match submission.retry_failed {
                true => self.failed_trials(&known.trials),
                false => Vec::new(),
            };
            if known.state == ExperimentState::Cancelled || !retried.is_empty() {
                events.push(Event::ExperimentResumed { experiment: id.clone(), retried });
            }
            return Ok((id, events));
        }
        if self.experiments.len() >= EXPERIMENTS_MAX {
            return Err(Rejection::TooManyExperiments);
        }
        recipe.study(&submission.inputs).map_err(|error| Rejection::Study(error.to_string()))?;
        let event = Event::ExperimentSubmitted {
            experiment: id.clone(),
            recipe: text.clone(),
            inputs: submission.inputs.clone(),
            user: submission.user.clone(),
        };
        Ok((id, vec![event]))
    }

    /// Trials that failed for a reason that another try could remove.
    fn failed_trials(&self, trials: &[TrialId]) -> Vec<TrialId> {
        let failed = |id: &&TrialId| {
            matches!(self.trials.get(*id).and_then(Trial::outcome), Some(Outcome::Failed { .. }))
        };
        trials.iter().filter(failed).cloned().collect()
    }

    pub(super) fn decide_cancel(&self, id: &ExperimentId) -> Result<Vec<Event>, Rejection> {
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
}
