//! The keys of `spec.study.sweep.command` as they are written, and what makes sense.

use super::spec::{Command, Domain};
use super::template::{SEED, Template};
use crate::recipe::{Mistakes, Path, RecipeError, all, every};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

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
    /// `names` are those of the parameters, which stand under `parameters`.
    pub(super) fn check(self, names: &Names, at: &Path) -> Result<Command, Mistakes> {
        all! {
            let arguments = check_arguments(&self.arguments, names, &at.key("arguments"));
            let environment = check_environment(&self.environment, names, &at.key("environment"));
            let working_folder = check_folder(self.working_folder, &at.key("working_folder"));
            let files = check_files(self.files, &at.key("files"));
        }
        Ok(Command { arguments, environment, working_folder, files })
    }
}

/// The names that templates may hold besides the seed's.
pub(super) struct Names {
    /// The section of the parameters.
    pub(super) at: Path,
    /// Their names.
    pub(super) known: BTreeSet<String>,
}

/// Refuses a command that can become too long.
pub(super) fn check_length(
    command: &Command,
    parameters: &BTreeMap<String, Domain>,
    at: &Path,
) -> Result<(), RecipeError> {
    let templates = command.arguments.iter().chain(command.environment.values());
    let bytes: usize = templates.map(|template| longest(template, parameters)).sum();
    if bytes > COMMAND_BYTES_MAX {
        let message = format!(
            "arguments and environment may have {COMMAND_BYTES_MAX} bytes with the longest values \
             filled in, these have up to {bytes}"
        );
        return Err(RecipeError::new(at, message).hint("put long settings into a file"));
    }
    Ok(())
}

fn check_folder(folder: Option<String>, at: &Path) -> Result<Option<String>, RecipeError> {
    let Some(folder) = folder else { return Ok(None) };
    check_no_nul(&folder, at)?;
    if !folder.starts_with('/') {
        let message = format!("{folder:?} is not an absolute path");
        return Err(RecipeError::new(at, message)
            .hint("leave it out to run in the trial's own folder, where the files are"));
    }
    Ok(Some(folder))
}

fn check_arguments(
    arguments: &[String],
    names: &Names,
    at: &Path,
) -> Result<Vec<Template>, Mistakes> {
    if arguments.is_empty() {
        let error = RecipeError::new(at, "names no program");
        let hint = "write for example [\"python3\", \"train.py\", \"--lr\", \"{lr}\"]";
        return Err(error.hint(hint).into());
    }
    every(arguments.iter().enumerate().map(|(index, text)| {
        let path = at.index(index);
        if index == 0 && text.is_empty() {
            return Err(RecipeError::new(&path, "the program's name is empty"));
        }
        template(text, names, &path)
    }))
}

fn check_environment(
    environment: &BTreeMap<String, String>,
    names: &Names,
    at: &Path,
) -> Result<BTreeMap<String, Template>, Mistakes> {
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
        Ok((name.clone(), template(text, names, &path)?))
    };
    Ok(every(environment.iter().map(entry))?.into_iter().collect())
}

fn template(text: &str, names: &Names, at: &Path) -> Result<Template, RecipeError> {
    check_no_nul(text, at)?;
    let template = Template::parse(text).map_err(|error| {
        RecipeError::new(at, error.to_string()).hint("a brace itself is written {{ or }}")
    })?;
    let unknown = template.names().find(|name| *name != SEED && !names.known.contains(*name));
    if let Some(name) = unknown {
        let known: Vec<_> = names.known.iter().map(String::as_str).chain([SEED]).collect();
        let message = format!("`{{{name}}}` is no parameter");
        return Err(RecipeError::new(at, message)
            .given([names.at.key(name)])
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

fn check_files(files: Vec<String>, at: &Path) -> Result<BTreeMap<String, String>, Mistakes> {
    if files.len() > FILES_MAX {
        let message = format!("at most {FILES_MAX} files, found {}", files.len());
        let error = RecipeError::new(at, message).hint("put more files into an archive");
        return Err(error.into());
    }
    let mut by_name = BTreeMap::new();
    every(files.into_iter().enumerate().map(|(index, file)| {
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
        Ok(())
    }))?;
    Ok(by_name)
}

pub(super) fn check_no_nul(text: &str, at: &Path) -> Result<(), RecipeError> {
    if text.contains('\0') {
        return Err(RecipeError::new(at, "must not hold the character NUL"));
    }
    Ok(())
}
