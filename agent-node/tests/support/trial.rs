//! One attempt of which the test is the agent.

use super::HOUR_MS;
use super::keeper::keeper;
use super::support::{AGENT, pid_in};
use agent_core::{Gang, TrialEnd};
use agent_keeper::clock;
use agent_keeper::order::{Control, Folders, Order, TrialRecord};
use agent_keeper::say::{Ask, Say};
use proto::{AgentId, Attempt, AttemptKey, Checkpoint, Devices, TrialSpec};
use serde::Serialize;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use tempfile::TempDir;

/// A running keeper with one program, or a running `run-trial`, of which the test is the agent.
pub(crate) struct Trial {
    pub(crate) order: Order,
    pub(crate) child: Child,
    pub(crate) control: Option<ChildStdin>,
    records: BufReader<ChildStdout>,
    pub(crate) folder: TempDir,
}

impl Trial {
    pub(crate) fn start(spec: TrialSpec) -> Self {
        Self::start_until(spec, HOUR_MS)
    }

    pub(crate) fn start_until(spec: TrialSpec, lease_ms: u64) -> Self {
        Self::start_with(spec, lease_ms, b"", Vec::new())
    }

    /// Starts a trial whose data file is `blob`.
    pub(crate) fn start_with(
        spec: TrialSpec,
        lease_ms: u64,
        blob: &[u8],
        resume: Vec<Checkpoint>,
    ) -> Self {
        Self::start_member(spec, lease_ms, blob, resume, (0, None))
    }

    /// As [`start_with`](Self::start_with), of one rank of a gang.
    pub(crate) fn start_member(
        spec: TrialSpec,
        lease_ms: u64,
        blob: &[u8],
        resume: Vec<Checkpoint>,
        (rank, gang): (u32, Option<Gang>),
    ) -> Self {
        let folder = TempDir::new().unwrap();
        let make = |name: &str| -> PathBuf {
            let path = folder.path().join(name);
            std::fs::create_dir_all(&path).unwrap();
            path
        };
        let is_training = spec.runner.is_training();
        let folders = Folders {
            blobs: make("blobs"),
            attempt: if is_training { make("attempt") } else { folder.path().join("attempt") },
            checkpoints: make("checkpoints"),
            program_checkpoints: folder.path().join("programs"),
        };
        let trial = proto::TrialId::new("0123456789abcdef").unwrap();
        let order = Order {
            key: AttemptKey { trial, attempt: Attempt(1), rank },
            agent: AgentId::new("a").unwrap(),
            spec,
            devices: Devices { cpus: vec![0], ..Devices::default() },
            gang,
            mtbf_ms: 0,
            lease_until: clock::now().plus_ms(lease_ms),
            folders,
            resume,
            is_prepared: false,
        };
        let hash = blake3::hash(blob).to_hex();
        std::fs::write(order.folders.blobs.join(hash.as_str()), blob).unwrap();
        let mut child = if is_training {
            let log = File::options().append(true).create(true).open(order.folders.log()).unwrap();
            spawn(log.into())
        } else {
            keeper(&folder.path().join("keeper"))
        };
        let control = child.stdin.take();
        let records = BufReader::new(child.stdout.take().unwrap());
        let mut trial = Self { order, child, control, records, folder };
        let order = trial.order.clone();
        if is_training {
            trial.write(&order);
        } else {
            trial.write(&Ask::Start(Box::new(order)));
        }
        trial
    }

    fn is_training(&self) -> bool {
        self.order.spec.runner.is_training()
    }

    fn write(&mut self, line: &impl Serialize) {
        let text = serde_json::to_string(line).unwrap();
        writeln!(self.control.as_mut().unwrap(), "{text}").unwrap();
    }

    pub(crate) fn say(&mut self, control: &Control) {
        let key = self.order.key.clone();
        match (self.is_training(), *control) {
            (true, control) => self.write(&control),
            (false, Control::Lease(until)) => self.write(&Ask::Lease(key, until)),
            (false, Control::Stop) => self.write(&Ask::Stop(key)),
        }
    }

    pub(crate) fn next_record(&mut self) -> Option<TrialRecord> {
        loop {
            let mut line = String::new();
            if self.records.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            if self.is_training() {
                return Some(serde_json::from_str(&line).unwrap());
            }
            match serde_json::from_str(&line).unwrap() {
                Say::Said(_, record) => return Some(record),
                Say::Logs(_, path) => assert_eq!(path, self.order.folders.log()),
                Say::Exited { end, .. } => return end.map(TrialRecord::Ended),
            }
        }
    }

    /// Reads until the next checkpoint.
    pub(crate) fn next_checkpoint(&mut self) -> Checkpoint {
        loop {
            match self.next_record().expect("it ended before its next checkpoint") {
                TrialRecord::Checkpoint(checkpoint) => return checkpoint,
                TrialRecord::Started | TrialRecord::Metric(_) => {}
                TrialRecord::Ended(end) => panic!("{end:?}: {}", self.log()),
            }
        }
    }

    /// Reads all records: the metrics in order, and the end when there is one.
    pub(crate) fn finish(&mut self) -> (Vec<(String, u64, f64)>, Option<TrialEnd>) {
        let mut metrics = Vec::new();
        while let Some(record) = self.next_record() {
            match record {
                TrialRecord::Metric(metric) => {
                    metrics.push((metric.metric, metric.step, metric.value));
                }
                TrialRecord::Ended(end) => return (metrics, Some(end)),
                TrialRecord::Started | TrialRecord::Checkpoint(_) => {}
            }
        }
        (metrics, None)
    }

    pub(crate) fn exit(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// The process number that the program wrote into its working folder.
    pub(crate) fn pid(&self, name: &str) -> i32 {
        pid_in(&self.order.folders.attempt.join("work").join(name))
    }

    /// The log; empty when there is none.
    pub(crate) fn log(&self) -> String {
        let log = std::fs::read(self.order.folders.log()).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        self.control = None;
        self.child.wait().unwrap();
    }
}

pub(crate) fn spawn(log: Stdio) -> Child {
    Command::new(AGENT)
        .arg("run-trial")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .process_group(0)
        .spawn()
        .unwrap()
}
