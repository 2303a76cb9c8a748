//! RMSNorm and LayerNorm with the residual addition before them.

use super::function::{is_recorded, record};
use super::gpu;
use super::host::{PIECE_VALUES, contiguous, each, empty, is_slice, values, values_mut};
use crate::model::architecture::Norm;
use kernels::norm::{Centring, processor};
use tch::{Tensor, no_grad};

/// What is trained of a norm, (d) each.
#[derive(Debug)]
pub(crate) struct NormWeights {
    pub(crate) weight: Option<Tensor>,
    pub(crate) bias: Option<Tensor>,
}

impl NormWeights {
    pub(super) fn tensors(&self) -> [Option<&Tensor>; 2] {
        [self.weight.as_ref(), self.bias.as_ref()]
    }

    pub(super) fn detached(&self) -> tch::Result<Self> {
        let detach = |part: &Option<Tensor>| part.as_ref().map(Tensor::f_detach).transpose();
        Ok(Self { weight: detach(&self.weight)?, bias: detach(&self.bias)? })
    }

    /// What the kernel needs of it.
    fn of_rows(&self, kind: Norm, width: usize) -> processor::Norm<'_> {
        processor::Norm {
            width,
            centring: centring(kind),
            epsilon: kind.epsilon() as f32,
            weight: self.weight.as_ref().map(values),
            bias: self.bias.as_ref().map(values),
        }
    }
}

pub(super) fn centring(kind: Norm) -> Centring {
    match kind {
        Norm::Layer { .. } => Centring::Mean,
        Norm::Rms { .. } | Norm::PlainRms { .. } => Centring::None,
    }
}

/// `x` (rows, d), plus `delta` if there is one, and its norm.
///
/// # Errors
/// libtorch refuses, for lack of memory.
pub(crate) fn norm(
    kind: Norm,
    weights: &NormWeights,
    x: &Tensor,
    delta: Option<&Tensor>,
) -> tch::Result<[Tensor; 2]> {
    let [weight, bias] = weights.tensors();
    let inputs: Vec<&Tensor> = [Some(x), delta, weight, bias].into_iter().flatten().collect();
    if let Some(gpu) = gpu::machine_of(x).filter(|_| gpu::are_usable(&inputs))
        && let Some(found) = gpu::norm(gpu, kind, weights, x, delta)?
    {
        return Ok(found);
    }
    if !inputs.iter().all(|input| is_slice(input)) {
        return of_libtorch(kind, weights, x, delta);
    }
    let (rows, width) = x.size2()?;
    let own = weights.of_rows(kind, width as usize);
    let mut statistics = vec![[0.0; 2]; rows as usize];
    let mut y = empty(&x.size())?;
    let sum = forward(&own, x, delta, &mut y, &mut statistics)?;
    if is_recorded(&inputs) {
        let saved = Saved {
            kind,
            x: sum.as_ref().unwrap_or(x).f_detach()?,
            weights: weights.detached()?,
            statistics,
            delta: delta.is_some(),
        };
        match &sum {
            Some(sum) => record(&inputs, &[sum, &y], move |gradients| saved.backward(gradients)),
            None => record(&inputs, &[&y], move |gradients| saved.backward(gradients)),
        }?;
    }
    Ok([sum.unwrap_or_else(|| x.shallow_clone()), y])
}

fn of_libtorch(
    kind: Norm,
    weights: &NormWeights,
    x: &Tensor,
    delta: Option<&Tensor>,
) -> tch::Result<[Tensor; 2]> {
    let sum = delta.map_or_else(|| Ok(x.shallow_clone()), |delta| x.f_add(delta))?;
    let width = sum.size2()?.1;
    let [weight, bias] = weights.tensors();
    let y = match kind {
        Norm::Layer { epsilon } => sum.f_layer_norm([width], weight, bias, epsilon, false),
        Norm::Rms { epsilon } | Norm::PlainRms { epsilon } => {
            sum.f_rms_norm([width], weight, epsilon)
        }
    }?;
    Ok([sum, y])
}

/// Rows that are one piece.
fn piece_rows(width: usize) -> usize {
    (PIECE_VALUES / width).max(1)
}

/// Fills `y` and `statistics`; gives the sum if there was something to add.
fn forward(
    norm: &processor::Norm<'_>,
    x: &Tensor,
    delta: Option<&Tensor>,
    y: &mut Tensor,
    statistics: &mut [[f32; 2]],
) -> tch::Result<Option<Tensor>> {
    let rows = piece_rows(norm.width);
    let len = rows * norm.width;
    let mut sum = delta.map(|_| empty(&x.size())).transpose()?;
    let residuals: Vec<_> = match (delta, &mut sum) {
        (Some(delta), Some(sum)) => {
            values(delta).chunks(len).zip(values_mut(sum).chunks_mut(len)).map(Some).collect()
        }
        _ => values(x).chunks(len).map(|_| None).collect(),
    };
    let pieces = values(x).chunks(len).zip(values_mut(y).chunks_mut(len));
    let pieces = pieces.zip(statistics.chunks_mut(rows)).zip(residuals);
    each(pieces.collect(), |(((x, y), statistics), residual)| {
        processor::forward(norm, processor::Forward { x, residual, y, statistics })
    })?;
    Ok(sum)
}

/// The gradients where nothing depends on y: what reaches the `sum`, for both of its parts.
pub(super) fn without_y(
    sum: Option<Tensor>,
    delta: bool,
    weights: &NormWeights,
) -> Vec<Option<Tensor>> {
    let mut found = vec![sum.as_ref().map(Tensor::shallow_clone)];
    found.extend(delta.then_some(sum));
    found.extend(weights.tensors().into_iter().flatten().map(|_| None));
    found
}

