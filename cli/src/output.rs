//! The only door to stdout and stderr. Data goes to stdout; everything else goes to stderr, above
//! the progress bars when there are some.

use crate::error::{CliError, Kind};
use crate::progress::bars::Screen;
use serde::Serialize;
use std::io::{IsTerminal as _, Write as _};

/// What a command prints. Errors go to stderr in every mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum OutputMode {
    /// Tables on stdout, progress and advice on stderr.
    Human,
    /// JSON on stdout, progress and advice on stderr.
    Json,
    /// The same stdout as `human`, nothing on stderr but errors.
    Quiet,
}

/// Prints for one command.
#[derive(Clone)]
pub(crate) struct Printer {
    mode: OutputMode,
    screen: Screen,
    live: bool,
}

impl Printer {
    /// The printer for `mode`; bars are drawn only where a person watches.
    pub(crate) fn new(mode: OutputMode) -> Self {
        let live = mode != OutputMode::Quiet && std::io::stderr().is_terminal();
        Self { mode, screen: if live { Screen::on_stderr() } else { Screen::hidden() }, live }
    }

    /// The chosen mode.
    pub(crate) fn mode(&self) -> OutputMode {
        self.mode
    }

    /// Whether stderr redraws; otherwise progress is plain lines.
    pub(crate) fn is_live(&self) -> bool {
        self.live
    }

    /// Where bars are drawn.
    pub(crate) fn screen(&self) -> &Screen {
        &self.screen
    }

    /// Writes a line, or several, of data.
    ///
    /// # Errors
    /// stdout is closed or full.
    pub(crate) fn data(&self, text: &str) -> Result<(), CliError> {
        self.bytes(text.as_bytes())?;
        self.bytes(b"\n")
    }

    /// Writes one JSON document, indented.
    ///
    /// # Errors
    /// stdout is closed or full.
    pub(crate) fn json(&self, value: &impl Serialize) -> Result<(), CliError> {
        self.data(&encode(serde_json::to_string_pretty(value))?)
    }

    /// Writes one JSON document as one line of a stream.
    ///
    /// # Errors
    /// stdout is closed or full.
    pub(crate) fn json_line(&self, value: &impl Serialize) -> Result<(), CliError> {
        self.data(&encode(serde_json::to_string(value))?)
    }

    /// Writes bytes of data as they are.
    ///
    /// # Errors
    /// stdout is closed or full.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), CliError> {
        let written = self.screen.suspended(|| {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(bytes).and_then(|()| stdout.flush())
        });
        written.map_err(|error| {
            if error.kind() == std::io::ErrorKind::BrokenPipe {
                return CliError::broken_pipe();
            }
            CliError::file("write to stdout", error)
        })
    }

    /// Says what happens, for a person who waits.
    pub(crate) fn status(&self, text: &str) {
        if self.mode != OutputMode::Quiet {
            self.say(text);
        }
    }

    /// Says what is wrong although the command goes on.
    pub(crate) fn warning(&self, text: &str) {
        self.status(&format!("{}: {text}", self.emphasis("warning", YELLOW)));
    }

    /// Says what to do next.
    pub(crate) fn hint(&self, text: &str) {
        self.status(&format!("hint: {text}"));
    }

    /// Says why the command failed; also in quiet mode.
    pub(crate) fn error(&self, error: &CliError) {
        if error.kind() == Kind::BrokenPipe || error.is_said() {
            return;
        }
        for part in error.parts() {
            self.error(part);
        }
        let text = error.to_string();
        let text = match text.split_once(':') {
            Some((word, rest)) => format!("{}:{rest}", self.emphasis(word, RED)),
            None => text,
        };
        self.say(&text);
    }

    fn say(&self, text: &str) {
        self.screen.suspended(|| {
            let mut stderr = std::io::stderr().lock();
            // Nobody is left to tell when stderr itself is gone.
            let _closed = writeln!(stderr, "{text}");
        });
    }

    /// Colour only repeats what the word already says.
    fn emphasis(&self, word: &str, colour: &str) -> String {
        let wanted = std::io::stderr().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        if wanted { format!("\u{1b}[1;{colour}m{word}\u{1b}[0m") } else { word.to_owned() }
    }
}

/// ANSI colours of the words before a message.
const RED: &str = "31";
const YELLOW: &str = "33";

fn encode(text: Result<String, serde_json::Error>) -> Result<String, CliError> {
    text.map_err(|error| CliError::internal("cannot write the result as JSON").because(error))
}

/// Log lines of the coordinator inside `brine run` go above the bars instead of through them.
impl tracing_subscriber::fmt::MakeWriter<'_> for Printer {
    type Writer = LogWriter;

    fn make_writer(&self) -> LogWriter {
        LogWriter(self.screen.clone())
    }
}

/// Writes log lines to stderr above the bars.
pub(crate) struct LogWriter(Screen);

impl std::io::Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.suspended(|| std::io::stderr().lock().write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().lock().flush()
    }
}
