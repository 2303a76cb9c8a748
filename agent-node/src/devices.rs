//! What this machine offers.

use crate::nvml::{self, Gpu};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::Path;
use std::str::FromStr;

/// Most CPU slots and GPUs that an agent offers; far above any machine, so that a typing error is
/// not taken for a cluster.
pub(crate) const DEVICES_MAX: u32 = 4_096;
/// Labels, and extras, of one agent: the search for a place looks at each.
pub(crate) const NAMES_MAX: usize = 16;
/// Longest name or value of a label, as recipes have it.
const NAME_BYTES_MAX: usize = 128;

/// The devices of one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inventory {
    /// CPU slots, numbered from 0.
    pub(crate) cpus: u32,
    /// GPUs, numbered as NVML does.
    pub(crate) gpus: Vec<Gpu>,
    /// Main memory in bytes that processes here may use; 0 when it is not known.
    pub(crate) memory_bytes: u64,
    /// What recipes may ask for by name and value.
    pub(crate) labels: BTreeMap<String, String>,
    /// Amounts of things that the operator names.
    pub(crate) extras: BTreeMap<String, u64>,
}

/// Which GPUs an agent offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GpuChoice {
    /// None.
    None,
    /// All that the driver knows; none when there is no driver.
    All,
    /// These; all of them must exist.
    These(Vec<u32>),
}

impl FromStr for GpuChoice {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => return Ok(Self::None),
            "all" => return Ok(Self::All),
            _ => {}
        }
        let indices: Result<Vec<u32>, _> =
            text.split(',').map(|part| part.trim().parse()).collect();
        let Ok(mut indices) = indices else {
            return Err("write none, all, or GPU numbers such as 0,2".into());
        };
        indices.sort_unstable();
        indices.dedup();
        Ok(Self::These(indices))
    }
}

/// Why the devices could not be listed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeviceError {
    /// A GPU was named that is not there.
    #[error("there is no GPU {wanted} here; the driver knows {}", known(.found))]
    Missing {
        /// Its number.
        wanted: u32,
        /// Those that are there.
        found: Vec<u32>,
    },
    /// The driver is there but does not answer.
    #[error("the NVIDIA driver does not list its GPUs; --gpus none goes on without them")]
    Driver(#[from] nvml::NvmlError),
}

fn known(found: &[u32]) -> String {
    if found.is_empty() {
        return "none".into();
    }
    let numbers: Vec<String> = found.iter().map(u32::to_string).collect();
    numbers.join(", ")
}

/// Lists what this machine offers, without labels and extras, which only the operator knows.
///
/// # Errors
/// A chosen GPU is not there, or the driver fails.
pub(crate) fn inventory(cpus: Option<u32>, gpus: &GpuChoice) -> Result<Inventory, DeviceError> {
    let cores = || std::thread::available_parallelism().map_or(1, |count| clamp(count.get()));
    let offered = match gpus {
        GpuChoice::None => Vec::new(),
        GpuChoice::All => nvml::gpus()?,
        GpuChoice::These(wanted) => chosen(wanted, nvml::gpus()?)?,
    };
    Ok(Inventory {
        cpus: cpus.unwrap_or_else(cores),
        gpus: offered,
        memory_bytes: memory_bytes(),
        labels: BTreeMap::new(),
        extras: BTreeMap::new(),
    })
}

fn clamp(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(DEVICES_MAX).min(DEVICES_MAX)
}

fn chosen(wanted: &[u32], found: Vec<Gpu>) -> Result<Vec<Gpu>, DeviceError> {
    let missing = wanted.iter().find(|index| !found.iter().any(|gpu| gpu.index == **index));
    if let Some(&wanted) = missing {
        let found = found.iter().map(|gpu| gpu.index).collect();
        return Err(DeviceError::Missing { wanted, found });
    }
    Ok(found.into_iter().filter(|gpu| wanted.contains(&gpu.index)).collect())
}

/// The machine's memory, or the container's when that is less.
pub(crate) fn memory_bytes() -> u64 {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    let limit = std::fs::read_to_string(Path::new("/sys/fs/cgroup/memory.max")).ok();
    let limit = limit.and_then(|text| text.trim().parse::<u64>().ok());
    machine.into_iter().chain(limit).min().unwrap_or(0)
}

fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1_024)
}

/// The machine's name.
pub(crate) fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "localhost".into(),
        name => name.to_owned(),
    }
}

