//! Weights of a model of Hugging Face.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|weights: &[u8]| brine_fuzz::read_weights(weights));
