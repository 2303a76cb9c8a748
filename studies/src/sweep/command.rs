//! The keys of `spec.study.sweep.command` as they are written, and what makes sense.

use super::spec::{Command, Domain};
use super::template::{SEED, Template};
use crate::recipe::{Path, RecipeError};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Most files, and longest file name; every trial's specification carries them.
const FILES_MAX: usize = 16;
const FILE_NAME_BYTES_MAX: usize = 128;
/// Most bytes of arguments and environment of one trial, with the longest values filled in. A
/// plan of many trials is one message.
const COMMAND_BYTES_MAX: usize = 8 << 10;
/// Longest number or seed as text: the smallest positive float, written out.
const NUMBER_BYTES_MAX: usize = 330;

#[derive(Debug, Deserialize)]
pub(super) struct RawCommand {
    arguments: Vec<String>,
    #[serde(default)]
    files: Vec<String>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    working_folder: Option<String>,
}

impl RawCommand {
    pub(super) fn check(
        self,
        parameters: &BTreeMap<String, Domain>,
        at: &Path,
    ) -> Result<Command, RecipeError> {
        let arguments = check_arguments(&self.arguments, parameters, &at.key("arguments"))?;
        let environment = check_environment(&self.environment, parameters, &at.key("environment"))?;
        let bytes: usize = arguments
            .iter()
            .chain(environment.values())
            .map(|template| longest(template, parameters))
            .sum();
        if bytes > COMMAND_BYTES_MAX {
            let message = format!(
                "arguments and environment may have {COMMAND_BYTES_MAX} bytes with the longest \
                 values filled in, these have up to {bytes}"
            );
            return Err(RecipeError::new(at, message).hint("put long settings into a file"));
        }
        if let Some(folder) = &self.working_folder {
            let path = at.key("working_folder");
            check_no_nul(folder, &path)?;
            if !folder.starts_with('/') {
                let message = format!("{folder:?} is not an absolute path");
                return Err(RecipeError::new(&path, message)
                    .hint("leave it out to run in the trial's own folder, where the files are"));
            }
        }
        Ok(Command {
            arguments,
            environment,
            working_folder: self.working_folder,
            files: check_files(self.files, &at.key("files"))?,
        })
    }
}

fn check_arguments(
    arguments: &[String],
    parameters: &BTreeMap<String, Domain>,
    at: &Path,
) -> Result<Vec<Template>, RecipeError> {
    match arguments.first() {
        None => Err(RecipeError::new(at, "names no program")
            .hint("write for example [\"python3\", \"train.py\", \"--lr\", \"{lr}\"]")),
        Some(program) if program.is_empty() => {
            Err(RecipeError::new(&at.index(0), "the program's name is empty"))
        }
        Some(_) => arguments
            .iter()
            .enumerate()
            .map(|(index, text)| template(text, parameters, &at.index(index)))
            .collect(),
    }
}

fn check_environment(
    environment: &BTreeMap<String, String>,
    parameters: &BTreeMap<String, Domain>,
    at: &Path,
) -> Result<BTreeMap<String, Template>, RecipeError> {
    let entry = |(name, text): (&String, &String)| {
        let path = at.key(name);
        let letters = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(letters) || name.starts_with(char::is_numeric) {
            return Err(RecipeError::new(&path, "is not the name of a variable")
                .hint("a name holds letters, digits and '_', and starts with no digit"));
        }
        if name.starts_with("BRINE_") {
            return Err(RecipeError::new(&path, "names that start with BRINE_ are set by brine"));
        }
        Ok((name.clone(), template(text, parameters, &path)?))
    };
    environment.iter().map(entry).collect()
}

fn template(
    text: &str,
    parameters: &BTreeMap<String, Domain>,
    at: &Path,
) -> Result<Template, RecipeError> {
    check_no_nul(text, at)?;
    let template = Template::parse(text).map_err(|error| {
        RecipeError::new(at, error.to_string()).hint("a brace itself is written {{ or }}")
    })?;
    let unknown = template.names().find(|name| *name != SEED && !parameters.contains_key(*name));
    if let Some(name) = unknown {
        let known: Vec<_> = parameters.keys().map(String::as_str).chain([SEED]).collect();
        let message = format!("`{{{name}}}` is no parameter");
        return Err(RecipeError::new(at, message)
            .hint(format!("known: {}; a brace itself is written {{{{ or }}}}", known.join(", "))));
    }
    Ok(template)
}

/// Most bytes that the filled template can have.
fn longest(template: &Template, parameters: &BTreeMap<String, Domain>) -> usize {
    let value = |name: &str| match parameters.get(name) {
        Some(Domain::Choice(values)) => {
            values.iter().map(|value| value.to_string().len()).max().unwrap_or(0)
        }
        Some(Domain::IntUniform(low, high) | Domain::Range(low, high)) => {
            low.to_string().len().max(high.to_string().len())
        }
        Some(
            Domain::Linear(..) | Domain::Log(..) | Domain::Uniform(..) | Domain::LogUniform(..),
        )
        | None => NUMBER_BYTES_MAX,
    };
    template.to_string().len() + template.names().map(value).sum::<usize>()
}

fn check_files(files: Vec<String>, at: &Path) -> Result<BTreeMap<String, String>, RecipeError> {
    if files.len() > FILES_MAX {
        let message = format!("at most {FILES_MAX} files, found {}", files.len());
        return Err(RecipeError::new(at, message).hint("put more files into an archive"));
    }
    let mut by_name = BTreeMap::new();
    for (index, file) in files.into_iter().enumerate() {
        let path = at.index(index);
        check_no_nul(&file, &path)?;
        let name = file.rsplit('/').next().unwrap_or_default().to_owned();
        if name.is_empty() || name == "." || name == ".." || name.len() > FILE_NAME_BYTES_MAX {
            return Err(RecipeError::new(&path, format!("{file:?} is not a file name")));
        }
        if by_name.insert(name.clone(), file).is_some() {
            let message = format!("two files have the name {name:?}");
            return Err(
                RecipeError::new(&path, message).hint("all files of a trial stand in one folder")
            );
        }
    }
    Ok(by_name)
}

pub(super) fn check_no_nul(text: &str, at: &Path) -> Result<(), RecipeError> {
    if text.contains('\0') {
        return Err(RecipeError::new(at, "must not hold the character NUL"));
    }
    Ok(())
}
