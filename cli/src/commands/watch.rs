//! `brine watch`.

use crate::error::CliError;
use crate::output::{OutputMode, Printer};
use crate::progress::follow::{Records, follow};
use crate::target::Target;
use proto::{ExperimentState, Outcome};

/// Follow an experiment to its end
///
/// With `--output json` every record of the experiment is a line on stdout, past ones first.
/// Ctrl-C ends the watching, not the experiment.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Its id or the start of it [default: the newest experiment]
    #[arg(value_name = "EXPERIMENT")]
    experiment: Option<String>,

    #[command(flatten)]
    target: Target,
}

pub(crate) async fn run(args: Args, printer: &Printer) -> Result<(), CliError> {
    let mut connection = args.target.live(printer).await?;
    let id = connection.experiment(args.experiment.as_deref()).await?;
    let records = match printer.mode() {
        OutputMode::Json => Records::Print,
        OutputMode::Human | OutputMode::Quiet => Records::Fold,
    };
    let client = &mut connection.client;
    printer.status(&format!("{id} at {}", client.url()));
    let begun = client.snapshot(&id).await?;
    let state = follow(client, &begun, printer, records).await?;
    if printer.mode() != OutputMode::Json {
        printer.data(&format!("{id} is {}", state.word()))?;
    }
    printer.hint(&format!("see what it found with: brine results {id}"));
    let snapshot = client.snapshot(&id).await?;
    verdict(state, snapshot.trials.iter().filter_map(|trial| trial.outcome.as_ref()))
}

/// Exit code 3 unless the experiment is complete and every trial gave a result or was ended by the
/// study. A diverged trial is a result: the study knows what to make of it.
pub(super) fn verdict<'a>(
    state: ExperimentState,
    outcomes: impl Iterator<Item = &'a Outcome>,
) -> Result<(), CliError> {
    let is_failure = |outcome: &&Outcome| match outcome {
        Outcome::Completed { .. } | Outcome::Diverged { .. } => false,
        Outcome::Failed { class, .. } => *class != proto::FailureClass::Pruned,
    };
    let failed = outcomes.filter(is_failure).count();
    match state {
        ExperimentState::Running => Ok(()),
        ExperimentState::Complete if failed == 0 => Ok(()),
        ExperimentState::Complete => Err(CliError::incomplete(format!(
            "the experiment is complete, but {} failed",
            crate::number::plural(failed, "trial")
        ))
        .hint("see why with `brine status EXPERIMENT` and `brine logs TRIAL`; give them a new chance with --retry-failed")),
        ExperimentState::Failed => Err(CliError::incomplete(
            "the experiment failed: no trial gave a result",
        )
        .hint("see why with `brine status EXPERIMENT` and `brine logs TRIAL`; give them a new chance with --retry-failed")),
        ExperimentState::Cancelled => Err(CliError::incomplete("the experiment was cancelled")
            .hint("submit the same recipe again to go on")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::FailureClass;

    #[test]
    fn only_a_complete_experiment_without_failures_ends_well() {
        #[track_caller]
        fn check(state: ExperimentState, outcomes: &[Outcome], expected: u8) {
            let code =
                verdict(state, outcomes.iter()).map_or_else(|e| e.kind().exit_code(), |()| 0);
            assert_eq!(code, expected);
        }
        let completed =
            Outcome::Completed { metrics: std::collections::BTreeMap::new(), checkpoint: None };
        let diverged = Outcome::Diverged { metric: "loss".into(), step: 1 };
        let failed = |class| Outcome::failed(class, "x");
        let complete = ExperimentState::Complete;
        check(complete, &[completed.clone(), diverged, failed(FailureClass::Pruned)], 0);
        check(complete, &[completed.clone(), failed(FailureClass::Trial)], 3);
        check(complete, &[completed, failed(FailureClass::Timeout)], 3);
        check(ExperimentState::Failed, &[], 3);
        check(ExperimentState::Cancelled, &[], 3);
    }
}
