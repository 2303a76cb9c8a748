//! `brine-agent report`: a metric from inside a program.

use agent_keeper::metrics::{PIPE_FD_VARIABLE, PIPE_PATH_VARIABLE, check_name};
use agent_keeper::order::Metric;
use rustix::fs::OFlags;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

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
