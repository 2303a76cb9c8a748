use super::*;
use proto::{Attempt, CheckpointFile, FailureClass, TrialId};
use std::collections::BTreeMap;
use tempfile::TempDir;

#[test]
fn the_two_newest_checkpoints_survive_a_restart_and_older_folders_are_gone() {
    let lab = Lab::new();
    let mut store = lab.open();
    let saved: Vec<Checkpoint> = [10, 20, 30].map(|step| lab.save(&store, step)).into();
    for checkpoint in &saved {
        store.commit(&lab.key, checkpoint).unwrap();
        store.acknowledge(&lab.key, checkpoint);
    }
    drop(store);
    lab.check(&lab.open(), &[30, 20]);
    assert!(!Path::new(&saved[0].folder).exists());
}

#[test]
fn what_the_coordinator_has_and_all_newer_ones_stay_while_it_does_not_answer() {
    let lab = Lab::new();
    let mut store = lab.open();
    for step in 0..4 {
        let saved = lab.save(&store, step);
        store.commit(&lab.key, &saved).unwrap();
        if step == 1 {
            store.acknowledge(&lab.key, &saved);
        }
    }
    lab.check(&store, &[3, 2, 1]);
    for step in 4..KEEP_UNHEARD as u64 + 9 {
        store.commit(&lab.key, &lab.save(&store, step)).unwrap();
    }
    let steps = lab.steps(&store, None);
    assert_eq!(steps.len(), KEEP_UNHEARD, "a cut off agent does not fill the disk");
    assert_eq!((steps[0], steps[KEEP_UNHEARD - 1]), (KEEP_UNHEARD as u64 + 8, 1));
}

#[test]
fn until_the_coordinator_has_a_checkpoint_all_stay() {
    let lab = Lab::new();
    let store = lab.open();
    for step in 0..4 {
        store.commit(&lab.key, &lab.save(&store, step)).unwrap();
    }
    lab.check(&store, &[3, 2, 1, 0]);
}

#[test]
fn members_of_a_gang_have_records_of_their_own() {
    let lab = Lab::new();
    let store = lab.open();
    store.commit(&lab.key, &lab.save(&store, 10)).unwrap();
    let second = Lab { key: AttemptKey { rank: 1, ..lab.key.clone() }, ..lab };
    second.check(&store, &[]);
    store.commit(&second.key, &second.save(&store, 20)).unwrap();
    drop(store);
    second.check(&second.open(), &[20]);
}

#[test]
fn naming_a_checkpoint_twice_changes_nothing() {
    let lab = Lab::new();
    let store = lab.open();
    let checkpoint = lab.save(&store, 10);
    for _ in 0..3 {
        store.commit(&lab.key, &checkpoint).unwrap();
    }
    lab.check(&store, &[10]);
}

#[test]
fn a_folder_that_no_record_names_is_removed_at_the_start() {
    let lab = Lab::new();
    let store = lab.open();
    let named = lab.save(&store, 10);
    store.commit(&lab.key, &named).unwrap();
    let torn = lab.save(&store, 20);
    let foreign = lab.folder.path().join("checkpoints/other/0123456789abcdef/1/step-5");
    fs::create_dir_all(&foreign).unwrap();
    drop(store);
    lab.check(&lab.open(), &[10]);
    assert!(!Path::new(&torn.folder).exists());
    assert!(foreign.exists(), "another agent's folder was touched");
}

#[test]
fn a_second_start_of_an_attempt_gets_a_folder_of_its_own() {
    let lab = Lab::new();
    let store = lab.open();
    let folders = [0, 1, 2].map(|_| store.attempt_folder(&lab.key).unwrap());
    assert_eq!(BTreeSet::from(folders).len(), 3);
}

