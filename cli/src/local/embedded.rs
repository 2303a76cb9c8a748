//! A coordinator inside this process.

use crate::client::Client;
use crate::data_dir::{DataDir, Published};
use crate::error::CliError;
use coordinator::{LOG_LIMIT_BYTES, Options, Serving};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Time without a report after which an agent's leases end, where nobody says another.
pub(crate) const LEASE_TTL_MS: u64 = 5_000;
/// Time between two reports of an agent.
pub(crate) const HEARTBEAT_MS: u64 = 1_000;

/// Where a coordinator listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Doors {
    /// For agents and clients.
    pub(crate) listen: SocketAddr,
    /// For monitoring, if at all.
    pub(crate) metrics: Option<SocketAddr>,
}

/// Whether old logs are removed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LogLimit {
    /// When all together are larger than so many bytes.
    Bytes(u64),
    /// Never: who only reads a folder does not know what its coordinator was told.
    Untouched,
}

impl LogLimit {
    /// What a coordinator does that was told nothing.
    pub(crate) const USUAL: Self = Self::Bytes(LOG_LIMIT_BYTES);
}

/// A coordinator that serves a data folder from inside this process.
pub(crate) struct Embedded {
    serving: Serving,
    url: String,
    token: String,
    /// Kept so that other commands find the coordinator as long as it serves.
    _published: Option<Published>,
}

impl Embedded {
    /// Serves `data_dir` at `listen` and lets other commands find it.
    ///
    /// # Errors
    /// The folder is locked, damaged or of a newer version, or the address is taken.
    pub(crate) async fn serve(
        data_dir: &DataDir,
        doors: Doors,
        log_limit: LogLimit,
        lease_ttl_ms: u64,
        token: Option<String>,
    ) -> Result<Self, CliError> {
        data_dir.create()?;
        let token = match token {
            Some(token) => token,
            None => data_dir.token_or_new()?,
        };
        let mut embedded = Self::start(data_dir, doors, log_limit, lease_ttl_ms, token).await?;
        embedded._published = Some(data_dir.publish_address(&embedded.url)?);
        Ok(embedded)
    }

    /// Opens what is stored in `data_dir` for this process alone.
    ///
    /// # Errors
    /// As [`serve`](Self::serve).
    pub(crate) async fn open_stored(data_dir: &DataDir) -> Result<Self, CliError> {
        let loopback = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        let doors = Doors { listen: loopback, metrics: None };
        let token = data_dir.token_or_new()?;
        Self::start(data_dir, doors, LogLimit::Untouched, LEASE_TTL_MS, token).await
    }

    async fn start(
        data_dir: &DataDir,
        doors: Doors,
        log_limit: LogLimit,
        lease_ttl_ms: u64,
        token: String,
    ) -> Result<Self, CliError> {
        let options = Options {
            data_dir: data_dir.path().to_owned(),
            listen: doors.listen,
            token: token.clone(),
            lease_ttl_ms,
            heartbeat_ms: HEARTBEAT_MS,
            metrics_listen: doors.metrics,
            log_limit_bytes: match log_limit {
                LogLimit::Bytes(bytes) => bytes,
                LogLimit::Untouched => u64::MAX,
            },
        };
        let serving = coordinator::start(options)
            .await
            .map_err(|error| CliError::user("cannot start the coordinator").because(error))?;
        let url = url(serving.address());
        Ok(Self { serving, url, token, _published: None })
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Where monitoring finds its `/metrics`, if anywhere.
    pub(crate) fn metrics_url(&self) -> Option<String> {
        self.serving.metrics_address().map(|address| format!("{}/metrics", url(address)))
    }

    /// When the newest record was written that was there at the start, in milliseconds since the
    /// epoch.
    pub(crate) fn changed_ms(&self) -> Option<u64> {
        self.serving.changed_at().map(|at| at.0)
    }

    /// A client of it.
    ///
    /// # Errors
    /// It does not answer.
    pub(crate) async fn connect(&self) -> Result<Client, CliError> {
        Client::connect(&self.url, &self.token).await
    }

    /// Waits until it stops by itself, which it does only when it cannot go on.
    pub(crate) async fn failed(&mut self) -> CliError {
        let error = self.serving.failed().await;
        CliError::user("the coordinator stopped")
            .because(error)
            .hint("what it had acknowledged is stored; the same command goes on from there")
    }

    /// Ends it; everything that was acknowledged is stored.
    ///
    /// # Errors
    /// The last write failed.
    pub(crate) async fn shutdown(self) -> Result<(), CliError> {
        let ended = self.serving.shutdown().await;
        ended.map_err(|error| CliError::user("the coordinator did not end well").because(error))
    }
}

/// The URL under which this machine reaches `address`.
fn url(address: SocketAddr) -> String {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
    };
    format!("http://{}", SocketAddr::new(ip, address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_all_interfaces_is_reached_by_loopback() {
        for (address, expected) in [
            ("127.0.0.1:7600", "http://127.0.0.1:7600"),
            ("0.0.0.0:7600", "http://127.0.0.1:7600"),
            ("[::]:7600", "http://[::1]:7600"),
            ("10.0.0.5:1", "http://10.0.0.5:1"),
        ] {
            assert_eq!(url(address.parse().unwrap()), expected);
        }
    }
}
