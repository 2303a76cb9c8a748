//! A checked sweep.

use super::planner::Sweep;
use super::stopping::EarlyStopping;
use super::template::Template;
use crate::recipe::{Needs, StudyError, TrialSettings, Wanted};
use crate::study::Study;
use proto::{Inputs, Value};
use serde::Serialize;
use std::collections::BTreeMap;

/// Most trials of a random search: every draw is kept, so that none is repeated.
pub const RANDOM_TRIALS_MAX: u64 = 100_000;
/// Most trials of a grid, which costs nothing until its trials are drawn: what one coordinator
/// starts in a few hours. More is a mistake in a grid.
pub const GRID_TRIALS_MAX: u64 = 10_000_000;

/// Grid or random search over the parameters of a program. Valid by construction.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SweepSpec {
    /// What every trial executes. Its keys are written beside the others here, so that the
    /// experiments' ids, which are hashes of this, stay as they are.
    #[serde(flatten)]
    pub program: Program,
    /// What varies, by name.
    pub parameters: BTreeMap<String, Domain>,
    /// How it varies. Every domain fits the kind of search.
    pub search: Search,
    /// Every point is tried once with each of these; distinct, at least one.
    pub seeds: Vec<u64>,
    /// What is measured; `None` asks only that the trials complete.
    pub metric: Option<Metric>,
    /// Which trials are ended before they are done; only where there is a metric.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<EarlyStopping>,
}

/// What every trial of a sweep executes.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Program {
    /// A program.
    Command(Command),
    /// Nothing: the trials complete at once, which measures Brine itself.
    Noop,
}

/// The program of a sweep.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Command {
    /// Program and arguments; the first is not empty.
    pub arguments: Vec<Template>,
    /// Extra environment variables.
    pub environment: BTreeMap<String, Template>,
    /// Absolute folder to run in, on the agent's machine; `None` is the trial's own folder.
    pub working_folder: Option<String>,
    /// Files for the trial's folder, as the recipe names them, by file name.
    pub files: BTreeMap<String, String>,
}

/// The values that a parameter may take. Bounds are finite and ascend.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Domain {
    /// One of these.
    Choice(Vec<Value>),
    /// This many points from low to high at equal differences.
    Linear(f64, f64, u32),
    /// This many points from low to high at equal ratios; low is positive.
    Log(f64, f64, u32),
    /// Every whole number from low to below high.
    Range(i64, i64),
    /// Any number from low to high.
    Uniform(f64, f64),
    /// Any number from low to high whose logarithm is uniform; low is positive.
    LogUniform(f64, f64),
    /// Any whole number from low to high, both included.
    IntUniform(i64, i64),
}

impl Domain {
    /// Its key in the recipe.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Choice(_) => "choice",
            Self::Linear(..) => "linear",
            Self::Log(..) => "log",
            Self::Range(..) => "range",
            Self::Uniform(..) => "uniform",
            Self::LogUniform(..) => "log_uniform",
            Self::IntUniform(..) => "int_uniform",
        }
    }
}

/// How the points are found.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Search {
    /// Every combination.
    Grid,
    /// Independent draws.
    Random {
        /// Points drawn. A larger number keeps the earlier points.
        trials: u32,
        /// Seeds the draws.
        seed: u64,
    },
}

/// What is measured, and which direction is better.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Metric {
    /// Its name, as the program reports it.
    pub name: String,
    /// Which direction is better.
    pub goal: Goal,
}

/// Which direction of a metric is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// Smaller is better.
    Minimize,
    /// Larger is better.
    Maximize,
}

impl Goal {
    /// One word for tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Minimize => "minimize",
            Self::Maximize => "maximize",
        }
    }

    /// The order in which better values come first.
    pub(super) fn better_first(self, a: f64, b: f64) -> std::cmp::Ordering {
        match self {
            Self::Minimize => a.total_cmp(&b),
            Self::Maximize => b.total_cmp(&a),
        }
    }
}

impl SweepSpec {
    /// The files that the client has to read.
    pub fn wanted(&self) -> Wanted {
        match &self.program {
            Program::Command(command) => {
                Wanted { data: None, files: command.files.values().cloned().collect() }
            }
            Program::Noop => Wanted::default(),
        }
    }

    /// What executes the trials.
    pub(crate) fn needs(&self) -> Needs {
        match self.program {
            Program::Command(_) => Needs::Program,
            Program::Noop => Needs::Nothing,
        }
    }

    /// The planner.
    ///
    /// # Errors
    /// [`StudyError::FileMissing`] when `inputs` lacks one of the recipe's files.
    pub fn study(
        &self,
        trial: TrialSettings,
        inputs: &Inputs,
    ) -> Result<Box<dyn Study>, StudyError> {
        Ok(Box::new(Sweep::new(self.clone(), trial, inputs)?))
    }
}
