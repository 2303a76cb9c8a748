use crate::emulator::Emulator;
use crate::gpu::on_gpu;
use crate::lab::{Lab, Machine, Tensor, Tolerance, close, each, round, seed};
use kernels::KernelError;
use kernels::launch::Stream;
use kernels::memory::{DeviceValues, Kind};
use kernels::norm::cpu::{self, Statistics};
use kernels::norm::{Centring, cuda};

const EPSILON: f32 = 1e-5;

/// Which tensors there are besides the necessary ones.
#[derive(Clone, Copy)]
struct With {
    residual: bool,
    weights: bool,
}

/// Forward and backward over `rows` of `width`.
fn case<M: Machine>(lab: &Lab<'_, M>, centring: Centring, rows: usize, width: usize, with: With) {
    let len = rows * width;
    let [x, added] = [1.0, 2.0].map(|size| lab.random(len, size));
    let full = |values: &[f32]| if with.weights { values.to_vec() } else { Vec::new() };
    let [weight, bias] = [lab.random(width, 1.5), lab.random(width, 1.0)].map(|v| full(&v));
    let sums: Vec<f32> = match with.residual {
        true => x.iter().zip(&added).map(|(x, added)| round(lab.kind, x + added)).collect(),
        false => x.clone(),
    };

    let [gpu_x, gpu_added] = [&x, &added].map(|values| lab.tensor(values));
    let [gpu_weight, gpu_bias] = [&weight, &bias].map(|values| lab.tensor(values));
    let [gpu_sum, gpu_y] = [(), ()].map(|()| lab.output(len));
    let [means, scales] = [(), ()].map(|()| lab.output_of(Kind::Float32, rows));
    let present = |tensor: &Tensor<'_, M>| with.weights.then(|| tensor.values());
    let tensors = cuda::Forward {
        x: gpu_x.values(),
        residual: with.residual.then(|| [gpu_added.values(), gpu_sum.values()]),
        weight: present(&gpu_weight),
        bias: present(&gpu_bias),
        y: gpu_y.values(),
        means: Some(means.values()),
        scales: scales.values(),
    };
    let stream = Stream::DEFAULT;
    // SAFETY: the tensors are contiguous, of this machine, and alive.
    unsafe { cuda::forward(lab.machine, stream, centring, &tensors, width, EPSILON) }.unwrap();

    let mut y = vec![0.0; len];
    let mut statistics = Vec::new();
    for (s, y) in sums.chunks(width).zip(y.chunks_mut(width)) {
        statistics.push(cpu::forward(centring, s, &weight, &bias, EPSILON, y));
    }
    let size = if with.residual { 3.0 } else { 1.0 };
    close("y", &gpu_y.read(), &y, Tolerance::of(lab.kind, 5.0));
    if with.residual {
        assert_eq!(gpu_sum.read(), sums, "the sum");
    }
    let wanted = |part: fn(&Statistics) -> f32| statistics.iter().map(part).collect::<Vec<f32>>();
    let fine = Tolerance::of(Kind::Float32, size);
    close("r", &scales.read(), &wanted(|row| row.scale), fine);
    if centring == Centring::Mean {
        close("m", &means.read(), &wanted(|row| row.mean), fine);
    }
    let forward = (gpu_x, gpu_sum, [means, scales]);
    let s = if with.residual { &forward.1 } else { &forward.0 };
    backward(lab, centring, width, with, (&sums, &weight, &statistics), (s, &forward.2));
}

fn backward<M: Machine>(
    lab: &Lab<'_, M>,
    centring: Centring,
    width: usize,
    with: With,
    (sums, weight, statistics): (&[f32], &[f32], &[Statistics]),
    (s, [means, scales]): (&Tensor<'_, M>, &[Tensor<'_, M>; 2]),
) {
    let (len, rows) = (sums.len(), statistics.len());
    let [dy, passed] = [1.0, 0.5].map(|size| lab.random(len, size));
    let [gpu_dy, gpu_passed, gpu_weight] = [&dy, &passed, &weight.to_vec()].map(|v| lab.tensor(v));
    let gpu_ds = lab.output(len);
    let partial_len = cuda::partial_len(lab.machine, lab.kind, rows, width);
    let partial = [(), ()].map(|()| lab.output_of(Kind::Float32, partial_len));
    let gradients = [(), ()].map(|()| lab.output(width));
    let pair = |which: usize| -> Option<[DeviceValues; 2]> {
        with.weights.then(|| [gradients[which].values(), partial[which].values()])
    };
    // In place where something is passed, as a residual stream's gradient is.
    let ds = if with.residual { &gpu_passed } else { &gpu_ds };
    let tensors = cuda::Backward {
        y_gradient: gpu_dy.values(),
        s: s.values(),
        weight: with.weights.then(|| gpu_weight.values()),
        passed: with.residual.then(|| gpu_passed.values()),
        s_gradient: ds.values(),
        means: Some(means.values()),
        scales: scales.values(),
        weight_gradient: pair(0),
        bias_gradient: pair(1),
    };
    // SAFETY: the tensors are contiguous, of this machine, and alive.
    unsafe { cuda::backward(lab.machine, Stream::DEFAULT, centring, &tensors, width) }.unwrap();

    let mut wanted = vec![0.0; len];
    let (mut dw, mut db) = (vec![0.0; width], vec![0.0; width]);
    for (row, &statistics) in statistics.iter().enumerate() {
        let range = row * width..(row + 1) * width;
        let (dy, s) = (&dy[range.clone()], &sums[range.clone()]);
        let ds = &mut wanted[range];
        cpu::backward(centring, dy, s, weight, statistics, ds, [&mut dw, &mut db]);
    }
    if with.residual {
        wanted.iter_mut().zip(&passed).for_each(|(ds, passed)| *ds += passed);
    }
    let largest = statistics.iter().map(|row| row.scale).fold(1.0, f32::max);
    close("ds", &ds.read(), &wanted, Tolerance::of(lab.kind, 4.0 * largest));
    if with.weights {
        let size = (rows as f32).sqrt() * largest;
        close("dw", &gradients[0].read(), &dw, Tolerance::of(lab.kind, size));
        if centring == Centring::Mean {
            close("db", &gradients[1].read(), &db, Tolerance::of(lab.kind, size));
        }
    }
}

