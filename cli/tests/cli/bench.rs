//! Runs the real `brine` in an empty folder with a sealed environment.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// No command of a test takes this long unless it hangs.
const TIMEOUT: Duration = Duration::from_secs(300);
/// Pause between two looks at a child.
const POLL: Duration = Duration::from_millis(20);

/// An empty folder in which commands run.
pub(crate) struct Bench {
    folder: tempfile::TempDir,
}

/// What a command did.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder can be made") }
    }

    /// The path of `name` in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file, with the folders on its way.
    pub(crate) fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path(name);
        let parent = path.parent().expect("a file in the folder has a parent");
        std::fs::create_dir_all(parent).expect("a folder can be made");
        std::fs::write(&path, content).expect("a file can be written");
        path
    }

    /// `brine` with these arguments, not yet started: no variables but `PATH`, fixed width and
    /// time zone, no terminal.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_brine"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .env("HOME", self.folder.path())
            .env("COLUMNS", "100")
            .env("NO_COLOR", "1")
            .env("TZ", "UTC")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // python3 and libtorch are found through these.
        for name in ["PATH", "LD_LIBRARY_PATH", "BRINE_AGENT"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
    }

    /// Runs `brine` to its end.
    #[track_caller]
    pub(crate) fn brine(&self, arguments: &[&str]) -> Ended {
        self.finish(self.command(arguments).spawn().expect("brine can be started"))
    }

    /// Waits for a started command; kills it and fails when it hangs.
    #[track_caller]
    pub(crate) fn finish(&self, child: Child) -> Ended {
        let id = child.id();
        let (sender, receiver) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || sender.send(child.wait_with_output()));
        let Ok(output) = receiver.recv_timeout(TIMEOUT) else {
            // The reader then ends by itself.
            let killed = Command::new("kill").args(["-9", &id.to_string()]).status();
            panic!("brine hangs; killed it: {killed:?}");
        };
        reader.join().expect("the reader does not panic").expect("the test still waits");
        Ended::new(&output.expect("a child can be waited for"), self.folder.path())
    }

    /// Waits until `is_there` is true of the file `name`.
    #[track_caller]
    pub(crate) fn wait_for(&self, name: &str, is_there: impl Fn(&str) -> bool) -> String {
        let read = || std::fs::read_to_string(self.path(name)).unwrap_or_default();
        wait_until(name, || is_there(&read()));
        read()
    }
}

/// Looks again and again until `is_true`; fails with `what` when it never is.
#[track_caller]
pub(crate) fn wait_until(what: &str, is_true: impl Fn() -> bool) {
    let end = Instant::now() + TIMEOUT;
    while !is_true() {
        assert!(Instant::now() < end, "this never became true: {what}");
        std::thread::sleep(POLL);
    }
}

impl Ended {
    /// The test's folder is written as `DIR`, so that texts can be compared.
    fn new(output: &Output, folder: &Path) -> Self {
        let folder = folder.to_string_lossy().into_owned();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&folder, "DIR");
        Self {
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    /// Checks the exit code.
    #[track_caller]
    pub(crate) fn code(self, expected: i32) -> Self {
        let Self { code, stdout, stderr } = &self;
        assert_eq!(*code, Some(expected), "stdout:\n{stdout}\nstderr:\n{stderr}");
        self
    }

    /// stdout as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}
