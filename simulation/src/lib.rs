//! The control plane under every fault, on a simulated clock.
//!
//! What runs is production code: the coordinator's core and its turns, the journal's format, the
//! agents' core. What is simulated is what can fail: [`disk`], the network and the clocks
//! ([`world`]), the machines with their processes (`machine`). Everything follows from a seed,
//! so a failure is replayed by its number, to the same trace hash.
//!
//! * [`world`], `nature`: the loop, and one queue of things that will happen.
//! * `server`: the coordinator's process, which crashes between any two steps.
//! * `machine`: an agent's process, its connection and the processes of its trials.
//! * `referee`: reads what became durable, with rules of its own, and knows what really ran.
//! * [`workload`]: who submits what.
//! * [`chaos`], `draw`: how much goes wrong, and worlds drawn from a seed.
//! * [`forecast`]: how a recipe would fare on machines that fail.

pub mod chaos;
pub mod disk;
mod draw;
pub mod forecast;
mod machine;
mod nature;
pub mod random;
mod referee;
mod server;
pub mod workload;
pub mod world;

pub use chaos::Chaos;
pub use workload::{Client, Wish, Workload};
pub use world::{Failure, Finished, Pace, Settings, Work, World};
