//! The runner `command`: any program, watched from outside.

use super::log::Log;
use super::metrics::{MetricPipe, PIPE_FD_VARIABLE, PIPE_PATH_VARIABLE};
use super::pump::Pump;
use super::{Lifeline, Records, StopCause};
use crate::clock;
use crate::environment;
use crate::order::Order;
use crate::process;
use agent_core::{STOP_GRACE_MS, TrialEnd};
use command_fds::{CommandFdExt, FdMapping};
use proto::{CommandSpec, FailureClass, Outcome};
use rustix::process::{Pid, Signal};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// The descriptor that a program finds in `BRINE_METRICS_FD`.
const METRICS_FD: i32 = 3;
/// How often the runner looks whether the program has to stop.
const LOOK_PERIOD: Duration = Duration::from_millis(50);
/// Linux's number for "exec format error": a script without a first line that names its program.
const ENOEXEC: i32 = 8;

/// The running program; 0 when there is none.
static PROGRAM: AtomicI32 = AtomicI32::new(0);

/// The running program, whose end the runner itself takes note of.
pub(crate) fn program() -> Option<Pid> {
    Pid::from_raw(PROGRAM.load(Ordering::Acquire))
}

/// Runs the program to its end.
pub(crate) fn run(
    spec: &CommandSpec,
    order: &Order,
    lifeline: &Lifeline,
    records: &Arc<Records>,
) -> TrialEnd {
    match try_run(spec, order, lifeline, records) {
        Ok(end) => end,
        Err(Refusal { class, message }) => TrialEnd::Outcome(Outcome::failed(class, message)),
    }
}

/// Why no program was run.
struct Refusal {
    class: FailureClass,
    message: String,
}

fn invalid(message: String) -> Refusal {
    Refusal { class: FailureClass::Invalid, message }
}

fn infrastructure(what: &str, path: &Path, error: &io::Error) -> Refusal {
    let message = format!("{what} {}: {error}", path.display());
    Refusal { class: FailureClass::Infrastructure, message }
}

fn try_run(
    spec: &CommandSpec,
    order: &Order,
    lifeline: &Lifeline,
    records: &Arc<Records>,
) -> Result<TrialEnd, Refusal> {
    let folder = working_folder(spec, order)?;
    let path = order.folders.log();
    let log = Log::open(&path).map_err(|error| infrastructure("cannot open", &path, &error))?;
    let log = Arc::new(log);
    let attempt = &order.folders.attempt;
    let piped = |error: io::Error| infrastructure("cannot make pipes in", attempt, &error);
    let (metrics, metrics_end) = MetricPipe::open(attempt, records, &log).map_err(piped)?;
    let (reader, writer) = io::pipe().map_err(piped)?;
    let sink = Arc::clone(&log);
    let output = Pump::start(File::from(OwnedFd::from(reader)), move |text| {
        sink.output(text);
    });
    let errors = writer.try_clone().map_err(piped)?;
    let mut command = command(spec, order, &folder, metrics.path())?;
    command.stdin(Stdio::null()).stdout(writer).stderr(errors);
    let mapping = FdMapping { parent_fd: metrics_end, child_fd: METRICS_FD };
    command.fd_mappings(vec![mapping]).map_err(|error| piped(io::Error::other(error)))?;
    let started = command.spawn().map_err(|error| refused_by_system(spec, &error));
    // The command holds this process's copies of the program's pipe ends.
    drop(command);
    let (status, cause) = wait(started?, lifeline);
    output.finish();
    let metrics = metrics.finish();
    let Some(cause) = cause else {
        return Ok(TrialEnd::Outcome(outcome(status, &metrics, &log)));
    };
    Ok(lifeline.stopped(cause))
}

