//! Names that a recipe makes up.

use super::error::{Path, RecipeError};

/// Longest name of an experiment: its id adds 9 characters and is part of file names.
const EXPERIMENT_BYTES_MAX: usize = 64;
/// Longest name of a parameter, a metric, a label or another thing, as agents accept it.
pub(crate) const NAME_BYTES_MAX: usize = 128;

pub(super) fn check_experiment(name: String, at: &Path) -> Result<String, RecipeError> {
    let error = |message: String| {
        Err(RecipeError::new(at, message)
            .hint("a name holds a-z, 0-9 and '-', and starts and ends with a letter or digit"))
    };
    if name.len() > EXPERIMENT_BYTES_MAX {
        return error(format!(
            "a name has at most {EXPERIMENT_BYTES_MAX} characters, this one has {}",
            name.chars().count()
        ));
    }
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !name.starts_with(edge) || !name.ends_with(edge) {
        return error(format!("{name:?} is not a name"));
    }
    match name.chars().find(|&c| !edge(c) && c != '-') {
        Some(c) => error(format!("a name must not hold {c:?}")),
        None => Ok(name),
    }
}

/// Refuses what is not the name of a `what`, which begins with its article: `a parameter`.
pub(crate) fn check_name(name: &str, what: &str, at: &Path) -> Result<(), RecipeError> {
    let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let valid = name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(letters);
    if valid && name.len() <= NAME_BYTES_MAX {
        return Ok(());
    }
    Err(RecipeError::new(at, format!("is not the name of {what}")).hint(format!(
        "a name holds letters, digits, '_' and '-', starts with a letter, and has at most \
         {NAME_BYTES_MAX} characters"
    )))
}

/// Refuses what is not the name of a label: as [`check_name`], and with the '.' and '/' that the
/// labels of Kubernetes have.
pub(super) fn check_label(name: &str, at: &Path) -> Result<(), RecipeError> {
    let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
    let valid = name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(letters);
    if valid && name.len() <= NAME_BYTES_MAX {
        return Ok(());
    }
    Err(RecipeError::new(at, "is not the name of a label").hint(format!(
        "a name holds letters, digits, '_', '-', '.' and '/', starts with a letter, and has at \
         most {NAME_BYTES_MAX} characters"
    )))
}
