use crate::emulator::Emulator;
use crate::gpu::on_gpu;
use crate::lab::{Lab, Machine, Tolerance, close, each, seed};
use kernels::KernelError;
use kernels::launch::Stream;
use kernels::logits::{cpu, cuda};
use kernels::memory::Kind;

const NOT_SCORED: i64 = -100;

fn case<M: Machine>(lab: &Lab<'_, M>, rows: usize, width: usize, options: cuda::Options) {
    let logits = lab.random(rows * width, 8.0);
    let mut targets = lab.indices(rows, width);
    if rows > 2 {
        targets[rows / 2] = NOT_SCORED;
    }
    let gpu_logits = lab.tensor(&logits);
    let gpu_targets = lab.integers(&targets);
    let losses = lab.output_of(Kind::Float32, rows);
    let factor = lab.floats(Kind::Float32, &[0.5]);
    let with_factor = rows % 2 == 1;
    let tensors = cuda::Tensors {
        logits: gpu_logits.values(),
        targets: gpu_targets.values(),
        losses: losses.values(),
        factor: with_factor.then(|| factor.values()),
    };
    // SAFETY: the tensors are contiguous, of this machine, and alive.
    unsafe { cuda::cross_entropy(lab.machine, Stream::DEFAULT, &tensors, &options) }.unwrap();

    let mut wanted = logits.clone();
    let scale = options.backward.unwrap_or(1.0) * if with_factor { 0.5 } else { 1.0 };
    let row = |(row, &target): (&mut [f32], &i64)| {
        cpu::cross_entropy(row, usize::try_from(target).ok(), options.cap, scale)
    };
    let wanted_losses: Vec<f32> = wanted.chunks_mut(width).zip(&targets).map(row).collect();
    close("losses", &losses.read(), &wanted_losses, Tolerance::of(Kind::Float32, 10.0));
    match options.backward {
        None => assert_eq!(gpu_logits.read(), logits, "logits stay"),
        Some(scale) => {
            close("gradient", &gpu_logits.read(), &wanted, Tolerance::of(lab.kind, 2.0 * scale));
        }
    }
}

fn cases<M: Machine>(machine: &M) {
    let plain = cuda::Options { not_scored: NOT_SCORED, cap: None, backward: Some(0.25) };
    let capped = cuda::Options { cap: Some(3.0), ..plain };
    let forward = cuda::Options { backward: None, ..plain };
    each(machine, |lab| {
        for (rows, width) in
            [(1, 1), (1, 2), (4, 7), (5, 64), (23, 101), (37, 700), (2, 5_003), (3, 9_216)]
        {
            for options in [plain, capped, forward] {
                case(lab, rows, width, options);
            }
        }
    });
}

#[test]
fn emulated() {
    cases(&Emulator::new(1, seed()));
}

#[test]
fn runs_on_gpu() {
    on_gpu(cases);
}

/// More than the multiprocessors of a card take at once; too slow for the emulator.
fn large<M: Machine>(machine: &M) {
    let options = cuda::Options { not_scored: NOT_SCORED, cap: None, backward: Some(0.25) };
    each(machine, |lab| {
        case(lab, 1_301, 1_009, options);
        case(lab, 70, 50_304, options);
    });
}

#[test]
fn large_runs_on_gpu() {
    on_gpu(large);
}

/// Losses and gradients of two rows of (3), as they are.
fn run<M: Machine>(machine: &M, logits: &[f32; 6], targets: &[i64; 2]) -> [Vec<f32>; 2] {
    let lab = Lab::new(machine, Kind::Float32, 0);
    let [logits, losses] = [lab.tensor(logits), lab.output(2)];
    let targets = lab.integers(targets);
    let tensors = cuda::Tensors {
        logits: logits.values(),
        targets: targets.values(),
        losses: losses.values(),
        factor: None,
    };
    let options = cuda::Options { not_scored: NOT_SCORED, cap: None, backward: Some(1.0) };
    // SAFETY: the tensors are contiguous, of this machine, and alive.
    unsafe { cuda::cross_entropy(machine, Stream::DEFAULT, &tensors, &options) }.unwrap();
    [losses.read(), logits.read()]
}

fn extremes<M: Machine>(machine: &M) {
    let none = f32::NEG_INFINITY;
    let [losses, gradient] = run(machine, &[1e4, none, 1e4, none, -1e4, none], &[0, 1]);
    assert!((losses[0] - 2.0_f32.ln()).abs() < 1e-3, "{losses:?}");
    assert_eq!(losses[1], 0.0);
    assert_eq!(gradient, [-0.5, 0.0, 0.5, 0.0, 0.0, 0.0]);

    // What is no token, or no number, must be seen, and must not touch its neighbours.
    for target in [3, -1, i64::MAX] {
        let [losses, gradient] = run(machine, &[0.0; 6], &[target, 2]);
        assert!(losses[0].is_nan() && gradient[..3].iter().all(|g| g.is_nan()), "{target}");
        assert!((losses[1] - 3.0_f32.ln()).abs() < 1e-6, "{losses:?}");
        assert!(gradient[3..].iter().all(|g| g.is_finite()), "{gradient:?}");
    }
    let [losses, _] = run(machine, &[0.0, f32::NAN, 0.0, 0.0, 0.0, 0.0], &[0, 0]);
    assert!(losses[0].is_nan() && losses[1].is_finite(), "{losses:?}");
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
fn lengths_that_do_not_fit_are_refused() {
    let machine = Emulator::new(1, 1);
    let lab = Lab::new(&machine, Kind::Float32, 0);
    let [logits, losses] = [lab.output(10), lab.output(3)];
    let targets = lab.integers(&[0; 3]);
    let tensors = cuda::Tensors {
        logits: logits.values(),
        targets: targets.values(),
        losses: losses.values(),
        factor: None,
    };
    let options = cuda::Options { not_scored: NOT_SCORED, cap: None, backward: None };
    let check = |tensors: &cuda::Tensors| {
        // SAFETY: nothing is launched.
        unsafe { cuda::cross_entropy(&machine, Stream::DEFAULT, tensors, &options) }.unwrap_err()
    };
    assert!(matches!(check(&tensors), KernelError::Length { name: "the logits", .. }));
    let other = cuda::Tensors { losses: logits.values(), ..tensors };
    assert!(matches!(check(&other), KernelError::Length { name: "the losses", .. }));
    let other = cuda::Tensors { targets: losses.values(), ..tensors };
    assert!(matches!(check(&other), KernelError::Kind { name: "the targets", .. }));
}
