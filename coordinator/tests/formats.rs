//! Journals that earlier versions wrote stay readable. Each `fixtures/journal-N` is a data folder
//! as version N left it; each `fixtures/chunks-N.txt` is what a journal holds, one chunk a line,
//! its number and its bytes in hexadecimal digits. Never change one; a new format adds new ones.
#![expect(clippy::unwrap_used, reason = "a test")]

use coordinator::core::Core;
use coordinator::core::state::TrialState;
use coordinator::journal::{self, Chunk, Damage, Log};
use coordinator::store::Store;
use proto::{
    AgentId, Attempt, BlobId, Checkpoint, CheckpointFile, Devices, Event, ExperimentId,
    ExperimentState, FORMAT_VERSION, FailureClass, Inputs, Member, Notice, NoticeKind, Outcome,
    Record, Timestamp, TrialId,
};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// What the first version's fixture was made to hold.
fn check_first(records: &[Record]) {
    let mut core = Core::new(5_000);
    records.iter().for_each(|record| core.apply(record.at, &record.event));
    core.restart(Timestamp(100_000));
    core.check_invariants(Timestamp(100_000)).unwrap();
    let (id, experiment) = core.experiments().first_key_value().unwrap();
    assert!(id.as_str().starts_with("format-one-"), "{id}");
    assert_eq!(experiment.state, ExperimentState::Running);
    assert!(experiment.study.is_ok(), "the recipe is still read");
    assert_eq!((experiment.planned(), experiment.unfinished()), (3, 2));
    let trials: Vec<_> = experiment.trials.iter().map(|id| core.trial(id).unwrap()).collect();
    let Some(Outcome::Completed { metrics, checkpoint: Some(checkpoint) }) = trials[0].outcome()
    else {
        panic!("{:?}", trials[0].state)
    };
    assert_eq!((metrics["loss"], checkpoint.step), (0.25, 7));
    assert!(matches!(trials[1].state, TrialState::Waiting { .. }));
    let lease = trials[2].lease().unwrap();
    assert_eq!((lease.attempt, lease.leader().agent.as_str()), (Attempt(1), "a"));
    // The ids of stored trials are computed anew from their specifications.
    for (id, trial) in experiment.trials.iter().zip(&trials) {
        assert_eq!(trial.spec.id(), *id);
    }
}

#[test]
fn a_folder_of_the_first_format_opens_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    copy_folder(&fixture("journal-1"), folder.path());
    let mut records = Vec::new();
    {
        let store = Store::open(folder.path()).unwrap();
        store.replay(|record| records.push(record.clone())).unwrap();
        check_first(&records);
        let last = records.last().unwrap();
        store.append(&[Record { sequence: last.sequence + 1, ..last.clone() }]).unwrap();
    }
    let version = fs::read_to_string(folder.path().join("format")).unwrap();
    assert_eq!(version.trim(), FORMAT_VERSION.to_string(), "older programs must refuse it now");
    let store = Store::open(folder.path()).unwrap();
    let mut sequences = Vec::new();
    store.replay(|record| sequences.push(record.sequence)).unwrap();
    assert_eq!(sequences, (1..=records.len() as u64 + 1).collect::<Vec<_>>());
}

/// Chunks in memory.
#[derive(Default)]
struct Chunks {
    chunks: RefCell<Vec<Chunk>>,
    end: u64,
}

impl Log for Chunks {
    type Error = Damage;

    fn append(&self, chunks: Vec<Chunk>, _: u64) -> Result<(), Damage> {
        self.chunks.borrow_mut().extend(chunks);
        Ok(())
    }

    fn read(&self, sequence: u64, most: usize) -> Result<Vec<Chunk>, Damage> {
        let chunks = self.chunks.borrow();
        let first = chunks.iter().rposition(|(first, _)| *first <= sequence).unwrap_or(0);
        Ok(chunks[first..].iter().take(most).cloned().collect())
    }

    fn end(&self) -> Result<u64, Damage> {
        Ok(self.end)
    }
}

fn chunks(name: &str) -> Chunks {
    let text = fs::read_to_string(fixture(name)).unwrap();
    let chunk = |line: &str| {
        let (first, digits) = line.split_once(' ').unwrap();
        let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
        (first.parse().unwrap(), (0..digits.len()).step_by(2).map(byte).collect())
    };
    Chunks { chunks: RefCell::new(text.lines().map(chunk).collect()), end: 0 }
}

#[test]
fn every_kind_of_record_of_the_second_format_is_read_and_written_alike() {
    let fixture = chunks("chunks-2.txt");
    let written = Chunks::default();
    journal::append(&written, &second()).unwrap();
    let is_alike = *written.chunks.borrow() == *fixture.chunks.borrow();
    assert!(is_alike, "the format changed; what is written now:\n{}", digits(&written));
    let mut records = Vec::new();
    journal::replay(&fixture, |record| records.push(record.clone())).unwrap();
    assert_eq!(records, second());
}

