//! From the start of a trial's process to its first step, as an agent starts it: `brine-agent
//! run-trial` with an order on its standard input.

use crate::figures::{median, spread};
use crate::peer::Peer;
use crate::training::{Training, large, narrow};
use agent_core::Moment;
use agent_keeper::environment;
use agent_keeper::order::{Folders, Metric, Order, TrialRecord};
use proto::{
    AgentId, Attempt, AttemptKey, Devices, Placement, Resources, Retries, Runner, TrialSpec,
};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

const STARTS: usize = 15;

/// Milliseconds from the start of the process.
struct Took {
    /// To the record that the order was read: the program is loaded and linked.
    loaded: f64,
    /// To the loss of the first step.
    stepped: f64,
}

pub(crate) fn start(python: Option<&Path>) {
    println!("start: from the process's start to the record of its first loss, of {STARTS}");
    for (name, training) in [
        ("16 wide, 1 layer, batch 4", Training::new(narrow(16, 1), 4, 1, 0, 100)),
        ("384 wide, 6 layers, batch 1", Training::new(large(), 1, 1, 0, 100)),
    ] {
        let took: Vec<Took> = (0..STARTS).map(|_| begin(&training)).collect();
        let loaded: Vec<f64> = took.iter().map(|took| took.loaded).collect();
        let stepped: Vec<f64> = took.iter().map(|took| took.stepped).collect();
        let content = fs::read(&training.text).unwrap();
        let begun = Instant::now();
        let hash = blake3::hash(&content);
        let hashing = begun.elapsed().as_secs_f64() * 1e3;
        assert_eq!(hash.to_hex().as_str(), training.spec.data.text.blob.as_str());
        let theirs = python.map_or_else(String::new, |python| {
            let took: Vec<f64> = (0..STARTS / 3).map(|_| begin_theirs(python, &training)).collect();
            format!("; beside it PyTorch {:.0} ms", median(&took))
        });
        println!(
            "  {name}: {} ms, of it {} until it is loaded and has read its order, {hashing:.2} \
             hashing {} bytes of text{theirs}",
            spread(&stepped, 0),
            spread(&loaded, 0),
            content.len(),
        );
    }
}

/// The program that `cargo build --release` puts beside this bench.
fn program() -> PathBuf {
    let bench = std::env::current_exe().unwrap();
    bench.parent().and_then(Path::parent).unwrap().join("brine-agent")
}

/// Starts a trial and ends it after its first loss.
fn begin(training: &Training) -> Took {
    let folder = tempfile::tempdir_in(".").unwrap();
    let order = order(training, folder.path());
    let mut line = serde_json::to_vec(&order).unwrap();
    line.push(b'\n');
    let begun = Instant::now();
    let mut process = Command::new(program())
        .arg("run-trial")
        .envs(environment::variables(&order))
        // Cargo's; an agent has none.
        .env_remove("LD_LIBRARY_PATH")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .process_group(0)
        .spawn()
        .unwrap();
    let mut control = process.stdin.take().unwrap();
    control.write_all(&line).unwrap();
    let mut loaded = None;
    let mut stepped = None;
    for record in BufReader::new(process.stdout.take().unwrap()).lines() {
        let milliseconds = begun.elapsed().as_secs_f64() * 1e3;
        match serde_json::from_str(&record.unwrap()).unwrap() {
            TrialRecord::Started => loaded = Some(milliseconds),
            TrialRecord::Metric(Metric { metric, step: 0, .. }) if metric == "loss" => {
                stepped = Some(milliseconds);
                break;
            }
            TrialRecord::Ended(end) => panic!("it ended with {end:?}"),
            TrialRecord::Metric(_) | TrialRecord::Checkpoint(_) => {}
        }
    }
    process.kill().unwrap();
    process.wait().unwrap();
    Took { loaded: loaded.unwrap(), stepped: stepped.unwrap() }
}

fn order(training: &Training, folder: &Path) -> Order {
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
    let text = &training.spec.data.text.blob;
    fs::copy(&training.text, folders.blobs.join(text.as_str())).unwrap();
    let spec = TrialSpec {
        runner: Runner::Train(Box::new(training.spec.clone())),
        parameters: BTreeMap::new(),
        seed: 1,
        resources: Resources::default(),
        retries: Retries::default(),
        time_limit_ms: None,
        checkpoint_every_ms: None,
        placement: Placement::default(),
        hang: None,
    };
    Order {
        key: AttemptKey { trial: spec.id(), attempt: Attempt(1), rank: 0 },
        agent: AgentId::new("bench").unwrap(),
        spec,
        devices: Devices { cpus: vec![0], ..Devices::default() },
        gang: None,
        mtbf_ms: 0,
        lease_until: Moment(u64::MAX),
        folders,
        resume: Vec::new(),
        is_prepared: false,
    }
}

/// Milliseconds from the start of Python to the end of PyTorch's first step.
fn begin_theirs(python: &Path, training: &Training) -> f64 {
    let mut request = training.request(true);
    request["steps"] = 1.into();
    let begun = Instant::now();
    Peer::start(python, "torch_train.py").ask(&request);
    begun.elapsed().as_secs_f64() * 1e3
}
