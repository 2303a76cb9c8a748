//! The coordinator over real sockets, with a real journal and a real disk.
#![expect(clippy::unwrap_used, reason = "a test")]

mod calls;
mod logs;
mod support;
mod wire;
