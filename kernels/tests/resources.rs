//! Every kernel compiles for the GPUs that Brine is for, on a machine without one, and fits into
//! their registers. `BRINE_REQUIRE_NVRTC=1` makes the absence of NVRTC a failure.

#![expect(clippy::print_stderr, reason = "a skipped test says so, and figures are worth seeing")]

use kernels::compile::{Arch, compile, compiler_present};
use kernels::resources::parse;

/// Bytes that a kernel may spill. None has a reason to.
const SPILL_BYTES_MAX: u32 = 0;

const ARCHITECTURES: [Arch; 2] = [Arch { major: 8, minor: 0 }, Arch { major: 9, minor: 0 }];

#[test]
fn every_kernel_compiles_and_none_spills() {
    if !compiler_present() {
        let required = std::env::var_os("BRINE_REQUIRE_NVRTC").is_some_and(|value| value == "1");
        assert!(!required, "BRINE_REQUIRE_NVRTC is set, but libnvrtc.so.13 cannot be loaded");
        eprintln!("skipped: no NVRTC");
        return;
    }
    let mut wrong = Vec::new();
    for module in kernels::modules() {
        for arch in ARCHITECTURES {
            let compiled = compile(&module.text(), module.options, arch).expect("it compiles");
            assert!(compiled.cubin.as_bytes().starts_with(b"\x7fELF"));
            let found = parse(&compiled.log);
            let mut names: Vec<_> = found.iter().map(|kernel| kernel.function.as_str()).collect();
            let mut wanted = module.functions.to_vec();
            names.sort_unstable();
            wanted.sort_unstable();
            assert_eq!(names, wanted, "{} {:?}", module.name, module.options);
            for kernel in found {
                let line = format!(
                    "sm_{}{} {} {:?}: {kernel:?}",
                    arch.major, arch.minor, module.name, module.options
                );
                eprintln!("{line}");
                let spilled = kernel.spill_store_bytes.max(kernel.spill_load_bytes);
                // A stack without spills is an array that should have been registers.
                if spilled > SPILL_BYTES_MAX || kernel.stack_bytes > SPILL_BYTES_MAX {
                    wrong.push(line);
                }
            }
        }
    }
    assert!(wrong.is_empty(), "these need more registers than there are:\n{}", wrong.join("\n"));
}
