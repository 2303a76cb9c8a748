//! Every kernel against its CPU reference, by one table of cases for two machines: the emulator,
//! which runs the CUDA source on the processor, and a GPU where there is one. On a machine with a
//! GPU, `on_gpu` selects the tests that need it; they need neither a compiler of C++ nor this
//! repository. `BRINE_REQUIRE_GPU=1` makes an absent GPU a failure.

#![expect(unsafe_code, reason = "kernels take addresses")]
#![expect(clippy::unwrap_used, reason = "in a test, a step that fails is the finding")]
#![expect(clippy::print_stderr, reason = "a skipped test says so, a failed one how to repeat it")]

mod activation;
mod adamw;
mod emulator;
mod gpu;
mod lab;
mod logits;
mod norm;
mod rotary;
mod sampling;
