//! The frame that every study fills.

use crate::report::Report;
use proto::{Outcome, TrialId, TrialSpec};

/// The science of one experiment: a deterministic state machine over outcomes. The same history
/// always gives the same answer, so a restart continues a search exactly.
pub trait Study: Send + Sync {
    /// What happens next, given every trial that was planned so far, in planning order.
    ///
    /// Called again after each outcome and after each measurement of [`watch`](Self::watch); a
    /// trial that the study planned before must not be planned again. Never called again after
    /// [`Next::Complete`]. Trials of a planned range are in `trials` once they were drawn; a study
    /// cannot see a range of which none was drawn, and is not asked until one is.
    fn next(&self, trials: &[TrialView<'_>]) -> Next;

    /// The trial at `index` of the study's own enumeration, for a study that answers
    /// [`Next::PlanRange`]; `None` past its end.
    fn trial(&self, _index: u64) -> Option<TrialSpec> {
        None
    }

    /// The metric that the study wants to see while trials run, if any.
    fn watch(&self) -> Option<Watch<'_>> {
        None
    }

    /// Whether [`next`](Self::next) is asked after each outcome, or only once no trial is open.
    /// A study that plans everything at once says `false`, which keeps a large sweep linear.
    fn wants_each_outcome(&self) -> bool {
        true
    }

    /// Whether any trial gave what the study is about. An experiment that ends without is failed.
    fn has_result(&self, trials: &[TrialView<'_>]) -> bool {
        trials.iter().any(|trial| matches!(trial.outcome, Some(Outcome::Completed { .. })))
    }

    /// What the planned trials already say of the results, in sentences: what a report would say
    /// beside its numbers, for whoever looks before anything runs.
    fn warnings(&self, _trials: &[TrialView<'_>]) -> Vec<String> {
        Vec::new()
    }

    /// What the results so far mean. Works on an unfinished history and says what is missing.
    fn report(&self, trials: &[TrialView<'_>]) -> Report;
}

/// A trial as a study sees it.
#[derive(Debug, Clone, Copy)]
pub struct TrialView<'a> {
    /// Its id.
    pub id: &'a TrialId,
    /// What it is.
    pub spec: &'a TrialSpec,
    /// Attempts started so far.
    pub attempts: u32,
    /// How it ended; `None` while it waits or runs.
    pub outcome: Option<&'a Outcome>,
    /// What [`Study::watch`] asked for, by ascending rung.
    pub measured: &'a [Measured],
}

/// What a study wants to see while trials run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watch<'a> {
    /// Name of the metric.
    pub metric: &'a str,
    /// Steps at which its value counts, ascending; the first value at or after each is recorded.
    /// At most [`RUNGS_MAX`].
    pub rungs: &'a [u64],
}

/// Most rungs of one study: each is a record of every trial in the journal.
pub const RUNGS_MAX: usize = 256;

/// A value of the watched metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// The rung that it passed, in steps.
    pub rung: u64,
    /// The value; may be NaN or infinite.
    pub value: f64,
    /// Place among all measurements of the coordinator: a later one has a larger number. A decision
    /// at a rung that looks only at smaller numbers stays the same for ever.
    pub order: u64,
}

/// A study's answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Run these as well.
    Plan {
        /// What to run; never empty.
        trials: Vec<TrialSpec>,
        /// Why, in one sentence for people.
        reason: String,
    },
    /// Run the next `count` trials of [`Study::trial`] as well. The indices go on where the last
    /// range of the study ended, from 0. A range costs the same whatever its length, so all that
    /// does not depend on results belongs into one.
    PlanRange {
        /// How many; at least 1.
        count: u64,
        /// Why, in one sentence for people.
        reason: String,
    },
    /// End these trials early; those that have ended already stay as they are.
    Stop {
        /// Which; never empty.
        trials: Vec<TrialId>,
        /// Why, in one sentence for people; becomes the message of their outcome.
        reason: String,
    },
    /// Ask again after the next outcome or measurement.
    Wait,
    /// The study has all it wants.
    Complete,
}

impl Next {
    /// What a study says that plans all its trials at once and then awaits their ends. `plan`
    /// answers them and the reason.
    pub(crate) fn all_at_once(
        trials: &[TrialView<'_>],
        plan: impl FnOnce() -> (Vec<TrialSpec>, String),
    ) -> Self {
        if trials.is_empty() {
            let (trials, reason) = plan();
            return Self::Plan { trials, reason };
        }
        match trials.iter().any(|trial| trial.outcome.is_none()) {
            true => Self::Wait,
            false => Self::Complete,
        }
    }
}
