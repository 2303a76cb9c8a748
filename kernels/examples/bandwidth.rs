//! How near every kernel comes to the limit of the card's memory, at the sizes of GPT-2 124M.
//!
//! ```sh
//! cargo run --release -p brine-kernels --example bandwidth
//! ```
//! Prints the median of several rounds: time, bytes moved by the table of README.md in that time,
//! and their share of what the memory moves at most. Rounds go through several copies of all
//! tensors, so that what one round leaves in the caches does not serve the next.

#![expect(unsafe_code, reason = "kernels take addresses")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "prints a table, or why not")]

use cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT;
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr as _, DriverError};
use kernels::activation::cuda::{self as activation, Pointwise};
use kernels::launch::Stream;
use kernels::memory::{DevicePtr, DeviceValues, Kind};
use kernels::norm::Centring;
use kernels::rotary::cuda::Shape;
use kernels::sampling::Sampler;
use kernels::{Gpu, KernelError, adamw, logits, norm, rotary, sampling};
use std::process::ExitCode;
use std::sync::Arc;

const PARAMETERS: usize = 124_439_808;
const ROWS: usize = 16 * 1024;
const WIDTH: usize = 768;
const HEADS: usize = 12;
const MLP_WIDTH: usize = 3_072;
/// That with the three matrices of SwiGLU has as many weights.
const SWIGLU_WIDTH: usize = 2_048;
const VOCABULARY: usize = 50_304;
/// Rows of logits that exist at once.
const LOGITS_ROWS: usize = 2_048;
const SAMPLED_ROWS: usize = 64;

/// More than any card's second-level cache.
const BYTES_MIN: usize = 256 << 20;
const COPIES_MAX: usize = 8;
const WARM_UP: usize = 3;
const ROUNDS: usize = 11;
/// Launches of a round: the first waits for the processor, the others wait in line.
const LAUNCHES: usize = 8;

const KIND: Kind = Kind::BFloat16;
const STREAM: Stream = Stream::DEFAULT;

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match measure_all() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            eprintln!("error: {error}{cause}");
            ExitCode::FAILURE
        }
    }
}

fn measure_all() -> Result<(), Failure> {
    let gpu = Gpu::open(0, None)?;
    let limits = gpu.limits()?;
    let limit = limits.bytes_per_second;
    println!("{}: memory moves {:.0} GB/s at most", limits.name, limit / 1e9);
    println!("{:<24} {:>10} {:>10} {:>8}", "kernel", "us", "GB/s", "share");
    let lab = Lab { stream: gpu.default_stream(), gpu, limit };
    measure_adamw(&lab)?;
    measure_norms(&lab)?;
    measure_logits(&lab)?;
    measure_rotary(&lab)?;
    measure_activations(&lab)?;
    measure_sampling(&lab)
}

struct Lab {
    gpu: Gpu,
    stream: Arc<CudaStream>,
    limit: f64,
}

/// One tensor, several times.
struct Tensor {
    memory: CudaSlice<u8>,
    start: u64,
    len: usize,
    kind: Kind,
    copies: usize,
}

impl Tensor {
    /// The one of this round.
    fn at(&self, round: usize) -> DeviceValues {
        let place = (round % self.copies * self.len * self.kind.bytes()) as u64;
        debug_assert!(place < self.memory.len() as u64);
        DeviceValues { pointer: DevicePtr(self.start + place), len: self.len, kind: self.kind }
    }
}

impl Lab {
    /// Values between -1 and 1; whole numbers are 0.
    fn tensor(&self, kind: Kind, len: usize) -> Result<Tensor, DriverError> {
        let copies = (BYTES_MIN / (len * kind.bytes()).max(1)).clamp(1, COPIES_MAX);
        let mut state = 1_u32;
        let mut draw = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let count = len * copies;
        let bytes: Vec<u8> = match kind {
            Kind::Float32 => (0..count).flat_map(|_| draw().to_ne_bytes()).collect(),
            Kind::BFloat16 => {
                (0..count).flat_map(|_| ((draw().to_bits() >> 16) as u16).to_ne_bytes()).collect()
            }
            Kind::Float64 => {
                (0..count).flat_map(|_| f64::from(draw().abs() * 0.99).to_ne_bytes()).collect()
            }
            Kind::Int64 => vec![0; count * kind.bytes()],
        };
        let memory = self.stream.clone_htod(&bytes)?;
        let start = memory.device_ptr(&self.stream).0;
        Ok(Tensor { memory, start, len, kind, copies })
    }

    fn tensors<const N: usize>(&self, kind: Kind, len: usize) -> Result<[Tensor; N], DriverError> {
        let all: Result<Vec<_>, _> = (0..N).map(|_| self.tensor(kind, len)).collect();
        let Ok(all) = <[Tensor; N]>::try_from(all?) else { unreachable!("N were made") };
        Ok(all)
    }

