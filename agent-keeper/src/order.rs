//! What an agent and a trial's process say to each other: JSON lines, [`Order`] then [`Control`]
//! one way, [`TrialRecord`] the other.

use agent_core::{Gang, Moment, TrialEnd};
use proto::{AgentId, AttemptKey, Checkpoint, Devices, TrialSpec};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Longest line either way. A specification or a checkpoint's file list is far shorter; a longer
/// line means that somebody else writes into the stream.
pub const LINE_BYTES_MAX: usize = 8 << 20;

/// The first line that a trial's process reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Which attempt to run.
    pub key: AttemptKey,
    /// Who runs it.
    pub agent: AgentId,
    /// What to do.
    pub spec: TrialSpec,
    /// Where.
    pub devices: Devices,
    /// Which part of a gang it is, if it is one.
    pub gang: Option<Gang>,
    /// Mean time to a failure of the infrastructure that ends the attempt; 0 when nobody knows.
    pub mtbf_ms: u64,
    /// The process ends itself at this moment unless a [`Control::Lease`] moved it.
    pub lease_until: Moment,
    /// Where files lie.
    pub folders: Folders,
    /// States from which the trial may go on, the one with the most steps first.
    pub resume: Vec<Checkpoint>,
    /// Whether a program's folders are there already, with its files.
    pub is_prepared: bool,
}

/// The folders of one attempt. Those of a training exist before its process starts; those of a
/// program are made by [`work::prepare`](crate::work::prepare), which adds a number to the name of
/// the attempt's own when an earlier start of it left one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Folders {
    /// Files known by their content, by hash.
    pub blobs: PathBuf,
    /// The attempt's own folder: log, working folder, output.
    pub attempt: PathBuf,
    /// Where Brine's trainer puts this attempt's checkpoints.
    pub checkpoints: PathBuf,
    /// Where a program keeps what it needs to go on; the same for all attempts of the trial.
    pub program_checkpoints: PathBuf,
}

impl Folders {
    /// The attempt's log.
    pub fn log(&self) -> PathBuf {
        self.attempt.join(LOG_NAME)
    }
}

/// Name of the log in an attempt's folder.
pub const LOG_NAME: &str = "log.txt";

/// What the agent says after the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Control {
    /// The lease holds until this moment.
    Lease(Moment),
    /// Save a checkpoint and end.
    Stop,
}

/// What a trial's process says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TrialRecord {
    /// The order was read and the work begins.
    Started,
    /// A number.
    Metric(Metric),
    /// A complete state is on disk.
    Checkpoint(Checkpoint),
    /// The last record. A process that ends without it has failed.
    Ended(TrialEnd),
}

/// A number at a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// Name, for example `loss`.
    pub metric: String,
    /// Step, from 0.
    pub step: u64,
    /// Value; a NaN or an infinity travels as a text.
    #[serde(with = "proto::number")]
    pub value: f64,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proto::{Attempt, Placement, Resources, Retries, Runner, TrialId};
    use std::collections::BTreeMap;

    /// An order of a trial that needs nothing.
    pub(crate) fn order() -> Order {
        let trial = TrialId::new("0123456789abcdef").unwrap();
        let folder = PathBuf::from("/nowhere");
        Order {
            key: AttemptKey { trial, attempt: Attempt(1), rank: 0 },
            agent: AgentId::new("a").unwrap(),
            spec: TrialSpec {
                runner: Runner::Noop,
                parameters: BTreeMap::new(),
                seed: 7,
                resources: Resources::default(),
                retries: Retries::default(),
                time_limit_ms: None,
                checkpoint_every_ms: Some(1_000),
                placement: Placement::default(),
                hang: None,
            },
            devices: Devices::default(),
            gang: None,
            mtbf_ms: 0,
            lease_until: Moment(0),
            folders: Folders {
                blobs: folder.clone(),
                attempt: folder.clone(),
                checkpoints: folder.clone(),
                program_checkpoints: folder,
            },
            resume: Vec::new(),
            is_prepared: false,
        }
    }

    #[test]
    fn an_order_survives_json() {
        let text = serde_json::to_string(&order()).unwrap();
        assert_eq!(serde_json::from_str::<Order>(&text).unwrap(), order());
    }
}
