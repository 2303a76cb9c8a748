//! The keys in which two checked recipes differ. Layout, comments and defaults that are written out
//! do not count: what is compared is what the recipes mean.

use crate::number;
use proto::{BlobRef, Inputs};
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use studies::recipe::Recipe;

/// Characters of a value that a line shows; the whole value is in the recipe.
const VALUE_CHARS_MAX: usize = 160;
/// Digits of a file's hash that tell two contents apart.
const HASH_CHARS: usize = 12;

/// One key with two values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Change {
    /// As the recipe writes it: `spec.study.sweep.parameters.lr`.
    pub(crate) key: String,
    /// `None`: only the other recipe has it.
    pub(crate) old: Option<String>,
    pub(crate) new: Option<String>,
    pub(crate) effect: Effect,
}

/// What a key decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Effect {
    /// Which trials there are.
    Trials,
    /// What becomes of the same trials; the experiment is another one.
    Experiment,
    /// Neither trials nor results.
    Nothing,
}

/// Keys in the canonical recipe by their beginning, how the recipe writes them, and what they
/// decide. The first that fits counts.
const KEYS: [(&str, &str, Effect); 29] = [
    ("name", "metadata.name", Effect::Experiment),
    ("study.sweep.arguments", "spec.study.sweep.command.arguments", Effect::Trials),
    ("study.sweep.environment", "spec.study.sweep.command.environment", Effect::Trials),
    ("study.sweep.working_folder", "spec.study.sweep.command.working_folder", Effect::Trials),
    ("study.sweep.files", "spec.study.sweep.command.files", Effect::Trials),
    ("study.sweep.metric", "spec.study.sweep.metric", Effect::Experiment),
    ("study.sweep.early_stopping", "spec.study.sweep.early_stopping", Effect::Experiment),
    ("study.isoflop.data.source", "spec.study.isoflop.data", Effect::Experiment),
    ("study.grpo.problems.pairs.files", "spec.study.grpo.problems.pairs.files", Effect::Experiment),
    ("study.train.data.source", "spec.study.train.data", Effect::Experiment),
    ("study.isoflop.closed_loop", "spec.study.isoflop.closed_loop", Effect::Experiment),
    ("study.isoflop.fit", "spec.study.isoflop.fit", Effect::Experiment),
    ("study", "spec.study", Effect::Trials),
    ("resources.gpu_share_milli", "spec.resources.gpus (thousandths)", Effect::Trials),
    ("resources.gpu_memory_bytes", "spec.resources.gpu_memory", Effect::Trials),
    ("resources.memory_bytes", "spec.resources.memory", Effect::Trials),
    ("resources", "spec.resources", Effect::Trials),
    ("placement.alternatives", "spec.alternatives", Effect::Trials),
    ("placement.members", "spec.members", Effect::Trials),
    ("placement.labels", "spec.labels", Effect::Experiment),
    ("retries", "spec.retries", Effect::Experiment),
    ("trial_time_ms", "spec.limits.trial_time", Effect::Experiment),
    ("checkpoint_every_ms", "spec.checkpoint.every", Effect::Nothing),
    ("hang", "spec.hang", Effect::Nothing),
    ("policy.priority", "spec.priority", Effect::Nothing),
    ("policy.weight", "spec.weight", Effect::Nothing),
    ("policy.at_once", "spec.limits.trials_at_once", Effect::Nothing),
    ("policy", "spec.limits", Effect::Nothing),
    ("inputs", "content of", Effect::Trials),
];

impl Effect {
    /// The effect in words, after the two values.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Trials => "decides the trials",
            Self::Experiment => "the same trials, in another experiment",
            Self::Nothing => "changes no trial and no result",
        }
    }
}

impl Change {
    /// `spec.priority: 0 -> 5 (changes no trial and no result)`.
    pub(crate) fn line(&self) -> String {
        let shown = |value: &Option<String>| match value {
            Some(text) => cut(text),
            None => "nothing".to_owned(),
        };
        let (old, mut new) = (shown(&self.old), shown(&self.new));
        // `choice [1, 2] -> [1, 3]`: a word that both have is said once.
        if let (Some((before, _)), Some((after, rest))) =
            (old.split_once(" ["), new.split_once(" ["))
            && before == after
        {
            new = format!("[{rest}");
        }
        format!("{}: {old} -> {new} ({})", self.key, self.effect.words())
    }
}

