//! The gRPC messages and stubs of `wire/brine.proto`. Each process turns them into domain types at
//! its edge; nothing inside sees them.
#![expect(missing_docs, reason = "generated; the .proto file carries the words")]
#![expect(clippy::allow_attributes, clippy::too_many_lines, reason = "generated")]

tonic::include_proto!("brine.v1");

use crate::ids::{Attempt, AttemptKey, IdError, TrialId};
use crate::spec::Devices;

/// Largest gRPC message in bytes, both ways. A full assignment of 1,000 leases fits.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Largest piece of a blob in one message.
pub const BLOB_CHUNK_BYTES: usize = 256 << 10;
/// Most metric points in one batch.
pub const METRIC_BATCH_MAX: usize = 4_096;
/// Largest piece of a log in one message.
pub const LOG_CHUNK_BYTES: usize = 64 << 10;

impl AttemptRef {
    /// Names one attempt.
    pub fn new(key: &AttemptKey) -> Self {
        Self { trial: key.trial.to_string(), attempt: key.attempt.0, rank: key.rank }
    }

    /// The attempt it names.
    ///
    /// # Errors
    /// The trial's id is malformed.
    pub fn parse(&self) -> Result<AttemptKey, IdError> {
        key(&self.trial, self.attempt, self.rank)
    }
}

/// The attempt that the fields of a message name.
///
/// # Errors
/// The trial's id is malformed.
pub fn key(trial: &str, attempt: u32, rank: u32) -> Result<AttemptKey, IdError> {
    Ok(AttemptKey { trial: TrialId::new(trial)?, attempt: Attempt(attempt), rank })
}

impl AgentView {
    /// How many of its GPUs are not withdrawn.
    pub fn gpus_offered(&self) -> usize {
        self.gpus.len().saturating_sub(self.withdrawn.len())
    }
}

impl Lease {
    /// The devices it names.
    pub fn devices(&self) -> Devices {
        Devices {
            cpus: self.cpus.clone(),
            gpus: self.gpus.clone(),
            gpu_share_milli: self.gpu_share_milli,
        }
    }
}

impl From<crate::MetricPoint> for MetricPoint {
    fn from(point: crate::MetricPoint) -> Self {
        Self {
            trial: point.trial.into(),
            attempt: point.attempt.0,
            rank: point.rank,
            metric: point.metric,
            step: point.step,
            value: point.value,
        }
    }
}

impl TryFrom<MetricPoint> for crate::MetricPoint {
    type Error = IdError;
    fn try_from(point: MetricPoint) -> Result<Self, IdError> {
        Ok(Self {
            trial: TrialId::new(point.trial)?,
            attempt: Attempt(point.attempt),
            rank: point.rank,
            metric: point.metric,
            step: point.step,
            value: point.value,
        })
    }
}
