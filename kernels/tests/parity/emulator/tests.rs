//! The emulator itself: what it must compute, and what it must not forgive.

use super::Emulator;
use crate::lab::{Lab, Machine, seed};
use kernels::launch::{Argument, Call, Module, Stream};
use kernels::memory::Kind;

static MODULE: Module = Module {
    name: "misuse",
    source: include_str!("misuse.cu"),
    options: &[],
    functions: &[
        "reverses",
        "sums",
        "lacks_a_barrier",
        "lacks_a_second_barrier",
        "ends_early",
        "ends_a_lane_early",
        "waits_apart",
        "shuffles_apart",
        "writes_beside",
    ],
};

/// Runs a kernel with parameters (float *to, unsigned n) over 2 blocks of 64 threads.
fn run(function: &'static str, seed: u64) -> Result<Vec<f32>, String> {
    const VALUES: usize = 128;
    let emulator = Emulator::new(1, seed);
    let lab = Lab::new(&emulator, Kind::Float32, 0);
    let to = lab.output(VALUES);
    let arguments = [Argument::from(to.values().pointer), Argument::from(VALUES as u32)];
    let call = Call {
        module: &MODULE,
        function,
        blocks: 2,
        threads: 64,
        stream: Stream::DEFAULT,
        arguments: &arguments,
    };
    // SAFETY: the kernels have these parameters and touch `n` values, or they are found out.
    unsafe { emulator.run(&call) }.map(|()| to.read())
}

#[test]
fn barriers_and_shuffles_mean_what_they_mean() {
    let reversed: Vec<f32> = (0..128).map(|i| (i / 64 * 64 + 63 - i % 64) as f32).collect();
    assert_eq!(run("reverses", seed()).unwrap(), reversed);
    assert_eq!(run("sums", seed()).unwrap(), [2_016.0; 128]);
}

#[test]
fn misuse_is_named() {
    for (function, words) in [
        ("ends_early", "a thread ended while another waits at a barrier"),
        ("ends_a_lane_early", "for a thread that ended"),
        ("waits_apart", "waits at the barrier of line"),
        ("shuffles_apart", "exchanges at line"),
    ] {
        // Which thread finds it out is drawn at random.
        for i in 0..5 {
            let fault = run(function, seed().wrapping_add(i)).unwrap_err();
            assert!(fault.contains(words), "{function}: {fault}");
        }
    }
}

#[test]
fn a_missing_barrier_shows_in_the_values() {
    let reversed = run("reverses", seed()).unwrap();
    for function in ["lacks_a_barrier", "lacks_a_second_barrier"] {
        let right =
            (0..20).filter(|&i| run(function, seed().wrapping_add(i)).unwrap() == reversed).count();
        assert!(right < 5, "{function} was right {right} times of 20");
    }
}

#[test]
fn arguments_of_other_types_are_refused() {
    let emulator = Emulator::new(1, 1);
    let lab = Lab::new(&emulator, Kind::Float32, 0);
    let to = lab.output(1);
    for arguments in [vec![], vec![Argument::from(to.values().pointer), Argument::from(1.0_f32)]] {
        let call = Call {
            module: &MODULE,
            function: "sums",
            blocks: 1,
            threads: 32,
            stream: Stream::DEFAULT,
            arguments: &arguments,
        };
        // SAFETY: the kernel does not start.
        let fault = unsafe { emulator.run(&call) }.unwrap_err();
        assert!(fault.contains("instead of pu"), "{fault}");
    }
}

#[test]
#[should_panic(expected = "a kernel wrote beside its tensor")]
fn a_write_beside_a_tensor_is_noticed() {
    let _values = run("writes_beside", seed());
}

#[test]
#[should_panic(expected = "a kernel wrote into its input")]
fn a_write_into_an_input_is_noticed() {
    let emulator = Emulator::new(1, seed());
    let lab = Lab::new(&emulator, Kind::Float32, 0);
    let to = lab.tensor(&[0.0; 64]);
    let arguments = [Argument::from(to.values().pointer), Argument::from(64_u32)];
    let (function, stream) = ("sums", Stream::DEFAULT);
    let call =
        Call { module: &MODULE, function, blocks: 1, threads: 64, stream, arguments: &arguments };
    // SAFETY: the kernel has these parameters and writes 64 values.
    unsafe { emulator.run(&call) }.unwrap();
}

#[test]
fn memory_keeps_its_bytes() {
    let emulator = Emulator::new(1, 1);
    let bytes: Vec<u8> = (0..37).collect();
    let memory = emulator.upload(&bytes);
    assert!(emulator.address(&memory).is_multiple_of(16));
    assert_eq!(emulator.download(&memory), bytes);
}
