//! What a trial occupies and where it may be, as recipes write it.

use super::error::{Path, RecipeError};
use super::mistakes::{Mistakes, all, every};
use super::name::{NAME_BYTES_MAX, check_label, check_name};
use super::quantity::Bytes;
use super::section::Needs;
use crate::training::checks::within;
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
    fn check(self, at: &Path) -> Result<Resources, Mistakes> {
        let default = Resources::default();
        all! {
            let gpu = check_gpus(self.gpus.unwrap_or(0.0), &at.key("gpus"));
            let cpus = within(self.cpus.unwrap_or(default.cpus), 1, CPUS_MAX, &at.key("cpus"));
            let extras = check_extras(self.extras.unwrap_or_default(), &at.key("extras"));
        }
        let (gpus, gpu_share_milli) = gpu;
        let gpu_memory_bytes = self.gpu_memory.map_or(default.gpu_memory_bytes, |b| b.0);
        if gpus == 0 && gpu_share_milli == 0 && gpu_memory_bytes > 0 {
            let message = "asks for GPU memory, but the trial has no GPU";
            let error = RecipeError::new(&at.key("gpu_memory"), message).hint("write gpus: 1");
            return Err(error.given([at.key("gpus")]).into());
        }
        let memory_bytes = self.memory.map_or(default.memory_bytes, |b| b.0);
        Ok(Resources { cpus, gpus, gpu_share_milli, gpu_memory_bytes, memory_bytes, extras })
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

fn check_extras(
    extras: BTreeMap<String, u64>,
    at: &Path,
) -> Result<BTreeMap<String, u64>, Mistakes> {
    if extras.len() > EXTRAS_MAX {
        let message = format!("at most {EXTRAS_MAX} names, found {}", extras.len());
        return Err(RecipeError::new(at, message).into());
    }
    every(extras.iter().map(|(name, amount)| {
        let path = at.key(name);
        check_name(name, "a resource", &path)?;
        within(*amount, 1, EXTRA_AMOUNT_MAX, &path)
            .map_err(|error| error.hint("leave out what the trial does not need"))
    }))?;
    Ok(extras)
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
    /// `at` is `spec`; `needs` says what the study's trials can use, and is unknown when the study
    /// is wrong.
    pub(super) fn check(
        self,
        needs: Option<Needs>,
        at: &Path,
    ) -> Result<(Resources, Placement), Mistakes> {
        all! {
            let members = check_members(self.members, needs, at);
            let labels = check_labels(self.labels.unwrap_or_default(), &at.key("labels"));
            let choices = match needs {
                Some(Needs::Nothing) => check_nothing(self.resources, self.alternatives, at),
                _ => check_choices(self.resources, self.alternatives, at),
            };
        }
        let (resources, alternatives) = choices;
        if members > 1 && needs.is_some_and(Needs::is_training) {
            check_member(&resources, &at.key("resources"))?;
            let alternatives_at = at.key("alternatives");
            every(alternatives.iter().enumerate().map(|(index, alternative)| {
                check_member(alternative, &alternatives_at.index(index))
            }))?;
        }
        Ok((resources, Placement { alternatives, labels, members }))
    }
}

/// What a trial occupies, and what would do instead.
type Choices = (Resources, Vec<Resources>);

fn check_nothing(
    resources: Option<RawResources>,
    alternatives: Option<Vec<RawResources>>,
    at: &Path,
) -> Result<Choices, Mistakes> {
    let wrong = if resources.is_some() {
        "resources"
    } else if alternatives.is_some_and(|alternatives| !alternatives.is_empty()) {
        "alternatives"
    } else {
        return Ok((Resources { cpus: 0, ..Resources::default() }, Vec::new()));
    };
    let error = RecipeError::new(&at.key(wrong), "a noop occupies nothing");
    Err(error.given([at.key("study")]).hint("leave the key out").into())
}

fn check_choices(
    resources: Option<RawResources>,
    alternatives: Option<Vec<RawResources>>,
    at: &Path,
) -> Result<Choices, Mistakes> {
    let (resources_at, at) = (at.key("resources"), at.key("alternatives"));
    let alternatives = alternatives.unwrap_or_default();
    if alternatives.len() > ALTERNATIVES_MAX {
        let found = alternatives.len();
        let message = format!("at most {ALTERNATIVES_MAX} alternatives, found {found}");
        return Err(RecipeError::new(&at, message).into());
    }
    all! {
        let resources = resources.unwrap_or_default().check(&resources_at);
        let alternatives = every(
            alternatives.into_iter().enumerate().map(|(index, raw)| raw.check(&at.index(index))),
        );
    }
    every(alternatives.iter().enumerate().map(|(index, alternative)| {
        if *alternative != resources && !alternatives[..index].contains(alternative) {
            return Ok(());
        }
        Err(RecipeError::new(&at.index(index), "asks for the same as an earlier choice")
            .given([resources_at.clone(), at.clone()])
            .hint("keys that are left out have the values that they have in `resources`"))
    }))?;
    Ok((resources, alternatives))
}

fn check_labels(
    labels: BTreeMap<String, String>,
    at: &Path,
) -> Result<BTreeMap<String, String>, Mistakes> {
    if labels.len() > LABELS_MAX {
        let message = format!("at most {LABELS_MAX} labels, found {}", labels.len());
        return Err(RecipeError::new(at, message).into());
    }
    every(labels.iter().map(|(name, value)| {
        let path = at.key(name);
        check_label(name, &path)?;
        if value.len() > NAME_BYTES_MAX || value.contains(char::is_control) {
            let message = format!(
                "the value of a label has at most {NAME_BYTES_MAX} bytes and no control characters"
            );
            return Err(RecipeError::new(&path, message));
        }
        Ok(())
    }))?;
    Ok(labels)
}

fn check_members(
    members: Option<u32>,
    needs: Option<Needs>,
    spec: &Path,
) -> Result<u32, RecipeError> {
    let at = spec.key("members");
    let members = within(members.unwrap_or(1), 1, MEMBERS_MAX, &at)?;
    let refused = |message: &str, hint: &str| {
        let error = RecipeError::new(&at, message).hint(hint);
        Err(error.given([spec.key("study")]))
    };
    match needs {
        None | Some(Needs::Program) => Ok(members),
        Some(Needs::Trainer { batch_min }) if members <= batch_min.max(1) => Ok(members),
        Some(Needs::Policy | Needs::Nothing) if members == 1 => Ok(1),
        Some(Needs::Trainer { batch_min }) => refused(
            &format!(
                "must be at most {batch_min}, the sequences of the smallest batch, found {members}"
            ),
            "every member computes at least one sequence of every batch; see `batch`, or \
             `batch_min` of a grid",
        ),
        Some(Needs::Policy) => refused(
            "a policy is trained by one process, because one process samples all completions; \
             found a gang",
            "leave the key out; trainings and programs can have members",
        ),
        Some(Needs::Nothing) => refused("a noop has no processes", "leave the key out"),
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
