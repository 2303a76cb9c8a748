//! The emulator of GPUs in the place of a GPU: in a test that asks for it, tensors of the processor
//! are treated as if they were on one.

use super::gpu::Machine;
use kernels::emulator::Emulator;
use std::cell::Cell;
use std::sync::OnceLock;

/// Few, so that small grids loop.
const MULTIPROCESSORS: u32 = 2;

thread_local! {
    static EMULATING: Cell<bool> = const { Cell::new(false) };
}

/// The machine for tensors of the processor, within [`emulating`].
pub(super) fn machine() -> Option<&'static Machine> {
    static MACHINE: OnceLock<Machine> = OnceLock::new();
    let machine = || MACHINE.get_or_init(|| Machine::new(Emulator::new(MULTIPROCESSORS, 1)));
    EMULATING.get().then(machine)
}

/// What `work` finds with the kernels of GPUs.
pub(crate) fn emulating<T>(work: impl FnOnce() -> T) -> T {
    EMULATING.set(true);
    let found = work();
    EMULATING.set(false);
    found
}
