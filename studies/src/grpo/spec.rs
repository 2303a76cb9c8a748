//! A checked `spec.study.grpo`.

use super::planner::GrpoStudy;
use crate::recipe::{DataWanted, Needs, StudyError, TrialSettings, Wanted};
use crate::study::Study;
use proto::grpo::{Evaluation, Variant, VerifierKind};
use proto::{Inputs, ModelSpec};
use serde::Serialize;

/// What to learn, and which policies to compare. Valid by construction.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GrpoSpec {
    /// What is learned.
    pub problems: Problems,
    /// Share of the problems that is only measured.
    pub held_out: f64,
    /// Shape of the policy.
    pub model: ModelSpec,
    /// Most tokens of a completion, its end included.
    pub completion_tokens_max: u32,
    /// The phase that imitates.
    pub supervised: Supervised,
    /// The phase that is rewarded.
    pub policy: Policy,
    /// Constants of AdamW in both.
    pub optimizer: Constants,
    /// How the held-out accuracy is measured.
    pub evaluation: Evaluation,
    /// Every combination is tried once with each.
    pub seeds: Vec<u64>,
}

/// What is learned.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Problems {
    /// Sums.
    Addition {
        /// Of each number.
        digits: u32,
    },
    /// Pairs from files.
    Pairs {
        /// Where the client finds them.
        files: DataWanted,
        /// Who decides.
        verifier: VerifierKind,
    },
}

/// The phase that imitates.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Supervised {
    /// Updates.
    pub steps: u64,
    /// Pairs per update.
    pub batch: u32,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Updates in which it rises.
    pub warmup_steps: u64,
}

/// The phase that is rewarded. The lists are what is compared: every combination is one policy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Policy {
    /// Steps.
    pub steps: u64,
    /// Prompts per step.
    pub prompts: u32,
    /// Rollouts of each.
    pub rollouts: u32,
    /// Of the rollouts.
    pub temperature: f64,
    /// Per step.
    pub updates: u32,
    /// Losses to compare.
    pub variants: Vec<Variant>,
    /// Peak learning rates to compare.
    pub learning_rates: Vec<f64>,
    /// Weights of the divergence to compare.
    pub kl_weights: Vec<f64>,
    /// Range of the ratio.
    pub clip: f64,
    /// Steps in which the rate rises.
    pub warmup_steps: u64,
}

/// Constants of AdamW.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Constants {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Of matrices and embeddings.
    pub weight_decay: f64,
    /// Largest gradient norm; `None` does not clip.
    pub clip: Option<f64>,
}

impl GrpoSpec {
    /// The files that the client has to read.
    pub fn wanted(&self) -> Wanted {
        let data = match &self.problems {
            Problems::Addition { .. } => None,
            Problems::Pairs { files, .. } => Some(files.clone()),
        };
        Wanted { data, files: Vec::new() }
    }

    /// What executes the trials.
    pub(crate) fn needs(&self) -> Needs {
        Needs::Policy
    }

    /// The planner.
    ///
    /// # Errors
    /// [`StudyError`] when the pairs are missing.
    pub fn study(
        &self,
        trial: TrialSettings,
        inputs: &Inputs,
    ) -> Result<Box<dyn Study>, StudyError> {
        let problems = match &self.problems {
            Problems::Addition { digits } => proto::grpo::Problems::Addition { digits: *digits },
            Problems::Pairs { verifier, .. } => {
                let file = inputs.data.clone().ok_or(StudyError::DataMissing)?;
                proto::grpo::Problems::Pairs { file, verifier: *verifier }
            }
        };
        Ok(Box::new(GrpoStudy { spec: self.clone(), settings: trial, problems }))
    }
}
