//! The recipe's keys as they are written, and the checks that do not belong to one study.

use super::checked::Recipe;
use super::error::{Path, RecipeError};
use super::mistakes::{Mistakes, all};
use super::name::check_experiment;
use super::policy::{RawLimits, RawPolicy};
use super::quantity::Duration;
use super::resources::{RawPlacement, RawResources};
use super::section::{Needs, RawStudy, StudySpec};
use crate::training::checks::within;
use proto::Retries;
use proto::spec::Hang;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The only version so far. It is read before anything else, so a newer recipe gets one clear
/// error instead of one about its first new key.
const API_VERSION: &str = "brine.dev/v1";
const KIND: &str = "Experiment";

/// Most repetitions of a failed attempt; a trial that fails more often will not succeed.
const RETRIES_MAX: u32 = 100;
/// Shortest time between two checkpoints: more often, a trial does little else.
const CHECKPOINT_EVERY_MS_MIN: u64 = 100;

/// Fewer steps than this are a pause that any training may take.
const HANG_STEPS_MIN: u32 = 2;
/// More steps than this never pass in silence.
const HANG_STEPS_MAX: u32 = 1_000_000;
/// Shorter silences are the network's.
const HANG_MS_MIN: u64 = 1_000;

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
    resources: Option<RawResources>,
    alternatives: Option<Vec<RawResources>>,
    labels: Option<BTreeMap<String, String>>,
    members: Option<u32>,
    priority: Option<i32>,
    weight: Option<f64>,
    #[serde(default)]
    retries: RawRetries,
    #[serde(default)]
    checkpoint: RawCheckpoint,
    hang: Option<RawHang>,
    #[serde(default)]
    limits: RawLimits,
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

#[derive(Debug, Deserialize)]
struct RawHang {
    steps: Option<u32>,
    at_least: Option<Duration>,
    then: Option<RawThen>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RawThen {
    Retry,
    Report,
}

impl RawRecipe {
    pub(super) fn check(self) -> Result<Recipe, Mistakes> {
        let root = Path::default();
        let (spec, at) = (self.spec, root.key("spec"));
        let study = spec.study.check(&at.key("study"));
        let needs = study.as_ref().ok().map(StudySpec::needs);
        let placement = RawPlacement {
            resources: spec.resources,
            alternatives: spec.alternatives,
            labels: spec.labels,
            members: spec.members,
        };
        let policy =
            RawPolicy { priority: spec.priority, weight: spec.weight, limits: spec.limits };
        all! {
            let name = check_experiment(self.metadata.name, &root.key("metadata").key("name"));
            let study = study;
            let placed = placement.check(needs, &at);
            let limited = policy.check(needs, &at);
            let retries = spec.retries.check(&at.key("retries"));
            let checkpoint_every_ms = spec.checkpoint.check(&at.key("checkpoint"));
            let hang = spec.hang.map(|hang| hang.check(&at.key("hang"), needs)).transpose();
        }
        let ((resources, placement), (policy, trial_time_ms)) = (placed, limited);
        let hang = hang.flatten();
        Ok(Recipe {
            name,
            study,
            resources,
            retries,
            checkpoint_every_ms,
            hang,
            trial_time_ms,
            placement,
            policy,
        })
    }
}

impl RawCheckpoint {
    fn check(self, at: &Path) -> Result<Option<u64>, RecipeError> {
        let every_ms = self.every.map(|every| every.0);
        if every_ms.is_some_and(|every| every < CHECKPOINT_EVERY_MS_MIN) {
            let message = format!("must be at least {}", Duration(CHECKPOINT_EVERY_MS_MIN));
            return Err(RecipeError::new(&at.key("every"), message));
        }
        Ok(every_ms)
    }
}

impl RawHang {
    /// `None` when it says what holds anyway. `needs` are unknown when the study is wrong.
    fn check(self, at: &Path, needs: Option<Needs>) -> Result<Option<Hang>, Mistakes> {
        let default = Hang::of(needs.is_some_and(Needs::is_training));
        all! {
            let steps = within(
                self.steps.unwrap_or(default.steps),
                HANG_STEPS_MIN,
                HANG_STEPS_MAX,
                &at.key("steps"),
            );
            let at_least_ms = match self.at_least {
                Some(Duration(least)) if least < HANG_MS_MIN => {
                    let message = format!("must be at least {}", Duration(HANG_MS_MIN));
                    Err(RecipeError::new(&at.key("at_least"), message))
                }
                Some(Duration(least)) => Ok(least),
                None => Ok(default.at_least_ms),
            };
        }
        let retry = match self.then {
            Some(RawThen::Retry) => true,
            Some(RawThen::Report) => false,
            None => default.retry,
        };
        Ok(Some(Hang { steps, at_least_ms, retry }).filter(|hang| *hang != default))
    }
}

impl RawRetries {
    fn check(self, at: &Path) -> Result<Retries, Mistakes> {
        let default = Retries::default();
        let infrastructure = self.infrastructure.unwrap_or(default.infrastructure);
        let trial = self.trial.unwrap_or(default.trial);
        all! {
            let infrastructure =
                within(infrastructure, 0, RETRIES_MAX, &at.key("infrastructure"));
            let trial = within(trial, 0, RETRIES_MAX, &at.key("trial"));
        }
        Ok(Retries { infrastructure, trial })
    }
}
