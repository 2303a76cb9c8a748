//! NVIDIA's driver as NVML shows it. The only file that knows NVML; without a driver there is
//! nothing to see, which is no error.

use crate::gpus::{GpuUse, ProcessUse, Seen, owner_of};
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::enums::event::XidError;
pub(crate) use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, EventSet, Nvml};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::mpsc;

/// More GPUs than any machine has.
const GPUS_MAX: u32 = 4_096;
/// Time between two looks at memory and utilisation.
const SAMPLE_PERIOD: Duration = Duration::from_secs(5);
/// Time in which every GPU has its turn to tell its errors.
const ROUND_MS: u32 = 100;
/// Errors of one GPU in one turn; a broken one that never ends may not silence the others.
const ERRORS_AT_ONCE: usize = 64;
/// The error of a GPU that has fallen off the bus.
const XID_LOST: u64 = 79;

/// One GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gpu {
    /// NVML's number, which is the order on the PCI bus.
    pub(crate) index: u32,
    /// Its product name.
    pub(crate) name: String,
    /// Its memory in bytes.
    pub(crate) memory_bytes: u64,
    /// Its compute capability, such as `9.0`.
    pub(crate) capability: String,
}

fn open() -> Result<Option<Nvml>, NvmlError> {
    match Nvml::init() {
        Ok(nvml) => Ok(Some(nvml)),
        Err(NvmlError::LibloadingError(_) | NvmlError::DriverNotLoaded) => Ok(None),
        Err(error) => Err(error),
    }
}

/// All GPUs of the machine; none when there is no driver.
///
/// # Errors
/// There is a driver, and it fails.
pub(crate) fn gpus() -> Result<Vec<Gpu>, NvmlError> {
    let Some(nvml) = open()? else { return Ok(Vec::new()) };
    let count = nvml.device_count()?.min(GPUS_MAX);
    let gpus = (0..count).map(|index| {
        let device = nvml.device_by_index(index)?;
        let memory_bytes = device.memory_info()?.total;
        // For people only, so an agent does without.
        let capability = match device.cuda_compute_capability() {
            Ok(capability) => format!("{}.{}", capability.major, capability.minor),
            Err(error) => format!("unknown ({error})"),
        };
        Ok(Gpu { index, name: device.name()?, memory_bytes, capability })
    });
    gpus.collect()
}

/// The product name of the GPU with this number; `None` without a driver, and for a card that is
/// cut into slices (MIG).
///
/// # Errors
/// There is a driver, and it fails or knows no such GPU.
pub(crate) fn name(index: u32) -> Result<Option<String>, NvmlError> {
    let Some(nvml) = open()? else { return Ok(None) };
    let device = nvml.device_by_index(index)?;
    // The name is the whole card's, also where a trial has a slice of it.
    let is_sliced = device.mig_mode().is_ok_and(|mode| mode.current != 0);
    if is_sliced { Ok(None) } else { device.name().map(Some) }
}

/// The driver's version and the newest CUDA version that it serves; `None` without a driver.
///
/// # Errors
/// There is a driver, and it fails.
pub(crate) fn versions() -> Result<Option<(String, String)>, NvmlError> {
    let Some(nvml) = open()? else { return Ok(None) };
    let cuda = nvml.sys_cuda_driver_version()?;
    let cuda = format!("{}.{}", cuda / 1_000, cuda % 1_000 / 10);
    Ok(Some((nvml.sys_driver_version()?, cuda)))
}

/// Tells what these GPUs do until nobody listens. Blocks, so it has a thread of its own.
///
/// # Errors
/// The driver does not answer at the start. What it cannot tell later is left out.
pub(crate) fn watch_use(indices: &[u32], told: &mpsc::Sender<Seen>) -> Result<(), NvmlError> {
    let Some(nvml) = open()? else { return Ok(()) };
    let mut sampled_us = BTreeMap::new();
    loop {
        // What the others do is still worth knowing when one does not answer.
        let mut use_of = |&index: &u32| {
            let sampled = sample(&nvml, index, &mut sampled_us);
            sampled.inspect_err(|error| tracing::debug!(%error, gpu = index, "not sampled")).ok()
        };
        let uses = indices.iter().filter_map(&mut use_of);
        if told.blocking_send(Seen::Used(uses.collect())).is_err() {
            return Ok(());
        }
        std::thread::sleep(SAMPLE_PERIOD);
    }
}

