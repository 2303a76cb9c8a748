use crate::emulator::Emulator;
use crate::gpu::on_gpu;
use crate::lab::{Lab, Machine, Tolerance, close, each, seed};
use kernels::KernelError;
use kernels::launch::Stream;
use kernels::memory::Kind;
use kernels::rotary::cpu;
use kernels::rotary::cuda::{self, Shape, WeightGradients, Weights};

const EPSILON: f32 = 1e-5;

/// What the model does to a head before it is turned.
#[derive(Clone, Copy, PartialEq)]
enum Norm {
    None,
    Plain,
    Weighted,
}

fn case<M: Machine>(lab: &Lab<'_, M>, rows: usize, shape: Shape, positions: usize, norm: Norm) {
    let Shape { queries, keys, width, stride } = shape;
    let heads = queries + keys;
    let x = lab.random(rows * stride, 2.0);
    let angles: Vec<f32> = lab.random(positions * width / 2, 3.0);
    let table: Vec<f32> = angles.iter().flat_map(|a| [a.cos(), a.sin()]).collect();
    let weights = match norm {
        Norm::Weighted => [lab.random(width, 1.5), lab.random(width, 1.5)],
        Norm::None | Norm::Plain => [vec![], vec![]],
    };
    let gpu_x = lab.tensor(&x);
    let gpu_table = lab.floats(Kind::Float32, &table);
    let gpu_weights = [0, 1].map(|which| lab.tensor(&weights[which]));
    let with_weights = (norm == Norm::Weighted)
        .then(|| Weights { query: gpu_weights[0].values(), key: gpu_weights[1].values() });
    let y = lab.output(rows * heads * width);
    let scales = lab.output_of(Kind::Float32, rows * heads);
    let tensors = cuda::Forward {
        x: gpu_x.values(),
        weights: with_weights,
        table: gpu_table.values(),
        y: y.values(),
        scales: (norm != Norm::None).then(|| scales.values()),
    };
    let stream = Stream::DEFAULT;
    // SAFETY: the tensors are contiguous, of this machine, and alive.
    unsafe { cuda::forward(lab.machine, stream, &tensors, shape, EPSILON) }.unwrap();

    let dy = lab.random(rows * heads * width, 1.0);
    let [gpu_dy, dx] = [lab.tensor(&dy), lab.output(rows * stride)];
    let gradients = [(), ()].map(|()| lab.output(width));
    let partial_len = cuda::partial_len(lab.machine, lab.kind, rows, shape);
    let partial = [(), ()].map(|()| lab.output_of(Kind::Float32, partial_len));
    let backward = cuda::Backward {
        y_gradient: gpu_dy.values(),
        normed: (norm != Norm::None).then(|| [gpu_x.values(), scales.values()]),
        weights: with_weights,
        table: gpu_table.values(),
        x_gradient: dx.values(),
        weight_gradients: (norm == Norm::Weighted).then(|| WeightGradients {
            gradients: Weights { query: gradients[0].values(), key: gradients[1].values() },
            partial: Weights { query: partial[0].values(), key: partial[1].values() },
        }),
    };
    // SAFETY: the tensors are contiguous, of this machine, and alive.
    unsafe { cuda::backward(lab.machine, stream, &backward, shape) }.unwrap();

    let epsilon = (norm != Norm::None).then_some(EPSILON);
    let wanted = reference(&x, &dy, &table, &weights, shape, epsilon);
    let largest = wanted.scales.iter().copied().fold(1.0, f32::max);
    close("y", &y.read(), &wanted.y, Tolerance::of(lab.kind, 4.0));
    let dx = dx.read();
    // What is not a head is not touched: there the reference has no number either.
    for (place, (found, wanted)) in dx.iter().zip(&wanted.dx).enumerate() {
        assert_eq!(found.is_nan(), wanted.is_nan(), "dx at {place}");
    }
    let numbers = |values: &[f32]| -> Vec<f32> {
        values.iter().copied().filter(|value| !value.is_nan()).collect()
    };
    let tolerance = Tolerance::of(lab.kind, 4.0 * largest);
    close("dx", &numbers(&dx), &numbers(&wanted.dx), tolerance);
    if norm != Norm::None {
        close("r", &scales.read(), &wanted.scales, Tolerance::of(Kind::Float32, 1.0));
    }
    if norm == Norm::Weighted {
        let size = 2.0 * (wanted.scales.len() as f32).sqrt();
        for (found, wanted) in gradients.iter().zip(&wanted.dw) {
            close("dw", &found.read(), wanted, Tolerance::of(lab.kind, size));
        }
    }
}