fn cut(text: &str) -> String {
    if text.chars().count() <= VALUE_CHARS_MAX {
        return text.to_owned();
    }
    let cut: String = text.chars().take(VALUE_CHARS_MAX - 1).collect();
    format!("{cut}…")
}

/// The keys in which two recipes and the content of their files differ, by name.
///
/// # Errors
/// Never, unless a recipe cannot be written as JSON.
pub(crate) fn changes(
    old: (&Recipe, &Inputs),
    new: (&Recipe, &Inputs),
) -> Result<Vec<Change>, serde_json::Error> {
    let [old, new] = [canonical(old)?, canonical(new)?];
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let differing = keys.into_iter().filter(|key| old.get(*key) != new.get(*key));
    let mut changes: Vec<Change> = differing
        .map(|canonical| {
            let (key, effect) = written(canonical);
            let [old, new] = [&old, &new].map(|side| side.get(canonical).cloned());
            Change { key, old, new, effect }
        })
        .collect();
    changes.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(changes)
}

/// How the recipe writes a canonical key, and what the key decides.
fn written(key: &str) -> (String, Effect) {
    for (beginning, name, effect) in KEYS {
        let rest = key.strip_prefix(beginning);
        if let Some(rest) = rest.filter(|rest| rest.is_empty() || rest.starts_with('.')) {
            let rest = if beginning == "inputs" { rest.replacen('.', " ", 1) } else { rest.into() };
            return (format!("{name}{rest}"), effect);
        }
    }
    // A key that is newer than this table can only be shown as it is.
    (format!("spec.{key}"), Effect::Trials)
}

/// Every value of a recipe and the hash of every file, by its key.
fn canonical(side: (&Recipe, &Inputs)) -> Result<BTreeMap<String, String>, serde_json::Error> {
    let (recipe, inputs) = side;
    let mut leaves = BTreeMap::new();
    if let Value::Object(entries) = serde_json::to_value(recipe)? {
        for (key, value) in entries {
            let is_study = key == "study";
            flatten(&key, value, is_study, &mut leaves);
        }
    }
    let content = |file: &BlobRef| {
        let hash: String = file.blob.as_str().chars().take(HASH_CHARS).collect();
        format!("{hash} ({})", number::bytes(file.bytes))
    };
    if let Some(data) = &inputs.data {
        leaves.insert("inputs.the training text".to_owned(), content(data));
    }
    for (name, file) in &inputs.files {
        leaves.insert(format!("inputs.{name}"), content(file));
    }
    Ok(leaves)
}

fn flatten(key: &str, value: Value, in_study: bool, leaves: &mut BTreeMap<String, String>) {
    match value {
        // A study's list with a word before it, such as `choice [1, 2]`, is one value.
        Value::Object(entries) if in_study && is_tagged_list(&entries) => {
            for (word, list) in entries {
                leaves.insert(key.to_owned(), format!("{word} {}", shown(key, &list)));
            }
        }
        Value::Object(entries) => {
            for (name, value) in entries {
                flatten(&format!("{key}.{name}"), value, in_study, leaves);
            }
        }
        Value::Null => {}
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            leaves.insert(key.to_owned(), shown(key, &value));
        }
    }
}

fn is_tagged_list(entries: &serde_json::Map<String, Value>) -> bool {
    entries.len() == 1 && entries.values().all(Value::is_array)
}

fn shown(key: &str, value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| shown("", item)).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Number(amount) => match amount.as_u64() {
            Some(bytes) if key.ends_with("_bytes") => number::bytes(bytes),
            Some(ms) if key.ends_with("_ms") => number::duration_s(ms as f64 / 1e3),
            Some(_) | None => amount.to_string(),
        },
        Value::Null | Value::Bool(_) | Value::Object(_) => value.to_string(),
    }
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
