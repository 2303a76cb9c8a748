//! `brine coordinator`.

use crate::data_dir::{DataDir, read_line};
use crate::error::CliError;
use crate::local::embedded::{Doors, Embedded};
use crate::local::signals::Signals;
use crate::output::{OutputMode, Printer};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Serve experiments until Ctrl-C or SIGTERM
///
/// Agents join with `brine-agent --coordinator URL --token-file FILE`. Prints its URL when it is
/// ready.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Address and port to listen on; port 0 chooses a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7600")]
    listen: SocketAddr,

    /// Address and port of a page for monitoring, GET /metrics in Prometheus' format; it asks for
    /// no token and names agents, but no trials [default: none]
    #[arg(long, value_name = "ADDRESS")]
    metrics_listen: Option<SocketAddr>,

    /// Folder for everything that must outlive a restart
    #[arg(long, value_name = "DIR", default_value = ".brine")]
    data_dir: PathBuf,

    /// File that holds the token [default: `token` in the data folder, made when it is missing]
    #[arg(long, value_name = "FILE", env = "BRINE_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

pub(crate) async fn run(args: Args, printer: &Printer) -> Result<(), CliError> {
    let mut signals = Signals::new()?;
    let data_dir = DataDir::new(&args.data_dir);
    let token = match &args.token_file {
        Some(path) => Some(read_line(path, "token")?),
        None => None,
    };
    let token_file = args.token_file.clone().unwrap_or_else(|| data_dir.token_path());
    let doors = Doors { listen: args.listen, metrics: args.metrics_listen };
    let mut embedded = Embedded::serve(&data_dir, doors, token).await?;
    let url = embedded.url().to_owned();
    match printer.mode() {
        OutputMode::Json => printer.json_line(&serde_json::json!({
            "coordinator": url, "token_file": token_file, "metrics": embedded.metrics_url(),
        }))?,
        OutputMode::Human | OutputMode::Quiet => printer.data(&url)?,
    }
    printer.status(&format!(
        "serving {}; the token is in {}",
        args.data_dir.display(),
        token_file.display()
    ));
    if let Some(url) = embedded.metrics_url() {
        printer.status(&format!("metrics for Prometheus: {url}"));
    }
    if args.listen.ip().is_loopback() {
        printer.hint("only this machine can reach it; agents elsewhere need --listen 0.0.0.0:7600");
    }
    tokio::select! {
        error = embedded.failed() => return Err(error),
        () = signals.next() => {}
    }
    printer.status("stopping; agents keep their trials for as long as their leases last");
    tokio::select! {
        ended = embedded.shutdown() => ended,
        () = signals.next() => Err(CliError::interrupted("ended before everything was closed")
            .hint("nothing that was acknowledged is lost")),
    }
}