/// The folder to run in, with the trial's files in it.
fn working_folder(spec: &CommandSpec, order: &Order) -> Result<PathBuf, Refusal> {
    let own = order.folders.attempt.join("work");
    for folder in [&own, &output_folder(order)] {
        std::fs::create_dir_all(folder)
            .map_err(|error| infrastructure("cannot make the folder", folder, &error))?;
    }
    for (name, blob) in &spec.files {
        let plain = Path::new(name).file_name().is_some_and(|plain| plain == name.as_str());
        if !plain {
            return Err(invalid(format!("{name:?} is not a plain file name")));
        }
        // A copy: a program that edits its script must not change other trials' script.
        let target = own.join(name);
        std::fs::copy(order.folders.blobs.join(blob.blob.as_str()), &target)
            .map_err(|error| infrastructure("cannot write", &target, &error))?;
    }
    let Some(wanted) = &spec.working_folder else {
        return Ok(own);
    };
    if Path::new(wanted).is_dir() {
        return Ok(wanted.into());
    }
    Err(invalid(format!("the working folder {wanted} does not exist on agent {}", order.agent)))
}

fn output_folder(order: &Order) -> PathBuf {
    order.folders.attempt.join("output")
}

fn command(
    spec: &CommandSpec,
    order: &Order,
    folder: &Path,
    metric_pipe: &Path,
) -> Result<Command, Refusal> {
    let Some((program, arguments)) = spec.arguments.split_first() else {
        return Err(invalid("the command has no program".into()));
    };
    let with_nul = |text: &String| text.contains('\0');
    let mut texts = spec.arguments.iter().chain(spec.environment.values());
    let odd_name = |name: &String| name.is_empty() || name.contains(['=', '\0']);
    if texts.any(with_nul) || spec.environment.keys().any(odd_name) {
        return Err(invalid(
            "an argument or a variable of the command holds a zero byte or an equals sign".into(),
        ));
    }
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder);
    command.envs(variables(order, metric_pipe)).envs(&spec.environment);
    Ok(command)
}

/// What a program finds in its environment, beside the agent's own variables.
fn variables(order: &Order, metric_pipe: &Path) -> BTreeMap<String, OsString> {
    let text = |value: &dyn ToString| OsString::from(value.to_string());
    let mut variables = BTreeMap::from([
        ("BRINE_TRIAL".into(), text(&order.key.trial)),
        ("BRINE_ATTEMPT".into(), text(&order.key.attempt)),
        ("BRINE_SEED".into(), text(&order.spec.seed)),
        ("BRINE_CPUS".into(), text(&environment::threads(&order.devices))),
        ("BRINE_GPUS".into(), text(&environment::numbers(&order.devices.gpus))),
        ("BRINE_CHECKPOINT_FOLDER".into(), order.folders.program_checkpoints.clone().into()),
        ("BRINE_OUTPUT_FOLDER".into(), output_folder(order).into()),
        (PIPE_FD_VARIABLE.into(), text(&METRICS_FD)),
        (PIPE_PATH_VARIABLE.into(), metric_pipe.into()),
    ]);
    for (name, value) in &order.spec.parameters {
        variables.insert(format!("BRINE_PARAM_{}", variable_name(name)), text(value));
    }
    // So that a script can call `brine-agent report` without knowing where it is.
    if let Ok(agent) = std::env::current_exe() {
        let search = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&search).chain(agent.parent().map(Path::to_owned));
        if let Ok(search) = std::env::join_paths(folders) {
            variables.insert("PATH".into(), search);
        }
        variables.insert("BRINE_AGENT".into(), agent.into());
    }
    variables
}

/// `learning-rate` becomes `LEARNING_RATE`.
fn variable_name(parameter: &str) -> String {
    let letter = |c: char| {
        if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }
    };
    parameter.chars().map(letter).collect()
}

fn refused_by_system(spec: &CommandSpec, error: &io::Error) -> Refusal {
    let program = spec.arguments.first().map_or("", String::as_str);
    let reason = if error.kind() == io::ErrorKind::NotFound {
        "it is not there, or the program its first line names is not"
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        "it is not executable"
    } else if error.kind() == io::ErrorKind::InvalidInput {
        "a parameter holds a zero byte"
    } else if error.kind() == io::ErrorKind::ArgumentListTooLong {
        "its arguments and variables are longer than the system allows"
    } else if error.raw_os_error() == Some(ENOEXEC) {
        "it is neither a program nor has it a #! line"
    } else {
        let message = format!("the program {program} cannot be started: {error}");
        return Refusal { class: FailureClass::Infrastructure, message };
    };
    invalid(format!("the program {program} cannot be started: {reason}"))
}