struct Wanted {
    y: Vec<f32>,
    /// Not a number beside the heads.
    dx: Vec<f32>,
    scales: Vec<f32>,
    /// Of queries and keys.
    dw: [Vec<f32>; 2],
}

fn reference(
    x: &[f32],
    dy: &[f32],
    table: &[f32],
    weights: &[Vec<f32>; 2],
    shape: Shape,
    epsilon: Option<f32>,
) -> Wanted {
    let Shape { queries, keys, width, stride } = shape;
    let (heads, positions) = (queries + keys, table.len() / width);
    let dw = [vec![0.0; width], vec![0.0; width]];
    let (y, dx) = (vec![0.0; dy.len()], vec![f32::NAN; x.len()]);
    let mut wanted = Wanted { y, dx, scales: Vec::new(), dw };
    for index in 0..dy.len() / width {
        let (row, head) = (index / heads, index % heads);
        let which = usize::from(head >= queries);
        let (from, to) = (row * stride + head * width, index * width..(index + 1) * width);
        let (from, weight) = (from..from + width, &weights[which]);
        let table = &table[row % positions * width..][..width];
        let y = &mut wanted.y[to.clone()];
        let scale = cpu::forward(&x[from.clone()], weight, table, epsilon, y);
        wanted.scales.push(scale);
        let scale = epsilon.map(|_| scale);
        let (dx, dw) = (&mut wanted.dx[from.clone()], &mut wanted.dw[which]);
        cpu::backward(&dy[to], &x[from], weight, table, scale, dx, dw);
    }
    wanted
}

fn shape(queries: usize, keys: usize, width: usize, rest: usize) -> Shape {
    Shape { queries, keys, width, stride: (queries + keys) * width + rest }
}

fn cases<M: Machine>(machine: &M) {
    each(machine, |lab| {
        for norm in [Norm::None, Norm::Plain, Norm::Weighted] {
            case(lab, 0, shape(2, 1, 4, 0), 1, norm);
            case(lab, 1, shape(1, 1, 2, 0), 1, norm);
            case(lab, 5, shape(3, 2, 6, 12), 5, norm);
            case(lab, 37, shape(2, 1, 8, 8), 7, norm);
            case(lab, 61, shape(12, 12, 64, 768), 16, norm);
            case(lab, 3, shape(5, 1, 128, 128), 9, norm);
            case(lab, 2, shape(3, 1, 250, 250), 2, norm);
            case(lab, 4, shape(1, 2, cuda::width_max(lab.kind), 0), 3, norm);
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
        for norm in [Norm::None, Norm::Weighted] {
            case(lab, 3_001, shape(12, 12, 64, 768), 1_024, norm);
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
    let x = lab.output(48);
    let check = |shape: Shape, table: usize, y: usize| {
        let [table, y] = [lab.output(table), lab.output(y)];
        let tensors = cuda::Forward {
            x: x.values(),
            weights: None,
            table: table.values(),
            y: y.values(),
            scales: None,
        };
        // SAFETY: nothing is launched.
        unsafe { cuda::forward(&machine, Stream::DEFAULT, &tensors, shape, EPSILON) }.unwrap_err()
    };
    assert!(matches!(check(shape(1, 1, 3, 0), 3, 48), KernelError::Size { .. }));
    assert!(matches!(check(shape(0, 0, 4, 8), 4, 48), KernelError::Size { .. }));
    assert!(matches!(check(shape(1, 1, 4, 0), 0, 48), KernelError::Size { .. }));
    assert!(matches!(check(shape(1, 1, 4, 2), 4, 48), KernelError::Length { name: "x", .. }));
    assert!(matches!(
        check(shape(1, 1, 4, 0), 6, 48),
        KernelError::Length { name: "the table", .. }
    ));
    assert!(matches!(check(shape(1, 1, 4, 0), 4, 40), KernelError::Length { name: "y", .. }));
    assert!(matches!(check(shape(1, 1, 4_096, 0), 4_096, 48), KernelError::Limit { .. }));
    let narrow = Shape { queries: 2, keys: 1, width: 4, stride: 8 };
    assert!(matches!(check(narrow, 4, 48), KernelError::Size { .. }));
}
