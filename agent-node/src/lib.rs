//! The agent: owns a machine's devices and runs trials on them.
//!
//! * `driver`: the one task that feeds the core (`agent_core`) and carries out its effects; `operator`: who may
//!   ask it to end.
//! * `session`: the stream to the coordinator; `blobs`: files by content; `checkpoints`: which
//!   states exist (sled); `devices`: CPU slots and GPUs (NVML); `folders`: the data folder;
//!   `stream`: metrics and logs beside the core.
//! * `supervisor`: one attempt's process as the agent sees it; `trial`: that process itself, with
//!   the runners `command` and `train`; [`order`]: what the two say to each other; `process`:
//!   groups, descendants, kills.
//! * [`cli`]: the command line of `brine-agent`; `doctor`: what works on this machine.
//!
//! A trial is a process; nothing of it outlives its agent or its lease.

mod blobs;
mod checkpoints;
pub mod cli;
pub mod clock;
mod devices;
mod doctor;
mod driver;
mod environment;
mod folders;
mod link;
mod operator;
pub mod order;
mod outbox;
mod process;
mod recorder;
mod session;
mod stream;
mod supervisor;
mod trial;
