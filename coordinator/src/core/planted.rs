//! Bugs that the simulation must find. Only its test compiles this file.

use super::Core;

/// A bug that can be switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// A report counts whatever attempt it names and whoever sent it.
    NoFence,
    /// The caller hears of a change before the journal has it.
    AcknowledgeFirst,
    /// A lease that ended still holds its devices.
    LeaseKept,
    /// Devices are free before the process on them is known to be gone.
    FreeAtOnce,
    /// The same report, heard twice, ends a trial twice.
    EndTwice,
    /// A gang begins although one of its members found no place.
    HalfGang,
    /// Devices are free although an attempt is in line for them.
    LineForgotten,
    /// What an agent noticed is recorded each time it says so.
    NoticeTwice,
}

impl Planted {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::NoFence,
        Self::AcknowledgeFirst,
        Self::LeaseKept,
        Self::FreeAtOnce,
        Self::EndTwice,
        Self::HalfGang,
        Self::LineForgotten,
        Self::NoticeTwice,
    ];
}

impl Core {
    /// Switches a bug on.
    pub fn plant(&mut self, bug: Option<Planted>) {
        self.planted = bug;
    }
}
