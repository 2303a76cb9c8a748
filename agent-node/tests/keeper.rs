//! Several programs in one keeper: none of them reaches another, and nothing of them stays.
#![expect(clippy::unwrap_used, reason = "a test fails where it goes wrong")]

#[path = "support/keeper.rs"]
mod keeper;
mod support;

use agent_core::TrialEnd;
use agent_keeper::clock;
use agent_keeper::order::{Folders, Order};
use agent_keeper::say::{Ask, Say};
use proto::{
    AgentId, Attempt, AttemptKey, CommandSpec, Devices, Outcome, Placement, Resources, Retries,
    Runner, TrialId, TrialSpec,
};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command};
use support::{assert_dies, pid_in};
use tempfile::TempDir;

const HOUR_MS: u64 = 3_600_000;

#[test]
fn a_flood_of_output_does_not_starve_another_program() {
    let mut lab = Lab::start();
    lab.run(1, "yes x", HOUR_MS);
    for number in 2..12 {
        lab.run(number, "echo '{\"metric\": \"m\", \"step\": 1, \"value\": 2}' >&3", HOUR_MS);
        let metrics = BTreeMap::from([("m".to_owned(), 2.0)]);
        assert_eq!(lab.end_of(number), Some(completed(metrics)));
    }
}

/// A process that left its program's group, session, parent and environment, which is how a daemon
/// starts, belongs to the program all the same: it lives as long as that, and no longer.
#[test]
fn a_daemon_lives_as_long_as_its_program() {
    let mut lab = Lab::start();
    let daemon = |name: &str, rest: &str| {
        let path = lab.path(name);
        format!(
            "(setsid env -i sh -c 'echo $$ > {0}; exec sleep 1000' &); while [ ! -s {0} ]; do \
             sleep 0.01; done; {rest}",
            path.display()
        )
    };
    let wait = format!("while [ ! -e {} ]; do sleep 0.01; done", lab.path("go").display());
    let (lasting, short) = (daemon("lasting", &wait), daemon("short", "true"));
    lab.run(1, &lasting, HOUR_MS);
    let lasting = pid_in(&lab.path("lasting"));
    lab.run(2, &short, HOUR_MS);
    assert_eq!(lab.end_of(2), Some(completed(BTreeMap::new())));
    let short = pid_in(&lab.path("short"));
    assert!(!support::lives(short), "it was gone before the end was told");
    assert!(support::lives(lasting), "its program goes on");
    std::fs::write(lab.path("go"), "").unwrap();
    assert_eq!(lab.end_of(1), Some(completed(BTreeMap::new())));
    assert!(!support::lives(lasting), "it was gone before the end was told");
}

#[test]
fn one_lease_ends_one_program() {
    let mut lab = Lab::start();
    let sleeper = |path: PathBuf| format!("echo $$ > {}; exec sleep 1000", path.display());
    let (first, second) = (sleeper(lab.path("first")), sleeper(lab.path("second")));
    lab.run(1, &first, 700);
    lab.run(2, &second, HOUR_MS);
    let (first, second) = (pid_in(&lab.path("first")), pid_in(&lab.path("second")));
    assert_eq!(lab.end_of(1), None);
    assert_dies(first);
    assert!(support::lives(second));
    lab.ask(&Ask::Kill(key(2)));
    assert_eq!(lab.end_of(2), None);
    assert_dies(second);
}

/// The agent is frozen: it reads nothing, and its programs speak without end.
#[test]
fn leases_end_while_nobody_listens() {
    let mut lab = Lab::start();
    let path = lab.path("child");
    let script = format!(
        "echo $$ > {}; while :; do echo '{{\"metric\": \"m\", \"step\": 1, \"value\": 2}}' >&3; done",
        path.display()
    );
    lab.run(1, &script, 3_000);
    let child = pid_in(&path);
    assert_dies(child);
    assert_eq!(lab.end_of(1), None, "and it is told when somebody listens again");
}

#[test]
fn a_program_finds_pipes_that_the_one_before_has_not_changed() {
    let mut lab = Lab::start();
    let script = "import fcntl, os\nfor fd in (1, 3):\n  flags = fcntl.fcntl(fd, fcntl.F_GETFL)\n  \
                  assert not flags & os.O_NONBLOCK, fd\n  fcntl.fcntl(fd, fcntl.F_SETFL, flags | \
                  os.O_NONBLOCK)\n";
    let file = lab.path("script.py");
    std::fs::write(&file, script).unwrap();
    for number in 1..=3 {
        lab.run(number, &format!("exec python3 {}", file.display()), HOUR_MS);
        assert_eq!(lab.end_of(number), Some(completed(BTreeMap::new())));
    }
}

