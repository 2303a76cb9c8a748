//! Documents, one JSON object per line, as one stream and packed into windows.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::{Packing, TokenFormat};

fuzz_target!(|content: &[u8]| {
    for packing in [Packing::Stream, Packing::Documents] {
        brine_fuzz::read_text(content, TokenFormat::Jsonl, packing);
    }
});
