//! The studies that a recipe can ask for. This list is the only place that names them all.

use super::checked::{StudyError, TrialSettings, Wanted};
use super::error::Path;
use super::mistakes::Mistakes;
use crate::study::Study;
use crate::{grpo, isoflop, sweep, train};
use proto::Inputs;
use serde::{Deserialize, Serialize};

/// What the trials of a study need, which decides which resources and limits make sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Brine's own trainer, whose FLOPs are counted.
    Trainer {
        /// Sequences of its smallest batch: as many members can train one model.
        batch_min: u32,
    },
    /// Brine's own trainer of policies: one process, whose FLOPs are counted.
    Policy,
    /// A program of the recipe's author.
    Program,
    /// Nothing: they end at once.
    Nothing,
}

impl Needs {
    /// Whether Brine's own code trains, and so counts what it does.
    pub(super) fn is_training(self) -> bool {
        match self {
            Self::Trainer { .. } | Self::Policy => true,
            Self::Program | Self::Nothing => false,
        }
    }
}

macro_rules! studies {
    ($($(#[$doc:meta])* $key:literal => $name:ident($spec:ty) from $raw:ty,)*) => {
        /// What a recipe studies: `spec.study`, checked.
        #[derive(Debug, Clone, PartialEq, Serialize)]
        pub enum StudySpec {
            $($(#[$doc])* #[serde(rename = $key)] $name($spec),)*
        }

        /// `spec.study` as it is written.
        #[derive(Debug, Deserialize)]
        pub(super) enum RawStudy {
            $(#[serde(rename = $key)] $name(Box<$raw>),)*
        }

        impl RawStudy {
            pub(super) fn check(self, at: &Path) -> Result<StudySpec, Mistakes> {
                match self {
                    $(Self::$name(raw) => raw.check(&at.key($key)).map(StudySpec::$name),)*
                }
            }
        }

        impl StudySpec {
            /// Its key in the recipe, for tables.
            pub fn word(&self) -> &'static str {
                match self {
                    $(Self::$name(_) => $key,)*
                }
            }

            /// What its trials need to be executed.
            pub(super) fn needs(&self) -> Needs {
                match self {
                    $(Self::$name(spec) => spec.needs(),)*
                }
            }

            pub(super) fn wanted(&self) -> Wanted {
                match self {
                    $(Self::$name(spec) => spec.wanted(),)*
                }
            }

            pub(super) fn study(
                &self,
                trial: TrialSettings,
                inputs: &Inputs,
            ) -> Result<Box<dyn Study>, StudyError> {
                match self {
                    $(Self::$name(spec) => spec.study(trial, inputs),)*
                }
            }
        }
    };
}

studies! {
    /// Compute-optimal model and data size from training runs of equal compute.
    "isoflop" => Isoflop(isoflop::IsoflopSpec) from isoflop::raw::RawIsoflop,
    /// One model by its shape, with learning rates to compare.
    "train" => Train(train::TrainStudySpec) from train::raw::RawTrain,
    /// Policies that imitate and are then rewarded for right answers.
    "grpo" => Grpo(grpo::GrpoSpec) from grpo::raw::RawGrpo,
    /// Grid or random search over the parameters of a program.
    "sweep" => Sweep(sweep::SweepSpec) from sweep::raw::RawSweep,
}