#[test]
fn a_program_has_no_descriptors_of_the_keeper() {
    let mut lab = Lab::start();
    lab.run(1, "sleep 1000", HOUR_MS);
    let file = lab.path("script.py");
    std::fs::write(&file, "import os, sys\nsys.exit(len(os.listdir('/proc/self/fd')))\n").unwrap();
    // Whoever started the test may have left something open, which all its children inherit.
    let inherited = Command::new("python3").arg(&file).status().unwrap().code().unwrap();
    let (file, expected) = (file.display(), inherited + 1);
    lab.run(2, &format!("python3 {file}; [ $? = {expected} ]"), HOUR_MS);
    assert_eq!(lab.end_of(2), Some(completed(BTreeMap::new())));
}

#[test]
fn hundreds_of_programs_at_once_all_end() {
    let mut lab = Lab::start();
    for number in 0..300 {
        lab.run(number, "sleep 0.2; echo done", HOUR_MS);
    }
    for number in 0..300 {
        assert_eq!(lab.end_of(number), Some(completed(BTreeMap::new())), "{number}");
    }
}

fn completed(metrics: BTreeMap<String, f64>) -> TrialEnd {
    TrialEnd::Outcome(Outcome::Completed { metrics, checkpoint: None })
}

fn key(number: u64) -> AttemptKey {
    let trial = TrialId::new(format!("{number:016x}")).unwrap();
    AttemptKey { trial, attempt: Attempt(1), rank: 0 }
}

struct Lab {
    folder: TempDir,
    child: Child,
    asks: Option<ChildStdin>,
    says: BufReader<ChildStdout>,
    ends: BTreeMap<AttemptKey, Option<TrialEnd>>,
}

impl Lab {
    fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let mut child = keeper::keeper(&folder.path().join("keeper"));
        let asks = child.stdin.take();
        let says = BufReader::new(child.stdout.take().unwrap());
        Self { folder, child, asks, says, ends: BTreeMap::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn ask(&mut self, ask: &Ask) {
        let text = serde_json::to_string(ask).unwrap();
        writeln!(self.asks.as_mut().unwrap(), "{text}").unwrap();
    }

    /// Starts a script as trial `number`.
    fn run(&mut self, number: u64, script: &str, lease_ms: u64) {
        let key = key(number);
        let spec = TrialSpec {
            runner: Runner::Command(CommandSpec {
                arguments: ["/bin/sh", "-c", script].map(str::to_owned).into(),
                environment: BTreeMap::new(),
                working_folder: None,
                files: BTreeMap::new(),
            }),
            parameters: BTreeMap::new(),
            seed: number,
            resources: Resources::default(),
            retries: Retries::default(),
            time_limit_ms: None,
            checkpoint_every_ms: Some(1_000),
            placement: Placement::default(),
            hang: None,
        };
        let folders = Folders {
            blobs: self.path("blobs"),
            attempt: self.path("trials").join(format!("{}-1", key.trial)),
            checkpoints: PathBuf::new(),
            program_checkpoints: self.path("programs").join(key.trial.as_str()),
        };
        let order = Order {
            key,
            agent: AgentId::new("a").unwrap(),
            spec,
            devices: Devices { cpus: vec![0], ..Devices::default() },
            gang: None,
            mtbf_ms: 0,
            lease_until: clock::now().plus_ms(lease_ms),
            folders,
            resume: Vec::new(),
            is_prepared: false,
        };
        self.ask(&Ask::Start(Box::new(order)));
    }

    /// Waits for the end of trial `number`.
    fn end_of(&mut self, number: u64) -> Option<TrialEnd> {
        let wanted = key(number);
        let mut line = String::new();
        while !self.ends.contains_key(&wanted) {
            line.clear();
            assert!(self.says.read_line(&mut line).unwrap() > 0, "the keeper is gone");
            if let Say::Exited { key, end, .. } = serde_json::from_str(&line).unwrap() {
                self.ends.insert(key, end);
            }
        }
        self.ends.remove(&wanted).flatten()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.asks = None;
        self.child.wait().unwrap();
    }
}
