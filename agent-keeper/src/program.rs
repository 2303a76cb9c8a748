//! One program that lives.

use crate::clock;
use crate::command::{self, Refusal};
use crate::log::Log;
use crate::metrics::Metrics;
use crate::order::{Order, TrialRecord};
use crate::places::Pipes;
use crate::process;
use crate::say::Say;
use crate::stop::StopCause;
use crate::work::Spares;
use agent_core::{Moment, STOP_GRACE_MS, TrialEnd};
use proto::{AttemptKey, Outcome};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, WaitId, WaitIdOptions, WaitOptions,
};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};

/// Pieces that are read of a pipe after its program has ended. All writers are dead by then, so
/// what is in the pipe is all; its size is at most 1 MiB.
const LAST_PIECES_MAX: usize = 32;

/// A program, from its start to its end.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) order: Box<Order>,
    pub(crate) leader: Pid,
    /// What its descendants inherit.
    pub(crate) mark: u64,
    /// Processes that the keeper had started when this one was.
    pub(crate) births: u64,
    /// When the loop has to look at it.
    pub(crate) timer: Option<Moment>,
    child: Child,
    end: OwnedFd,
    log: Log,
    metrics: Metrics,
    said_log: bool,
    cause: Option<StopCause>,
    killed: bool,
}

impl Program {
    /// Starts what `command` says.
    ///
    /// # Errors
    /// The system refuses the program.
    pub(crate) fn start(
        order: Box<Order>,
        mut command: Command,
        mark: u64,
        files: Option<Rlimit>,
    ) -> Result<Self, (Box<Order>, io::Error)> {
        let started = process::mark(mark).and_then(|()| command.process_group(0).spawn());
        // It holds this process's copies of the program's pipe ends.
        drop(command);
        let child = match started {
            Ok(child) => child,
            Err(error) => return Err((order, error)),
        };
        match Self::watch(&child, files) {
            Ok((leader, end)) => {
                let time_limit_ms = order.spec.time_limit_ms;
                Ok(Self {
                    leader,
                    mark,
                    births: 0,
                    timer: time_limit_ms.map(|limit| clock::now().plus_ms(limit)),
                    child,
                    end,
                    log: Log::new(&order.folders.attempt),
                    metrics: Metrics::default(),
                    said_log: false,
                    cause: None,
                    killed: false,
                    order,
                })
            }
            Err(error) => {
                abandon(child);
                Err((order, error))
            }
        }
    }

    fn watch(child: &Child, files: Option<Rlimit>) -> io::Result<(Pid, OwnedFd)> {
        let leader = Pid::from_raw(child.id().cast_signed());
        let leader = leader.ok_or_else(|| io::Error::other("the program has no number"))?;
        if let Some(files) = files
            && let Err(error) = rustix::process::prlimit(Some(leader), Resource::Nofile, files)
        {
            tracing::debug!(%error, "a program keeps the keeper's limit of open files");
        }
        Ok((leader, rustix::process::pidfd_open(leader, PidfdFlags::empty())?))
    }

    /// Readable when the program has ended.
    pub(crate) fn end(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }

    pub(crate) fn key(&self) -> &AttemptKey {
        &self.order.key
    }

