//! The checks of single values.

use crate::recipe::{Mistakes, Path, RecipeError, all, every};

/// Most seeds of one trial's content.
const SEEDS_MAX: usize = 100;
/// Most trials of one plan, which is one event of the journal.
const TRIALS_MAX: usize = 10_000;
pub(crate) const SEQUENCE_MAX: u32 = 1 << 20;
/// Most values of one list of what is compared.
const COMPARED_MAX: usize = 100;
pub(crate) const WIDTH_MAX: u32 = 1 << 16;
pub(crate) const MLP_WIDTH_MAX: u32 = 1 << 20;
pub(crate) const LAYERS_MAX: u32 = 1 << 10;
pub(crate) const VOCABULARY_MAX: u32 = 1 << 24;
pub(crate) const STEPS_MAX: u64 = 1 << 27;
pub(crate) const BATCH_MAX: u32 = 1 << 16;

pub(crate) fn seeds(seeds: Option<Vec<u64>>, at: &Path) -> Result<Vec<u64>, Mistakes> {
    let seeds = seeds.unwrap_or_else(|| vec![0]);
    if seeds.is_empty() || seeds.len() > SEEDS_MAX {
        let message = format!("needs 1 to {SEEDS_MAX} seeds, found {}", seeds.len());
        return Err(RecipeError::new(at, message).into());
    }
    once(&seeds, |seed| format!("the seed {seed}"), at)?;
    Ok(seeds)
}

/// Refuses every value that an earlier one of the list equals.
pub(crate) fn once<T: PartialEq>(
    values: &[T],
    word: impl Fn(&T) -> String,
    at: &Path,
) -> Result<(), Mistakes> {
    every(values.iter().enumerate().map(|(index, value)| {
        if !values[..index].contains(value) {
            return Ok(());
        }
        let message = format!("{} is there twice", word(value));
        Err(RecipeError::new(&at.index(index), message).given([at.clone()]))
    }))?;
    Ok(())
}

/// The trials of a study that plans them all at once.
pub(crate) fn trials(trials: usize, at: &Path, hint: &str) -> Result<(), RecipeError> {
    if trials <= TRIALS_MAX {
        return Ok(());
    }
    let message = format!("{trials} trials follow, at most {TRIALS_MAX} are planned");
    Err(RecipeError::new(at, message).hint(hint))
}

pub(crate) fn within<T: PartialOrd + std::fmt::Display>(
    value: T,
    min: T,
    max: T,
    at: &Path,
) -> Result<T, RecipeError> {
    if value >= min && value <= max {
        return Ok(value);
    }
    let message = format!("must be from {min} to {max}, found {value}");
    Err(RecipeError::new(at, message))
}

pub(crate) fn positive(value: f64, at: &Path) -> Result<f64, RecipeError> {
    if value > 0.0 && value.is_finite() {
        return Ok(value);
    }
    Err(RecipeError::new(at, format!("must be above 0, found {value}")))
}

pub(crate) fn not_negative(value: f64, at: &Path) -> Result<f64, RecipeError> {
    if value >= 0.0 && value.is_finite() {
        return Ok(value);
    }
    Err(RecipeError::new(at, format!("must be at least 0, found {value}")))
}

/// A value above `low` and below `high`.
pub(crate) fn between(value: f64, low: f64, high: f64, at: &Path) -> Result<f64, RecipeError> {
    if value > low && value < high {
        return Ok(value);
    }
    let message = format!("must be above {low} and below {high}, found {value}");
    Err(RecipeError::new(at, message))
}

pub(crate) fn below_one(value: f64, at: &Path) -> Result<f64, RecipeError> {
    if (0.0..1.0).contains(&value) {
        return Ok(value);
    }
    Err(RecipeError::new(at, format!("must be at least 0 and below 1, found {value}")))
}

/// A list of what is compared; `check` looks at each by itself.
pub(crate) fn compared<T: PartialEq + Copy>(
    values: Vec<T>,
    word: impl Fn(&T) -> String,
    check: impl Fn(T, &Path) -> Result<T, RecipeError>,
    at: &Path,
) -> Result<Vec<T>, Mistakes> {
    if values.is_empty() || values.len() > COMPARED_MAX {
        let message = format!("needs 1 to {COMPARED_MAX} values, found {}", values.len());
        return Err(RecipeError::new(at, message).into());
    }
    let each = values.iter().enumerate();
    all! {
        let _each = every(each.map(|(index, value)| check(*value, &at.index(index))));
        let _once = once(&values, word, at);
    }
    Ok(values)
}
