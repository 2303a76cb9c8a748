use super::*;

fn key(attempt: u32, rank: u32) -> AttemptKey {
    let trial = TrialId::new("00000000000000aa").unwrap();
    AttemptKey { trial, attempt: Attempt(attempt), rank }
}

fn text(logs: &Logs, key: &AttemptKey) -> String {
    match logs.read(key, 0, 100).unwrap() {
        Piece::Text(text) => String::from_utf8(text).unwrap(),
        Piece::Removed => "(removed)".to_owned(),
    }
}

fn scan(logs: &Logs) -> Vec<(u32, u32, u64)> {
    let stored = logs.scan(&CancellationToken::new()).unwrap().unwrap();
    let mut found: Vec<_> =
        stored.iter().map(|log| (log.key.attempt.0, log.key.rank, log.bytes)).collect();
    found.sort_unstable();
    found
}

#[test]
fn members_of_a_gang_have_files_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let logs = Logs::new(folder.path(), u64::MAX);
    logs.write(&key(2, 0), 0, b"first").unwrap();
    logs.write(&key(2, 1), 0, b"second").unwrap();
    logs.write(&key(2, 1), 6, b" too").unwrap();
    let read = [0, 1, 2].map(|rank| text(&logs, &key(2, rank)));
    assert_eq!(read, ["first", "second too", ""]);
    // Where earlier versions put it.
    assert!(folder.path().join("00000000000000aa/2.log").is_file());
    assert_eq!(scan(&logs), [(2, 0, 4_096), (2, 1, 4_096)]);
}

#[test]
fn the_sum_follows_what_is_written_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let logs = Logs::new(folder.path(), u64::MAX);
    let piece = vec![b'x'; 5_000];
    logs.write(&key(1, 0), 0, &piece).unwrap();
    logs.write(&key(1, 0), 0, &piece).unwrap();
    assert_eq!(logs.bytes(), 8_192, "a repeated piece is counted once");
    logs.write(&key(1, 0), 5_000, &piece).unwrap();
    logs.write(&key(2, 3), 0, b"x").unwrap();
    assert_eq!(logs.bytes(), 12_288 + 4_096);
    // Another process begins with nothing and learns it.
    let later = Logs::new(folder.path(), u64::MAX);
    assert_eq!(later.bytes(), 0);
    assert_eq!(scan(&later), [(1, 0, 12_288), (2, 3, 4_096)]);
    assert_eq!(later.bytes(), logs.bytes());
    assert_eq!(scan(&later).len(), 2, "looking again counts nothing twice");
    assert_eq!(later.bytes(), logs.bytes());
    later.remove(&key(1, 0)).unwrap();
    assert_eq!(later.bytes(), 4_096);
    assert_eq!(later.write(&key(3, 0), LOG_BYTES_MAX, b"beyond").ok(), Some(()));
    assert_eq!(later.bytes(), 4_096, "what an attempt has no room for is not there");
}

#[test]
fn a_late_piece_does_not_bring_a_removed_log_back() {
    let folder = tempfile::tempdir().unwrap();
    let logs = Logs::new(folder.path(), u64::MAX);
    logs.write(&key(1, 0), 0, b"old").unwrap();
    logs.write(&key(2, 0), 0, b"new").unwrap();
    logs.remove(&key(1, 0)).unwrap();
    logs.write(&key(1, 0), 3, b" and late").unwrap();
    assert_eq!([1, 2, 3].map(|n| text(&logs, &key(n, 0))), ["(removed)", "new", ""]);
    assert_eq!(scan(&logs), [(2, 0, 4_096)]);
    assert_eq!(logs.bytes(), 4_096);
    assert_eq!(
        logs.remove(&key(1, 0)).unwrap_err().kind(),
        io::ErrorKind::NotFound,
        "it is removed once"
    );
}

#[test]
fn a_removal_that_was_cut_short_is_made_up_for() {
    let folder = tempfile::tempdir().unwrap();
    let logs = Logs::new(folder.path(), u64::MAX);
    logs.write(&key(1, 2), 0, b"old").unwrap();
    let path = folder.path().join("00000000000000aa");
    fs::rename(path.join("1.2.log"), path.join("1.2.removed")).unwrap();
    let later = Logs::new(folder.path(), u64::MAX);
    assert_eq!(text(&later, &key(1, 2)), "(removed)");
    assert_eq!(scan(&later), []);
    assert_eq!(fs::metadata(path.join("1.2.removed")).unwrap().len(), 0);
}

#[test]
fn what_is_no_log_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let trial = folder.path().join("00000000000000aa");
    fs::create_dir_all(trial.join("5.log.d")).unwrap();
    for name in ["notes.txt", "x.log", "1.log", "1.x.log", "2.3.4.log", "4.keep"] {
        fs::write(trial.join(name), "x").unwrap();
    }
    fs::write(folder.path().join("readme.log"), "x").unwrap();
    fs::create_dir(folder.path().join("not-an-id")).unwrap();
    fs::write(folder.path().join("not-an-id/1.log"), "x").unwrap();
    let logs = Logs::new(folder.path(), 0);
    assert_eq!(scan(&logs), [(1, 0, 4_096)]);
    assert_eq!(scan(&Logs::new(&folder.path().join("none"), 0)), []);
    let stopped = CancellationToken::new();
    stopped.cancel();
    assert_eq!(logs.scan(&stopped).unwrap(), None);
}
