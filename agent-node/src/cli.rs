//! The command line of `brine-agent`. The only place of this crate that prints to the terminal or
//! ends the process.

use crate::devices::{self, DeviceError, GpuChoice, Inventory};
use crate::doctor::{self, Findings};
use crate::driver;
use crate::folders::{DataFolders, FolderError};
use crate::report::{self, SendError};
use crate::setup::{DriverError, Setup};
use crate::trial::{self, TrialError};
use agent_keeper::order::Metric;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use proto::{AgentId, IdError};
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const EXIT_CODES: &str = "Exit codes:
   0  the agent was asked to end, and did; the command did its work
   1  something about the input, the machine or the coordinator is wrong; the message says what
   2  the command line is wrong
  70  the agent itself broke; please report it";
/// The agent itself broke.
const INTERNAL: u8 = 70;
/// Variable of the environment with the coordinator's address.
const COORDINATOR: &str = "BRINE_COORDINATOR";
/// Longest token file that is read; a token is far shorter.
const TOKEN_BYTES_MAX: u64 = 4_096;

/// The version with the commit that it was built from.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "+", env!("BRINE_COMMIT"));

/// Join a Brine coordinator and run its trials on this machine.
#[derive(Debug, Parser)]
#[command(name = "brine-agent", version = VERSION, after_help = EXIT_CODES)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Option<Serve>,
}

#[derive(Debug, Args)]
struct Serve {
    /// Address of the coordinator [default: that in the environment's BRINE_COORDINATOR].
    // Not clap's `env`: the variable would then belong to every subcommand's line.
    #[arg(long, value_name = "URL")]
    coordinator: Option<String>,
    /// File with the token that the coordinator wrote.
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// Name of this agent, the same over restarts [default: the machine's name].
    #[arg(long, value_name = "NAME")]
    id: Option<AgentId>,
    /// Folder for trials, checkpoints and files [default: .brine/agents/NAME].
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// CPU slots to offer [default: the cores of this machine].
    #[arg(long, value_name = "N", value_parser = devices::parse_cpus)]
    cpus: Option<u32>,
    /// GPUs to offer: none, all, or numbers such as 0,2.
    #[arg(long, value_name = "GPUS", default_value = "all")]
    gpus: GpuChoice,
    /// A label that recipes may ask for, such as zone=a; may be repeated.
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = devices::parse_label)]
    labels: Vec<(String, String)>,
    /// An amount of something that recipes may ask for, such as licence=2; may be repeated.
    #[arg(long = "extra", value_name = "NAME=AMOUNT", value_parser = devices::parse_extra)]
    extras: Vec<(String, u64)>,
    /// Folder for files fetched from the coordinator, which agents of a machine may share
    /// [default: in the data folder].
    #[arg(long, value_name = "FOLDER")]
    blobs: Option<PathBuf>,
    /// Folder for checkpoints, which agents of a machine or of a shared disk may share
    /// [default: in the data folder].
    #[arg(long, value_name = "FOLDER")]
    checkpoints: Option<PathBuf>,
    /// End when the standard input does: for a parent that must not leave agents behind.
    #[arg(long)]
    exit_with_stdin: bool,
    /// Say more on stderr; twice for everything. BRINE_LOG overrides it.
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Report a metric from inside a trial.
    Report {
        /// Its name, for example loss.
        #[arg(long)]
        metric: String,
        /// The step, from 0.
        #[arg(long)]
        step: u64,
        /// The value; NaN and inf are values too.
        #[arg(long, allow_negative_numbers = true, allow_hyphen_values = true)]
        value: f64,
    },
    /// Show what works on this machine.
    Doctor {
        /// How to print it.
        #[arg(long, value_enum, default_value_t = Output::Human)]
        output: Output,
    },
    /// Run one training (started by an agent, not by people).
    #[command(hide = true)]
    RunTrial,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Human,
    Json,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error("cannot read the token file {}", path.display())]
    Token { path: PathBuf, source: io::Error },
    #[error("the token file {} is empty", path.display())]
    NoToken { path: PathBuf },
    #[error("give the coordinator's address with --coordinator or {COORDINATOR}")]
    NoCoordinator,
    #[error("this machine's name {host:?} cannot be an agent's name; give one with --id")]
    Host { host: String, source: IdError },
    #[error("{0}")]
    Names(String),
    #[error(transparent)]
    Devices(#[from] DeviceError),
    #[error(transparent)]
    Folders(#[from] FolderError),
    #[error(transparent)]
    Driver(#[from] DriverError),
    #[error(transparent)]
    Report(#[from] SendError),
    #[error(transparent)]
    Trial(#[from] TrialError),
    #[error("cannot set up the agent's process")]
    System(#[from] io::Error),
    #[error("something on this machine is broken")]
    Unwell,
}

impl CliError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Driver(DriverError::Internal(_)) => ExitCode::from(INTERNAL),
            Self::Token { .. }
            | Self::NoToken { .. }
            | Self::NoCoordinator
            | Self::Host { .. }
            | Self::Names(_)
            | Self::Devices(_)
            | Self::Folders(_)
            | Self::Driver(_)
            | Self::Report(_)
            | Self::Trial(_)
            | Self::System(_)
            | Self::Unwell => ExitCode::FAILURE,
        }
    }
}

/// Runs `brine-agent` with the arguments of this process.
pub fn main() -> ExitCode {
    match std::panic::catch_unwind(|| execute(Cli::parse())) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            print_error(&error);
            error.exit_code()
        }
        // The panic's hook has printed what happened.
        Err(_) => ExitCode::from(INTERNAL),
    }
}