    /// Measures `launch`, which gets its number and moves `bytes`.
    fn measure(
        &self,
        name: &str,
        bytes: usize,
        launch: impl Fn(usize) -> Result<(), KernelError>,
    ) -> Result<(), Failure> {
        let mut milliseconds = Vec::new();
        for round in 0..WARM_UP + ROUNDS {
            let start = self.stream.record_event(Some(CU_EVENT_DEFAULT))?;
            for number in 0..LAUNCHES {
                launch(LAUNCHES * round + number)?;
            }
            let end = self.stream.record_event(Some(CU_EVENT_DEFAULT))?;
            end.synchronize()?;
            if round >= WARM_UP {
                milliseconds.push(start.elapsed_ms(&end)?);
            }
        }
        milliseconds.sort_by(f32::total_cmp);
        let seconds = f64::from(milliseconds[ROUNDS / 2]) / 1e3 / LAUNCHES as f64;
        let speed = bytes as f64 / seconds;
        let (microseconds, share) = (seconds * 1e6, 100.0 * speed / self.limit);
        println!("{name:<24} {microseconds:>10.1} {:>10.0} {share:>7.1}%", speed / 1e9);
        Ok(())
    }
}

fn measure_adamw(lab: &Lab) -> Result<(), Failure> {
    let [p, m, v] = lab.tensors(Kind::Float32, PARAMETERS)?;
    let [g, copy] = lab.tensors(KIND, PARAMETERS)?;
    let clip = lab.tensor(Kind::Float32, 1)?;
    let config = adamw::Config {
        learning_rate: 1e-4,
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
        gradient_scale: 1.0,
    };
    let constants = adamw::Constants::new(&config, 10);
    lab.measure("adamw", PARAMETERS * 28, |round| {
        let tensors = adamw::cuda::Tensors {
            parameters: p.at(round),
            gradient: g.at(round),
            first_moment: m.at(round),
            second_moment: v.at(round),
            copy: Some(copy.at(round)),
            clip: Some(clip.at(round)),
        };
        // SAFETY: the tensors live until the measurement's end, which waits for the stream.
        unsafe { adamw::cuda::update(&lab.gpu, STREAM, &tensors, PARAMETERS / 2, &constants) }
    })
}

fn measure_norms(lab: &Lab) -> Result<(), Failure> {
    let len = ROWS * WIDTH;
    let [x, added, sum, y] = lab.tensors(KIND, len)?;
    let [weight, bias, dw, db] = lab.tensors(KIND, WIDTH)?;
    let [means, scales] = lab.tensors(Kind::Float32, ROWS)?;
    let partial_len = norm::cuda::partial_len(&lab.gpu, KIND, ROWS, WIDTH);
    let partial: [Tensor; 2] = lab.tensors(Kind::Float32, partial_len)?;
    for (centring, name) in [(Centring::None, "rms_norm"), (Centring::Mean, "layer_norm")] {
        let mean = centring == Centring::Mean;
        let bytes = 8 * len;
        lab.measure(&format!("{name} forward"), bytes, |round| {
            let tensors = norm::cuda::Forward {
                x: x.at(round),
                residual: Some([added.at(round), sum.at(round)]),
                weight: Some(weight.at(round)),
                bias: mean.then(|| bias.at(round)),
                y: y.at(round),
                means: mean.then(|| means.at(round)),
                scales: scales.at(round),
            };
            // SAFETY: as in measure_adamw.
            unsafe { norm::cuda::forward(&lab.gpu, STREAM, centring, &tensors, WIDTH, 1e-5) }
        })?;
        lab.measure(&format!("{name} backward"), bytes, |round| {
            let tensors = norm::cuda::Backward {
                y_gradient: y.at(round),
                s: sum.at(round),
                weight: Some(weight.at(round)),
                passed: Some(added.at(round)),
                s_gradient: x.at(round),
                means: mean.then(|| means.at(round)),
                scales: scales.at(round),
                weight_gradient: Some([dw.at(round), partial[0].at(round)]),
                bias_gradient: mean.then(|| [db.at(round), partial[1].at(round)]),
            };
            // SAFETY: as in measure_adamw.
            unsafe { norm::cuda::backward(&lab.gpu, STREAM, centring, &tensors, WIDTH) }
        })?;
    }
    Ok(())
}

fn measure_logits(lab: &Lab) -> Result<(), Failure> {
    let len = LOGITS_ROWS * VOCABULARY;
    let z = lab.tensor(KIND, len)?;
    let targets = lab.tensor(Kind::Int64, LOGITS_ROWS)?;
    let losses = lab.tensor(Kind::Float32, LOGITS_ROWS)?;
    let gradient = logits::cuda::Options { not_scored: -100, cap: None, backward: Some(1.0) };
    let loss = logits::cuda::Options { backward: None, ..gradient };
    for (name, bytes, options) in
        [("cross_entropy", 4 * len, gradient), ("cross_entropy loss only", 2 * len, loss)]
    {
        lab.measure(name, bytes, |round| {
            let tensors = logits::cuda::Tensors {
                logits: z.at(round),
                targets: targets.at(round),
                losses: losses.at(round),
                factor: None,
            };
            // SAFETY: as in measure_adamw.
            unsafe { logits::cuda::cross_entropy(&lab.gpu, STREAM, &tensors, &options) }
        })?;
    }
    Ok(())
}

