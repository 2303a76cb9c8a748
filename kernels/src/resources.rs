//! What a kernel needs of a multiprocessor, from the log of `ptxas -v`.

/// What one kernel uses, per thread if not said otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resources {
    /// Name of the kernel.
    pub function: String,
    /// Registers.
    pub registers: u32,
    /// Bytes of the stack, which is slow memory: spills, and arrays that are indexed by a variable.
    pub stack_bytes: u32,
    /// Bytes that are written because registers do not suffice.
    pub spill_store_bytes: u32,
    /// Bytes that are read back.
    pub spill_load_bytes: u32,
    /// Bytes of shared memory, of one block.
    pub shared_bytes: u32,
}

/// Every kernel of the log, in its order. Functions that a kernel calls are counted with it.
pub fn parse(log: &str) -> Vec<Resources> {
    let mut kernels: Vec<Resources> = Vec::new();
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let function = rest.split('\'').next().unwrap_or_default().to_owned();
            kernels.push(Resources {
                function,
                registers: 0,
                stack_bytes: 0,
                spill_store_bytes: 0,
                spill_load_bytes: 0,
                shared_bytes: 0,
            });
        }
        let Some(kernel) = kernels.last_mut() else { continue };
        let number = |unit: &str| number_before(line, unit).unwrap_or(0);
        kernel.stack_bytes += number(" bytes stack frame");
        kernel.spill_store_bytes += number(" bytes spill stores");
        kernel.spill_load_bytes += number(" bytes spill loads");
        kernel.registers = kernel.registers.max(number(" registers"));
        kernel.shared_bytes = kernel.shared_bytes.max(number(" bytes smem"));
    }
    kernels
}

fn number_before(line: &str, unit: &str) -> Option<u32> {
    let (before, _) = line.split_once(unit)?;
    before.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::{compile, tests as nvrtc};

    const LOG: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'large' for 'sm_90'
ptxas info    : Function properties for large
ptxas         .     280 bytes stack frame, 500 bytes spill stores, 504 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 280 bytes cumulative stack size, 128 bytes smem
ptxas info    : Compile time = 22.876 ms
ptxas info    : Compiling entry function 'small' for 'sm_90'
ptxas info    : Function properties for small
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 9 registers, used 0 barriers
";

    #[test]
    fn every_number_of_the_log_goes_to_its_kernel() {
        let small = Resources {
            function: "small".to_owned(),
            registers: 9,
            stack_bytes: 0,
            spill_store_bytes: 0,
            spill_load_bytes: 0,
            shared_bytes: 0,
        };
        let large = Resources {
            function: "large".to_owned(),
            registers: 32,
            stack_bytes: 280,
            spill_store_bytes: 500,
            spill_load_bytes: 504,
            shared_bytes: 128,
        };
        assert_eq!(parse(LOG), [large, small]);
        assert_eq!(parse("nothing of interest"), []);
    }

    // Goal: a real compiler's log of a kernel that must spill is understood, so that "no spills"
    // means something.
    #[test]
    fn a_kernel_that_spills_is_found_out() {
        if !nvrtc::compiler_or_skip() {
            return;
        }
        let source = "extern \"C\" __global__ void __launch_bounds__(1024, 2) wide(float *x, int n)
            {
                __shared__ float total;
                float a[64];
                #pragma unroll
                for (int i = 0; i < 64; ++i) { a[i] = x[i * 1024 + threadIdx.x]; }
                for (int j = 0; j < n; ++j) {
                    #pragma unroll
                    for (int i = 0; i < 64; ++i) { a[i] = a[i] * a[(i + 1) % 64] + x[j]; }
                }
                #pragma unroll
                for (int i = 1; i < 64; ++i) { a[0] += a[i] * i; }
                if (threadIdx.x == 0) { total = a[0]; }
                __syncthreads();
                x[threadIdx.x] = a[0] + total;
            }";
        for arch in [nvrtc::AMPERE, nvrtc::HOPPER] {
            let compiled = compile(source, &[], arch).unwrap();
            let found = parse(&compiled.log);
            let [kernel] = found.as_slice() else { panic!("{arch:?}: {}", compiled.log) };
            assert_eq!(kernel.function, "wide");
            assert_eq!(kernel.registers, 32, "{arch:?}");
            assert!(kernel.spill_store_bytes > 0, "{arch:?}: {}", compiled.log);
            assert!(kernel.spill_load_bytes > 0, "{arch:?}: {}", compiled.log);
            assert!(kernel.stack_bytes > 0, "{arch:?}: {}", compiled.log);
            assert!(kernel.shared_bytes >= 4, "{arch:?}: {}", compiled.log);
        }
    }
}
