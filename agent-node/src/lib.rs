//! The agent: owns a machine's devices and runs trials on them.
//!
//! * `driver`: the one task that feeds the core (`agent_core`) and carries out its effects;
//!   `attempts`: what it wants of the attempts that live; `setup`: what it is given;
//!   `operator`: who may ask it to end.
//! * `session`: the stream to the coordinator; `link` and `outbox`: what goes there, and when;
//!   `stream`: metrics and logs beside the core.
//! * `recorder`: the thread that owns the disk; `checkpoints`: which states exist (sled);
//!   `folders`: the data folder; `blobs`: files by content.
//! * `keeper`: the agent's side of `agent_keeper`, the process that keeps programs; `supervisor`:
//!   one training's process as the agent sees it; `trial`: that process itself.
//! * `devices`: CPU slots and GPUs; `gpus`: what the GPUs do for the attempts that hold them;
//!   `mfu`: how much of one a training uses; `nvml`: the driver.
//! * [`cli`]: the command line of `brine-agent`; `report`: a metric from inside a program;
//!   `doctor`: what works on this machine.
//!
//! A trial is a process; nothing of it outlives its agent or its lease.

mod attempts;
mod blobs;
mod checkpoints;
pub mod cli;
mod devices;
mod doctor;
mod driver;
mod folders;
mod gpus;
mod keeper;
mod lines;
mod link;
mod mfu;
mod nvml;
mod operator;
mod outbox;
mod recorder;
mod report;
mod session;
mod setup;
mod stream;
mod supervisor;
mod trial;
