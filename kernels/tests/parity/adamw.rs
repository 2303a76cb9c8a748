use crate::emulator::Emulator;
use crate::gpu::on_gpu;
use crate::lab::{Lab, Machine, Tolerance, close, each, round, seed};
use kernels::adamw::{Config, Constants, cpu, cuda};
use kernels::launch::Stream;
use kernels::memory::Kind;

const CONFIG: Config = Config {
    learning_rate: 1e-2,
    beta1: 0.9,
    beta2: 0.95,
    epsilon: 1e-8,
    weight_decay: 0.1,
    gradient_scale: 0.5,
};

/// One update of `n` values, the `t`-th. `clip` and `copy`: whether the tensors are there.
fn case<M: Machine>(lab: &Lab<'_, M>, n: usize, decayed: usize, with: bool, config: &Config) {
    let t = 3;
    let gradient = lab.random(n, 1.0);
    let [mut p, mut m] = [(), ()].map(|()| lab.random(n, 2.0));
    let mut v: Vec<f32> = lab.random(n, 1.0).into_iter().map(f32::abs).collect();
    let single = |values: &[f32]| lab.floats(Kind::Float32, values);
    let [gpu_p, gpu_m, gpu_v, clip] = [single(&p), single(&m), single(&v), single(&[0.25])];
    let gpu_gradient = lab.tensor(&gradient);
    let copy = lab.output_of(Kind::BFloat16, n);
    let tensors = cuda::Tensors {
        parameters: gpu_p.values(),
        gradient: gpu_gradient.values(),
        first_moment: gpu_m.values(),
        second_moment: gpu_v.values(),
        copy: with.then(|| copy.values()),
        clip: with.then(|| clip.values()),
    };
    let constants = Constants::new(config, t);
    // SAFETY: the tensors are contiguous, of this machine, and alive.
    unsafe { cuda::update(lab.machine, Stream::DEFAULT, &tensors, decayed, &constants) }.unwrap();

    let factor = if with { 0.25 } else { 1.0 };
    let config = Config { gradient_scale: config.gradient_scale * factor, ..*config };
    for (range, weight_decay) in [(0..decayed, config.weight_decay), (decayed..n, 0.0)] {
        let constants = Constants::new(&Config { weight_decay, ..config }, t);
        let parts = (&mut p[range.clone()], &gradient[range.clone()]);
        let moments = (&mut m[range.clone()], &mut v[range]);
        cpu::update(parts.0, parts.1, moments.0, moments.1, &constants).unwrap();
    }
    let tolerance = Tolerance { absolute: 0.0, relative: 1e-6 };
    close("p", &gpu_p.read(), &p, tolerance);
    close("m", &gpu_m.read(), &m, tolerance);
    close("v", &gpu_v.read(), &v, tolerance);
    if with {
        let wanted: Vec<f32> = gpu_p.read().iter().map(|&p| round(Kind::BFloat16, p)).collect();
        assert_eq!(copy.read(), wanted, "the copy is the parameters, rounded");
    }
}

fn cases<M: Machine>(machine: &M) {
    each(machine, |lab| {
        for n in [0, 1, 2, 7, 8, 127, 1_024, 2_048, 2_053, 10_007] {
            for decayed in [0, n / 3, n] {
                case(lab, n, decayed, n % 2 == 1, &CONFIG);
            }
        }
        // Moments that come from the other end.
        case(lab, 101, 50, true, &Config { beta1: 0.0, beta2: 0.4, ..CONFIG });
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
    each(machine, |lab| case(lab, 3_000_017, 2_000_000, true, &CONFIG));
}

#[test]
fn large_runs_on_gpu() {
    on_gpu(large);
}
