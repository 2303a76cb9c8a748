//! What several integration tests use.

use std::time::{Duration, Instant};

/// How long a test waits for something that must happen. Far longer than it takes, so that a
/// loaded machine does not fail a test.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `ready` answers something.
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "a test waits in real time")]
pub(crate) fn eventually<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The process number that a program wrote to `path`.
pub(crate) fn pid_in(path: &std::path::Path) -> i32 {
    eventually("a process number", || {
        let text = std::fs::read_to_string(path).ok()?;
        text.strip_suffix('\n')?.parse().ok()
    })
}

/// Waits until no process of this number lives; a zombie is dead.
#[track_caller]
pub(crate) fn assert_dies(pid: i32) {
    eventually("the death of a process", || (!lives(pid)).then_some(()));
}

/// Whether a process of this number lives; a zombie does not.
pub(crate) fn lives(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z ") && !stat.contains(") X "))
}

/// The program under test.
pub(crate) const AGENT: &str = env!("CARGO_BIN_EXE_brine-agent");
