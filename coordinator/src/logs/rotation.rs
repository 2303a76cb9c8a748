//! Keeps the logs below their limit. The only part that asks the core about them.

use super::choice::{Candidate, Standing, choose};
use super::{Logs, Stored};
use crate::CoordinatorError;
use crate::core::Core;
use crate::rpc::Service;
use proto::AttemptKey;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// Logs whose attempts are looked up between two turns of the core: about a millisecond.
const PAGE_LOGS: usize = 1_000;
/// Until the next look when nothing more could be removed, or the disk failed.
const PAUSE: Duration = Duration::from_secs(10);

/// Why a look broke off.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("the folder of logs: {0}")]
    Disk(#[from] io::Error),
    #[error("a look at the logs panicked: {0}")]
    Panicked(#[from] JoinError),
    /// The coordinator stops.
    #[error("{0}")]
    Stopped(#[from] Status),
}

/// Looks at the logs once, and again whenever they have grown beyond the limit, until the
/// coordinator stops. The first look is what the sum begins with; serving does not wait for it.
pub(crate) async fn keep_below(service: Service) -> Result<(), CoordinatorError> {
    let logs = &service.logs;
    let mut warned = false;
    loop {
        let looked = look(&service).await;
        if service.stopping.is_cancelled() {
            return Ok(());
        }
        let (bytes, limit) = (logs.bytes(), logs.limit());
        let is_above = bytes > limit;
        let failed = looked.is_err();
        if let Err(error) = looked {
            tracing::warn!(%error, "the coordinator's logs could not be kept below their limit");
        } else if is_above && !warned {
            tracing::warn!(
                bytes,
                limit,
                "the logs of running attempts alone are larger than --log-limit; they stay"
            );
        }
        warned = is_above && (warned || !failed);
        let pauses = is_above || failed;
        let grown = async {
            if pauses {
                tokio::time::sleep(PAUSE).await;
            }
            // A look that failed is made up for.
            while !failed && logs.bytes() <= logs.limit() {
                logs.0.exceeded.notified().await;
            }
        };
        tokio::select! {
            () = grown => {}
            () = service.stopping.cancelled() => return Ok(()),
        }
    }
}

async fn look(service: &Service) -> Result<(), Trouble> {
    let (logs, stop) = (service.logs.clone(), service.stopping.clone());
    let Some(stored) = tokio::task::spawn_blocking(move || logs.scan(&stop)).await?? else {
        return Ok(());
    };
    if service.logs.bytes() <= service.logs.limit() {
        return Ok(());
    }
    let candidates = candidates(service, &stored).await?;
    let chosen = choose(&candidates, service.logs.limit());
    let keys: Vec<AttemptKey> = chosen.iter().map(|index| stored[*index].key.clone()).collect();
    if keys.is_empty() {
        return Ok(());
    }
    let (logs, stop) = (service.logs.clone(), service.stopping.clone());
    let removed = tokio::task::spawn_blocking(move || remove(&logs, &keys, &stop)).await??;
    let (bytes, limit) = (service.logs.bytes(), service.logs.limit());
    tracing::info!(removed, bytes, limit, "the oldest logs were removed to stay below the limit");
    Ok(())
}

/// How many were removed.
fn remove(logs: &Logs, keys: &[AttemptKey], stop: &CancellationToken) -> io::Result<usize> {
    let mut removed = 0;
    for key in keys {
        if stop.is_cancelled() {
            break;
        }
        logs.remove(key)?;
        removed += 1;
    }
    Ok(removed)
}

async fn candidates(service: &Service, stored: &[Stored]) -> Result<Vec<Candidate>, Status> {
    let mut candidates = Vec::with_capacity(stored.len());
    for page in stored.chunks(PAGE_LOGS) {
        let keys: Arc<[AttemptKey]> = page.iter().map(|log| log.key.clone()).collect();
        let ask = move |core: &Core, _| keys.iter().map(|key| standing(core, key)).collect();
        let standings: Vec<Standing> = service.ask(ask).await?;
        candidates.extend(page.iter().zip(standings).map(|(log, standing)| Candidate {
            standing,
            changed_ms: log.changed_ms,
            bytes: log.bytes,
        }));
    }
    Ok(candidates)
}

/// Asked once: an attempt that is over never runs again.
fn standing(core: &Core, key: &AttemptKey) -> Standing {
    let Some(trial) = core.trial(&key.trial) else {
        return Standing::Ended;
    };
    match trial.lease() {
        Some(lease) if lease.attempt == key.attempt => Standing::Running,
        Some(_) => Standing::Past,
        None if trial.outcome().is_some() => Standing::Ended,
        None => Standing::Past,
    }
}