fn measure_rotary(lab: &Lab) -> Result<(), Failure> {
    let width = WIDTH / HEADS;
    let shape = Shape { queries: HEADS, keys: HEADS, width, stride: 3 * WIDTH };
    let len = ROWS * 2 * WIDTH;
    let [x, dx] = lab.tensors(KIND, ROWS * 3 * WIDTH)?;
    let y = lab.tensor(KIND, len)?;
    let table = lab.tensor(Kind::Float32, 1_024 * width)?;
    let scales = lab.tensor(Kind::Float32, ROWS * 2 * HEADS)?;
    lab.measure("rotary forward", 4 * len, |round| {
        let tensors = rotary::cuda::Forward {
            x: x.at(round),
            weights: None,
            table: table.at(round),
            y: y.at(round),
            scales: Some(scales.at(round)),
        };
        // SAFETY: as in measure_adamw.
        unsafe { rotary::cuda::forward(&lab.gpu, STREAM, &tensors, shape, 1e-6) }
    })?;
    lab.measure("rotary backward", 6 * len, |round| {
        let tensors = rotary::cuda::Backward {
            y_gradient: y.at(round),
            normed: Some([x.at(round), scales.at(round)]),
            weights: None,
            table: table.at(round),
            x_gradient: dx.at(round),
            weight_gradients: None,
        };
        // SAFETY: as in measure_adamw.
        unsafe { rotary::cuda::backward(&lab.gpu, STREAM, &tensors, shape) }
    })
}

fn measure_activations(lab: &Lab) -> Result<(), Failure> {
    let len = ROWS * MLP_WIDTH;
    let [x, y, dy] = lab.tensors(KIND, len)?;
    for (which, name) in [(Pointwise::Gelu, "gelu"), (Pointwise::ReluSquared, "relu_squared")] {
        lab.measure(&format!("{name} forward"), 4 * len, |round| {
            // SAFETY: as in measure_adamw.
            unsafe { activation::forward(&lab.gpu, STREAM, which, &x.at(round), &y.at(round)) }
        })?;
        lab.measure(&format!("{name} backward"), 6 * len, |round| {
            let [dy, x, dx] = [&dy, &x, &y].map(|tensor| tensor.at(round));
            // SAFETY: as in measure_adamw.
            unsafe { activation::backward(&lab.gpu, STREAM, which, &dy, &x, &dx) }
        })?;
    }
    let len = ROWS * SWIGLU_WIDTH;
    let [x, dx] = lab.tensors(KIND, 2 * len)?;
    let y = lab.tensor(KIND, len)?;
    lab.measure("swiglu forward", 6 * len, |round| {
        let (x, y) = (x.at(round), y.at(round));
        // SAFETY: as in measure_adamw.
        unsafe { activation::swiglu_forward(&lab.gpu, STREAM, &x, &y, SWIGLU_WIDTH) }
    })?;
    lab.measure("swiglu backward", 10 * len, |round| {
        let [dy, x, dx] = [&y, &x, &dx].map(|tensor| tensor.at(round));
        // SAFETY: as in measure_adamw.
        unsafe { activation::swiglu_backward(&lab.gpu, STREAM, &dy, &x, &dx, SWIGLU_WIDTH) }
    })
}

/// Its time is not the memory's: see README.md.
fn measure_sampling(lab: &Lab) -> Result<(), Failure> {
    let len = SAMPLED_ROWS * VOCABULARY;
    let scores = lab.tensor(Kind::Float32, len)?;
    let uniforms = lab.tensor(Kind::Float64, SAMPLED_ROWS)?;
    let tokens = lab.tensor(Kind::Int64, SAMPLED_ROWS)?;
    let all = Sampler::Random { temperature: 1.0, top_k: None, top_p: None };
    let few = Sampler::Random { temperature: 1.0, top_k: Some(50), top_p: Some(0.95) };
    for (name, sampler) in [("sample", all), ("sample top_k top_p", few)] {
        lab.measure(name, 4 * len, |round| {
            let [scores, uniforms, tokens] =
                [&scores, &uniforms, &tokens].map(|tensor| tensor.at(round));
            // SAFETY: as in measure_adamw.
            unsafe {
                sampling::cuda::sample(&lab.gpu, STREAM, &sampler, &scores, &uniforms, &tokens)
            }
        })?;
    }
    Ok(())
}
