//! What a trial is: one unit of work, known by its content.

use crate::grpo::{GrpoSpec, Problems};
use crate::ids::{BlobId, TrialId};
use crate::train::TrainSpec;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// One unit of work. Two equal specifications are the same trial, so asking twice costs nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrialSpec {
    /// What an agent executes.
    pub runner: Runner,
    /// What the study varies, by name; shown in tables and given to commands.
    pub parameters: BTreeMap<String, Value>,
    /// Seeds everything random in the trial.
    pub seed: u64,
    /// What the trial occupies while it runs.
    pub resources: Resources,
    /// How often a failed attempt is repeated. Not part of the identity.
    pub retries: Retries,
    /// Longest time of one attempt in milliseconds; `None` is no limit. Not part of the identity.
    pub time_limit_ms: Option<u64>,
    /// Milliseconds between two checkpoints; `None` is what loses least, which is chosen while it
    /// trains. Not part of the identity.
    pub checkpoint_every_ms: Option<u64>,
    /// On which agents, on how many at once, and what else would do instead of `resources`.
    #[serde(default, skip_serializing_if = "Placement::is_default")]
    pub placement: Placement,
    /// When it counts as hung; `None` is [`Hang::of`] what it runs. Not part of the identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hang: Option<Hang>,
}

impl TrialSpec {
    /// The hash of everything that decides the result: runner, parameters, seed and resources
    /// (the number of threads changes the order of sums). Retries, time limit and checkpoint
    /// interval do not, so changing them in a recipe keeps the finished trials. Neither do labels:
    /// they choose among machines that are equally good.
    pub fn id(&self) -> TrialId {
        #[derive(Serialize)]
        struct Identity<'a> {
            runner: &'a Runner,
            parameters: &'a BTreeMap<String, Value>,
            seed: u64,
            resources: &'a Resources,
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            alternatives: &'a [Resources],
            #[serde(skip_serializing_if = "is_one")]
            members: u32,
        }
        let identity = Identity {
            runner: &self.runner,
            parameters: &self.parameters,
            seed: self.seed,
            resources: &self.resources,
            alternatives: &self.placement.alternatives,
            members: self.placement.members,
        };
        let mut hasher = blake3::Hasher::new();
        // Struct fields keep their order and the maps are sorted, so this text is canonical.
        serde_json::to_writer(&mut hasher, &identity).expect("a hasher accepts every write");
        TrialId::from_hash(hasher.finalize())
    }

    /// What each member of the trial occupies under one choice: 0 is `resources`, k is the k-th
    /// alternative. A number that names none, which only a damaged record can hold, means
    /// `resources`.
    pub fn choice(&self, choice: u32) -> &Resources {
        let alternative = (choice as usize).checked_sub(1);
        alternative.and_then(|k| self.placement.alternatives.get(k)).unwrap_or(&self.resources)
    }

    /// When it counts as hung, whether its recipe says so or not.
    pub fn hang_policy(&self) -> Hang {
        self.hang.unwrap_or_else(|| Hang::of(self.runner.is_training()))
    }

    /// Everything that would do, the best first.
    pub fn choices(&self) -> impl Iterator<Item = (u32, &Resources)> {
        (0..).zip(std::iter::once(&self.resources).chain(&self.placement.alternatives))
    }

    /// Counted training FLOPs of the whole trial; 0 when nobody can tell, as for a program.
    pub fn flops(&self) -> f64 {
        match &self.runner {
            Runner::Train(train) => train.model.training_flops(train.tokens()),
            Runner::Grpo(grpo) => grpo.flops(),
            Runner::Command(_) | Runner::Noop => 0.0,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_one(number: &u32) -> bool {
    *number == 1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Where a trial may run, beside what it occupies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Placement {
    /// What each member may occupy instead of the trial's `resources`, the best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alternatives: Vec<Resources>,
    /// Labels that the agent must have, with these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Processes that form the trial, a gang when there are several: all start or none does. Each
    /// occupies `resources`, and they may be on different agents.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub members: u32,
}

fn one() -> u32 {
    1
}

impl Placement {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for Placement {
    fn default() -> Self {
        Self { alternatives: Vec::new(), labels: BTreeMap::new(), members: 1 }
    }
}

/// How an agent executes one trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Runner {
    /// Trains a language model with Brine's own trainer.
    Train(Box<TrainSpec>),
    /// Trains a policy on problems with Brine's own trainer.
    Grpo(Box<GrpoSpec>),
    /// Runs any program.
    Command(CommandSpec),
    /// Completes at once inside the agent, without a process. Measures Brine itself.
    Noop,
}

impl Runner {
    /// What it learns from, when that is a file: a text or pairs.
    pub fn data(&self) -> Option<&BlobRef> {
        match self {
            Self::Train(train) => Some(&train.data.text),
            Self::Grpo(grpo) => match &grpo.problems {
                Problems::Pairs { file, .. } => Some(file),
                Problems::Addition { .. } => None,
            },
            Self::Command(_) | Self::Noop => None,
        }
    }

    /// Every file that it needs, by content.
    pub fn files(&self) -> Vec<&BlobRef> {
        let of_command = match self {
            Self::Command(command) => Some(command.files.values()),
            Self::Train(_) | Self::Grpo(_) | Self::Noop => None,
        };
        let more = of_command.into_iter().flatten();
        self.data().into_iter().chain(self.tokenizer()).chain(more).collect()
    }

    /// What turns its text into tokens, when that is a file.
    pub fn tokenizer(&self) -> Option<&BlobRef> {
        match self {
            Self::Train(train) => train.data.tokenizer.as_ref().map(|tokenizer| &tokenizer.file),
            Self::Grpo(_) | Self::Command(_) | Self::Noop => None,
        }
    }

    /// Version of the trainer's arithmetic that it was planned for.
    pub fn numerics(&self) -> Option<u32> {
        match self {
            Self::Train(train) => Some(train.numerics),
            Self::Grpo(grpo) => Some(grpo.numerics),
            Self::Command(_) | Self::Noop => None,
        }
    }

    /// Whether it is Brine's own trainer, in a process of its own, with checkpoints.
    pub fn is_training(&self) -> bool {
        match self {
            Self::Train(_) | Self::Grpo(_) => true,
            Self::Command(_) | Self::Noop => false,
        }
    }
}

/// A program to run. It finds its seed, parameters, devices and folders in `BRINE_*` variables.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandSpec {
    /// Program and arguments, after the parameters were filled in; never empty.
    pub arguments: Vec<String>,
    /// Extra environment variables.
    pub environment: BTreeMap<String, String>,
    /// Folder to run in, on the agent's machine; `None` is a fresh folder of the attempt.
    pub working_folder: Option<String>,
    /// Files that are put into the trial's own folder before the start, by file name.
    /// That folder is the default working folder, so a recipe's script runs on every machine.
    pub files: BTreeMap<String, BlobRef>,
}

/// A file known by its content; agents fetch it from the coordinator by its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlobRef {
    /// Hash of the content.
    pub blob: BlobId,
    /// Length in bytes.
    pub bytes: u64,
}

/// What the client found on its disk when it submitted: the files that the recipe names,
/// uploaded and known by their content. A study sees only this, never a path.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inputs {
    /// The training text: all files of `data.files` in sorted order, one after the other.
    pub data: Option<BlobRef>,
    /// The command's files by file name.
    pub files: BTreeMap<String, BlobRef>,
}

