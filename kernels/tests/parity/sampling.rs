use crate::emulator::Emulator;
use crate::gpu::on_gpu;
use crate::lab::{Lab, Machine, seed};
use kernels::KernelError;
use kernels::launch::Stream;
use kernels::memory::Kind;
use kernels::sampling::{Sampler, cpu, cuda};

/// How far a share may be off: the kernel's exponentials are float32.
const SHARE: f64 = 2e-6;

fn random(temperature: f64, top_k: Option<u32>, top_p: Option<f64>) -> Sampler {
    Sampler::Random { temperature, top_k, top_p }
}

fn run<M: Machine>(
    lab: &Lab<'_, M>,
    sampler: &Sampler,
    scores: &[f32],
    uniforms: &[f64],
) -> Vec<i64> {
    let rows = uniforms.len();
    let scores = lab.floats(Kind::Float32, scores);
    let (uniforms, tokens) = (lab.doubles(uniforms), lab.output_of(Kind::Int64, rows));
    let tensors = (scores.values(), uniforms.values(), tokens.values());
    // SAFETY: the tensors are contiguous, of this machine, and alive.
    unsafe {
        let (machine, stream) = (lab.machine, Stream::DEFAULT);
        cuda::sample(machine, stream, sampler, &tensors.0, &tensors.1, &tensors.2).unwrap();
    }
    tokens.read_integers()
}

/// Whether `uniform` falls on `token`, if shares may be a little off.
fn falls_on(sampler: &Sampler, scores: &[f32], uniform: f64, token: usize) -> bool {
    let near = |change: f64| match *sampler {
        Sampler::Random { temperature, top_k, top_p } => {
            random(temperature, top_k, top_p.map(|p| (p + change).clamp(1e-12, 1.0)))
        }
        Sampler::Greedy => Sampler::Greedy,
    };
    [0.0, -SHARE, SHARE].iter().any(|&change| {
        let mut before = 0.0;
        cpu::distribution(&near(change), scores).iter().any(|&(other, share)| {
            let falls = before - SHARE <= uniform && uniform < before + share + SHARE;
            before += share;
            other == token && falls
        })
    })
}

fn case<M: Machine>(lab: &Lab<'_, M>, sampler: &Sampler, rows: usize, width: usize, kind: Kind) {
    // Scores that were bfloat16 have many equals.
    let scores: Vec<f32> =
        lab.random(rows * width, 6.0).iter().map(|&v| crate::lab::round(kind, v)).collect();
    let mut uniforms: Vec<f64> = lab
        .random(rows, 0.5)
        .iter()
        .map(|&v| (f64::from(v) + 0.5).clamp(0.0, 1.0 - 1e-16))
        .collect();
    uniforms[0] = 0.0;
    uniforms[rows - 1] = 1.0 - f64::EPSILON / 2.0;
    let found = run(lab, sampler, &scores, &uniforms);
    for ((scores, &uniform), &token) in scores.chunks(width).zip(&uniforms).zip(&found) {
        let valid = usize::try_from(token)
            .is_ok_and(|token| token < width && falls_on(sampler, scores, uniform, token));
        let wanted = cpu::choose(sampler, scores, uniform);
        assert!(valid, "{token} is not {wanted:?}: {sampler:?}, {uniform} on {width} scores");
    }
}

fn cases<M: Machine>(machine: &M) {
    for shift in [0, 1] {
        let lab = Lab::new(machine, Kind::Float32, shift);
        for (rows, width) in [(2, 1), (3, 2), (7, 31), (9, 256), (3, 2_053)] {
            for kind in [Kind::Float32, Kind::BFloat16] {
                for sampler in [
                    Sampler::Greedy,
                    random(1.0, None, None),
                    random(0.7, Some(5), None),
                    random(3.0, None, Some(0.9)),
                    random(1.3, Some(40), Some(0.5)),
                    random(1.0, Some(1), Some(1e-9)),
                ] {
                    case(&lab, &sampler, rows, width, kind);
                }
            }
        }
    }
}

