//! What a trial occupies and where it may be, as recipes write it.

use super::error::{Path, RecipeError};
use super::name::{NAME_BYTES_MAX, check_label, check_name};
use super::quantity::Bytes;
use super::raw::within;
use super::section::Needs;
use proto::{Placement, Resources};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Most CPU slots of one trial; larger machines do not exist yet.
const CPUS_MAX: u32 = 4_096;
/// Most GPUs of one trial: those of one machine.
const GPUS_MAX: u32 = 64;
/// Most named things that a trial occupies; the search for an agent looks at each.
const EXTRAS_MAX: usize = 16;
/// Largest amount of one of them; sums over ten million trials do not overflow.
const EXTRA_AMOUNT_MAX: u64 = 1_000_000_000_000;
/// Most resources that would do instead; the search for an agent tries each in turn.
const ALTERNATIVES_MAX: usize = 8;
/// Most labels of one recipe; the search for an agent looks at each.
const LABELS_MAX: usize = 16;
/// Most processes that form one trial: more than one lease can name in one message.
const MEMBERS_MAX: u32 = 1_024;
/// Thousandths of a GPU; a smaller part of one is no use.
const MILLI: f64 = 1_000.0;

#[derive(Debug, Default, Deserialize)]
pub(super) struct RawResources {
    gpus: Option<f64>,
    gpu_memory: Option<Bytes>,
    cpus: Option<u32>,
    memory: Option<Bytes>,
    extras: Option<BTreeMap<String, u64>>,
}

impl RawResources {
    fn check(self, at: &Path) -> Result<Resources, RecipeError> {
        let default = Resources::default();
        let (gpus, gpu_share_milli) = check_gpus(self.gpus.unwrap_or(0.0), &at.key("gpus"))?;
        let resources = Resources {
            cpus: self.cpus.unwrap_or(default.cpus),
            gpus,
            gpu_share_milli,
            gpu_memory_bytes: self.gpu_memory.map_or(default.gpu_memory_bytes, |b| b.0),
            memory_bytes: self.memory.map_or(default.memory_bytes, |b| b.0),
            extras: self.extras.unwrap_or_default(),
        };
        within(resources.cpus, 1, CPUS_MAX, &at.key("cpus"))?;
        if gpus == 0 && gpu_share_milli == 0 && resources.gpu_memory_bytes > 0 {
            let message = "asks for GPU memory, but the trial has no GPU";
            return Err(RecipeError::new(&at.key("gpu_memory"), message).hint("write gpus: 1"));
        }
        check_extras(&resources.extras, &at.key("extras"))?;
        Ok(resources)
    }
}

/// Whole GPUs, and thousandths of one that is shared.
fn check_gpus(gpus: f64, at: &Path) -> Result<(u32, u32), RecipeError> {
    if gpus.fract() == 0.0 {
        if !(0.0..=f64::from(GPUS_MAX)).contains(&gpus) {
            let message = format!("must be from 0 to {GPUS_MAX}, found {gpus}");
            return Err(RecipeError::new(at, message));
        }
        return Ok((gpus as u32, 0));
    }
    if !(0.0..1.0).contains(&gpus) {
        let message = format!("must be a whole number or a share below 1, found {gpus}");
        return Err(RecipeError::new(at, message)
            .hint("a trial has whole GPUs, or a part of one such as 0.25"));
    }
    let milli = (gpus * MILLI).round();
    // The nearest float to a number with three decimals, and no other.
    if milli / MILLI != gpus {
        return Err(RecipeError::new(at, format!("a share has at most 3 decimals, found {gpus}"))
            .hint("a GPU is shared in thousandths"));
    }
    Ok((0, milli as u32))
}

fn check_extras(extras: &BTreeMap<String, u64>, at: &Path) -> Result<(), RecipeError> {
    if extras.len() > EXTRAS_MAX {
        let message = format!("at most {EXTRAS_MAX} names, found {}", extras.len());
        return Err(RecipeError::new(at, message));
    }
    for (name, amount) in extras {
        let path = at.key(name);
        check_name(name, "a resource", &path)?;
        if !(1..=EXTRA_AMOUNT_MAX).contains(amount) {
            let message = format!("must be from 1 to {EXTRA_AMOUNT_MAX}, found {amount}");
            return Err(
                RecipeError::new(&path, message).hint("leave out what the trial does not need")
            );
        }
    }
    Ok(())
}

/// The keys of `spec` that say where trials run.
#[derive(Debug)]
pub(super) struct RawPlacement {
    pub(super) resources: Option<RawResources>,
    pub(super) alternatives: Option<Vec<RawResources>>,
    pub(super) labels: Option<BTreeMap<String, String>>,
    pub(super) members: Option<u32>,
}

