//! Event files as TensorBoard reads them: records with checksums around encoded messages.
//!
//! A record is `length (u64) | masked crc32c of the length | content | masked crc32c of it`, all
//! little-endian. The content is an [`Event`]; the first of a file names the format.

use super::file::{WholeFile, failed};
use crate::error::CliError;
use crate::snapshot::TrialState;
use prost::Message as _;
use proto::wire::MetricPoint;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// The only format that TensorBoard writes since its beginning.
const FILE_VERSION: &str = "brain.Event:2";
/// Added to a turned checksum, so that a checksum of checksums is not degenerate.
const MASK_DELTA: u32 = 0xa282_ead8;
/// Castagnoli's polynomial, reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// Characters of a trial's parameters in the name of its folder; the id stands before them.
const LABEL_CHARS_MAX: usize = 80;

/// `tensorflow.Event`, as much of it as is written here.
#[derive(Clone, PartialEq, prost::Message)]
struct Event {
    /// Seconds since the epoch.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

/// `tensorflow.Summary`.
#[derive(Clone, PartialEq, prost::Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

/// `tensorflow.Summary.Value`.
#[derive(Clone, PartialEq, prost::Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    /// Present also when it is 0.
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// The folder that `tensorboard --logdir` is given.
pub(super) struct Folder {
    path: PathBuf,
    submitted_ms: u64,
}

impl Folder {
    /// A folder that exists. Brine keeps no time of a single point: all have that of the
    /// experiment's submission, in milliseconds since the epoch.
    pub(super) fn new(path: &Path, submitted_ms: u64) -> Self {
        Self { path: path.to_owned(), submitted_ms }
    }

    /// Begins the event file of a trial, in a folder named after its id and parameters; those of a
    /// gang's members are in folders in it, named after the rank.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub(super) fn begin(&self, trial: &TrialState, rank: u32) -> Result<EventFile, CliError> {
        let mut folder = self.path.join(folder_name(trial));
        if trial.spec.placement.members > 1 {
            folder.push(format!("rank-{rank}"));
        }
        std::fs::create_dir_all(&folder).map_err(|error| {
            CliError::file(format!("create the folder {}", folder.display()), error)
        })?;
        // The same name each time, so that a second export replaces the first.
        let name = format!("events.out.tfevents.{}.brine", self.submitted_ms / 1_000);
        let mut series = EventFile {
            file: WholeFile::create(&folder.join(name))?,
            wall_time: self.submitted_ms as f64 / 1e3,
        };
        series.write(&Event {
            wall_time: series.wall_time,
            file_version: Some(FILE_VERSION.to_owned()),
            ..Event::default()
        })?;
        Ok(series)
    }
}

/// One trial's event file under construction.
pub(super) struct EventFile {
    file: WholeFile,
    wall_time: f64,
}

impl EventFile {
    /// Adds a point. TensorBoard's values have 24 significant bits.
    ///
    /// # Errors
    /// The disk is full or failed.
    pub(super) fn point(&mut self, point: &MetricPoint) -> Result<(), CliError> {
        let value = Value { tag: point.metric.clone(), simple_value: Some(point.value as f32) };
        self.write(&Event {
            wall_time: self.wall_time,
            step: i64::try_from(point.step).unwrap_or(i64::MAX),
            summary: Some(Summary { value: vec![value] }),
            file_version: None,
        })
    }

    fn write(&mut self, event: &Event) -> Result<(), CliError> {
        let content = event.encode_to_vec();
        let length = (content.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(content.len() + 16);
        record.extend_from_slice(&length);
        record.extend_from_slice(&masked_crc32c(&length).to_le_bytes());
        record.extend_from_slice(&content);
        record.extend_from_slice(&masked_crc32c(&content).to_le_bytes());
        let written = self.file.write_all(&record);
        written.map_err(|error| failed(self.file.path(), error))
    }

    /// Puts the file in its place; the answer is its path.
    ///
    /// # Errors
    /// The disk is full or failed.
    pub(super) fn finish(self) -> Result<PathBuf, CliError> {
        self.file.finish()
    }
}

/// `3fa2c1d0e4b5a697_lr=0.1_width=64`: the id, then what is readable of the parameters.
fn folder_name(trial: &TrialState) -> String {
    let label = trial.parameters();
    let safe = |c: char| if c.is_ascii_alphanumeric() || "=.-+".contains(c) { c } else { '_' };
    let label: String = label.chars().take(LABEL_CHARS_MAX).map(safe).collect();
    if label.is_empty() { trial.id.to_string() } else { format!("{}_{label}", trial.id) }
}

fn masked_crc32c(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(MASK_DELTA)
}

fn crc32c(bytes: &[u8]) -> u32 {
    let step =
        |crc: u32, byte: &u8| CRC_TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ (crc >> 8);
    !bytes.iter().fold(!0, step)
}

/// The checksum of every byte.
const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
#[path = "tensorboard_tests.rs"]
mod tests;