#[test]
fn emulated() {
    cases(&Emulator::new(2, seed()));
}

#[test]
fn runs_on_gpu() {
    on_gpu(cases);
}

/// More than the multiprocessors of a card take at once; too slow for the emulator.
fn large<M: Machine>(machine: &M) {
    let lab = Lab::new(machine, Kind::Float32, 0);
    for sampler in [random(1.0, None, None), random(0.8, Some(50), Some(0.95))] {
        case(&lab, &sampler, 300, 1_009, Kind::BFloat16);
        case(&lab, &sampler, 30, 50_304, Kind::Float32);
    }
}

#[test]
fn large_runs_on_gpu() {
    on_gpu(large);
}

fn extremes<M: Machine>(machine: &M) {
    let lab = Lab::new(machine, Kind::Float32, 0);
    let none = f32::NEG_INFINITY;
    let check = |sampler: Sampler, scores: &[f32], uniform: f64, token: i64| {
        let found = run(&lab, &sampler, scores, &[uniform]);
        assert_eq!(found, [token], "{sampler:?}: {scores:?}, {uniform}");
    };
    let all = random(1.0, None, None);
    // Of equal scores the lowest token comes first; zero is above minus zero, as in the reference.
    check(Sampler::Greedy, &[1.0, 3.0, 3.0, 2.0], 0.0, 1);
    check(Sampler::Greedy, &[-0.0, 0.0], 0.0, 1);
    check(Sampler::Greedy, &[-5.0, -4.0, -6.0], 0.0, 1);
    check(random(1.0, Some(2), None), &[7.0; 6], 0.999, 1);
    check(all, &[7.0; 4], 0.74, 2);
    check(all, &[7.0; 4], 0.5, 2);
    // What can not be is not taken, whatever the number.
    check(all, &[none, 0.0, none, none], 0.0, 1);
    check(all, &[none, 0.0, none, none], 1.0 - 1e-16, 1);
    check(all, &[-200.0, 200.0, -200.0], 1.0 - 1e-16, 1);
    for scores in [[0.0, f32::NAN], [0.0, f32::INFINITY], [f32::NAN, 5.0], [none, none]] {
        for sampler in [Sampler::Greedy, all, random(1.0, Some(1), Some(0.5))] {
            check(sampler, &scores, 0.5, -1);
        }
    }
}

#[test]
fn emulated_extremes() {
    extremes(&Emulator::new(1, seed()));
}

#[test]
fn extremes_run_on_gpu() {
    on_gpu(extremes);
}

#[test]
fn what_is_no_sampler_is_refused() {
    let machine = Emulator::new(1, 1);
    let lab = Lab::new(&machine, Kind::Float32, 0);
    let (scores, uniforms) = (lab.output(10), lab.doubles(&[0.0; 2]));
    let tokens = lab.output_of(Kind::Int64, 2);
    let odd = lab.output(11);
    let check = |sampler: Sampler, scores| {
        let (uniforms, tokens) = (uniforms.values(), tokens.values());
        // SAFETY: nothing is launched.
        let result = unsafe {
            cuda::sample(&machine, Stream::DEFAULT, &sampler, &scores, &uniforms, &tokens)
        };
        result.unwrap_err()
    };
    for (sampler, message) in [
        (random(0.0, None, None), "temperature is 0"),
        (random(f64::NAN, None, None), "temperature is NaN"),
        (random(1e300, None, None), "temperature is "),
        (random(1.0, Some(0), None), "top_k is 0"),
        (random(1.0, None, Some(1.5)), "top_p is 1.5"),
    ] {
        let error = check(sampler, scores.values());
        assert!(error.to_string().starts_with(message), "{error}");
    }
    let error = check(Sampler::Greedy, odd.values());
    assert!(matches!(error, KernelError::Length { name: "the scores", .. }));
}
