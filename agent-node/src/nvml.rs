//! NVIDIA's driver as NVML shows it. The only file that knows NVML; without a driver there is
//! nothing to see, which is no error.

use crate::gpus::{GpuUse, ProcessUse, Seen, owner_of};
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::enums::event::XidError;
pub(crate) use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::event::EventData;
use nvml_wrapper::{Device, EventSet, Nvml};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::mpsc;

/// More GPUs than any machine has.
const GPUS_MAX: u32 = 4_096;
/// Time between two looks at memory and utilisation.
const SAMPLE_PERIOD: Duration = Duration::from_secs(5);

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

/// The product name of the GPU with this number; `None` without a driver.
///
/// # Errors
/// There is a driver, and it fails or knows no such GPU.
pub(crate) fn name(index: u32) -> Result<Option<String>, NvmlError> {
    let Some(nvml) = open()? else { return Ok(None) };
    nvml.device_by_index(index)?.name().map(Some)
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

/// Tells what happens on these GPUs until nobody listens. Blocks, so it has a thread of its own.
///
/// # Errors
/// The driver does not answer at the start. What it cannot tell later is left out.
pub(crate) fn watch(indices: &[u32], told: &mpsc::Sender<Seen>) -> Result<(), NvmlError> {
    let Some(nvml) = open()? else { return Ok(()) };
    let mut set = listen(&nvml, indices).unwrap_or_else(|error| {
        tracing::warn!(%error, "errors of GPUs are not heard");
        None
    });
    let mut sampled_us = BTreeMap::new();
    let period_ms = u32::try_from(SAMPLE_PERIOD.as_millis()).unwrap_or(u32::MAX);
    loop {
        // A GPU that is lost says so by its Xid; what the others do is still worth knowing.
        let mut use_of = |&index: &u32| {
            let sampled = sample(&nvml, index, &mut sampled_us);
            sampled.inspect_err(|error| tracing::debug!(%error, gpu = index, "not sampled")).ok()
        };
        let uses = indices.iter().filter_map(&mut use_of);
        if told.blocking_send(Seen::Used(uses.collect())).is_err() {
            return Ok(());
        }
        loop {
            let Some(events) = &set else {
                std::thread::sleep(SAMPLE_PERIOD);
                break;
            };
            // An event makes the time until the next look longer; there are few.
            match events.wait(period_ms) {
                Ok(event) => {
                    let seen = xid(&event);
                    if seen.is_some_and(|seen| told.blocking_send(seen).is_err()) {
                        return Ok(());
                    }
                }
                Err(NvmlError::Timeout) => break,
                Err(error) => {
                    tracing::warn!(%error, "errors of GPUs are not heard any more");
                    set = None;
                }
            }
        }
    }
}

/// The errors of these GPUs, as far as they tell them; `None` when none does.
fn listen<'a>(nvml: &'a Nvml, indices: &[u32]) -> Result<Option<EventSet<'a>>, NvmlError> {
    let mut set = None;
    for &index in indices {
        let device = nvml.device_by_index(index)?;
        let known = device.supported_event_types().unwrap_or_else(|_| EventTypes::empty());
        if !known.contains(EventTypes::CRITICAL_XID_ERROR) {
            tracing::info!(gpu = index, "it does not tell its errors (Xid)");
            continue;
        }
        let to = match set.take() {
            Some(set) => set,
            None => nvml.create_event_set()?,
        };
        match device.register_events(EventTypes::CRITICAL_XID_ERROR, to) {
            Ok(registered) => set = Some(registered),
            // The set is gone with the error: those that were in it would be heard no more.
            Err(failed) => return Err(failed.error),
        }
    }
    Ok(set)
}

fn xid(event: &EventData<'_>) -> Option<Seen> {
    let gpu = event.device.index().ok()?;
    match event.event_data {
        Some(XidError::Value(number)) => Some(Seen::Xid { gpu, number }),
        Some(XidError::Unknown) | None => None,
    }
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
        Some(ProcessUse { owner, memory_bytes, utilisation: busy.get(&process.pid).copied() })
    });
    Ok(GpuUse {
        index,
        memory_bytes: device.memory_info()?.used,
        utilisation: device.utilization_rates().ok().map(|rates| f64::from(rates.gpu) / 100.0),
        processes: processes.collect(),
    })
}

/// Share of the time in which each process computed since the last look, by its mean over the
/// driver's samples. Empty where the driver does not tell.
fn busy(device: &Device<'_>, since_us: &mut u64) -> BTreeMap<u32, f64> {
    let samples = device.process_utilization_stats(*since_us).unwrap_or_default();
    let mut sums: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
    for sample in &samples {
        *since_us = (*since_us).max(sample.timestamp);
        let (sum, count) = sums.entry(sample.pid).or_default();
        *sum += f64::from(sample.sm_util) / 100.0;
        *count += 1.0;
    }
    sums.into_iter().map(|(pid, (sum, count))| (pid, sum / count)).collect()
}
