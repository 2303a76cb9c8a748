//! A trial's process as an agent starts it: `brine-agent run-trial` in its environment, with
//! an order on its standard input and records on its standard output.

use agent_core::Moment;
use agent_keeper::environment;
use agent_keeper::order::{Folders, Order, TrialRecord};
use brine_benches::{LIBRARY_PATH, program};
use proto::{
    AgentId, Attempt, AttemptKey, Devices, Placement, Resources, Retries, Runner, TrainSpec,
    TrialSpec,
};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Longer than any of these trainings: none writes a checkpoint before its end.
const CHECKPOINT_EVERY_MS: u64 = 3_600_000;

/// Runs a training of `spec` on the file `text` on so many CPUs. `hear` gets every record with the
/// seconds since the start of the process, and says whether to go on. If not, it is killed.
pub(crate) fn run(
    spec: &TrainSpec,
    text: &Path,
    cpus: u32,
    hear: &mut dyn FnMut(f64, TrialRecord) -> ControlFlow<()>,
) {
    let folder = tempfile::tempdir_in(".").unwrap();
    let order = order(spec, text, cpus, folder.path());
    let mut line = serde_json::to_vec(&order).unwrap();
    line.push(b'\n');
    let begun = Instant::now();
    let mut process = Command::new(program("brine-agent"))
        .arg("run-trial")
        .envs(environment::variables(&order))
        // Cargo's; an agent has none.
        .env_remove(LIBRARY_PATH)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let mut control = process.stdin.take().unwrap();
    control.write_all(&line).unwrap();
    for record in BufReader::new(process.stdout.take().unwrap()).lines() {
        let seconds = begun.elapsed().as_secs_f64();
        let record = serde_json::from_str(&record.unwrap()).unwrap();
        if hear(seconds, record).is_break() {
            break;
        }
    }
    process.kill().unwrap();
    process.wait().unwrap();
}

fn order(spec: &TrainSpec, text: &Path, cpus: u32, folder: &Path) -> Order {
    let folder = fs::canonicalize(folder).unwrap();
    let folders = Folders {
        blobs: folder.join("blobs"),
        attempt: folder.join("attempt"),
        checkpoints: folder.join("checkpoints"),
        program_checkpoints: folder.join("program"),
    };
    for folder in [&folders.blobs, &folders.attempt, &folders.checkpoints] {
        fs::create_dir(folder).unwrap();
    }
    fs::copy(text, folders.blobs.join(spec.data.text.blob.as_str())).unwrap();
    let spec = TrialSpec {
        runner: Runner::Train(Box::new(spec.clone())),
        parameters: BTreeMap::new(),
        seed: 1,
        resources: Resources::default(),
        retries: Retries::default(),
        time_limit_ms: None,
        checkpoint_every_ms: Some(CHECKPOINT_EVERY_MS),
        placement: Placement::default(),
        hang: None,
    };
    Order {
        key: AttemptKey { trial: spec.id(), attempt: Attempt(1), rank: 0 },
        agent: AgentId::new("bench").unwrap(),
        spec,
        devices: Devices { cpus: (0..cpus).collect(), ..Devices::default() },
        gang: None,
        mtbf_ms: 0,
        lease_until: Moment(u64::MAX),
        folders,
        resume: Vec::new(),
        is_prepared: false,
    }
}