/// Reads the number of CPU slots from the command line.
///
/// # Errors
/// It is not a number from 1 to [`DEVICES_MAX`].
pub(crate) fn parse_cpus(text: &str) -> Result<u32, String> {
    let cpus = text.parse::<NonZeroU32>().ok().filter(|count| count.get() <= DEVICES_MAX);
    cpus.map(NonZeroU32::get).ok_or_else(|| format!("write a number from 1 to {DEVICES_MAX}"))
}

/// Reads a label from the command line: `zone=a`.
///
/// # Errors
/// It is not a name, an equals sign and a value.
pub(crate) fn parse_label(text: &str) -> Result<(String, String), String> {
    let (name, value) = split(text, |c| matches!(c, '_' | '-' | '.' | '/'))?;
    if value.len() > NAME_BYTES_MAX || value.contains(char::is_control) {
        return Err(format!("a value has at most {NAME_BYTES_MAX} bytes, all printable"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// Reads an extra from the command line: `licence=2`.
///
/// # Errors
/// It is not a name, an equals sign and a whole number.
pub(crate) fn parse_extra(text: &str) -> Result<(String, u64), String> {
    let (name, amount) = split(text, |c| matches!(c, '_' | '-'))?;
    let amount = amount.parse().map_err(|_| "write a whole number after the equals sign")?;
    Ok((name.to_owned(), amount))
}

fn split(text: &str, sign: impl Fn(char) -> bool) -> Result<(&str, &str), String> {
    let (name, value) = text.split_once('=').ok_or("write a name, an equals sign and a value")?;
    let begins = name.starts_with(|c: char| c.is_ascii_alphabetic());
    if begins
        && name.len() <= NAME_BYTES_MAX
        && name.chars().all(|c| c.is_ascii_alphanumeric() || sign(c))
    {
        return Ok((name, value));
    }
    Err(format!(
        "{name:?} is not a name: it starts with a letter, holds letters, digits and few signs, \
         and has at most {NAME_BYTES_MAX} characters"
    ))
}

/// Makes a map of what was given by name.
///
/// # Errors
/// A name was given twice, or there are more than [`NAMES_MAX`].
pub(crate) fn named<T>(what: &str, given: Vec<(String, T)>) -> Result<BTreeMap<String, T>, String> {
    if given.len() > NAMES_MAX {
        return Err(format!("at most {NAMES_MAX} {what}s, found {}", given.len()));
    }
    let mut named = BTreeMap::new();
    for (name, value) in given {
        if named.contains_key(&name) {
            return Err(format!("the {what} {name} was given twice"));
        }
        named.insert(name, value);
    }
    Ok(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_extras_are_names_with_values() {
        for (text, expected) in [
            ("zone=a", Some(("zone", "a"))),
            ("example.com/zone=a=b", Some(("example.com/zone", "a=b"))),
            ("zone=", Some(("zone", ""))),
            ("zone", None),
            ("=a", None),
            ("1zone=a", None),
            ("zo ne=a", None),
            ("zone=a\nb", None),
        ] {
            let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
            assert_eq!(parse_label(text).ok(), expected, "{text:?}");
        }
        assert_eq!(parse_extra("licence=2"), Ok(("licence".to_owned(), 2)));
        for text in ["licence=-1", "licence=1.5", "licence=", "licence", "a/b=1"] {
            assert!(parse_extra(text).is_err(), "{text:?}");
        }
        let twice = vec![("a".to_owned(), 1), ("a".to_owned(), 2)];
        assert_eq!(named("extra", twice).unwrap_err(), "the extra a was given twice");
        let many = (0..=NAMES_MAX).map(|number| (format!("a{number}"), number)).collect();
        assert!(named("extra", many).unwrap_err().contains("at most"));
    }

    #[test]
    fn gpus_are_chosen_by_word_or_number() {
        for (text, expected) in [
            ("none", Some(GpuChoice::None)),
            ("all", Some(GpuChoice::All)),
            ("2,0,2", Some(GpuChoice::These(vec![0, 2]))),
            ("", None),
            ("first", None),
            ("-1", None),
        ] {
            assert_eq!(text.parse::<GpuChoice>().ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_gpu_that_is_not_there_is_an_error_that_lists_the_others() {
        let gpu = Gpu { index: 1, name: "X".into(), memory_bytes: 1, capability: "9.0".into() };
        let error = chosen(&[1, 3], vec![gpu]).unwrap_err();
        assert_eq!(error.to_string(), "there is no GPU 3 here; the driver knows 1");
    }

    #[test]
    fn memory_is_read_in_bytes() {
        assert_eq!(total("MemFree: 1 kB\nMemTotal:       16384 kB\n"), Some(16_777_216));
        assert_eq!(total("nothing"), None);
    }
}
