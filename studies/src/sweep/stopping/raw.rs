//! The keys of `spec.study.sweep.early_stopping` as they are written, and what makes sense.

use super::{Asha, EarlyStopping, Hyperband, Median};
use crate::recipe::{Path, RecipeError};
use crate::study::RUNGS_MAX;
use serde::Deserialize;

/// Most measurements of one experiment, its trials times its rungs: each is a record in the
/// journal, and every decision looks at those of its rung again.
const MEASURED_MAX: u64 = 100_000;
/// Most steps of one trial: no training has more, and sums and products of them fit.
const STEPS_MAX: u64 = 1_000_000_000_000;
/// Largest eta: then a rung leaves one trial in a hundred.
const ETA_MAX: u32 = 100;
/// One trial in three goes on at a rung, as in both papers' experiments.
const ETA: u32 = 3;
/// Others that make a median, when the recipe does not say.
const MIN_TRIALS: u32 = 5;
/// Most others that a recipe can ask for: more than a sweep with early stopping has.
const MIN_TRIALS_MAX: u32 = 100_000;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::sweep) enum RawEarlyStopping {
    Asha(RawHalving),
    Hyperband(RawHalving),
    Median(RawMedian),
}

#[derive(Debug, Deserialize)]
pub(in crate::sweep) struct RawHalving {
    min_steps: u64,
    max_steps: u64,
    eta: Option<u32>,
}

#[derive(Debug, Deserialize)]
pub(in crate::sweep) struct RawMedian {
    grace_steps: u64,
    every_steps: u64,
    max_steps: u64,
    min_trials: Option<u32>,
}

impl RawEarlyStopping {
    /// `trials` is the most that the sweep can have.
    pub(in crate::sweep) fn check(
        self,
        trials: u64,
        at: &Path,
    ) -> Result<EarlyStopping, RecipeError> {
        let rule = match self {
            Self::Asha(raw) => {
                let (min_steps, max_steps, eta) = raw.check(&at.key("asha"))?;
                EarlyStopping::Asha(Asha { min_steps, max_steps, eta })
            }
            Self::Hyperband(raw) => {
                let at = at.key("hyperband");
                let (min_steps, max_steps, eta) = raw.check(&at)?;
                if max_steps / min_steps < u64::from(eta) {
                    let message = format!(
                        "must be at least eta times min_steps, {}, found {max_steps}",
                        min_steps.saturating_mul(eta.into())
                    );
                    return Err(RecipeError::new(&at.key("max_steps"), message)
                        .hint("with less there is one bracket, and it stops nothing"));
                }
                EarlyStopping::Hyperband(Hyperband { min_steps, max_steps, eta })
            }
            Self::Median(raw) => EarlyStopping::Median(raw.check(&at.key("median"))?),
        };
        let rungs = rule.rungs().len() as u64;
        let measured = trials.saturating_mul(rungs);
        if measured > MEASURED_MAX {
            let message = format!(
                "{trials} trials with {rungs} rungs are up to {measured} measurements; at most \
                 {MEASURED_MAX} are allowed"
            );
            return Err(RecipeError::new(at, message).hint("use fewer trials, or fewer rungs"));
        }
        Ok(rule)
    }
}

impl RawHalving {
    /// `min_steps`, `max_steps` and `eta`.
    fn check(self, at: &Path) -> Result<(u64, u64, u32), RecipeError> {
        check_steps(("min_steps", self.min_steps), self.max_steps, at)?;
        let eta = self.eta.unwrap_or(ETA);
        if !(2..=ETA_MAX).contains(&eta) {
            let message = format!("must be from 2 to {ETA_MAX}, found {eta}");
            return Err(RecipeError::new(&at.key("eta"), message)
                .hint("one trial in `eta` goes on at a rung"));
        }
        Ok((self.min_steps, self.max_steps, eta))
    }
}

impl RawMedian {
    fn check(self, at: &Path) -> Result<Median, RecipeError> {
        check_steps(("grace_steps", self.grace_steps), self.max_steps, at)?;
        let min_trials = self.min_trials.unwrap_or(MIN_TRIALS);
        if !(1..=MIN_TRIALS_MAX).contains(&min_trials) {
            let message = format!("must be from 1 to {MIN_TRIALS_MAX}, found {min_trials}");
            return Err(RecipeError::new(&at.key("min_trials"), message));
        }
        let path = at.key("every_steps");
        if self.every_steps == 0 {
            return Err(RecipeError::new(&path, "must be at least 1, found 0"));
        }
        let rule = Median {
            grace_steps: self.grace_steps,
            every_steps: self.every_steps,
            max_steps: self.max_steps,
            min_trials,
        };
        // Counted before they are listed.
        let rungs = rule.count();
        if rungs > RUNGS_MAX as u64 {
            let message = format!("makes {rungs} rungs; at most {RUNGS_MAX} are allowed");
            let most = self.max_steps.div_ceil(RUNGS_MAX as u64);
            return Err(RecipeError::new(&path, message).hint(format!("write {most}")));
        }
        Ok(rule)
    }
}

/// Refuses a first rung that is not below `max_steps`.
fn check_steps(first: (&str, u64), max_steps: u64, at: &Path) -> Result<(), RecipeError> {
    let (key, steps) = first;
    if steps == 0 {
        return Err(RecipeError::new(&at.key(key), "must be at least 1, found 0"));
    }
    let path = at.key("max_steps");
    if max_steps > STEPS_MAX {
        let message = format!("must be at most {STEPS_MAX}, found {max_steps}");
        return Err(RecipeError::new(&path, message));
    }
    if steps >= max_steps {
        let message = format!("must be above {key}, {steps}, found {max_steps}");
        return Err(RecipeError::new(&path, message)
            .hint("max_steps are the steps of a trial that nobody stops"));
    }
    Ok(())
}
