//! How a program reports numbers: lines of JSON in a pipe, for example
//! `{"metric": "loss", "step": 10, "value": 2.3}`.
//!
//! The pipe has a name, so that `brine-agent report` works also where the descriptor was closed on
//! the way, as Python's `subprocess` does.

use super::Records;
use super::log::Log;
use super::pump::Pump;
use crate::order::Metric;
use proto::number::quote_undefined;
use rustix::fs::{CWD, Mode, OFlags};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Names the descriptor to which a program writes its metrics.
pub(crate) const PIPE_FD_VARIABLE: &str = "BRINE_METRICS_FD";
/// Names the pipe as a file.
pub(crate) const PIPE_PATH_VARIABLE: &str = "BRINE_METRICS_PIPE";
/// Longest line. Linux keeps writes of at most this length whole when several processes write.
pub(crate) const LINE_BYTES_MAX: usize = 4_096;
/// Distinct names of metrics in one attempt; they all go into its outcome.
const NAMES_MAX: usize = 256;
/// Longest name.
const NAME_BYTES_MAX: usize = 128;
/// Name of the pipe in the attempt's folder.
const PIPE_NAME: &str = "metrics.pipe";
/// How much of a malformed line is shown in the log.
const SHOWN_BYTES: usize = 200;

/// Receives a program's metrics.
pub(crate) struct MetricPipe {
    last: Arc<Mutex<BTreeMap<String, (u64, f64)>>>,
    pump: Pump,
    path: PathBuf,
}

impl MetricPipe {
    /// Makes the pipe in `folder`. The second value is the end for the program.
    pub(crate) fn open(
        folder: &Path,
        records: &Arc<Records>,
        log: &Arc<Log>,
    ) -> io::Result<(Self, OwnedFd)> {
        let path = folder.join(PIPE_NAME);
        rustix::fs::mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR)?;
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).map_err(io::Error::other)?;
        let reader = File::options().read(true).custom_flags(flags).open(&path)?;
        let writer = File::options().write(true).open(&path)?;
        let for_program = writer.try_clone()?;
        let last = Arc::new(Mutex::new(BTreeMap::new()));
        let mut receiver = Receiver {
            last: Arc::clone(&last),
            records: Arc::clone(records),
            log: Arc::clone(log),
            line: Vec::new(),
            overlong: false,
        };
        let pump = Pump::start(reader, move |bytes| receiver.receive(bytes)).holding(writer);
        Ok((Self { last, pump, path }, for_program.into()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The last step and value of every metric, after the program has ended.
    pub(crate) fn finish(self) -> BTreeMap<String, (u64, f64)> {
        self.pump.finish();
        std::mem::take(&mut *self.last.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct Receiver {
    last: Arc<Mutex<BTreeMap<String, (u64, f64)>>>,
    records: Arc<Records>,
    log: Arc<Log>,
    line: Vec<u8>,
    overlong: bool,
}

/// A program may end without ending its last line.
impl Drop for Receiver {
    fn drop(&mut self) {
        self.line_ended();
    }
}

impl Receiver {
    fn receive(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = (LINE_BYTES_MAX + 1).saturating_sub(self.line.len());
            self.overlong |= piece.len() > room;
            self.line.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                self.line_ended();
                self.line.clear();
                self.overlong = false;
            }
        }
    }

    fn line_ended(&self) {
        let text = String::from_utf8_lossy(&self.line);
        let text = text.trim();
        if text.is_empty() {
            return;
        }
        let parsed = if self.overlong {
            Err(format!("it is longer than {LINE_BYTES_MAX} bytes"))
        } else {
            parse(text)
        };
        match parsed.and_then(|metric| self.take(metric)) {
            Ok(()) => {}
            Err(reason) => {
                let end = (0..=SHOWN_BYTES.min(text.len())).rev();
                let end = end.into_iter().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
                self.log.note(&format!("a metric line was ignored, {reason}: {}", &text[..end]));
            }
        }
    }

    fn take(&self, Metric { metric, step, value }: Metric) -> Result<(), String> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() >= NAMES_MAX && !last.contains_key(&metric) {
            return Err(format!("there are already {NAMES_MAX} metrics with other names"));
        }
        last.insert(metric.clone(), (step, value));
        drop(last);
        self.records.metric(&metric, step, value);
        Ok(())
    }
}

fn parse(line: &str) -> Result<Metric, String> {
    let metric: Metric =
        serde_json::from_str(&quote_undefined(line)).map_err(|error| error.to_string())?;
    check_name(&metric.metric)?;
    Ok(metric)
}

fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(format!("a metric's name has 1 to {NAME_BYTES_MAX} printable bytes"));
    }
    Ok(())
}

