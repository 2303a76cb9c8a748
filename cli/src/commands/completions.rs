//! `brine completions`.

use crate::error::CliError;
use crate::output::Printer;
use clap::CommandFactory as _;

/// Print a shell's completion script
///
/// For example: brine completions bash > ~/.local/share/bash-completion/completions/brine
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell
    shell: clap_complete::Shell,
}

pub(crate) fn run(args: &Args, printer: &Printer) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "brine", &mut script);
    printer.bytes(&script)
}