/// Tells the errors of these GPUs until nobody listens or none of them tells any more. Blocks, so
/// it has a thread of its own: a broken GPU may keep a question about its use waiting.
///
/// # Errors
/// The driver does not answer at the start. What it cannot tell later is left out.
pub(crate) fn watch_errors(indices: &[u32], told: &mpsc::Sender<Seen>) -> Result<(), NvmlError> {
    let Some(nvml) = open()? else { return Ok(()) };
    let mut sets = listen(&nvml, indices);
    while !sets.is_empty() && !told.is_closed() {
        let wait_ms = (ROUND_MS / u32::try_from(sets.len()).unwrap_or(ROUND_MS)).max(1);
        sets.retain(|(gpu, events)| {
            let (numbers, is_alive) = heard(*gpu, events, wait_ms);
            for number in numbers {
                // That nobody listens any more is seen before the next round.
                drop(told.blocking_send(Seen::Xid { gpu: *gpu, number }));
            }
            is_alive
        });
    }
    Ok(())
}

/// The errors that a GPU tells in its turn, and whether it will tell more.
fn heard(gpu: u32, events: &EventSet<'_>, wait_ms: u32) -> (Vec<u64>, bool) {
    let mut numbers = Vec::new();
    while numbers.len() < ERRORS_AT_ONCE {
        // The others of a burst are there already.
        let wait_ms = if numbers.is_empty() { wait_ms } else { 0 };
        match events.wait(wait_ms) {
            Ok(event) => match event.event_data {
                Some(XidError::Value(number)) => numbers.push(number),
                Some(XidError::Unknown) | None => break,
            },
            Err(NvmlError::Timeout) => break,
            // The driver says it in the place of the event.
            Err(NvmlError::GpuLost) => {
                numbers.push(XID_LOST);
                return (numbers, false);
            }
            Err(error) => {
                tracing::warn!(%error, gpu, "its errors are not heard any more");
                return (numbers, false);
            }
        }
    }
    (numbers, true)
}

/// The errors of these GPUs, as far as they tell them; each by itself, so that one that fails does
/// not silence the others.
fn listen<'a>(nvml: &'a Nvml, indices: &[u32]) -> Vec<(u32, EventSet<'a>)> {
    let events_of = |index: u32| -> Result<Option<EventSet<'a>>, NvmlError> {
        let device = nvml.device_by_index(index)?;
        let known = device.supported_event_types().unwrap_or_else(|_| EventTypes::empty());
        if !known.contains(EventTypes::CRITICAL_XID_ERROR) {
            return Ok(None);
        }
        let set = nvml.create_event_set()?;
        let registered = device.register_events(EventTypes::CRITICAL_XID_ERROR, set);
        registered.map(Some).map_err(|failed| failed.error)
    };
    let mut sets = Vec::new();
    for &index in indices {
        match events_of(index) {
            Ok(Some(set)) => sets.push((index, set)),
            Ok(None) => tracing::info!(gpu = index, "it does not tell its errors (Xid)"),
            Err(error) => tracing::warn!(%error, gpu = index, "its errors are not heard"),
        }
    }
    sets
}

/// What a GPU does. `sampled_us` has the driver's time of the newest sample of each.
fn sample(
    nvml: &Nvml,
    index: u32,
    sampled_us: &mut BTreeMap<u32, u64>,
) -> Result<GpuUse, NvmlError> {
    let device = nvml.device_by_index(index)?;
    let busy = busy(&device, sampled_us.entry(index).or_default());
    // In a container, or as another user, the driver may not show who uses the GPU.
    let running = device.running_compute_processes().unwrap_or_default();
    let processes = running.iter().filter_map(|process| {
        let memory_bytes = match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => bytes,
            UsedGpuMemory::Unavailable => return None,
        };
        let owner = owner_of(process.pid)?;
        let utilisation = busy.as_ref().map(|busy| busy.get(&process.pid).copied().unwrap_or(0.0));
        Some(ProcessUse { owner, memory_bytes, utilisation })
    });
    Ok(GpuUse {
        index,
        memory_bytes: device.memory_info()?.used,
        utilisation: device.utilization_rates().ok().map(|rates| f64::from(rates.gpu) / 100.0),
        processes: processes.collect(),
    })
}

/// Share of the time in which each process computed since the last look, by its mean over the
/// driver's samples; who is not there did not. `None` where the driver does not tell.
fn busy(device: &Device<'_>, since_us: &mut u64) -> Option<BTreeMap<u32, f64>> {
    let samples = match device.process_utilization_stats(*since_us) {
        Ok(samples) => samples,
        // Its word for no sample at all.
        Err(NvmlError::NotFound) => Vec::new(),
        Err(_) => return None,
    };
    let mut sums: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
    for sample in &samples {
        *since_us = (*since_us).max(sample.timestamp);
        let (sum, count) = sums.entry(sample.pid).or_default();
        *sum += f64::from(sample.sm_util) / 100.0;
        *count += 1.0;
    }
    Some(sums.into_iter().map(|(pid, (sum, count))| (pid, (sum / count).min(1.0))).collect())
}