fn cases<M: Machine>(machine: &M) {
    each(machine, |lab| {
        for centring in [Centring::None, Centring::Mean] {
            for (rows, width) in [
                (0, 40),
                (1, 1),
                (1, 8),
                (3, 7),
                (37, 31),
                (5, 64),
                (90, 24),
                (37, 300),
                (3, 768),
                (2, 2_053),
            ] {
                let odd = rows % 2 == 1;
                case(lab, centring, rows, width, With { residual: odd, weights: true });
                case(lab, centring, rows, width, With { residual: !odd, weights: rows == 5 });
            }
        }
    });
}

#[test]
fn emulated() {
    cases(&Emulator::new(1, seed()));
}

// Goal: as wide as it goes, where every thread has all the packs that it can have.
#[test]
fn emulated_widest() {
    let machine = Emulator::new(1, seed());
    for kind in [Kind::Float32, Kind::BFloat16] {
        let lab = Lab::new(&machine, kind, 0);
        let with = With { residual: true, weights: true };
        case(&lab, Centring::Mean, 2, cuda::width_max(kind), with);
        case(&lab, Centring::None, 2, cuda::width_max(kind) - 3, with);
    }
}

#[test]
fn runs_on_gpu() {
    on_gpu(cases);
}

/// More than the multiprocessors of a card take at once; too slow for the emulator.
fn large<M: Machine>(machine: &M) {
    each(machine, |lab| {
        for centring in [Centring::None, Centring::Mean] {
            case(lab, centring, 10_007, 64, With { residual: true, weights: true });
            case(lab, centring, 2_048, 768, With { residual: true, weights: true });
        }
    });
}

#[test]
fn large_runs_on_gpu() {
    on_gpu(large);
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let machine = Emulator::new(1, 1);
    let lab = Lab::new(&machine, Kind::Float32, 0);
    let x = lab.output(12);
    let scales = lab.output(3);
    let check = |width: usize, scales: &Tensor<'_, _>, means: Option<DeviceValues>| {
        let tensors = cuda::Forward {
            x: x.values(),
            residual: None,
            weight: None,
            bias: None,
            y: x.values(),
            means,
            scales: scales.values(),
        };
        let stream = Stream::DEFAULT;
        // SAFETY: nothing is launched.
        let result =
            unsafe { cuda::forward(&machine, stream, Centring::Mean, &tensors, width, EPSILON) };
        result.unwrap_err()
    };
    let means = Some(scales.values());
    assert!(matches!(check(0, &scales, means), KernelError::Size { .. }));
    assert!(matches!(check(5, &scales, means), KernelError::Length { name: "x", .. }));
    assert!(matches!(check(4, &x, means), KernelError::Length { name: "the scales", .. }));
    assert!(matches!(check(4, &scales, None), KernelError::Length { name: "the means", .. }));
    assert!(matches!(check(1 << 20, &scales, means), KernelError::Limit { .. }));
}

/// Bits of ds, dw and db of a backward pass whose inputs depend on the seed only.
fn gradient_bits<M: Machine>(machine: &M) -> Vec<u32> {
    let (rows, width, centring) = (301, 70, Centring::Mean);
    let lab = Lab::new(machine, Kind::Float32, 0);
    let inputs = [rows * width, rows * width, width, rows, rows].map(|len| lab.random(len, 2.0));
    let [dy, s, weight, means, scales] = inputs.each_ref().map(|values| lab.tensor(values));
    let ds = lab.output(rows * width);
    let gradients = [lab.output(width), lab.output(width)];
    let len = cuda::partial_len(machine, lab.kind, rows, width);
    let partial = [lab.output(len), lab.output(len)];
    let pair = |which: usize| Some([gradients[which].values(), partial[which].values()]);
    let tensors = cuda::Backward {
        y_gradient: dy.values(),
        s: s.values(),
        weight: Some(weight.values()),
        passed: None,
        s_gradient: ds.values(),
        means: Some(means.values()),
        scales: scales.values(),
        weight_gradient: pair(0),
        bias_gradient: pair(1),
    };
    // SAFETY: the tensors are contiguous, of this machine, and alive.
    unsafe { cuda::backward(machine, Stream::DEFAULT, centring, &tensors, width) }.unwrap();
    let [dw, db] = &gradients;
    [&ds, dw, db].iter().flat_map(|tensor| tensor.read()).map(f32::to_bits).collect()
}

// Goal: the order in which threads and blocks run changes no bit.
#[test]
fn emulated_bits_do_not_depend_on_the_order() {
    let first = gradient_bits(&Emulator::new(3, seed()));
    for i in 1..4 {
        assert!(first == gradient_bits(&Emulator::new(3, seed().wrapping_add(i))));
    }
}

#[test]
fn bits_do_not_depend_on_the_order_on_gpu() {
    on_gpu(|card| assert!(gradient_bits(card) == gradient_bits(card)));
}
