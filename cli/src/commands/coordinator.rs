//! `brine coordinator`.

use crate::data_dir::{DataDir, read_line};
use crate::error::CliError;
use crate::local::embedded::{Doors, Embedded, LogLimit};
use crate::local::signals::Signals;
use crate::output::{OutputMode, Printer};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use studies::recipe::{Bytes, Duration};

/// Least limit of all logs: the longest log of one attempt.
const LOG_LIMIT_BYTES_MIN: u64 = 4 << 20;

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

    /// Disk for what all trials print: beyond it the logs of the trials that ended longest ago are
    /// removed; at least 4MiB
    #[arg(long, value_name = "SIZE", default_value = "8GiB", value_parser = log_limit)]
    log_limit: Bytes,

    /// Time without contact after which an agent's leases end: the agent ends its trials, and they
    /// are tried again; from 2s to 1h. Longer survives longer outages of the coordinator and
    /// slower machines; shorter gives a dead machine's trials to others sooner
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = lease)]
    lease: Duration,
}

/// Two heartbeats, so that one may be late; and a time after which nobody waits for a machine.
const LEASE_MS: RangeInclusive<u64> = 2_000..=3_600_000;

fn lease(text: &str) -> Result<Duration, String> {
    let lease: Duration = text.parse().map_err(|error| format!("{error}"))?;
    if LEASE_MS.contains(&lease.0) { Ok(lease) } else { Err("must be from 2s to 1h".to_owned()) }
}

fn log_limit(text: &str) -> Result<Bytes, String> {
    let limit: Bytes = text.parse().map_err(|error| format!("{error}"))?;
    if limit.0 < LOG_LIMIT_BYTES_MIN {
        return Err("must be at least 4MiB, the longest log of one attempt".to_owned());
    }
    Ok(limit)
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
    let limit = LogLimit::Bytes(args.log_limit.0);
    let mut embedded = Embedded::serve(&data_dir, doors, limit, args.lease.0, token).await?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_neither_shorter_than_two_heartbeats_nor_for_ever() {
        for (text, expected) in
            [("2s", Some(2_000)), ("1h", Some(3_600_000)), ("1s", None), ("61m", None), ("5", None)]
        {
            assert_eq!(lease(text).ok().map(|lease| lease.0), expected, "{text}");
        }
    }
}