/// What one member of a trial occupies. Zero means "none" for GPUs and "not limited" for memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// CPU slots, which is also the number of threads; at least 1, and 0 only for
    /// [`Runner::Noop`], which occupies nothing.
    pub cpus: u32,
    /// Whole GPUs.
    pub gpus: u32,
    /// Memory of each GPU in bytes that must be there.
    pub gpu_memory_bytes: u64,
    /// Main memory in bytes.
    pub memory_bytes: u64,
    /// Thousandths of one GPU, 1 to 999, for a trial that shares it; then `gpus` is 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gpu_share_milli: u32,
    /// Amounts of things that the operator named and agents offer, such as licences.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extras: BTreeMap<String, u64>,
}

impl Default for Resources {
    fn default() -> Self {
        Self {
            cpus: 1,
            gpus: 0,
            gpu_memory_bytes: 0,
            memory_bytes: 0,
            gpu_share_milli: 0,
            extras: BTreeMap::new(),
        }
    }
}

/// How often a failed attempt is repeated, by the class of its failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retries {
    /// Lost agents, killed processes, full disks.
    pub infrastructure: u32,
    /// The program itself failed.
    pub trial: u32,
}

impl Default for Retries {
    fn default() -> Self {
        Self { infrastructure: 5, trial: 0 }
    }
}

/// When a trial that reports no step counts as hung, and what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hang {
    /// Times the usual time between two reported steps.
    pub steps: u32,
    /// No silence that is shorter counts, in milliseconds.
    pub at_least_ms: u64,
    /// The attempt ends and counts as a failure of the infrastructure; otherwise it is only told.
    pub retry: bool,
}

