//! What the processes of an agent occupy.

use proto::{Attempt, AttemptKey, Devices, TrialId};
use std::collections::{BTreeMap, BTreeSet};

/// What processes hold.
#[derive(Default)]
pub(crate) struct Busy {
    trials: BTreeMap<TrialId, Attempt>,
    cpus: BTreeSet<u32>,
    /// Thousandths in use, by GPU.
    gpus: BTreeMap<u32, u32>,
}

impl Busy {
    pub(crate) fn take(&mut self, key: &AttemptKey, devices: &Devices) {
        self.trials.insert(key.trial.clone(), key.attempt);
        self.cpus.extend(&devices.cpus);
        for gpu in &devices.gpus {
            *self.gpus.entry(*gpu).or_default() += devices.gpu_milli();
        }
    }

    /// Members of one attempt may run beside each other; two attempts of a trial never.
    pub(crate) fn is_free(&self, key: &AttemptKey, devices: &Devices) -> bool {
        let has_room = |gpu: &u32| {
            self.gpus.get(gpu).copied().unwrap_or(0) + devices.gpu_milli() <= Devices::WHOLE_MILLI
        };
        self.trials.get(&key.trial).is_none_or(|attempt| *attempt == key.attempt)
            && !devices.cpus.iter().any(|cpu| self.cpus.contains(cpu))
            && devices.gpus.iter().all(has_room)
    }
}