#[test]
fn a_checkpoint_of_another_agent_is_a_candidate_when_its_folder_is_here() {
    let lab = Lab::new();
    let store = lab.open();
    let own = lab.save(&store, 10);
    store.commit(&lab.key, &own).unwrap();
    let elsewhere = Checkpoint { step: 20, folder: "/nowhere".into(), ..own.clone() };
    assert_eq!(lab.steps(&store, Some(&elsewhere)), [10]);
    let shared = lab.folder.path().join("shared");
    fs::create_dir(&shared).unwrap();
    let here = Checkpoint { step: 20, folder: shared.display().to_string(), ..own.clone() };
    assert_eq!(lab.steps(&store, Some(&here)), [20, 10]);
    assert_eq!(lab.steps(&store, Some(&own)), [10], "the same one is not listed twice");
}

#[test]
fn a_settled_outcome_decides_what_stays() {
    let completed = Outcome::Completed { metrics: BTreeMap::new(), checkpoint: None };
    let diverged = Outcome::Diverged { metric: "loss".into(), step: 3 };
    let failed = |class| Outcome::failed(class, "x");
    for (outcome, expected) in [
        (completed, &[20][..]),
        (diverged, &[]),
        (failed(FailureClass::Invalid), &[]),
        (failed(FailureClass::Infrastructure), &[20, 10]),
        (failed(FailureClass::Cancelled), &[20, 10]),
    ] {
        let lab = Lab::new();
        let mut store = lab.open();
        for step in [10, 20] {
            store.commit(&lab.key, &lab.save(&store, step)).unwrap();
        }
        store.settle(&lab.key, &outcome).unwrap();
        lab.check(&store, expected);
    }
}

#[test]
fn a_store_of_a_newer_format_and_a_damaged_one_are_refused() {
    let lab = Lab::new();
    let records = lab.folder.path().join("records");
    let database = sled::open(&records).unwrap();
    database.insert(FORMAT_KEY, &(FORMAT_VERSION + 1).to_le_bytes()).unwrap();
    drop(database);
    let newer = lab.try_open().unwrap_err();
    assert!(matches!(newer, CheckpointError::Newer { found, .. } if found == FORMAT_VERSION + 1));

    let database = sled::open(&records).unwrap();
    database.insert(FORMAT_KEY, &FORMAT_VERSION.to_le_bytes()).unwrap();
    database.open_tree(TRIALS_TREE).unwrap().insert("0123456789abcdef", "{").unwrap();
    drop(database);
    assert!(matches!(lab.try_open().unwrap_err(), CheckpointError::Damaged { .. }));
}

struct Lab {
    folder: TempDir,
    key: AttemptKey,
    agent: AgentId,
}

impl Lab {
    fn new() -> Self {
        Self {
            folder: TempDir::new().unwrap(),
            key: AttemptKey {
                trial: TrialId::new("0123456789abcdef").unwrap(),
                attempt: Attempt(1),
                rank: 0,
            },
            agent: AgentId::new("a").unwrap(),
        }
    }

    fn try_open(&self) -> Result<CheckpointStore, CheckpointError> {
        let path = self.folder.path();
        CheckpointStore::open(&path.join("records"), &path.join("checkpoints"), &self.agent)
    }

    fn open(&self) -> CheckpointStore {
        self.try_open().unwrap()
    }

    /// Writes the files of a checkpoint, as the trainer does, without recording it.
    fn save(&self, store: &CheckpointStore, step: u64) -> Checkpoint {
        let folder = store.attempt_folder(&self.key).unwrap().join(format!("step-{step}"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("weights"), b"w").unwrap();
        Checkpoint {
            step,
            attempt: Attempt(1),
            agent: self.agent.clone(),
            folder: folder.display().to_string(),
            files: vec![CheckpointFile {
                name: "weights".into(),
                hash: proto::BlobId::from_hash(blake3::hash(b"w")),
                bytes: 1,
            }],
        }
    }

    fn steps(&self, store: &CheckpointStore, known: Option<&Checkpoint>) -> Vec<u64> {
        let found = store.candidates(&self.key, known).unwrap();
        found.iter().map(|checkpoint| checkpoint.step).collect()
    }

    #[track_caller]
    fn check(&self, store: &CheckpointStore, expected_steps: &[u64]) {
        assert_eq!(self.steps(store, None), expected_steps);
    }
}
