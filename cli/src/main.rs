//! The command line of Brine.
//!
//! * `commands`: one file per command.
//! * `client`, `target`, `snapshot`: the connection to a coordinator, and what it says; `stored`:
//!   what of it holds when there is none.
//! * `local`: the coordinator and the agents that `brine run` starts.
//! * `progress`: bars and lines while trials run.
//! * `inputs`, `estimate`, `findings`: a recipe's files, its cost, its report.
//! * `diff`: two recipes side by side. `explain`: why a trial is where it is.
//! * `listing`, `live`, `top`: trials in tables, their newest numbers, the live view.
//! * `logs`, `series`, `export`: what trials wrote: texts and metric series.
//! * `output`, `table`, `number`, `words`, `error`: every word that is printed.

use clap::Parser;
use error::{CliError, EXIT_CODES, Kind};
use output::{OutputMode, Printer};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

mod client;
mod commands;
mod data_dir;
mod diff;
mod doctor;
mod error;
mod estimate;
mod explain;
mod export;
mod findings;
mod inputs;
mod listing;
mod live;
mod local;
mod logs;
mod number;
mod output;
mod progress;
mod series;
mod snapshot;
mod stored;
mod table;
mod target;
mod top;
mod words;

/// Version and commit, for `--version` and for the provenance of reports.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "+", env!("BRINE_COMMIT"));

/// Run machine-learning experiments from a recipe to a report
#[derive(Debug, Parser)]
#[command(name = "brine", version = VERSION, after_help = exit_codes(), max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: commands::Command,

    /// What to print on stdout; everything that is not data goes to stderr
    #[arg(long, value_enum, global = true, default_value_t = OutputMode::Human)]
    output: OutputMode,
}

fn main() -> ExitCode {
    // clap prints its own errors and ends with code 2, and with 0 after --help and --version.
    let cli = Cli::parse();
    let printer = Printer::new(cli.output);
    start_log(&printer, cli.command.is_coordinator());
    // The panic's hook has printed what happened.
    std::panic::catch_unwind(|| execute(cli, &printer))
        .unwrap_or(ExitCode::from(Kind::Internal.exit_code()))
}

fn execute(cli: Cli, printer: &Printer) -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            let error = CliError::internal("cannot start the runtime").because(error);
            printer.error(&error);
            return error.exit_code();
        }
    };
    let result = runtime.block_on(cli.command.run(printer));
    // A file that is still being read must not hold the process.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::from(0),
        Err(error) => {
            printer.error(&error);
            error.exit_code()
        }
    }
}

/// What a coordinator logs by itself.
const COORDINATOR_LOG: &str = "info";
/// What a command logs that says in its own words what its coordinator notices and why it stops.
const COMMAND_LOG: &str = "warn,coordinator::driver=error,sled=off";

/// The coordinator's log goes to stderr; `BRINE_LOG` says how much of it.
fn start_log(printer: &Printer, is_coordinator: bool) {
    let default = if is_coordinator { COORDINATOR_LOG } else { COMMAND_LOG };
    let filter = EnvFilter::try_from_env("BRINE_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(printer.clone())
        .with_ansi(false)
        // A full disk under the log must not end a coordinator: the complaint would panic.
        .log_internal_errors(false)
        .init();
}

/// The table of exit codes under `--help`.
fn exit_codes() -> String {
    let lines = EXIT_CODES.iter().map(|(code, meaning)| format!("  {code:<3} {meaning}"));
    format!("Exit codes:\n{}", lines.collect::<Vec<_>>().join("\n"))
}
