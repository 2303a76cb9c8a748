use crate::emulator::Emulator;
use crate::gpu::on_gpu;
use crate::lab::{Lab, Machine, Tolerance, close, each, seed};
use kernels::KernelError;
use kernels::activation::cpu;
use kernels::activation::cuda::{self, Pointwise};
use kernels::launch::Stream;
use kernels::memory::Kind;

const STREAM: Stream = Stream::DEFAULT;

/// y and y' of each of `x`.
fn reference(activation: Pointwise, x: &[f32]) -> [Vec<f32>; 2] {
    match activation {
        Pointwise::ReluSquared => [0, 1].map(|part| {
            let value = |&x: &f32| cpu::relu_squared(x)[part];
            x.iter().map(value).collect()
        }),
        Pointwise::Gelu => {
            let (mut y, mut slope) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            kernels::gelu::processor::forward(x, &mut y, &mut slope).unwrap();
            [y, slope]
        }
    }
}

fn pointwise<M: Machine>(lab: &Lab<'_, M>, activation: Pointwise, x: &[f32], in_place: bool) {
    let n = x.len();
    let dy = lab.random(n, 2.0);
    let [gpu_x, gpu_dy] = [x, &dy].map(|values| lab.tensor(values));
    let [y, dx] = [lab.output(n), lab.output(n)];
    let dx = if in_place { &gpu_dy } else { &dx };
    let [gpu_x, gpu_dy] = [gpu_x.values(), gpu_dy.values()];
    // SAFETY: the tensors are contiguous, of this machine, and alive.
    unsafe {
        cuda::forward(lab.machine, STREAM, activation, &gpu_x, &y.values()).unwrap();
        cuda::backward(lab.machine, STREAM, activation, &gpu_dy, &gpu_x, &dx.values()).unwrap();
    }
    let [wanted, slope] = reference(activation, x);
    let size = x.iter().fold(1.0_f32, |size, x| size.max(x.abs()));
    close("y", &y.read(), &wanted, Tolerance::of(lab.kind, size));
    let wanted: Vec<f32> = dy.iter().zip(&slope).map(|(dy, slope)| dy * slope).collect();
    close("dx", &dx.read(), &wanted, Tolerance::of(lab.kind, 2.0));
}

fn swiglu<M: Machine>(lab: &Lab<'_, M>, rows: usize, width: usize) {
    let x = lab.random(rows * 2 * width, 6.0);
    let dy = lab.random(rows * width, 2.0);
    let [gpu_x, gpu_dy] = [&x, &dy].map(|values| lab.tensor(values));
    let [y, dx] = [lab.output(rows * width), lab.output(rows * 2 * width)];
    let dx = if rows % 2 == 1 { &gpu_x } else { &dx };
    let [gpu_x, gpu_dy] = [gpu_x.values(), gpu_dy.values()];
    // SAFETY: the tensors are contiguous, of this machine, and alive.
    unsafe {
        cuda::swiglu_forward(lab.machine, STREAM, &gpu_x, &y.values(), width).unwrap();
        let dx = dx.values();
        cuda::swiglu_backward(lab.machine, STREAM, &gpu_dy, &gpu_x, &dx, width).unwrap();
    }
    let (mut wanted_y, mut wanted_dx) = (Vec::new(), vec![0.0; x.len()]);
    for row in 0..rows {
        for i in 0..width {
            let gate = row * 2 * width + i;
            let [y, gate_slope, value_slope] = cpu::swiglu(x[gate], x[gate + width]);
            let dy = dy[row * width + i];
            wanted_y.push(y);
            wanted_dx[gate] = dy * gate_slope;
            wanted_dx[gate + width] = dy * value_slope;
        }
    }
    close("y", &y.read(), &wanted_y, Tolerance::of(lab.kind, 10.0));
    close("dx", &dx.read(), &wanted_dx, Tolerance::of(lab.kind, 20.0));
}

fn cases<M: Machine>(machine: &M) {
    each(machine, |lab| {
        for activation in [Pointwise::Gelu, Pointwise::ReluSquared] {
            for n in [0, 1, 7, 8, 1_031, 2_048, 20_011] {
                pointwise(lab, activation, &lab.random(n, 5.0), n % 2 == 0);
            }
            let far = [0.0, -0.0, 9.0, -9.0, 40.0, -40.0, 1e4, -1e4];
            pointwise(lab, activation, &far, false);
        }
        for (rows, width) in [(0, 5), (1, 1), (3, 7), (4, 8), (67, 40), (2, 3_072), (5, 2_053)] {
            swiglu(lab, rows, width);
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
    each(machine, |lab| {
        pointwise(lab, Pointwise::Gelu, &lab.random(3_000_017, 5.0), false);
        pointwise(lab, Pointwise::ReluSquared, &lab.random(3_000_017, 5.0), true);
        swiglu(lab, 10_007, 96);
    });
}

#[test]
fn large_runs_on_gpu() {
    on_gpu(large);
}

fn no_numbers<M: Machine>(machine: &M) {
    let lab = Lab::new(machine, Kind::Float32, 0);
    for activation in [Pointwise::Gelu, Pointwise::ReluSquared] {
        let x = lab.floats(Kind::Float32, &[f32::NAN, 1.0]);
        let y = lab.output(2);
        // SAFETY: the tensors are contiguous, of this machine, and alive.
        unsafe { cuda::forward(machine, STREAM, activation, &x.values(), &y.values()) }.unwrap();
        let y = y.read();
        assert!(y[0].is_nan() && y[1].is_finite(), "{activation:?}: {y:?}");
    }
}

#[test]
fn emulated_no_numbers_stay_none() {
    no_numbers(&Emulator::new(1, seed()));
}

#[test]
fn no_numbers_stay_none_on_gpu() {
    on_gpu(no_numbers);
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    let machine = Emulator::new(1, 1);
    let lab = Lab::new(&machine, Kind::Float32, 0);
    let [six, three] = [lab.output(6), lab.output(3)];
    let [six, three] = [six.values(), three.values()];
    // SAFETY: nothing is launched.
    unsafe {
        let error = cuda::forward(&machine, STREAM, Pointwise::Gelu, &six, &three).unwrap_err();
        assert!(matches!(error, KernelError::Length { name: "y", .. }));
        let error = cuda::swiglu_forward(&machine, STREAM, &six, &six, 3).unwrap_err();
        assert!(matches!(error, KernelError::Length { name: "x", .. }));
        let error = cuda::swiglu_forward(&machine, STREAM, &six, &three, 2).unwrap_err();
        assert!(matches!(error, KernelError::Length { name: "y", .. }));
        let error = cuda::swiglu_forward(&machine, STREAM, &six, &three, 0).unwrap_err();
        assert!(matches!(error, KernelError::Size { .. }));
    }
}
