//! A recipe that is known to be valid.

use super::error::{Path, RecipeError};
use super::mistakes::{self, Mistakes, all};
use super::node::Node;
use super::raw::{RawRecipe, check_kind};
use super::reader::Reader;
use super::section::StudySpec;
use super::yaml;
use crate::study::Study;
use proto::spec::Hang;
use proto::{ExperimentId, Inputs, Placement, Resources, Retries, Runner, TrialSpec, Value};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Longest text of a recipe. It is written by people, sent in one message and kept in the journal.
pub const RECIPE_BYTES_MAX: usize = 1 << 20;

/// A checked recipe: every value is in its range.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recipe {
    /// `metadata.name`: a-z, 0-9 and '-'.
    pub name: String,
    /// What is studied.
    pub study: StudySpec,
    /// What one trial occupies.
    pub resources: Resources,
    /// How often a failed attempt is repeated.
    pub retries: Retries,
    /// Milliseconds between two checkpoints; `None` is what loses least.
    pub checkpoint_every_ms: Option<u64>,
    /// When a trial counts as hung; `None` is what [`Hang::of`] says.
    pub hang: Option<Hang>,
    /// Longest time of one attempt in milliseconds; `None` is no limit.
    pub trial_time_ms: Option<u64>,
    /// Where trials may run.
    pub placement: Placement,
    /// How the experiment stands among others, and what it may use.
    pub policy: Policy,
}

/// How an experiment stands among others, and what it may use. Decides when trials run, never what
/// they find, so it is not part of the experiment's identity and may be changed by submitting the
/// recipe again.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Policy {
    /// A higher one goes first, and takes devices from lower ones; 0 unless the recipe says.
    pub priority: i32,
    /// Share among the experiments of one user, while users share alike; 1 unless the recipe says.
    pub weight: f64,
    /// Most trials that run at once; `None` is no limit.
    pub at_once: Option<u32>,
    /// Most trials that are started; `None` is no limit.
    pub trials: Option<u64>,
    /// Most GPU hours over all attempts; `None` is no limit.
    pub gpu_hours: Option<f64>,
    /// Most counted training FLOPs over all trials; `None` is no limit.
    pub flops: Option<f64>,
}

impl Default for Policy {
    fn default() -> Self {
        Self { priority: 0, weight: 1.0, at_once: None, trials: None, gpu_hours: None, flops: None }
    }
}

impl Recipe {
    /// Reads and checks the text of a recipe.
    ///
    /// # Errors
    /// [`Mistakes`] name every value that is wrong, its line and column, and what to do.
    pub fn parse(text: &str) -> Result<Self, Mistakes> {
        if text.len() > RECIPE_BYTES_MAX {
            let message = format!(
                "a recipe has at most {RECIPE_BYTES_MAX} bytes, this text has {}",
                text.len()
            );
            let error = RecipeError::new(&Path::default(), message);
            return Err(error.hint("data and scripts are files that the recipe names").into());
        }
        Self::read(yaml::read(text)?)
    }

    pub(super) fn read(mut document: Node) -> Result<Self, Mistakes> {
        check_header(&document).map_err(|mistakes| mistakes.in_document(&document))?;
        let read = mistakes::read(&mut document);
        read.check(&document, RawRecipe::check)
    }

