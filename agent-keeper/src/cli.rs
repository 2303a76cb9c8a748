//! The command line of `brine-agent-keeper`, which only `brine-agent` uses.

use crate::keep::{self, KeepError};
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Runs `brine-agent-keeper` with the arguments of this process: the folder for its pipes.
pub fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(folder), None) = (arguments.next(), arguments.next()) else {
        print_error(&KeepError::NotFromAgent);
        return ExitCode::from(2);
    };
    let filter = EnvFilter::try_from_env("BRINE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours);
    // A full disk under the log must not end the keeper: the complaint would panic.
    log.with_writer(io::stderr).log_internal_errors(false).init();
    match keep::keep(&PathBuf::from(folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&error);
            ExitCode::FAILURE
        }
    }
}

fn print_error(error: &KeepError) {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    // With no stderr there is nobody to tell.
    drop(writeln!(io::stderr(), "error: {error}{}", cause.unwrap_or_default()));
}
