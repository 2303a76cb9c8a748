//! The keys of `spec.study.sweep.early_stopping` as they are written, and what makes sense.

use super::{Asha, EarlyStopping, Hyperband, Median};
use crate::recipe::{Mistakes, Path, RecipeError, all};
use crate::study::RUNGS_MAX;
use crate::training::checks::within;
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
    pub(in crate::sweep) fn check(self, at: &Path) -> Result<EarlyStopping, Mistakes> {
        match self {
            Self::Asha(raw) => {
                let (min_steps, max_steps, eta) = raw.check(&at.key("asha"))?;
                Ok(EarlyStopping::Asha(Asha { min_steps, max_steps, eta }))
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
                        .given([at])
                        .hint("with less there is one bracket, and it stops nothing")
                        .into());
                }
                Ok(EarlyStopping::Hyperband(Hyperband { min_steps, max_steps, eta }))
            }
            Self::Median(raw) => raw.check(&at.key("median")).map(EarlyStopping::Median),
        }
    }
}

/// Refuses more measurements than one experiment may have. `trials` is the most that the sweep
/// can have.
pub(in crate::sweep) fn check_measured(
    rule: &EarlyStopping,
    trials: u64,
    at: &Path,
) -> Result<(), RecipeError> {
    let rungs = rule.rungs().len() as u64;
    let measured = trials.saturating_mul(rungs);
    if measured <= MEASURED_MAX {
        return Ok(());
    }
    let message = format!(
        "{trials} trials with {rungs} rungs are up to {measured} measurements; at most \
         {MEASURED_MAX} are allowed"
    );
    Err(RecipeError::new(at, message).hint("use fewer trials, or fewer rungs"))
}

impl RawHalving {
    /// `min_steps`, `max_steps` and `eta`.
    fn check(self, at: &Path) -> Result<(u64, u64, u32), Mistakes> {
        let eta = self.eta.unwrap_or(ETA);
        all! {
            let _steps = check_steps(("min_steps", self.min_steps), self.max_steps, at);
            let eta = within(eta, 2, ETA_MAX, &at.key("eta"))
                .map_err(|error| error.hint("one trial in `eta` goes on at a rung"));
        }
        Ok((self.min_steps, self.max_steps, eta))
    }
}

impl RawMedian {
    fn check(self, at: &Path) -> Result<Median, Mistakes> {
        let Self { grace_steps, max_steps, .. } = self;
        let path = at.key("every_steps");
        let min_trials = self.min_trials.unwrap_or(MIN_TRIALS);
        all! {
            let _steps = check_steps(("grace_steps", grace_steps), max_steps, at);
            let min_trials = within(min_trials, 1, MIN_TRIALS_MAX, &at.key("min_trials"));
            let every_steps = match self.every_steps {
                0 => Err(RecipeError::new(&path, "must be at least 1, found 0")),
                steps => Ok(steps),
            };
        }
        let rule = Median { grace_steps, every_steps, max_steps, min_trials };
        // Counted before they are listed.
        let rungs = rule.count();
        if rungs > RUNGS_MAX as u64 {
            let message = format!("makes {rungs} rungs; at most {RUNGS_MAX} are allowed");
            let most = max_steps.div_ceil(RUNGS_MAX as u64);
            return Err(RecipeError::new(&path, message).hint(format!("write {most}")).into());
        }
        Ok(rule)
    }
}

/// Refuses a first rung that is not below `max_steps`.
fn check_steps(first: (&str, u64), max_steps: u64, at: &Path) -> Result<(), Mistakes> {
    let (key, steps) = first;
    let (first_at, path) = (at.key(key), at.key("max_steps"));
    all! {
        let steps = match steps {
            0 => Err(RecipeError::new(&first_at, "must be at least 1, found 0")),
            steps => Ok(steps),
        };
        let _max = if max_steps > STEPS_MAX {
            let message = format!("must be at most {STEPS_MAX}, found {max_steps}");
            Err(RecipeError::new(&path, message))
        } else {
            Ok(())
        };
    }
    if steps >= max_steps {
        let message = format!("must be above {key}, {steps}, found {max_steps}");
        return Err(RecipeError::new(&path, message)
            .hint("max_steps are the steps of a trial that nobody stops")
            .into());
    }
    Ok(())
}