/// Waits for the program. When it has to stop, its whole group is asked, so that programs behind a
/// shell hear it too; after the grace it is killed.
fn wait(mut child: Child, lifeline: &Lifeline) -> (io::Result<ExitStatus>, Option<StopCause>) {
    PROGRAM.store(child.id().cast_signed(), Ordering::Release);
    let (sender, exits) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let status = child.wait();
        PROGRAM.store(0, Ordering::Release);
        // The receiver is there until it has heard this.
        drop(sender.send(status));
    });
    let (early, cause) = wait_for_cause(&exits, lifeline);
    if let Some(status) = early {
        return (status, None);
    }
    ask_group_to_end();
    let kill_at = clock::now().plus_ms(STOP_GRACE_MS);
    let mut killed = false;
    loop {
        match exits.recv_timeout(LOOK_PERIOD) {
            Ok(status) => return (status, cause),
            Err(RecvTimeoutError::Disconnected) => return (lost_status(), cause),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if clock::now() >= kill_at && !killed {
            killed = true;
            process::kill_descendants(rustix::process::getpid());
        }
    }
}

/// The exit that came before there was a cause to stop, or that cause.
fn wait_for_cause(
    exits: &Receiver<io::Result<ExitStatus>>,
    lifeline: &Lifeline,
) -> (Option<io::Result<ExitStatus>>, Option<StopCause>) {
    loop {
        match exits.recv_timeout(LOOK_PERIOD) {
            Ok(status) => return (Some(status), None),
            Err(RecvTimeoutError::Disconnected) => return (Some(lost_status()), None),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Some(cause) = lifeline.stop_cause() {
            return (None, Some(cause));
        }
    }
}

fn lost_status() -> io::Result<ExitStatus> {
    Err(io::Error::other("the thread that waits for the program ended"))
}

fn ask_group_to_end() {
    if let Err(error) = rustix::process::kill_current_process_group(Signal::TERM) {
        tracing::warn!(%error, "the program was not asked to stop");
    }
}

/// What the exit means.
fn outcome(
    status: io::Result<ExitStatus>,
    metrics: &BTreeMap<String, (u64, f64)>,
    log: &Log,
) -> Outcome {
    let status = match status {
        Ok(status) => status,
        Err(error) => {
            let message = format!("the program's end was not seen: {error}");
            return Outcome::failed(FailureClass::Infrastructure, message);
        }
    };
    if status.success() {
        return completed(metrics);
    }
    let (class, how) = match (status.code(), status.signal()) {
        (Some(code), _) => (FailureClass::Trial, format!("ended with exit code {code}")),
        // Nobody in Brine sent it, so it was the kernel, short of memory, or an administrator.
        (None, Some(9)) => (
            FailureClass::Infrastructure,
            "was killed by signal 9, as the kernel does when memory runs out".to_owned(),
        ),
        (None, signal) => {
            (FailureClass::Trial, format!("was killed by signal {}", signal.unwrap_or_default()))
        }
    };
    let tail = log.tail();
    // The first line of a message stands in tables, so the program's last word belongs there.
    let last = match tail.lines().rev().find(|line| !line.trim().is_empty()) {
        None => "it printed nothing".into(),
        Some(word) => format!("it said last: {}\nits last lines:\n{tail}", word.trim()),
    };
    Outcome::failed(class, format!("the program {how}; {last}"))
}

fn completed(metrics: &BTreeMap<String, (u64, f64)>) -> Outcome {
    if let Some((metric, (step, _))) = metrics.iter().find(|(_, (_, value))| !value.is_finite()) {
        return Outcome::Diverged { metric: metric.clone(), step: *step };
    }
    let metrics = metrics.iter().map(|(name, (_, value))| (name.clone(), *value)).collect();
    Outcome::Completed { metrics, checkpoint: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_become_variable_names() {
        for (parameter, expected) in [("lr", "LR"), ("learning-rate", "LEARNING_RATE"), ("β", "_")]
        {
            assert_eq!(variable_name(parameter), expected);
        }
    }

    #[test]
    fn a_metric_that_ends_undefined_is_a_divergence_with_its_step() {
        let metrics = BTreeMap::from([("a".into(), (1, 1.0)), ("b".into(), (7, f64::NAN))]);
        assert_eq!(completed(&metrics), Outcome::Diverged { metric: "b".into(), step: 7 });
    }
}