#[test]
fn a_changed_byte_is_noticed_unless_it_was_never_durable() {
    let mut chunk = chunks("chunks-2.txt").chunks.borrow()[0].1.clone();
    chunk[40] ^= 1;
    let damaged = |end| Chunks { chunks: RefCell::new(vec![(1, chunk.clone())]), end };
    assert_eq!(journal::replay(&damaged(0), |_| {}), Ok(0));
    assert_eq!(journal::replay(&damaged(1), |_| {}), Err(Damage::Changed(1)));
}

/// A fixture's text.
fn digits(written: &Chunks) -> String {
    let line = |(first, chunk): &Chunk| {
        let digits: Vec<String> = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{first} {}\n", digits.concat())
    };
    written.chunks.borrow().iter().map(line).collect()
}

/// One record of every kind.
fn second() -> Vec<Record> {
    let experiment = ExperimentId::new("two-00000000").unwrap();
    let trial = TrialId::new("0123456789abcdef").unwrap();
    let agent = AgentId::new("a").unwrap();
    let checkpoint = checkpoint();
    let metrics = BTreeMap::from([("loss".into(), 0.5)]);
    let completed = Outcome::Completed { metrics, checkpoint: Some(checkpoint.clone()) };
    let failed = Outcome::failed(FailureClass::Infrastructure, "lost");
    let spec = fs::read_to_string(fixture("spec-2.json")).unwrap();
    let attempt = Attempt(1);
    let mut events = planned(&experiment, &trial, &spec);
    events.extend([
        Event::LeaseGranted {
            trial: trial.clone(),
            attempt,
            agent,
            devices: Devices { cpus: vec![0, 1], gpus: vec![3], gpu_share_milli: 250 },
            code_version: "0.1.0".into(),
            choice: 1,
            members: vec![Member {
                agent: AgentId::new("b").unwrap(),
                devices: Devices::default(),
            }],
            payer: Some(experiment.clone()),
            ahead: false,
        },
        Event::AttemptPreempted { trial: trial.clone(), attempt, by: trial.clone() },
        Event::AttemptStarted { trial: trial.clone(), attempt },
        Event::MemberEnded { trial: trial.clone(), attempt, rank: 1, outcome: completed.clone() },
        Event::Measured { trial: trial.clone(), attempt, rung: 10, value: f64::INFINITY },
        Event::Noticed {
            trial: trial.clone(),
            attempt,
            notice: Notice::new(NoticeKind::SlowStep, 7, "slow"),
        },
        Event::CheckpointSaved { trial: trial.clone(), checkpoint },
        Event::AttemptFailed {
            trial: trial.clone(),
            attempt,
            outcome: failed,
            retry_at: Timestamp(77),
        },
        Event::TrialEnded { trial: trial.clone(), attempt, outcome: completed },
        Event::ExperimentEnded { experiment: experiment.clone(), state: ExperimentState::Failed },
        Event::ExperimentResumed { experiment, retried: vec![trial] },
    ]);
    let record = |(sequence, event)| Record { sequence, at: Timestamp(1_000), event };
    (1..).zip(events).map(record).collect()
}

fn planned(experiment: &ExperimentId, first: &TrialId, spec: &str) -> Vec<Event> {
    let (experiment, recipe) = (experiment.clone(), "apiVersion: brine.dev/v1\n".to_owned());
    vec![
        Event::ExperimentSubmitted {
            experiment: experiment.clone(),
            recipe: recipe.clone(),
            inputs: Inputs::default(),
            user: "ada".into(),
        },
        Event::RecipeChanged { experiment: experiment.clone(), recipe },
        Event::TrialsPlanned {
            experiment: experiment.clone(),
            reason: "a list".into(),
            trials: vec![serde_json::from_str(spec).unwrap()],
        },
        Event::RangePlanned {
            experiment: experiment.clone(),
            reason: "a range".into(),
            count: 1_000_000,
            first: first.clone(),
        },
        Event::TrialsDrawn { experiment, count: 1_024 },
    ]
}

fn checkpoint() -> Checkpoint {
    let file = CheckpointFile {
        name: "model.safetensors".into(),
        hash: BlobId::new("0".repeat(64)).unwrap(),
        bytes: 5,
    };
    Checkpoint {
        step: 9,
        attempt: Attempt(1),
        agent: AgentId::new("a").unwrap(),
        folder: "/checkpoints".into(),
        files: vec![file],
    }
}
