//! Goal: what was appended is there after a restart, and a folder that is not whole is refused.

use super::*;
use proto::{Event, ExperimentId, ExperimentState, Timestamp};

fn record(sequence: u64) -> Record {
    let experiment = ExperimentId::new("e").unwrap();
    let event = Event::ExperimentEnded { experiment, state: ExperimentState::Complete };
    Record { sequence, at: Timestamp(sequence), event }
}

fn records(range: std::ops::RangeInclusive<u64>) -> Vec<Record> {
    range.map(record).collect()
}

fn replayed(store: &Store) -> Result<Vec<u64>, StoreError> {
    let mut seen = Vec::new();
    store.replay(|record| seen.push(record.sequence))?;
    Ok(seen)
}

fn filled(folder: &Path, last: u64) {
    let store = Store::open(folder).unwrap();
    for first in (1..=last).step_by(100) {
        store.append(&records(first..=last.min(first + 99))).unwrap();
    }
}

/// sled's own threads may hold its file for a moment after the store is dropped.
fn reopened(folder: &Path) -> Store {
    let opened = (0..500).find_map(|_| {
        let store = Store::open(folder).ok();
        if store.is_none() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        store
    });
    opened.expect("the folder can be opened again")
}

#[test]
fn records_survive_a_restart_in_order() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 2_500);
    let store = reopened(folder.path());
    assert_eq!(replayed(&store).unwrap(), (1..=2_500).collect::<Vec<_>>());
}

#[test]
fn a_second_coordinator_is_told_who_holds_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let _first = Store::open(folder.path()).unwrap();
    let error = Store::open(folder.path()).err().unwrap().to_string();
    assert!(error.contains("in use by another coordinator (process "), "{error}");
    assert!(error.contains("brine submit"), "{error}");
}

#[test]
fn a_newer_format_is_refused_untouched() {
    let folder = tempfile::tempdir().unwrap();
    filled(folder.path(), 3);
    fs::write(folder.path().join("format"), "3\n").unwrap();
    let before = fs::read(folder.path().join("journal/db")).unwrap();
    let error = Store::open(folder.path()).err().unwrap();
    assert!(matches!(error, StoreError::Newer { found: 3, .. }), "{error}");
    assert_eq!(fs::read(folder.path().join("journal/db")).unwrap(), before);
}

#[test]
fn a_folder_of_something_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("format"), "PNG").unwrap();
    assert!(matches!(Store::open(folder.path()), Err(StoreError::NotOurs(_))));
}

#[test]
fn a_missing_record_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    store.append(&[record(1), record(3)]).unwrap();
    let error = replayed(&store).unwrap_err().to_string();
    assert!(error.contains("record 2 is missing"), "{error}");
}

#[test]
fn a_cut_journal_is_refused_wherever_it_is_cut() {
    let original = tempfile::tempdir().unwrap();
    filled(original.path(), 2_000);
    let length = fs::metadata(original.path().join("journal/db")).unwrap().len();
    for share in [0, 10, 35, 50, 90] {
        let folder = tempfile::tempdir().unwrap();
        copy_folder(original.path(), folder.path());
        let file = File::options().write(true).open(folder.path().join("journal/db")).unwrap();
        file.set_len(length * share / 100).unwrap();
        let error = Store::open(folder.path()).and_then(|store| replayed(&store)).err();
        assert!(
            matches!(error, Some(StoreError::Damaged { .. } | StoreError::Sled { .. })),
            "cut to {share} %: {error:?}"
        );
    }
}

#[test]
fn metric_points_and_notes_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let trial = TrialId::new("00000000000000aa").unwrap();
    let names = 0..crate::metrics::NAMES_MAX + 2;
    let point = |number: usize| MetricPoint {
        trial: trial.clone(),
        attempt: proto::Attempt(1),
        rank: 0,
        metric: format!("m{number:04}"),
        step: 3,
        value: number as f64,
    };
    let store = Store::open(folder.path()).unwrap();
    store.put_metrics(&names.map(point).collect::<Vec<_>>()).unwrap();
    store.flush().unwrap();
    drop(store);
    let store = reopened(folder.path());
    let mut seen = Vec::new();
    store
        .metrics(&trial, 0, None, |metric, sample| seen.push((metric.to_owned(), sample.value)))
        .unwrap();
    assert_eq!(seen.len(), crate::metrics::NAMES_MAX);
    assert_eq!(seen.last(), Some(&("m0999".to_owned(), 999.0)));
    let notes = store.metric_notes(&trial, 0).unwrap();
    assert_eq!(notes, [Note::Refused { metric: "m1000".to_owned() }]);
    let mut seen = Vec::new();
    store.metrics(&trial, 0, Some("m0007"), |_, sample| seen.push(sample.value)).unwrap();
    assert_eq!(seen, [7.0]);
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