impl Hang {
    /// What holds unless the recipe says otherwise. A program may have reasons to be silent that
    /// nobody here knows; Brine's own training has none.
    pub fn of(is_training: bool) -> Self {
        Self { steps: 20, at_least_ms: 300_000, retry: is_training }
    }
}

/// The devices of one agent that a lease names, by index.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Devices {
    /// CPU slots.
    pub cpus: Vec<u32>,
    /// GPUs, as NVML numbers them.
    pub gpus: Vec<u32>,
    /// Thousandths of the one GPU in `gpus`; 0 when the GPUs are held whole.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gpu_share_milli: u32,
}

impl Devices {
    /// A whole GPU in thousandths.
    pub const WHOLE_MILLI: u32 = 1_000;

    /// Thousandths held of each GPU.
    pub fn gpu_milli(&self) -> u32 {
        if self.gpu_share_milli == 0 { Self::WHOLE_MILLI } else { self.gpu_share_milli }
    }
}

/// The value of a parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// Any other finite number.
    Number(f64),
    /// A text.
    Text(String),
}

impl Value {
    /// The value as a number, when it is one.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Integer(value) => Some(*value as f64),
            Self::Number(value) => Some(*value),
            Self::Bool(_) | Self::Text(_) => None,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => value.fmt(f),
            Self::Integer(value) => value.fmt(f),
            Self::Number(value) => value.fmt(f),
            Self::Text(value) => value.fmt(f),
        }
    }
}

impl Serialize for Value {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Integer(value) => serializer.serialize_i64(*value),
            Self::Number(value) => serializer.serialize_f64(*value),
            Self::Text(value) => serializer.serialize_str(value),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Value;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false, a finite number or a text")
            }
            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(Value::Bool(value))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(Value::Integer(value))
            }
            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
                i64::try_from(value).map(Value::Integer).map_err(|_| {
                    E::custom(format!("{value} is larger than a parameter may be ({})", i64::MAX))
                })
            }
            fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
                if value.is_finite() {
                    return Ok(Value::Number(value));
                }
                Err(E::custom("a parameter must be finite"))
            }
            fn visit_str<E>(self, value: &str) -> Result<Value, E> {
                Ok(Value::Text(value.to_owned()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> TrialSpec {
        TrialSpec {
            runner: Runner::Command(CommandSpec {
                arguments: vec!["true".into()],
                environment: BTreeMap::new(),
                working_folder: None,
                files: BTreeMap::new(),
            }),
            parameters: BTreeMap::from([("lr".into(), Value::Number(0.1))]),
            seed: 7,
            resources: Resources::default(),
            retries: Retries::default(),
            time_limit_ms: None,
            checkpoint_every_ms: Some(60_000),
            placement: Placement::default(),
            hang: None,
        }
    }

    #[test]
    fn identity_is_what_decides_the_result() {
        let base = spec().id();
        let same = [
            TrialSpec { retries: Retries { infrastructure: 9, trial: 9 }, ..spec() },
            TrialSpec { time_limit_ms: Some(1), ..spec() },
            TrialSpec { checkpoint_every_ms: Some(1), ..spec() },
            TrialSpec { checkpoint_every_ms: None, ..spec() },
            TrialSpec {
                placement: Placement {
                    labels: BTreeMap::from([("zone".into(), "a".into())]),
                    ..Placement::default()
                },
                ..spec()
            },
        ];
        assert!(same.iter().all(|spec| spec.id() == base));
        let other = [
            TrialSpec { seed: 8, ..spec() },
            TrialSpec { parameters: BTreeMap::new(), ..spec() },
            TrialSpec { resources: Resources { cpus: 2, ..Resources::default() }, ..spec() },
            TrialSpec { placement: Placement { members: 2, ..Placement::default() }, ..spec() },
            TrialSpec {
                placement: Placement {
                    alternatives: vec![Resources { cpus: 8, ..Resources::default() }],
                    ..Placement::default()
                },
                ..spec()
            },
        ];
        assert!(other.iter().all(|spec| spec.id() != base));
    }

    #[test]
    fn a_specification_survives_json() {
        let text = serde_json::to_string(&spec()).unwrap();
        assert_eq!(serde_json::from_str::<TrialSpec>(&text).unwrap(), spec());
        // The id is stored in journals: it must not change by accident.
        assert_eq!(spec().id().as_str(), "3fd5bb62e10473ad");
    }
}