    /// The experiment's id: the name and the first 8 hexadecimal digits of the hash of everything
    /// that decides the results, which is the recipe without comments and layout, and the content
    /// of its files. The time between checkpoints, what counts as a hang
    /// and the [`Policy`] do not. Retries and the
    /// time limit of a trial do: they decide which trials end well, so a recipe that raises them is
    /// a new experiment, which shares the trials that are the same.
    pub fn id(&self, inputs: &Inputs) -> ExperimentId {
        #[derive(Serialize)]
        struct Identity<'a> {
            study: &'a StudySpec,
            resources: &'a Resources,
            retries: &'a Retries,
            trial_time_ms: Option<u64>,
            inputs: &'a Inputs,
            #[serde(skip_serializing_if = "is_default")]
            placement: &'a Placement,
        }
        let identity = Identity {
            study: &self.study,
            resources: &self.resources,
            retries: &self.retries,
            trial_time_ms: self.trial_time_ms,
            inputs,
            placement: &self.placement,
        };
        let mut hasher = blake3::Hasher::new();
        // Struct fields keep their order and the maps are sorted, so this text is canonical.
        serde_json::to_writer(&mut hasher, &identity).expect("a hasher accepts every write");
        let hash = hasher.finalize().to_hex();
        ExperimentId::new(format!("{}-{}", self.name, &hash[..8]))
            .expect("a checked name and a hash are an id")
    }

    /// The files that the client has to read before it submits.
    pub fn wanted(&self) -> Wanted {
        self.study.wanted()
    }

    /// The planner of this recipe, given its files.
    ///
    /// # Errors
    /// [`StudyError`] when `inputs` lacks what [`wanted`](Self::wanted) asks for, or when the
    /// recipe and its files do not fit together.
    pub fn study(&self, inputs: &Inputs) -> Result<Box<dyn Study>, StudyError> {
        self.study.study(self.trial_settings(), inputs)
    }

    /// What all trials of this recipe have in common.
    pub fn trial_settings(&self) -> TrialSettings {
        TrialSettings {
            resources: self.resources.clone(),
            retries: self.retries,
            time_limit_ms: self.trial_time_ms,
            checkpoint_every_ms: self.checkpoint_every_ms,
            placement: self.placement.clone(),
            hang: self.hang,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_default(placement: &&Placement) -> bool {
    **placement == Placement::default()
}

/// Of a recipe that is for another program nothing else is said.
fn check_header(document: &Node) -> Result<(), Mistakes> {
    Reader::new(document).section("apiVersion, kind, metadata and spec")?;
    all! {
        let version = header(document, "apiVersion");
        let kind = header(document, "kind");
    }
    Ok(check_kind(&version, &kind)?)
}

fn header(document: &Node, key: &'static str) -> Result<String, RecipeError> {
    match document.get(key) {
        Some(node) => String::deserialize(Reader::new(node))
            .map_err(|error| RecipeError { path: Path::default().key(key), ..error }),
        None => Err(serde::de::Error::missing_field(key)),
    }
}

/// What all trials of a recipe have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrialSettings {
    /// What one trial occupies.
    pub resources: Resources,
    /// How often a failed attempt is repeated.
    pub retries: Retries,
    /// Longest time of one attempt in milliseconds; `None` is no limit.
    pub time_limit_ms: Option<u64>,
    /// Milliseconds between two checkpoints; `None` is what loses least.
    pub checkpoint_every_ms: Option<u64>,
    /// Where it may run.
    pub placement: Placement,
    /// When it counts as hung; `None` is what [`Hang::of`] says.
    pub hang: Option<Hang>,
}

impl TrialSettings {
    /// A trial with these settings.
    pub fn trial(
        &self,
        runner: Runner,
        parameters: BTreeMap<String, Value>,
        seed: u64,
    ) -> TrialSpec {
        TrialSpec {
            runner,
            parameters,
            seed,
            resources: self.resources.clone(),
            retries: self.retries,
            time_limit_ms: self.time_limit_ms,
            checkpoint_every_ms: self.checkpoint_every_ms,
            placement: self.placement.clone(),
            hang: self.hang,
        }
    }
}

/// The files that a recipe names. Relative paths start at the recipe's folder.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// The training text, which becomes [`Inputs::data`].
    pub data: Option<DataWanted>,
    /// Files for the trials' folders, which become [`Inputs::files`] under their file name.
    /// The file names are distinct.
    pub files: Vec<String>,
}

/// The training text that a recipe asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DataWanted {
    /// The `.py` files of the machine's Python standard library: real text that is always there.
    PythonStandardLibrary,
    /// All files that match one of these patterns, in sorted order, one after the other.
    Files(Vec<String>),
}

/// Why a valid recipe and its files make no study.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StudyError {
    /// The recipe needs training text.
    #[error("the recipe needs training text, but none was submitted with it")]
    DataMissing,
    /// The training text is too short for the recipe.
    #[error("the training text has {bytes} bytes, but the recipe needs at least {needed}")]
    DataTooShort {
        /// Length of the text that was submitted.
        bytes: u64,
        /// Least length.
        needed: u64,
    },
    /// The recipe names a file that was not submitted.
    #[error("the recipe needs the file {0:?}, but it was not submitted with it")]
    FileMissing(String),
    /// No trial follows from the recipe.
    #[error("the recipe plans no trial: {0}")]
    NoTrial(String),
}