/// Why `brine-agent report` failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// It was called by hand.
    #[error(
        "this is not inside a trial: neither {PIPE_PATH_VARIABLE} nor {PIPE_FD_VARIABLE} is set"
    )]
    NotInTrial,
    /// The name is not one.
    #[error("{0}")]
    Name(String),
    /// The variable does not hold a descriptor's number.
    #[error("{PIPE_FD_VARIABLE} should be a number, not {0:?}")]
    Descriptor(OsString),
    /// The trial is over, or the pipe is not there.
    #[error("cannot write to the trial's metric pipe {}", path.display())]
    Pipe {
        /// Where it should be.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Writes one metric to the pipe of the trial that this process belongs to. `variable` looks up an
/// environment variable.
pub(crate) fn send(
    metric: &Metric,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<(), SendError> {
    check_name(&metric.metric).map_err(SendError::Name)?;
    let path = match (variable(PIPE_PATH_VARIABLE), variable(PIPE_FD_VARIABLE)) {
        (Some(path), _) => PathBuf::from(path),
        (None, Some(number)) => {
            let parsed = number.to_str().and_then(|text| text.parse::<u32>().ok());
            let number = parsed.ok_or(SendError::Descriptor(number))?;
            PathBuf::from(format!("/proc/self/fd/{number}"))
        }
        (None, None) => return Err(SendError::NotInTrial),
    };
    // Without a reader a blocking open of a pipe would wait for ever.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let failed = |source| SendError::Pipe { path: path.clone(), source };
    let pipe = File::options().write(true).custom_flags(flags).open(&path).map_err(failed)?;
    let blocking = rustix::fs::fcntl_getfl(&pipe).map(|flags| flags - OFlags::NONBLOCK);
    let set = blocking.and_then(|flags| rustix::fs::fcntl_setfl(&pipe, flags));
    set.map_err(|error| failed(error.into()))?;
    let mut line = serde_json::to_vec(metric).map_err(|error| failed(error.into()))?;
    line.push(b'\n');
    (&pipe).write_all(&line).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, expected: Option<(&str, u64, f64)>) {
        let found = parse(line).ok();
        let found = found.map(|metric| (metric.metric, metric.step, metric.value.to_bits()));
        let expected = expected.map(|(name, step, value)| (name.into(), step, value.to_bits()));
        assert_eq!(found, expected, "{line}");
    }

    #[test]
    fn metric_lines_are_read_as_programs_write_them() {
        check(r#"{"metric": "loss", "step": 10, "value": 2.3}"#, Some(("loss", 10, 2.3)));
        check(r#"{"metric": "n", "step": 0, "value": 3}"#, Some(("n", 0, 3.0)));
        check(r#"{"metric": "l", "step": 1, "value": NaN}"#, Some(("l", 1, f64::NAN)));
        check(r#"{"metric": "l", "step": 1, "value": null}"#, Some(("l", 1, f64::NAN)));
        check(
            r#"{"metric": "l", "step": 1, "value": -Infinity}"#,
            Some(("l", 1, f64::NEG_INFINITY)),
        );
        check(r#"{"metric": "", "step": 1, "value": 1}"#, None);
        check(r#"{"metric": "l", "step": -1, "value": 1}"#, None);
        check(r#"{"metric": "l", "step": 1, "value": "7"}"#, None);
        check(r#"{"metric": "l", "step": 1}"#, None);
        check(r#"{"metric": "l", "step": 1, "value": 1, "epoch": 2}"#, None);
        check("loss 3", None);
    }

    #[test]
    fn report_says_what_is_wrong_outside_of_a_trial() {
        let metric = Metric { metric: "loss".into(), step: 1, value: 1.0 };
        let nothing = send(&metric, |_| None).unwrap_err();
        assert!(matches!(nothing, SendError::NotInTrial));
        let odd = send(&metric, |name| (name == PIPE_FD_VARIABLE).then(|| "x".into()));
        assert!(matches!(odd.unwrap_err(), SendError::Descriptor(_)));
        let gone = send(&metric, |_| Some("/nowhere/pipe".into())).unwrap_err();
        assert!(gone.to_string().contains("/nowhere/pipe"));
    }
}
