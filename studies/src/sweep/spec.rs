//! A checked sweep.

use super::planner::Sweep;
use super::template::Template;
use crate::recipe::{StudyError, TrialSettings, Wanted};
use crate::study::Study;
use proto::{Inputs, Value};
use serde::Serialize;
use std::collections::BTreeMap;

/// Most trials of one recipe: more is a mistake in a grid, and the report is read by people.
pub const TRIALS_MAX: u64 = 100_000;

/// Grid or random search over the parameters of a program. Valid by construction.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SweepSpec {
    /// Program and arguments; the first is not empty.
    pub arguments: Vec<Template>,
    /// Extra environment variables.
    pub environment: BTreeMap<String, Template>,
    /// Absolute folder to run in, on the agent's machine; `None` is the trial's own folder.
    pub working_folder: Option<String>,
    /// Files for the trial's folder, as the recipe names them, by file name.
    pub files: BTreeMap<String, String>,
    /// What varies, by name.
    pub parameters: BTreeMap<String, Domain>,
    /// How it varies. Every domain fits the kind of search.
    pub search: Search,
    /// Every point is tried once with each of these; distinct, at least one.
    pub seeds: Vec<u64>,
    /// What is measured.
    pub metric: Metric,
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
        Wanted { data: None, files: self.files.values().cloned().collect() }
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
