//! All that a coordinator knows about one experiment, in domain types.

use crate::client::parse_experiment;
use crate::error::CliError;
use crate::number;
use crate::stored::INTERRUPTED;
use proto::wire::{self, ExperimentReply};
use proto::{AgentId, Attempt, ExperimentId, ExperimentState, Inputs, Outcome, TrialId, TrialSpec};
use serde::de::DeserializeOwned;
use studies::recipe::Recipe;
use studies::study::{Measured, Study, TrialView};

/// One experiment at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) experiment: ExperimentId,
    pub(crate) state: ExperimentState,
    /// It would go on, but no coordinator runs.
    pub(crate) is_interrupted: bool,
    /// The recipe's text.
    pub(crate) recipe: String,
    pub(crate) inputs: Inputs,
    /// In the order in which they were planned.
    pub(crate) trials: Vec<TrialState>,
}

/// One trial at that moment.
#[derive(Debug, Clone)]
pub(crate) struct TrialState {
    pub(crate) id: TrialId,
    pub(crate) spec: TrialSpec,
    /// Attempts started so far.
    pub(crate) attempts: Attempt,
    /// One word: `waiting`, `running`, `completed`, ...
    pub(crate) word: String,
    pub(crate) outcome: Option<Outcome>,
    /// Who runs it, or ran it last.
    pub(crate) agent: Option<AgentId>,
    /// Why it waits; empty when it does not.
    pub(crate) waiting_for: String,
    /// Version of the agent's code that ran it last; empty before.
    pub(crate) code_version: String,
    /// What its study watches, by ascending rung.
    pub(crate) measured: Vec<Measured>,
}

impl Snapshot {
    /// Reads a coordinator's answer.
    ///
    /// # Errors
    /// Something in it is malformed: the two programs are of different versions.
    pub(crate) fn parse(reply: ExperimentReply) -> Result<Self, CliError> {
        let summary = reply.summary.unwrap_or_default();
        let is_interrupted = summary.state == INTERRUPTED;
        let state = match is_interrupted {
            true => ExperimentState::Running,
            false => parse_state(&summary.state)?,
        };
        Ok(Self {
            experiment: parse_experiment(summary.experiment)?,
            state,
            is_interrupted,
            recipe: reply.recipe,
            inputs: parse_json("inputs", &reply.inputs_json)?,
            trials: reply.trials.into_iter().map(TrialState::parse).collect::<Result<_, _>>()?,
        })
    }

    /// One word for its state.
    pub(crate) fn word(&self) -> &'static str {
        if self.is_interrupted { INTERRUPTED } else { self.state.word() }
    }

    /// The science of the experiment.
    ///
    /// # Errors
    /// This program cannot read the recipe: the coordinator is of another version.
    pub(crate) fn study(&self) -> Result<Box<dyn Study>, CliError> {
        let unreadable = || {
            CliError::user(format!("the recipe of {} cannot be read any more", self.experiment))
                .hint(
                    "another version of Brine stored it; use that version, or run the recipe again",
                )
        };
        let recipe = Recipe::parse(&self.recipe).map_err(|error| unreadable().because(error))?;
        recipe.study(&self.inputs).map_err(|error| unreadable().because(error))
    }

    /// The trials as a study sees them.
    pub(crate) fn views(&self) -> Vec<TrialView<'_>> {
        let trials = self.trials.iter();
        trials
            .map(|trial| TrialView {
                id: &trial.id,
                spec: &trial.spec,
                attempts: trial.attempts.0,
                outcome: trial.outcome.as_ref(),
                measured: &trial.measured,
            })
            .collect()
    }
}

impl TrialState {
    /// Its parameters as `name=value`, with a space between two.
    pub(crate) fn parameters(&self) -> String {
        let pairs = self.spec.parameters.iter();
        let pairs: Vec<String> =
            pairs.map(|(name, value)| format!("{name}={}", number::parameter(value))).collect();
        pairs.join(" ")
    }

    /// Reads a coordinator's view of a trial.
    ///
    /// # Errors
    /// Something in it is malformed: the two programs are of different versions.
    pub(crate) fn parse(view: wire::TrialView) -> Result<Self, CliError> {
        let outcome = match view.outcome_json.as_str() {
            "" => None,
            text => Some(parse_json("outcome", text)?),
        };
        let agent = match view.agent.as_str() {
            "" => None,
            text => Some(AgentId::new(text).map_err(malformed("agent"))?),
        };
        Ok(Self {
            id: TrialId::new(view.trial).map_err(malformed("trial"))?,
            spec: parse_json("specification", &view.spec_json)?,
            attempts: Attempt(view.attempts),
            word: view.state,
            outcome,
            agent,
            waiting_for: view.waiting_for,
            code_version: view.code_version,
            measured: view.measured.iter().map(measured).collect(),
        })
    }
}

fn measured(measured: &wire::Measured) -> Measured {
    Measured { rung: measured.rung, value: measured.value, order: measured.order }
}

/// A state's word.
///
/// # Errors
/// The word is not known here.
pub(crate) fn parse_state(word: &str) -> Result<ExperimentState, CliError> {
    let json = serde_json::Value::from(word);
    serde_json::from_value(json).map_err(malformed("experiment's state"))
}

/// A part of a message that is JSON; `what` names it.
///
/// # Errors
/// It is malformed: the two programs are of different versions.
pub(crate) fn parse_json<T: DeserializeOwned>(
    what: &'static str,
    text: &str,
) -> Result<T, CliError> {
    serde_json::from_str(text).map_err(malformed(what))
}

fn malformed<E: std::error::Error + Send + Sync + 'static>(
    what: &'static str,
) -> impl Fn(E) -> CliError {
    move |error| {
        CliError::user(format!("the coordinator sent a malformed {what}")).because(error).hint(
            "the coordinator and this command are of different versions; install the same one",
        )
    }
}
