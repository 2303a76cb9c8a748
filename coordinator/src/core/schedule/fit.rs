//! Whether what is free on an agent fills what a trial wants.

use super::super::agent::{Capacity, Free, Held};
use proto::train::NUMERICS_LABEL;
use proto::{Devices, Resources};
use std::fmt;

/// The first thing that an agent lacks for a trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Misfit {
    Label { name: String, wanted: String },
    Numerics { has: Option<String>, wanted: u32 },
    Cpus { free: usize, wanted: u32 },
    Gpus { free: usize, wanted: u32 },
    GpuShare { wanted_milli: u32 },
    Memory { free: u64, wanted: u64 },
    Extra { name: String, free: u64, wanted: u64 },
    Unslotted,
    Members { room: u32, wanted: u32 },
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label { name, wanted } => write!(f, "its label {name} is not {wanted:?}"),
            Self::Numerics { has, wanted } => {
                let has = has.as_deref().unwrap_or("an unknown version of the trainer");
                write!(f, "it trains with arithmetic {has}, not {wanted}; another Brine version")
            }
            Self::Cpus { free, wanted } => write!(f, "{free} CPU slots free, {wanted} wanted"),
            Self::Gpus { free, wanted } => write!(f, "{free} fitting GPUs free, {wanted} wanted"),
            Self::GpuShare { wanted_milli } => {
                write!(f, "no fitting GPU has a share of {} free", f64::from(*wanted_milli) / 1e3)
            }
            Self::Memory { free, wanted } => {
                write!(f, "{} MiB of memory free, {} wanted", free >> 20, wanted >> 20)
            }
            Self::Extra { name, free, wanted } => write!(f, "{free} {name} free, {wanted} wanted"),
            Self::Members { room, wanted } => {
                write!(f, "room for {room} of the gang's {wanted} members")
            }
            Self::Unslotted => f.write_str("it holds as many trials without CPU slots as it may"),
        }
    }
}

/// The lowest of the `free` devices that fill `wants`.
///
/// # Errors
/// The first thing that does not suffice.
pub(in super::super) fn pick(
    has: &Capacity,
    free: &Free,
    wants: &Resources,
) -> Result<Devices, Misfit> {
    if let Some(misfit) = amounts_misfit(free, wants) {
        return Err(misfit);
    }
    let big_enough = |index: u32| {
        let fits = |gpu: &&super::super::agent::Gpu| {
            gpu.index == index && gpu.memory_bytes >= wants.gpu_memory_bytes
        };
        has.gpus.iter().any(|gpu| fits(&gpu))
    };
    let cpus: Vec<u32> = free.cpus.iter().take(wants.cpus as usize).copied().collect();
    let fitting = free.gpus.iter().filter(|(index, _)| big_enough(**index));
    if wants.gpu_share_milli > 0 {
        // The fullest GPU that still has room, so that whole ones stay whole.
        let room = fitting.filter(|(_, milli)| **milli >= wants.gpu_share_milli);
        let fullest = room.min_by_key(|(index, milli)| (**milli, **index));
        let wanted_milli = wants.gpu_share_milli;
        let (gpu, _) = fullest.ok_or(Misfit::GpuShare { wanted_milli })?;
        return Ok(Devices { cpus, gpus: vec![*gpu], gpu_share_milli: wanted_milli });
    }
    let whole: Vec<u32> = fitting
        .filter(|(_, milli)| **milli == Devices::WHOLE_MILLI)
        .map(|(index, _)| *index)
        .collect();
    if whole.len() < wants.gpus as usize {
        return Err(Misfit::Gpus { free: whole.len(), wanted: wants.gpus });
    }
    let gpus = whole.into_iter().take(wants.gpus as usize).collect();
    Ok(Devices { cpus, gpus, gpu_share_milli: 0 })
}

fn amounts_misfit(free: &Free, wants: &Resources) -> Option<Misfit> {
    if wants.cpus == 0 && free.unslotted == 0 {
        return Some(Misfit::Unslotted);
    }
    if free.cpus.len() < wants.cpus as usize {
        return Some(Misfit::Cpus { free: free.cpus.len(), wanted: wants.cpus });
    }
    if free.memory_bytes < wants.memory_bytes {
        return Some(Misfit::Memory { free: free.memory_bytes, wanted: wants.memory_bytes });
    }
    let lacking = |(name, wanted): (&String, &u64)| {
        let free = free.extras.get(name).copied().unwrap_or(0);
        (free < *wanted).then(|| Misfit::Extra { name: name.clone(), free, wanted: *wanted })
    };
    wants.extras.iter().find_map(lacking)
}

/// What keeps one member of a trial from `free` on an agent, whichever of the choices it takes;
/// `None` when it fits.
pub(in super::super) fn misfit(
    has: &Capacity,
    free: &Free,
    spec: &proto::TrialSpec,
) -> Option<Misfit> {
    if let Some(misfit) = label_misfit(has, spec) {
        return Some(misfit);
    }
    let mut first = None;
    for (_, wants) in spec.choices() {
        match pick(has, free, wants) {
            Ok(_) => return None,
            Err(misfit) => first = first.or(Some(misfit)),
        }
    }
    first
}

/// How many members of a trial find room in `free` on an agent under its best choice, at most as
/// many as it has.
pub(in super::super) fn room(has: &Capacity, free: &Free, spec: &proto::TrialSpec) -> u32 {
    if label_misfit(has, spec).is_some() {
        return 0;
    }
    let under = |wants: &Resources| {
        let (mut left, mut members) = (free.clone(), 0);
        while members < spec.placement.members
            && let Ok(devices) = pick(has, &left, wants)
        {
            left.take(&Held::new(devices, wants));
            members += 1;
        }
        members
    };
    spec.choices().map(|(_, wants)| under(wants)).max().unwrap_or(0)
}

/// The arithmetic of agents from before the label: the last one that had none.
const UNLABELLED_NUMERICS: u32 = 2;

/// The first label that the trial asks for and the agent does not have; a training asks for the
/// version of its arithmetic too.
pub(super) fn label_misfit(has: &Capacity, spec: &proto::TrialSpec) -> Option<Misfit> {
    let mut wanted = spec.placement.labels.iter();
    let lacking = wanted.find(|(name, value)| has.labels.get(*name) != Some(*value));
    if let Some((name, wanted)) = lacking {
        return Some(Misfit::Label { name: name.clone(), wanted: wanted.clone() });
    }
    let wanted = spec.runner.numerics()?;
    let has = has.labels.get(NUMERICS_LABEL);
    let same = has.map_or(wanted == UNLABELLED_NUMERICS, |has| has.parse() == Ok(wanted));
    (!same).then(|| Misfit::Numerics { has: has.cloned(), wanted })
}
