//! The emulator as a machine of the cases, and its own tests.

use crate::lab::Machine;
pub(crate) use kernels::emulator::Emulator;
use std::cell::UnsafeCell;

mod tests;

/// Memory that kernels write to behind Rust's back.
pub(crate) struct Memory {
    words: Box<[UnsafeCell<u128>]>,
    bytes: usize,
}

impl Machine for Emulator {
    type Memory = Memory;

    fn upload(&self, bytes: &[u8]) -> Memory {
        let word = |part: &[u8]| {
            let mut word = [0; size_of::<u128>()];
            word[..part.len()].copy_from_slice(part);
            UnsafeCell::new(u128::from_ne_bytes(word))
        };
        let words = bytes.chunks(size_of::<u128>()).map(word).collect();
        Memory { words, bytes: bytes.len() }
    }

    fn address(&self, memory: &Memory) -> u64 {
        memory.words.as_ptr() as u64
    }

    fn download(&self, memory: &Memory) -> Vec<u8> {
        // SAFETY: no kernel runs now, so nobody writes.
        let words = memory.words.iter().map(|word| unsafe { *word.get() });
        words.flat_map(u128::to_ne_bytes).take(memory.bytes).collect()
    }
}
