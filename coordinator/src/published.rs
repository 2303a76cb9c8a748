//! Records as watchers get them: encoded once per turn, shared by all.

use crate::core::Core;
use bytes::Bytes;
use proto::{ExperimentId, Record};
use std::collections::BTreeMap;

/// The records of one turn, one line of JSON each.
pub(crate) struct Published {
    /// Sequence number of the first record.
    pub(crate) first: u64,
    /// Of the last one.
    pub(crate) last: u64,
    all: Bytes,
    by_experiment: BTreeMap<ExperimentId, Bytes>,
}

impl Published {
    /// Encodes records, which are not empty and follow each other.
    pub(crate) fn new(core: &Core, records: &[Record]) -> Self {
        let mut all = Vec::new();
        let mut by_experiment: BTreeMap<ExperimentId, Vec<u8>> = BTreeMap::new();
        for record in records {
            let start = all.len();
            // The journal wrote the same records before, so this does not fail.
            if serde_json::to_writer(&mut all, record).is_err() {
                all.truncate(start);
                continue;
            }
            all.push(b'\n');
            for experiment in core.concerned(&record.event) {
                by_experiment.entry(experiment.clone()).or_default().extend(&all[start..]);
            }
        }
        let shared = |(id, lines): (ExperimentId, Vec<u8>)| (id, Bytes::from(lines));
        Self {
            first: records.first().map_or(0, |record| record.sequence),
            last: records.last().map_or(0, |record| record.sequence),
            by_experiment: by_experiment.into_iter().map(shared).collect(),
            all: all.into(),
        }
    }

    /// What concerns `experiment`, or everything; `None` when nothing does.
    pub(crate) fn lines(&self, experiment: Option<&ExperimentId>) -> Option<Bytes> {
        match experiment {
            None => Some(self.all.clone()),
            Some(wanted) => self.by_experiment.get(wanted).cloned(),
        }
    }
}
