//! What the GPUs do for the attempts that hold them, as metrics of those attempts.

use crate::nvml;
use agent_keeper::environment;
use agent_keeper::order::Metric;
use proto::{Attempt, AttemptKey, Devices, TrialId};
use std::collections::BTreeMap;
use tokio::sync::mpsc;

/// What waits for the driver: a look every few seconds and rare errors.
const SEEN_MAX: usize = 64;
/// Longest environment of a process that is read; Linux allows more, programs do not use it.
const ENVIRONMENT_BYTES_MAX: u64 = 1 << 20;

/// What a GPU's driver told.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Seen {
    /// What each GPU does.
    Used(Vec<GpuUse>),
    /// A GPU reported an error, by NVIDIA's number.
    Xid {
        /// Which GPU.
        gpu: u32,
        /// Number of the error.
        number: u64,
    },
}

/// What one GPU does.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GpuUse {
    /// NVML's number.
    pub(crate) index: u32,
    /// Memory in use, by whomever.
    pub(crate) memory_bytes: u64,
    /// Share of the time in which a kernel ran; `None` where the driver does not tell.
    pub(crate) utilisation: Option<f64>,
    /// What attempts' processes do on it.
    pub(crate) processes: Vec<ProcessUse>,
}

/// What one process of an attempt does on a GPU.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ProcessUse {
    /// Whose it is.
    pub(crate) owner: AttemptKey,
    /// Its memory there.
    pub(crate) memory_bytes: u64,
    /// Share of the time in which it computed; `None` where the driver does not tell.
    pub(crate) utilisation: Option<f64>,
}

/// Watches these GPUs in threads of its own, which end when nobody listens. Without GPUs nothing
/// ever comes.
pub(crate) fn watch(gpus: Vec<u32>) -> mpsc::Receiver<Seen> {
    let (told, seen) = mpsc::channel(SEEN_MAX);
    if !gpus.is_empty() {
        for watch in [nvml::watch_use, nvml::watch_errors] {
            let (gpus, told) = (gpus.clone(), told.clone());
            std::thread::spawn(move || {
                if let Err(error) = watch(&gpus, &told) {
                    tracing::warn!(%error, "GPUs are not watched");
                }
            });
        }
    }
    seen
}

/// The attempts that hold GPUs.
#[derive(Debug, Default)]
pub(crate) struct Holders(BTreeMap<AttemptKey, Holder>);

#[derive(Debug)]
struct Holder {
    devices: Devices,
    /// The newest step that it reported, beside which its figures stand.
    step: u64,
}

impl Holders {
    /// An attempt's process is about to begin.
    pub(crate) fn begin(&mut self, key: &AttemptKey, devices: &Devices) {
        if !devices.gpus.is_empty() {
            self.0.insert(key.clone(), Holder { devices: devices.clone(), step: 0 });
        }
    }

    /// It reported a step.
    pub(crate) fn step(&mut self, key: &AttemptKey, step: u64) {
        if let Some(holder) = self.0.get_mut(key) {
            holder.step = holder.step.max(step);
        }
    }

    /// Its process is gone.
    pub(crate) fn end(&mut self, key: &AttemptKey) {
        self.0.remove(key);
    }

    /// Memory and utilisation of every attempt: of its GPUs where it has them alone, of its own
    /// processes where it shares one. What the driver does not tell is left out.
    pub(crate) fn metrics(&self, uses: &[GpuUse]) -> Vec<(AttemptKey, Metric)> {
        let of_one = |(key, holder): (&AttemptKey, &Holder)| {
            let held: Vec<&GpuUse> =
                uses.iter().filter(|gpu| holder.devices.gpus.contains(&gpu.index)).collect();
            if held.len() < holder.devices.gpus.len() {
                return Vec::new();
            }
            let (memory, utilisation) = match holder.devices.gpu_share_milli {
                0 => whole(&held),
                _ => own(key, &held),
            };
            let values = [("gpu_memory_bytes", memory), ("gpu_utilisation", utilisation)];
            let metric = |(name, value): (&str, Option<f64>)| {
                let (metric, step) = (name.to_owned(), holder.step);
                value.map(|value| (key.clone(), Metric { metric, step, value }))
            };
            values.into_iter().filter_map(metric).collect::<Vec<_>>()
        };
        self.0.iter().flat_map(of_one).collect()
    }
}

/// Memory of all GPUs together, and their mean utilisation.
fn whole(held: &[&GpuUse]) -> (Option<f64>, Option<f64>) {
    let memory: u64 = held.iter().map(|gpu| gpu.memory_bytes).sum();
    let busy: Option<f64> = held.iter().map(|gpu| gpu.utilisation).sum();
    (Some(memory as f64), busy.map(|busy| busy / held.len() as f64))
}

/// Memory and utilisation of the attempt's own processes.
fn own(key: &AttemptKey, held: &[&GpuUse]) -> (Option<f64>, Option<f64>) {
    let all = held.iter().flat_map(|gpu| &gpu.processes);
    let processes: Vec<&ProcessUse> = all.filter(|process| process.owner == *key).collect();
    if processes.is_empty() {
        return (None, None);
    }
    let memory: u64 = processes.iter().map(|process| process.memory_bytes).sum();
    let busy: Option<f64> = processes.iter().map(|process| process.utilisation).sum();
    (Some(memory as f64), busy)
}

