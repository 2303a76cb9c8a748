//! The only place of this crate that prints.

/// Prints one message for the person at the terminal. Standard output is left to the programs
/// that the chores start, so that their data can be piped.
#[expect(clippy::print_stderr, reason = "chores talk to a person, on standard error")]
pub(crate) fn say(message: &str) {
    eprintln!("{message}");
}
