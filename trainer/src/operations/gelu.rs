//! GELU with tanh.

use super::function::{is_recorded, record};
use super::host::{PIECE_VALUES, each, empty, is_slice, values, values_mut};
use tch::{Tensor, no_grad};

/// GELU of every value of `x`. Value and derivative come from one pass, so the backward pass is one
/// multiplication, in the derivative's own memory.
pub(crate) fn gelu(x: &Tensor) -> tch::Result<Tensor> {
    if !is_slice(x) {
        return x.f_gelu("tanh");
    }
    let (mut y, mut slope) = (empty(&x.size())?, empty(&x.size())?);
    let pieces = values(x).chunks(PIECE_VALUES);
    let pieces = pieces.zip(values_mut(&mut y).chunks_mut(PIECE_VALUES));
    let pieces = pieces.zip(values_mut(&mut slope).chunks_mut(PIECE_VALUES));
    each(pieces.collect(), |((x, y), slope)| kernels::gelu::processor::forward(x, y, slope))?;
    if is_recorded(&[x]) {
        record(&[x], &[&y], move |mut gradients| {
            let Some(gradient) = gradients.remove(0) else { return Ok(vec![None]) };
            no_grad(|| slope.f_mul_(&gradient)).map(|gradient| vec![Some(gradient)])
        })?;
    }
    Ok(y)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    // Goal: libtorch's values and gradients, in pieces of every size and where it can not be ours.
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
                Tensor::f_run_backward(&[loss], &[&x], false, false).unwrap().remove(0)
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
}
