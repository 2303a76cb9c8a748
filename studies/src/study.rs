//! The frame that every study fills.

use crate::report::Report;
use proto::{Outcome, TrialId, TrialSpec};

/// The science of one experiment: a deterministic state machine over outcomes. The same history
/// always gives the same answer, so a restart continues a search exactly.
pub trait Study: Send + Sync {
    /// What happens next, given every trial that was planned so far, in planning order.
    ///
    /// Called again after each outcome; a trial that the study planned before must not be
    /// planned again. Never called again after [`Next::Complete`].
    fn next(&self, trials: &[TrialView<'_>]) -> Next;

    /// Whether [`next`](Self::next) is asked after each outcome, or only once no trial is open.
    /// A study that plans everything at once says `false`, which keeps a large sweep linear.
    fn wants_each_outcome(&self) -> bool {
        true
    }

    /// Whether any trial gave what the study is about. An experiment that ends without is failed.
    fn has_result(&self, trials: &[TrialView<'_>]) -> bool {
        trials.iter().any(|trial| matches!(trial.outcome, Some(Outcome::Completed { .. })))
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
    /// Ask again after the next outcome.
    Wait,
    /// The study has all it wants.
    Complete,
}