impl RawPlacement {
    /// `at` is `spec`; `needs` says what the study's trials can use.
    pub(super) fn check(
        self,
        needs: Needs,
        at: &Path,
    ) -> Result<(Resources, Placement), RecipeError> {
        let members = check_members(self.members, needs, &at.key("members"))?;
        let labels = self.labels.unwrap_or_default();
        check_labels(&labels, &at.key("labels"))?;
        let alternatives = self.alternatives.unwrap_or_default();
        let resources_at = at.key("resources");
        if needs == Needs::Nothing {
            let wrong = match (&self.resources, alternatives.is_empty()) {
                (Some(_), _) => resources_at,
                (None, false) => at.key("alternatives"),
                (None, true) => {
                    let nothing = Resources { cpus: 0, ..Resources::default() };
                    return Ok((nothing, Placement { labels, ..Placement::default() }));
                }
            };
            return Err(
                RecipeError::new(&wrong, "a noop occupies nothing").hint("leave the key out")
            );
        }
        let resources = self.resources.unwrap_or_default().check(&resources_at)?;
        let alternatives = check_alternatives(alternatives, &resources, &at.key("alternatives"))?;
        if members > 1 && needs.is_training() {
            check_member(&resources, &resources_at)?;
            for (index, alternative) in alternatives.iter().enumerate() {
                check_member(alternative, &at.key("alternatives").index(index))?;
            }
        }
        Ok((resources, Placement { alternatives, labels, members }))
    }
}

fn check_alternatives(
    raw: Vec<RawResources>,
    resources: &Resources,
    at: &Path,
) -> Result<Vec<Resources>, RecipeError> {
    if raw.len() > ALTERNATIVES_MAX {
        let message = format!("at most {ALTERNATIVES_MAX} alternatives, found {}", raw.len());
        return Err(RecipeError::new(at, message));
    }
    let mut alternatives = Vec::new();
    for (index, raw) in raw.into_iter().enumerate() {
        let path = at.index(index);
        let alternative = raw.check(&path)?;
        if alternative == *resources || alternatives.contains(&alternative) {
            return Err(RecipeError::new(&path, "asks for the same as an earlier choice")
                .hint("keys that are left out have the values that they have in `resources`"));
        }
        alternatives.push(alternative);
    }
    Ok(alternatives)
}

fn check_labels(labels: &BTreeMap<String, String>, at: &Path) -> Result<(), RecipeError> {
    if labels.len() > LABELS_MAX {
        let message = format!("at most {LABELS_MAX} labels, found {}", labels.len());
        return Err(RecipeError::new(at, message));
    }
    for (name, value) in labels {
        let path = at.key(name);
        check_label(name, &path)?;
        if value.len() > NAME_BYTES_MAX || value.contains(char::is_control) {
            let message = format!(
                "the value of a label has at most {NAME_BYTES_MAX} bytes and no control characters"
            );
            return Err(RecipeError::new(&path, message));
        }
    }
    Ok(())
}

fn check_members(members: Option<u32>, needs: Needs, at: &Path) -> Result<u32, RecipeError> {
    let members = members.unwrap_or(1);
    within(members, 1, MEMBERS_MAX, at)?;
    match needs {
        Needs::Program => Ok(members),
        Needs::Trainer { batch_min } if members <= batch_min.max(1) => Ok(members),
        Needs::Policy | Needs::Nothing if members == 1 => Ok(1),
        Needs::Trainer { batch_min } => {
            let message = format!(
                "must be at most {batch_min}, the sequences of the smallest batch, found {members}"
            );
            Err(RecipeError::new(at, message).hint(
                "every member computes at least one sequence of every batch; see `batch`, or \
                 `batch_min` of a grid",
            ))
        }
        Needs::Policy => {
            let message = "a policy is trained by one process, because one process samples all \
                           completions; found a gang";
            Err(RecipeError::new(at, message)
                .hint("leave the key out; trainings and programs can have members"))
        }
        Needs::Nothing => {
            Err(RecipeError::new(at, "a noop has no processes").hint("leave the key out"))
        }
    }
}

/// Members of a training have a GPU each, or none.
fn check_member(resources: &Resources, at: &Path) -> Result<(), RecipeError> {
    let message = match (resources.gpus, resources.gpu_share_milli) {
        (0 | 1, 0) => return Ok(()),
        (_, 0) => format!("each member trains on one GPU, found {}", resources.gpus),
        (..) => "members cannot share a GPU, found a share".to_owned(),
    };
    Err(RecipeError::new(&at.key("gpus"), message)
        .hint("write gpus: 1, and as many members as GPUs"))
}
