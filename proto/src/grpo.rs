//! What the `grpo` runner trains: a policy over bytes that first imitates answers and is then
//! rewarded for right ones.

use crate::optimizer::AdamW;
use crate::spec::BlobRef;
use crate::train::ModelSpec;
use serde::{Deserialize, Serialize};

/// Tokens of a policy: every byte, and [`END_OF_TEXT`].
pub const POLICY_VOCABULARY: u32 = 257;
/// The token that ends a completion.
pub const END_OF_TEXT: u32 = 256;
/// Most digits of the numbers of a sum: with more there are more problems than are listed.
pub const DIGITS_MAX: u32 = 3;
/// Most updates of one step.
pub const UPDATES_MAX: u32 = 1 << 10;

/// Supervised fine-tuning and then group relative policy optimisation (GRPO, Shao et al. 2024,
/// arXiv 2402.03300) on problems whose answers can be verified.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrpoSpec {
    /// [`NUMERICS_VERSION`](crate::train::NUMERICS_VERSION) that the trial was planned for.
    pub numerics: u32,
    /// Shape of the policy. Its vocabulary is [`POLICY_VOCABULARY`], its sequence holds the longest
    /// prompt with its completion.
    pub model: ModelSpec,
    /// What it learns.
    pub problems: Problems,
    /// Share of the problems that is only ever measured; in (0, 1).
    pub held_out: f64,
    /// Most tokens of a completion, the one that ends it included.
    pub completion_tokens_max: u32,
    /// The phase that imitates.
    pub supervised: Supervised,
    /// The phase that is rewarded.
    pub policy: Policy,
    /// How the held-out accuracy is measured.
    pub evaluation: Evaluation,
}

impl GrpoSpec {
    /// Updates of both phases, which is what a step counts.
    pub fn steps(&self) -> u64 {
        self.supervised.steps + self.policy.steps
    }

    /// Counted floating-point operations, at most: as if every text filled the context. A rollout
    /// is one forward pass to write it, one of the reference, and three per update.
    pub fn flops(&self) -> f64 {
        let per_text = self.model.forward_flops_per_token() as f64 * f64::from(self.model.sequence);
        let supervised = 3.0 * f64::from(self.supervised.batch) * self.supervised.steps as f64;
        let passes = 2.0 + 3.0 * f64::from(self.policy.updates);
        let texts = f64::from(self.policy.prompts) * f64::from(self.policy.rollouts);
        per_text * (supervised + passes * texts * self.policy.steps as f64)
    }
}

/// Problems and who verifies their answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Problems {
    /// `12+34=`, answered by `46`: all sums of two numbers of so many digits, verified by exact
    /// arithmetic. A sum and the one with its numbers exchanged are on the same side of the split.
    Addition {
        /// 1 to 3.
        digits: u32,
    },
    /// Pairs of a JSONL file: one object per line with the members `prompt` and `completion`.
    /// Equal prompts are on the same side of the split.
    Pairs {
        /// The file by content.
        file: BlobRef,
        /// Who decides whether a completion is right.
        verifier: VerifierKind,
    },
}

/// Who decides whether a completion is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerifierKind {
    /// The same text, white space around it left out.
    Text,
    /// The same number in exact decimal arithmetic: `2.50` is `2.5`.
    Number,
}

/// Supervised fine-tuning: the mean cross-entropy of the completions' tokens; prompts are not
/// scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Supervised {
    /// Updates; 0 leaves the phase out.
    pub steps: u64,
    /// Pairs per update.
    pub batch: u32,
    /// The optimiser.
    pub optimizer: AdamW,
    /// Updates in which the rate rises from 0; then it stays.
    pub warmup_steps: u64,
}

/// The phase that is rewarded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Steps, each with rollouts of its own; 0 leaves the phase out.
    pub steps: u64,
    /// Prompts per step.
    pub prompts: u32,
    /// Rollouts of each prompt, which form a group; at least 2.
    pub rollouts: u32,
    /// Of the rollouts, and of the policy that is trained; above 0.
    pub temperature: f64,
    /// Updates from the rollouts of one step.
    pub updates: u32,
    /// Which loss.
    pub variant: Variant,
    /// How far the ratio of probabilities counts from 1; of [`Variant::GrpoClip`].
    pub clip: f64,
    /// Weight of the divergence from the reference, which is the policy after the supervised
    /// phase; 0 only measures it.
    pub kl: f64,
    /// The optimiser.
    pub optimizer: AdamW,
    /// Steps in which the rate rises from 0; then it stays.
    pub warmup_steps: u64,
}

/// The loss of a token with log-probability `log p`; r is its rollout's reward, A its advantage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// `-r log p`.
    NoBaseline,
    /// `-A log p`.
    ReinforceWithBaseline,
    /// `-min(rho A, clip(rho, 1 - eps, 1 + eps) A)`, rho the ratio of the token's probability to
    /// the one it was drawn with.
    GrpoClip,
}

impl Variant {
    /// As recipes write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::NoBaseline => "no_baseline",
            Self::ReinforceWithBaseline => "reinforce_with_baseline",
            Self::GrpoClip => "grpo_clip",
        }
    }
}

/// How the held-out accuracy is measured: greedy completions, verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Policy steps between two measurements; 0 measures only before the first and after the last,
    /// which always happens.
    pub every_steps: u64,
    /// Held-out problems per measurement, at most: the same ones every time.
    pub problems: u32,
}