fn execute(cli: Cli) -> Result<(), CliError> {
    match (cli.command, cli.serve) {
        (Some(Command::Report { metric, step, value }), _) => {
            let metric = Metric { metric, step, value };
            Ok(report::send(&metric, |name| std::env::var_os(name))?)
        }
        (Some(Command::Doctor { output }), _) => {
            let findings = doctor::examine(VERSION.to_owned());
            print_findings(&findings, output)?;
            if findings.broken() { Err(CliError::Unwell) } else { Ok(()) }
        }
        (Some(Command::RunTrial), _) => {
            start_log(0);
            Ok(trial::run()?)
        }
        (None, Some(serve)) => {
            start_log(serve.verbose);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let result = runtime.block_on(driver::serve(setup(serve)?));
            // A thread that reads the standard input cannot be waited for.
            runtime.shutdown_background();
            Ok(result?)
        }
        (None, None) => Cli::command()
            .error(
                clap::error::ErrorKind::MissingRequiredArgument,
                "give --coordinator URL and --token-file FILE, or a subcommand",
            )
            .exit(),
    }
}

fn setup(serve: Serve) -> Result<Setup, CliError> {
    let coordinator = serve.coordinator.or_else(|| std::env::var(COORDINATOR).ok());
    let coordinator = coordinator.ok_or(CliError::NoCoordinator)?;
    let token = read_token(&serve.token_file)?;
    let agent = match serve.id {
        Some(agent) => agent,
        None => {
            let host = devices::host();
            AgentId::new(host.as_str()).map_err(|source| CliError::Host { host, source })?
        }
    };
    let labels = devices::named("label", serve.labels).map_err(CliError::Names)?;
    let extras = devices::named("extra", serve.extras).map_err(CliError::Names)?;
    let offered = devices::inventory(serve.cpus, &serve.gpus)?;
    let inventory = Inventory { labels, extras, ..offered };
    let data = serve.data_dir.unwrap_or_else(|| Path::new(".brine/agents").join(agent.as_str()));
    let folders = DataFolders::open(&data, serve.blobs.as_deref(), serve.checkpoints.as_deref())?;
    Ok(Setup {
        agent,
        program: std::env::current_exe()?,
        folders,
        inventory,
        coordinator,
        token,
        version: VERSION.to_owned(),
        exit_with_stdin: serve.exit_with_stdin,
    })
}

fn read_token(path: &Path) -> Result<String, CliError> {
    let error = |source| CliError::Token { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(error)?;
    let mut text = String::new();
    file.take(TOKEN_BYTES_MAX).read_to_string(&mut text).map_err(error)?;
    match text.trim() {
        "" => Err(CliError::NoToken { path: path.to_owned() }),
        token => Ok(token.to_owned()),
    }
}

fn start_log(verbose: u8) {
    use tracing_subscriber::EnvFilter;
    let level = match verbose {
        0 => "info",
        1 => "info,agent_node=debug",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env("BRINE_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        .with_writer(io::stderr)
        // A full disk under the log must not end the agent: the complaint would panic.
        .log_internal_errors(false)
        .init();
}

fn print_findings(findings: &Findings, output: Output) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    if output == Output::Json {
        serde_json::to_writer_pretty(&mut stdout, findings)?;
        return writeln!(stdout);
    }
    writeln!(stdout, "brine-agent {}", findings.version)?;
    for check in &findings.checks {
        writeln!(stdout, "{:<14} {:<7} {}", check.name, check.state.word(), check.found)?;
        if !check.advice.is_empty() {
            writeln!(stdout, "{:<14} {:<7} hint: {}", "", "", check.advice)?;
        }
    }
    Ok(())
}

fn print_error(error: &CliError) {
    let text = trainer::chain(error);
    // With no stderr there is nobody to tell.
    drop(writeln!(io::stderr(), "error: {text}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(arguments: &str, accepted: bool) {
        let words = std::iter::once("brine-agent").chain(arguments.split_whitespace());
        let parsed = Cli::try_parse_from(words);
        assert_eq!(parsed.is_ok(), accepted, "{arguments}: {parsed:?}");
    }

    #[test]
    fn the_command_line_is_either_an_agent_or_one_command() {
        Cli::command().debug_assert();
        check("--coordinator http://a:1 --token-file t", true);
        check("--coordinator http://a:1 --token-file t --gpus 0,1 --cpus 2 --id a -vv", true);
        check("--coordinator http://a:1 --token-file t --label zone=a --label b=c", true);
        check("--coordinator http://a:1 --token-file t --extra licence=2", true);
        check("--coordinator http://a:1 --token-file t --extra licence=two", false);
        check("doctor --output json", true);
        check("report --metric loss --step 3 --value -1.5", true);
        check("report --metric loss --step 3 --value -inf", true);
        check("run-trial", true);
        check("--coordinator http://a:1", false);
        check("--coordinator http://a:1 --token-file t --cpus 0", false);
        check("--coordinator http://a:1 --token-file t --id ../x", false);
        check("--coordinator http://a:1 --token-file t doctor", false);
        check("report --metric loss --step -3 --value 1", false);
    }
}
