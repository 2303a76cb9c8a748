//! What `brine run` starts on this machine: a coordinator inside its own process, and agents as
//! child processes.

pub(crate) mod agents;
pub(crate) mod embedded;
pub(crate) mod signals;
