//! A keeper of programs, of which the test is the agent.

use super::support::AGENT;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A keeper of programs that has its pipes in `folder`, as the agent starts it.
pub(crate) fn keeper(folder: &Path) -> Child {
    let agent = Path::new(AGENT).parent().unwrap().to_owned();
    let search = std::env::var_os("PATH").unwrap();
    let search = std::env::split_paths(&search).chain([agent]);
    Command::new(KEEPER)
        .arg(folder)
        .env("PATH", std::env::join_paths(search).unwrap())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap()
}

/// The keeper under test.
pub(crate) const KEEPER: &str = env!("CARGO_BIN_EXE_brine-agent-keeper");