/// What the backward pass needs.
struct Saved {
    kind: Norm,
    /// What was normalised.
    x: Tensor,
    weights: NormWeights,
    statistics: Vec<[f32; 2]>,
    /// Whether x was a sum, which then is a result too.
    delta: bool,
}

impl Saved {
    /// Gradients of x, of what was added if anything was, of the weight and of the bias.
    fn backward(self, mut gradients: Vec<Option<Tensor>>) -> tch::Result<Vec<Option<Tensor>>> {
        let y = gradients.pop().flatten();
        let sum = gradients.pop().flatten();
        let Some(y) = y else { return Ok(without_y(sum, self.delta, &self.weights)) };
        let (y, sum) = (contiguous(&y)?, sum.as_ref().map(contiguous).transpose()?);
        let mut gradient = empty(&self.x.size())?;
        let of_weights = self.of_pieces(&y, sum.as_ref(), &mut gradient)?;
        let mut found = vec![Some(gradient.shallow_clone())];
        found.extend(self.delta.then_some(Some(gradient)));
        let parts = of_weights
            .chunks_exact(y.size2()?.1 as usize)
            .take(self.weights.tensors().into_iter().flatten().count());
        for part in parts {
            found.push(Some(no_grad(|| Tensor::f_from_slice(part))?));
        }
        Ok(found)
    }

    /// Fills `gradient`; gives those of the weight and the bias, (2 d) or as many as there are.
    fn of_pieces(
        &self,
        y: &Tensor,
        sum: Option<&Tensor>,
        gradient: &mut Tensor,
    ) -> tch::Result<Vec<f32>> {
        let width = y.size2()?.1 as usize;
        let norm = self.weights.of_rows(self.kind, width);
        let rows = piece_rows(width);
        let len = rows * width;
        let parts = self.weights.tensors().map(|part| if part.is_some() { width } else { 0 });
        let of_weights = parts[0] + parts[1];
        // Each piece has its own sums.
        let count = values(y).len().div_ceil(len);
        let mut sums = vec![0.0; of_weights * count];
        let mut of_pieces: Vec<&mut [f32]> = match of_weights {
            0 => (0..count).map(|_| <&mut [f32]>::default()).collect(),
            some => sums.chunks_mut(some).collect(),
        };
        let sums_of_x: Vec<_> = match sum {
            Some(sum) => values(sum).chunks(len).map(Some).collect(),
            None => vec![None; count],
        };
        let pieces = values(&self.x).chunks(len).zip(self.statistics.chunks(rows));
        let pieces = pieces.zip(values(y).chunks(len)).zip(sums_of_x);
        let pieces = pieces.zip(values_mut(gradient).chunks_mut(len)).zip(of_pieces.drain(..));
        each(pieces.collect(), |(((((x, statistics), y), sum), gradient), of_weights)| {
            let (weight, bias) = of_weights.split_at_mut(parts[0]);
            processor::backward(
                &norm,
                processor::Backward { x, statistics, y, sum, gradient, weight, bias },
            )
        })?;
        drop(of_pieces);
        let mut whole = vec![0.0; of_weights];
        for part in sums.chunks(of_weights.max(1)) {
            whole.iter_mut().zip(part).for_each(|(whole, part)| *whole += part);
        }
        Ok(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::wave;
    use tch::Kind;

    fn matrix(shape: [i64; 2], speed: f64) -> Tensor {
        (wave(&shape, speed) * 1.5 + 0.2).set_requires_grad(true)
    }

    // Goal: libtorch's values and gradients, for every kind, with and without a residual, and in
    // more than one piece.
    #[test]
    fn it_is_libtorch_s_norm() {
        let epsilon = 1e-5;
        let kinds = [
            (Norm::Layer { epsilon }, true, true),
            (Norm::Rms { epsilon }, true, false),
            (Norm::PlainRms { epsilon }, false, false),
        ];
        for shape in [[1, 1], [5, 7], [1_100, 250]] {
            for (kind, weight, bias) in kinds {
                for residual in [false, true] {
                    let row = |speed| matrix([1, shape[1]], speed).detach().view(-1);
                    let leaf = |speed| row(speed).set_requires_grad(true);
                    let weights = NormWeights {
                        weight: weight.then(|| leaf(0.7)),
                        bias: bias.then(|| leaf(2.3)),
                    };
                    check(kind, &weights, shape, residual);
                }
            }
        }
    }

    fn check(kind: Norm, weights: &NormWeights, shape: [i64; 2], residual: bool) {
        let (x, delta) = (matrix(shape, 1.7), matrix(shape, 0.9));
        let delta = residual.then_some(&delta);
        let mut inputs = vec![&x];
        inputs.extend(delta);
        inputs.extend(weights.tensors().into_iter().flatten());
        let (by_sum, by_y) = (matrix(shape, 0.3).detach(), matrix(shape, 3.7).detach());
        let results = |[sum, y]: [Tensor; 2]| {
            let loss = (&sum * &by_sum + &y * &by_y).sum(Kind::Double);
            let mut found = vec![sum, y];
            found.extend(Tensor::f_run_backward(&[loss], &inputs, false, false).unwrap());
            found
        };
        let ours = results(norm(kind, weights, &x, delta).unwrap());
        let theirs = results(of_libtorch(kind, weights, &x, delta).unwrap());
        for (ours, theirs) in ours.iter().zip(&theirs) {
            let difference = (ours - theirs).abs().max().double_value(&[]);
            let size = theirs.abs().max().double_value(&[]);
            // The weight's gradient is a sum over all rows.
            let limit = 3e-6 * (1.0 + size) + 1e-8 * shape[0] as f64;
            assert!(difference < limit, "{kind:?} {shape:?}: {difference} of {size}");
        }
    }
}
