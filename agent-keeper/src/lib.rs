//! Keeps an agent's programs: one process, `brine-agent-keeper`, starts them, reads what they
//! print and report, and ends them. It does not load libtorch, so a program costs little more than
//! its own start.
//!
//! * [`keep`]: the keeper's loop; `program`: one program in it; `places`: the pipes that programs
//!   use one after the other; `guard`: the thread that ends what outlived its lease.
//! * [`say`]: what agent and keeper say to each other; [`order`]: what a program or a training is
//!   told.
//! * [`command`]: how a program is called and what its exit means; [`work`]: its folders;
//!   [`environment`], [`metrics`], [`log`]: what it finds, reports and prints.
//! * [`cli`]: the command line of `brine-agent-keeper`.
//! * [`process`]: groups, descendants, kills; [`clock`]: the time that all processes share.
//!
//! # How it works
//!
//! One thread waits (epoll) for the agent's words, for the programs' pipes and for their ends
//! (pidfd). A program leads a process group of its own. Its output and metric pipes are used again
//! by the next program, and files appear only when there is something to write, so a program that
//! says nothing leaves nothing.
//!
//! Nothing of a program outlives it: when it ends, its group is killed, and so is every process
//! that came to the keeper as an orphan and belongs to no living program. To know that, each
//! program is marked: it inherits a number in its limit of file locks, which Linux does not use
//! since 2.4.25 and which neither `setsid` nor a cleaned environment removes.
//!
//! # What could break it
//!
//! * The agent dies: the guard sees the end of the control pipe and kills everything.
//! * The agent is frozen: the guard ends each program at its lease's end. The loop never waits for
//!   the agent to read: it keeps what it has to say, and stops reading metrics when that is much.
//! * The keeper dies: its programs become the agent's children, and the agent kills them.
//! * The keeper is frozen: the agent ends it when it does not obey a kill.
//! * A disk stalls: the loop waits for it, the guard does not.
//! * A program changes its limit of file locks and its group, and its parent ends: that process
//!   is taken for a leftover and killed early, never late.

pub mod cli;
pub mod clock;
pub mod command;
pub mod environment;
mod guard;
pub mod keep;
pub mod log;
pub mod metrics;
pub mod order;
mod places;
pub mod process;
mod program;
pub mod say;
pub mod stop;
pub mod work;
