//! The control plane under every fault, on a simulated clock.
//!
//! What runs is production code: the coordinator's core and its turns, the journal's format, the
//! agents' core. What is simulated is what can fail: [`disk`], the network and the clocks
//! ([`world`]), the machines with their processes (`machine`). Everything follows from a seed,
//! so a failure is replayed by its number, to the same trace hash.
//!
//! * [`world`]: one queue of things that will happen, and the loop that lets them happen.
//! * `server`: the coordinator's process, which crashes between any two steps.
//! * `machine`: an agent's process, its connection and the processes of its trials.
//! * `referee`: reads what became durable, with rules of its own, and knows what really ran.
//! * [`workload`]: who submits what.
//! * [`chaos`]: how much goes wrong.

pub mod chaos;
pub mod disk;
mod draw;
mod machine;
pub mod random;
mod referee;
mod server;
pub mod workload;
pub mod world;

pub use chaos::Chaos;
pub use world::{Failure, Finished, Settings, World};
