//! RMSNorm and LayerNorm with the residual addition before them.

use super::{Machine, STREAM, empty_beside, failed, floats_beside, maybe_values, values};
use crate::model::architecture::Norm;
use crate::operations::function::{is_recorded, record};
use crate::operations::host::contiguous;
use crate::operations::norm::{NormWeights, centring, without_y};
use kernels::memory::DeviceValues;
use kernels::norm::Centring;
use kernels::norm::cuda::{self, Backward, Forward};
use tch::Tensor;

/// As [`norm`](crate::operations::norm()), or `None` where rows are too wide for the kernel.
pub(in crate::operations) fn norm(
    gpu: &'static Machine,
    kind: Norm,
    weights: &NormWeights,
    x: &Tensor,
    delta: Option<&Tensor>,
) -> tch::Result<Option<[Tensor; 2]>> {
    let (rows, width) = x.size2()?;
    if width as usize > cuda::width_max(values(x)?.kind) {
        return Ok(None);
    }
    let [weight, bias] = weights.tensors();
    let y = empty_beside(x, &x.size())?;
    let sum = delta.map(|_| empty_beside(x, &x.size())).transpose()?;
    let scales = floats_beside(x, &[rows])?;
    let means = match centring(kind) {
        Centring::None => None,
        Centring::Mean => Some(floats_beside(x, &[rows])?),
    };
    let tensors = Forward {
        x: values(x)?,
        residual: maybe_values(delta)?.zip(maybe_values(sum.as_ref())?).map(<[_; 2]>::from),
        weight: maybe_values(weight)?,
        bias: maybe_values(bias)?,
        y: values(&y)?,
        means: maybe_values(means.as_ref())?,
        scales: values(&scales)?,
    };
    // SAFETY: contiguous tensors of this machine, each its own; libtorch reuses their memory only
    // in the order of its stream.
    #[expect(unsafe_code, reason = "kernels work on addresses")]
    unsafe {
        cuda::forward(gpu, STREAM, centring(kind), &tensors, width as usize, kind.epsilon() as f32)
    }
    .map_err(failed)?;
    let inputs: Vec<&Tensor> = [Some(x), delta, weight, bias].into_iter().flatten().collect();
    if is_recorded(&inputs) {
        let saved = Saved {
            gpu,
            kind,
            x: sum.as_ref().unwrap_or(x).f_detach()?,
            weights: weights.detached()?,
            scales,
            means,
            delta: delta.is_some(),
        };
        let outputs: Vec<&Tensor> = sum.iter().chain([&y]).collect();
        record(&inputs, &outputs, move |gradients| saved.backward(gradients))?;
    }
    Ok(Some([sum.unwrap_or_else(|| x.shallow_clone()), y]))
}

/// What the backward pass needs.
struct Saved {
    gpu: &'static Machine,
    kind: Norm,
    /// What was normalised.
    x: Tensor,
    weights: NormWeights,
    scales: Tensor,
    means: Option<Tensor>,
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
        let (rows, width) = y.size2()?;
        let x_gradient = empty_beside(&self.x, &self.x.size())?;
        let kind = values(&self.x)?.kind;
        let partial = cuda::partial_len(self.gpu, kind, rows as usize, width as usize);
        // Each with a place for its partial sums.
        let of_weight = |weight: Option<&Tensor>| -> tch::Result<Option<[Tensor; 2]>> {
            let Some(weight) = weight else { return Ok(None) };
            let places =
                [empty_beside(weight, &[width])?, floats_beside(weight, &[partial as i64])?];
            Ok(Some(places))
        };
        let [weight, bias] = self.weights.tensors();
        let (of_weight, of_bias) = (of_weight(weight)?, of_weight(bias)?);
        let pair = |pair: &Option<[Tensor; 2]>| -> tch::Result<Option<[DeviceValues; 2]>> {
            let Some([gradient, partial]) = pair else { return Ok(None) };
            Ok(Some([values(gradient)?, values(partial)?]))
        };
        let tensors = Backward {
            y_gradient: values(&y)?,
            s: values(&self.x)?,
            weight: maybe_values(weight)?,
            passed: maybe_values(sum.as_ref())?,
            s_gradient: values(&x_gradient)?,
            means: maybe_values(self.means.as_ref())?,
            scales: values(&self.scales)?,
            weight_gradient: pair(&of_weight)?,
            bias_gradient: pair(&of_bias)?,
        };
        // SAFETY: as forward.
        #[expect(unsafe_code, reason = "kernels work on addresses")]
        unsafe { cuda::backward(self.gpu, STREAM, centring(self.kind), &tensors, width as usize) }
            .map_err(failed)?;
        let mut found = vec![Some(x_gradient.shallow_clone())];
        found.extend(self.delta.then_some(Some(x_gradient)));
        found
            .extend([of_weight, of_bias].into_iter().flatten().map(|[gradient, _]| Some(gradient)));
        Ok(found)
    }
}
