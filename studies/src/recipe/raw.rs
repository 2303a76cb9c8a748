//! The recipe's keys as they are written, and the checks that do not belong to one study.

use super::checked::{CHECKPOINT_EVERY_MS, Recipe};
use super::error::{Path, RecipeError};
use super::quantity::{Bytes, Duration};
use super::section::RawStudy;
use proto::{Resources, Retries};
use serde::Deserialize;

/// The only version so far. It is read before anything else, so a newer recipe gets one clear
/// error instead of one about its first new key.
const API_VERSION: &str = "brine.dev/v1";
const KIND: &str = "Experiment";

/// Longest experiment name: its id adds 9 characters and is part of file names.
const NAME_BYTES_MAX: usize = 64;
/// Most CPU slots of one trial; larger machines do not exist yet.
const CPUS_MAX: u32 = 4_096;
/// Most GPUs of one trial: those of one machine.
const GPUS_MAX: u32 = 64;
/// Most repetitions of a failed attempt; a trial that fails more often will not succeed.
const RETRIES_MAX: u32 = 100;
/// Shortest time between two checkpoints: more often, a trial does little else.
const CHECKPOINT_EVERY_MS_MIN: u64 = 100;

/// Refuses a document that is not an experiment of a version that this program knows.
pub(super) fn check_kind(version: &str, kind: &str) -> Result<(), RecipeError> {
    let root = Path::default();
    if version != API_VERSION {
        let message = format!("this program does not know the version {version:?}");
        let hint = format!("write {API_VERSION}, or update brine if the recipe is newer");
        return Err(RecipeError::new(&root.key("apiVersion"), message).hint(hint));
    }
    if kind != KIND {
        let message = format!("expected {KIND}, found {kind:?}");
        return Err(RecipeError::new(&root.key("kind"), message));
    }
    Ok(())
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "version and kind are read before the other keys")]
pub(super) struct RawRecipe {
    api_version: String,
    kind: String,
    metadata: RawMetadata,
    spec: RawSpec,
}

#[derive(Debug, Deserialize)]
struct RawMetadata {
    name: String,
}

#[derive(Debug, Deserialize)]
struct RawSpec {
    study: RawStudy,
    #[serde(default)]
    resources: RawResources,
    #[serde(default)]
    retries: RawRetries,
    #[serde(default)]
    checkpoint: RawCheckpoint,
    #[serde(default)]
    limits: RawLimits,
}

#[derive(Debug, Default, Deserialize)]
struct RawResources {
    gpus: Option<u32>,
    gpu_memory: Option<Bytes>,
    cpus: Option<u32>,
    memory: Option<Bytes>,
}

#[derive(Debug, Default, Deserialize)]
struct RawRetries {
    infrastructure: Option<u32>,
    trial: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
struct RawCheckpoint {
    every: Option<Duration>,
}

#[derive(Debug, Default, Deserialize)]
struct RawLimits {
    trial_time: Option<Duration>,
}

impl RawRecipe {
    pub(super) fn check(self) -> Result<Recipe, RecipeError> {
        let root = Path::default();
        check_name(&self.metadata.name, &root.key("metadata").key("name"))?;
        let at = root.key("spec");
        let checkpoint_every_ms =
            self.spec.checkpoint.every.map_or(CHECKPOINT_EVERY_MS, |every| every.0);
        if checkpoint_every_ms < CHECKPOINT_EVERY_MS_MIN {
            let least = Duration(CHECKPOINT_EVERY_MS_MIN);
            let path = at.key("checkpoint").key("every");
            return Err(RecipeError::new(&path, format!("must be at least {least}")));
        }
        let trial_time_ms = self.spec.limits.trial_time.map(|time| time.0);
        if trial_time_ms == Some(0) {
            let path = at.key("limits").key("trial_time");
            return Err(RecipeError::new(&path, "must be longer than zero")
                .hint("leave the key out for no limit"));
        }
        Ok(Recipe {
            name: self.metadata.name,
            resources: self.spec.resources.check(&at.key("resources"))?,
            retries: self.spec.retries.check(&at.key("retries"))?,
            checkpoint_every_ms,
            trial_time_ms,
            study: self.spec.study.check(&at.key("study"))?,
        })
    }
}

fn check_name(name: &str, at: &Path) -> Result<(), RecipeError> {
    let error = |message: String| {
        Err(RecipeError::new(at, message)
            .hint("a name holds a-z, 0-9 and '-', and starts and ends with a letter or digit"))
    };
    if name.len() > NAME_BYTES_MAX {
        return error(format!(
            "a name has at most {NAME_BYTES_MAX} characters, this one has {}",
            name.chars().count()
        ));
    }
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !name.starts_with(edge) || !name.ends_with(edge) {
        return error(format!("{name:?} is not a name"));
    }
    match name.chars().find(|&c| !edge(c) && c != '-') {
        Some(c) => error(format!("a name must not hold {c:?}")),
        None => Ok(()),
    }
}

impl RawResources {
    fn check(self, at: &Path) -> Result<Resources, RecipeError> {
        let default = Resources::default();
        let resources = Resources {
            cpus: self.cpus.unwrap_or(default.cpus),
            gpus: self.gpus.unwrap_or(default.gpus),
            gpu_memory_bytes: self.gpu_memory.map_or(default.gpu_memory_bytes, |b| b.0),
            memory_bytes: self.memory.map_or(default.memory_bytes, |b| b.0),
        };
        within(resources.cpus, 1, CPUS_MAX, &at.key("cpus"))?;
        within(resources.gpus, 0, GPUS_MAX, &at.key("gpus"))?;
        if resources.gpus == 0 && resources.gpu_memory_bytes > 0 {
            let message = "asks for GPU memory, but the trial has no GPU";
            return Err(RecipeError::new(&at.key("gpu_memory"), message).hint("write gpus: 1"));
        }
        Ok(resources)
    }
}

impl RawRetries {
    fn check(self, at: &Path) -> Result<Retries, RecipeError> {
        let default = Retries::default();
        let retries = Retries {
            infrastructure: self.infrastructure.unwrap_or(default.infrastructure),
            trial: self.trial.unwrap_or(default.trial),
        };
        within(retries.infrastructure, 0, RETRIES_MAX, &at.key("infrastructure"))?;
        within(retries.trial, 0, RETRIES_MAX, &at.key("trial"))?;
        Ok(retries)
    }
}

fn within(value: u32, min: u32, max: u32, at: &Path) -> Result<(), RecipeError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    let message = format!("must be from {min} to {max}, found {value}");
    Err(RecipeError::new(at, message))
}
