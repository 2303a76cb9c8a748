//! GELU with tanh: on the processor by our kernel, elsewhere by libtorch.

use std::thread;
use tch::{Device, Kind, TchError, Tensor, no_grad};

/// Fewest values that are worth a thread.
const VALUES_PER_THREAD: usize = 1 << 17;

/// GELU of every value of `x`.
///
/// Value and derivative come from one pass. The result is `rest + x slope` with both as constants,
/// so the gradient with respect to `x` is the slope, and the backward pass one multiplication.
pub(super) fn gelu(x: &Tensor) -> tch::Result<Tensor> {
    if !is_slice(x) {
        return x.f_gelu("tanh");
    }
    let (mut rest, mut slope) =
        no_grad(|| Ok::<_, TchError>((x.f_empty_like()?, x.f_empty_like()?)))?;
    linearize(values(x), values_mut(&mut rest), values_mut(&mut slope))?;
    rest.f_addcmul(x, &slope)
}

/// Shared out between as many threads as libtorch may use.
fn linearize(x: &[f32], rest: &mut [f32], slope: &mut [f32]) -> tch::Result<()> {
    let threads = usize::try_from(tch::get_num_threads()).unwrap_or(1);
    let threads = threads.min(x.len() / VALUES_PER_THREAD).max(1);
    let part = x.len().div_ceil(threads).max(1);
    let parts = x.chunks(part).zip(rest.chunks_mut(part)).zip(slope.chunks_mut(part));
    let mut done = Vec::with_capacity(threads);
    thread::scope(|scope| {
        let mut parts =
            parts.map(|((x, rest), slope)| move || kernels::gelu::cpu::linearize(x, rest, slope));
        let own = parts.next();
        let others: Vec<_> = parts.map(|part| scope.spawn(part)).collect();
        done.extend(own.map(|mut part| part()));
        done.extend(
            others
                .into_iter()
                .map(|part| part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))),
        );
    });
    let all: Result<(), _> = done.into_iter().collect();
    all.map_err(|error| TchError::Torch(error.to_string()))
}

/// Whether the values of `tensor` are a slice in this process's memory.
fn is_slice(tensor: &Tensor) -> bool {
    let readable = tensor.device() == Device::Cpu && tensor.kind() == Kind::Float;
    readable && tensor.is_contiguous() && tensor.numel() > 0
}

#[expect(unsafe_code, reason = "libtorch's memory as a slice")]
fn values(tensor: &Tensor) -> &[f32] {
    assert!(is_slice(tensor), "the caller asked first");
    // SAFETY: checked above; nobody writes to it meanwhile: one thread trains.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast(), tensor.numel()) }
}

#[expect(unsafe_code, reason = "libtorch's memory as a slice")]
fn values_mut(tensor: &mut Tensor) -> &mut [f32] {
    assert!(is_slice(tensor), "the caller asked first");
    // SAFETY: checked above; the tensor is new, so nobody else has its memory.
    unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast(), tensor.numel()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Goal: libtorch's values and gradients, in parts of every size and where it can not be ours.
    #[test]
    fn it_is_libtorch_s_gelu() {
        for (rows, columns) in [(1, 1), (3, 7), (64, 48), (1_031, 509)] {
            let place = Tensor::arange(rows * columns, (Kind::Float, Device::Cpu));
            let x = ((&place * 1.7).sin() * 9.0).view([rows, columns]).set_requires_grad(true);
            let weight = (&place * 0.3).cos().view([rows, columns]);
            let results = [gelu(&x), x.f_gelu("tanh"), gelu(&x.f_tr().unwrap())];
            let [ours, theirs, turned] = results.map(|y| y.unwrap());
            let gradient = |y: &Tensor| {
                let loss = (y * &weight).sum(Kind::Float);
                Tensor::f_run_backward(&[loss], &[&x], true, false).unwrap().remove(0)
            };
            let close = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]);
            let differences = [
                close(&ours, &theirs),
                close(&turned.tr(), &theirs),
                close(&gradient(&ours), &gradient(&theirs)),
            ];
            assert!(differences.iter().all(|&d| d < 4e-6), "{differences:?}");
        }
    }

    #[test]
    fn parts_are_as_the_whole() {
        let count = (3 * VALUES_PER_THREAD + 5) as i64;
        let x = (Tensor::arange(count, (Kind::Float, Device::Cpu)) * 1.7).sin() * 5.0;
        let run = |threads: usize| {
            let mut made = [vec![0.0; x.numel()], vec![0.0; x.numel()]];
            let [rest, slope] = &mut made;
            let part = x.numel().div_ceil(threads);
            let parts = rest.chunks_mut(part).zip(slope.chunks_mut(part));
            for (x, (rest, slope)) in values(&x).chunks(part).zip(parts) {
                linearize(x, rest, slope).unwrap();
            }
            made
        };
        assert_eq!(run(1), run(3));
    }
}