/// The attempt that a process belongs to, by the environment that it was started with.
pub(crate) fn owner_of(pid: u32) -> Option<AttemptKey> {
    use std::io::Read as _;
    let file = std::fs::File::open(format!("/proc/{pid}/environ")).ok()?;
    let mut environment = Vec::new();
    file.take(ENVIRONMENT_BYTES_MAX).read_to_end(&mut environment).ok()?;
    owner(&environment)
}

fn owner(variables: &[u8]) -> Option<AttemptKey> {
    let value = |name: &str| {
        let mut found = variables
            .split(|byte| *byte == 0)
            .filter_map(|variable| variable.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
        std::str::from_utf8(found.next()?).ok()
    };
    let trial = TrialId::new(value(environment::TRIAL)?).ok()?;
    let attempt = Attempt(value(environment::ATTEMPT)?.parse().ok()?);
    let rank = value(environment::RANK)?.parse().ok()?;
    Some(AttemptKey { trial, attempt, rank })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(rank: u32) -> AttemptKey {
        let trial = TrialId::new("0123456789abcdef").unwrap();
        AttemptKey { trial, attempt: Attempt(2), rank }
    }

    fn gpu(index: u32, memory_bytes: u64, utilisation: f64) -> GpuUse {
        GpuUse { index, memory_bytes, utilisation: Some(utilisation), processes: Vec::new() }
    }

    fn found(holders: &Holders, uses: &[GpuUse]) -> Vec<(u32, String, u64, f64)> {
        let metrics = holders.metrics(uses).into_iter();
        metrics.map(|(key, m)| (key.rank, m.metric, m.step, m.value)).collect()
    }

    #[test]
    fn whole_gpus_are_summed_and_a_missing_one_makes_no_figure() {
        let mut holders = Holders::default();
        holders.begin(&key(0), &Devices { gpus: vec![0, 2], ..Devices::default() });
        holders.begin(&key(1), &Devices::default());
        holders.step(&key(0), 7);
        holders.step(&key(0), 5);
        let uses = [gpu(0, 10, 0.5), gpu(1, 99, 0.1), gpu(2, 5, 1.0)];
        let memory = (0, "gpu_memory_bytes".to_owned(), 7, 15.0);
        let utilisation = (0, "gpu_utilisation".to_owned(), 7, 0.75);
        assert_eq!(found(&holders, &uses), [memory.clone(), utilisation]);
        let silent = GpuUse { utilisation: None, ..gpu(2, 5, 0.0) };
        assert_eq!(found(&holders, &[gpu(0, 10, 0.5), silent]), [memory]);
        assert_eq!(found(&holders, &uses[..2]), []);
        holders.end(&key(0));
        assert_eq!(found(&holders, &uses), []);
    }

    #[test]
    fn on_a_shared_gpu_an_attempt_has_its_own_processes() {
        let mut holders = Holders::default();
        for rank in 0..3 {
            let devices = Devices { gpus: vec![0], gpu_share_milli: 250, ..Devices::default() };
            holders.begin(&key(rank), &devices);
        }
        let process = |rank, memory_bytes, utilisation| ProcessUse {
            owner: key(rank),
            memory_bytes,
            utilisation,
        };
        let processes = vec![
            process(0, 3, Some(0.25)),
            process(0, 4, Some(0.5)),
            process(1, 6, None),
            process(9, 1, Some(1.0)),
        ];
        let uses = [GpuUse { processes, ..gpu(0, 50, 1.0) }];
        let expected = [
            (0, "gpu_memory_bytes".to_owned(), 0, 7.0),
            (0, "gpu_utilisation".to_owned(), 0, 0.75),
            (1, "gpu_memory_bytes".to_owned(), 0, 6.0),
        ];
        assert_eq!(found(&holders, &uses), expected);
    }

    #[test]
    fn a_process_is_known_by_its_environment() {
        let trial = "BRINE_TRIAL=0123456789abcdef";
        for (variables, expected) in [
            (format!("A=1\0{trial}\0BRINE_ATTEMPT=2\0BRINE_RANK=1\0"), Some(key(1))),
            (format!("X{trial}\0BRINE_ATTEMPT=2\0BRINE_RANK=0\0"), None),
            (format!("{trial}\0BRINE_ATTEMPT=two\0BRINE_RANK=0\0"), None),
            (format!("{trial}\0BRINE_ATTEMPT=2\0"), None),
            ("BRINE_TRIAL=../x\0BRINE_ATTEMPT=2\0BRINE_RANK=0\0".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(owner(variables.as_bytes()), expected, "{variables:?}");
        }
        assert_eq!(owner(b"BRINE_TRIAL=\xff\0"), None);
        assert_eq!(owner_of(std::process::id()), None);
    }

    #[test]
    fn without_gpus_nothing_is_watched() {
        assert_eq!(watch(Vec::new()).blocking_recv(), None);
    }
}
