//! How a program is called, and what its exit means.

use crate::environment;
use crate::log::Log;
use crate::metrics::{PIPE_FD_VARIABLE, PIPE_PATH_VARIABLE};
use crate::order::Order;
use crate::work;
use proto::{CommandSpec, FailureClass, Outcome, Runner};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};

/// Linux's number for "exec format error": a script without a first line that names its program.
const ENOEXEC: i32 = 8;

/// Why no program was run.
#[derive(Debug)]
pub struct Refusal {
    /// Who has to act.
    pub class: FailureClass,
    /// What is wrong, for people.
    pub message: String,
}

pub(crate) fn invalid(message: String) -> Refusal {
    Refusal { class: FailureClass::Invalid, message }
}

pub(crate) fn infrastructure(what: &str, path: &Path, error: &io::Error) -> Refusal {
    let message = format!("{what} {}: {error}", path.display());
    Refusal { class: FailureClass::Infrastructure, message }
}

/// The program as it is started, all but its streams.
pub(crate) fn command(
    spec: &CommandSpec,
    order: &Order,
    metric_pipe: &Path,
    metrics_fd: i32,
) -> Result<Command, Refusal> {
    let folder = match &spec.working_folder {
        None => work::working_folder(order),
        Some(wanted) if Path::new(wanted).is_dir() => wanted.into(),
        Some(wanted) => {
            let agent = &order.agent;
            let message = format!("the working folder {wanted} does not exist on agent {agent}");
            return Err(invalid(message));
        }
    };
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
    command.envs(environment::variables(order));
    command.envs(variables(order, metric_pipe, metrics_fd)).envs(&spec.environment);
    Ok(command)
}

/// What a program finds in its environment, beside the agent's own variables and those of its
/// devices.
fn variables(order: &Order, metric_pipe: &Path, metrics_fd: i32) -> BTreeMap<String, OsString> {
    let text = |value: &dyn ToString| OsString::from(value.to_string());
    let mut variables = BTreeMap::from([
        ("BRINE_SEED".into(), text(&order.spec.seed)),
        ("BRINE_CPUS".into(), text(&environment::threads(&order.devices))),
        ("BRINE_GPUS".into(), text(&environment::numbers(&order.devices.gpus))),
        ("BRINE_CHECKPOINT_FOLDER".into(), order.folders.program_checkpoints.clone().into()),
        ("BRINE_OUTPUT_FOLDER".into(), work::output_folder(order).into()),
        (PIPE_FD_VARIABLE.into(), text(&metrics_fd)),
        (PIPE_PATH_VARIABLE.into(), metric_pipe.into()),
    ]);
    for (name, value) in &order.spec.parameters {
        variables.insert(format!("BRINE_PARAM_{}", variable_name(name)), text(value));
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

/// Why the system did not start a program.
pub(crate) fn refused_by_system(runner: &Runner, error: &io::Error) -> Refusal {
    let program = match runner {
        Runner::Command(spec) => spec.arguments.first().map_or("", String::as_str),
        Runner::Train(_) | Runner::Grpo(_) | Runner::Noop => "",
    };
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

/// What the exit means.
pub(crate) fn outcome(
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
