//! Shards of llm.c.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::{Packing, TokenFormat};

fuzz_target!(|content: &[u8]| {
    brine_fuzz::read_text(content, TokenFormat::Shards, Packing::Stream);
});
