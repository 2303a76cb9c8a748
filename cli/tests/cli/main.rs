//! The command line through the real programs: what people type, and what they see.
#![expect(clippy::disallowed_methods, reason = "a test that waits for a process has a clock")]

mod asks;
mod bench;
mod files;
mod fit;
mod hangs;
mod kill;
mod offline;
mod runs;
