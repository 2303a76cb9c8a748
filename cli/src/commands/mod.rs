//! One file per command: its arguments, whose comments are the help, and one function.

use crate::error::CliError;
use crate::output::Printer;
use clap::Subcommand;

mod cancel;
mod completions;
mod coordinator;
mod diff;
mod doctor;
mod explain;
mod export;
mod fit;
mod logs;
mod metrics;
mod plan;
mod results;
mod run;
mod sim;
mod status;
mod submit;
mod top;
mod validate;
mod watch;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(run::Args),
    Validate(validate::Args),
    Plan(plan::Args),
    Sim(sim::Args),
    Diff(diff::Args),
    Submit(submit::Args),
    Watch(watch::Args),
    Status(status::Args),
    Top(top::Args),
    Results(results::Args),
    Explain(explain::Args),
    Logs(logs::Args),
    Metrics(metrics::Args),
    Export(export::Args),
    Cancel(cancel::Args),
    Coordinator(coordinator::Args),
    Fit(fit::Args),
    Doctor(doctor::Args),
    Completions(completions::Args),
}

impl Command {
    /// Whether its log lines may name what a coordinator does; others show only warnings.
    pub(crate) fn is_coordinator(&self) -> bool {
        matches!(self, Self::Coordinator(_))
    }

    /// Does it.
    pub(crate) async fn run(self, printer: &Printer) -> Result<(), CliError> {
        match self {
            Self::Run(args) => run::run(args, printer).await,
            Self::Validate(args) => validate::run(&args, printer),
            Self::Plan(args) => plan::run(&args, printer),
            Self::Sim(args) => sim::run(&args, printer),
            Self::Diff(args) => diff::run(args, printer).await,
            Self::Submit(args) => submit::run(args, printer).await,
            Self::Watch(args) => watch::run(args, printer).await,
            Self::Status(args) => status::run(args, printer).await,
            Self::Top(args) => top::run(args, printer).await,
            Self::Results(args) => results::run(args, printer).await,
            Self::Explain(args) => explain::run(args, printer).await,
            Self::Logs(args) => logs::run(args, printer).await,
            Self::Metrics(args) => metrics::run(args, printer).await,
            Self::Export(args) => export::run(args, printer).await,
            Self::Cancel(args) => cancel::run(args, printer).await,
            Self::Coordinator(args) => coordinator::run(args, printer).await,
            Self::Fit(args) => fit::run(&args, printer),
            Self::Doctor(args) => doctor::run(&args, printer).await,
            Self::Completions(args) => completions::run(&args, printer),
        }
    }
}