    /// Whether the program has ended; it is not reaped by this.
    pub(crate) fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match rustix::process::waitid(WaitId::PidFd(self.end.as_fd()), options) {
            Ok(status) => status.is_some(),
            Err(error) => {
                tracing::error!(%error, attempt = %self.key(), "a program was lost");
                true
            }
        }
    }

    /// Takes in output.
    pub(crate) fn output(&mut self, bytes: &[u8], say: impl FnMut(Say)) {
        self.log.output(bytes);
        self.say_log(say);
    }

    /// Takes in metrics.
    pub(crate) fn metrics(&mut self, bytes: &[u8], mut say: impl FnMut(Say)) {
        let key = &self.order.key;
        self.metrics.receive(bytes, &mut self.log, |metric| {
            say(Say::Said(key.clone(), TrialRecord::Metric(metric)));
        });
        self.say_log(say);
    }

    fn say_log(&mut self, mut say: impl FnMut(Say)) {
        if !self.said_log
            && let Some(path) = self.log.path()
        {
            self.said_log = true;
            say(Say::Logs(self.order.key.clone(), path));
        }
    }

    /// Asks the whole group to end, so that programs behind a shell hear it too.
    pub(crate) fn stop(&mut self, cause: StopCause) {
        if self.cause.is_some() {
            return;
        }
        self.cause = Some(cause);
        self.timer = Some(clock::now().plus_ms(STOP_GRACE_MS));
        process::signal_group(self.leader, Signal::TERM);
    }

    /// Kills the program and its descendants.
    pub(crate) fn kill(&mut self) {
        self.killed = true;
        process::kill_tree(self.leader);
    }

    /// Its time limit passed, or its grace did.
    pub(crate) fn timer_passed(&mut self) {
        self.timer = None;
        match self.cause {
            None => self.stop(StopCause::TimeOut),
            Some(_) => process::kill_tree(self.leader),
        }
    }

    /// Ends what is left in the program's group, and reaps the program.
    pub(crate) fn reap(&mut self) -> io::Result<ExitStatus> {
        // Its leader is not reaped yet, so its number still means its group.
        process::signal_group(self.leader, Signal::KILL);
        self.child.wait()
    }

    /// The last words of a program that is reaped, and what became of it.
    pub(crate) fn finish(
        mut self,
        status: io::Result<ExitStatus>,
        expired: bool,
        pipes: &Pipes,
        spares: &mut Spares,
        buffer: &mut [u8],
        mut say: impl FnMut(Say),
    ) {
        for _ in 0..LAST_PIECES_MAX {
            let Some(bytes) = pipes.read_output(buffer) else { break };
            self.log.output(bytes);
        }
        let key = self.order.key.clone();
        let mut said = |metric| say(Say::Said(key.clone(), TrialRecord::Metric(metric)));
        for _ in 0..LAST_PIECES_MAX {
            let Some(bytes) = pipes.read_metrics(buffer) else { break };
            self.metrics.receive(bytes, &mut self.log, &mut said);
        }
        let metrics = std::mem::take(&mut self.metrics).finish(&mut self.log, &mut said);
        self.say_log(&mut say);
        let how = if expired { "lost its lease".into() } else { describe(&status) };
        let succeeded = status.as_ref().is_ok_and(ExitStatus::success);
        let end = match self.cause {
            _ if expired || (self.killed && !succeeded) => None,
            Some(cause) => Some(cause.end(self.order.spec.time_limit_ms)),
            None => Some(TrialEnd::Outcome(command::outcome(status, &metrics, &self.log))),
        };
        let outcome = match &end {
            Some(TrialEnd::Outcome(outcome)) => Some(outcome),
            Some(TrialEnd::Stopped) | None => None,
        };
        let kept = spares.take_back(&self.order, outcome);
        say(Say::Exited { key, end, how, kept });
    }
}

/// What the agent hears of a program that was not started.
pub(crate) fn not_started(
    order: &Order,
    spares: &mut Spares,
    Refusal { class, message }: Refusal,
) -> Say {
    let end = Some(TrialEnd::Outcome(Outcome::failed(class, message)));
    // Before it is prepared the name of its folder may be that of an earlier attempt's.
    let kept = if order.is_prepared { spares.take_back(order, None) } else { None };
    Say::Exited { key: order.key.clone(), end, how: "was not started".into(), kept }
}

fn abandon(mut child: Child) {
    if let Some(leader) = Pid::from_raw(child.id().cast_signed()) {
        process::kill_tree(leader);
        if let Err(error) = rustix::process::waitpid(Some(leader), WaitOptions::empty()) {
            tracing::debug!(%error, "a program that cannot be watched was not reaped");
        }
    }
    drop(child.kill());
}

fn describe(status: &io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("ended with exit code {code}"),
            (None, Some(signal)) => format!("was killed by signal {signal}"),
            (None, None) => "ended in an unknown way".to_owned(),
        },
        Err(error) => format!("was lost ({error})"),
    }
}
