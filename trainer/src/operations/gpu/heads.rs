//! From the rows that hold queries, keys and values to the three: queries and keys normalised,
//! where the model does that, and turned by their positions.

use super::{Machine, STREAM, empty_beside, failed, floats_beside, maybe_values, values};
use crate::operations::function::{is_recorded, record};
use crate::operations::heads::{HeadNorm, Heads};
use crate::operations::host::contiguous;
use kernels::rotary::cuda::{self, Backward, Forward, Shape, WeightGradients, Weights};
use tch::{Kind, Tensor, no_grad};

/// Queries, keys and values (B, S, heads, hd) of `rows` (B*S, heads hd), or `None` where heads are
/// too wide for the kernel. `rotation` as for [`split_heads`](crate::operations::split_heads).
pub(in crate::operations) fn heads(
    gpu: &'static Machine,
    heads: Heads,
    rows: &Tensor,
    rotation: &Tensor,
    norm: Option<&HeadNorm<'_>>,
) -> tch::Result<Option<[Tensor; 3]>> {
    if heads.width as usize > cuda::width_max(values(rows)?.kind) {
        return Ok(None);
    }
    let [queries, keys, _] = heads.counts;
    let shape = Shape {
        queries: queries as usize,
        keys: keys as usize,
        width: heads.width as usize,
        stride: rows.size2()?.1 as usize,
    };
    let count = rows.size2()?.0;
    let table = no_grad(|| contiguous(&rotation.f_view_as_real()?))?;
    let y = empty_beside(rows, &[heads.batch, heads.sequence, queries + keys, heads.width])?;
    let scales = norm.map(|_| floats_beside(rows, &[count * (queries + keys)])).transpose()?;
    let tensors = Forward {
        x: values(rows)?,
        weights: norm.and_then(|norm| norm.weights).map(weights_of).transpose()?,
        table: values(&table)?,
        y: values(&y)?,
        scales: maybe_values(scales.as_ref())?,
    };
    let epsilon = norm.map_or(0.0, |norm| norm.epsilon as f32);
    // SAFETY: contiguous tensors of this machine, each its own; libtorch reuses their memory only
    // in the order of its stream.
    #[expect(unsafe_code, reason = "kernels work on addresses")]
    unsafe { cuda::forward(gpu, STREAM, &tensors, shape, epsilon) }.map_err(failed)?;
    let [q, k] = no_grad(|| {
        Ok::<_, tch::TchError>([y.f_narrow(2, 0, queries)?, y.f_narrow(2, queries, keys)?])
    })?;
    let [_, _, v] = no_grad(|| heads.split(&rows.f_detach()?))?;
    let weights = norm.and_then(|norm| norm.weights);
    let inputs: Vec<&Tensor> = [rows].into_iter().chain(weights.into_iter().flatten()).collect();
    if is_recorded(&inputs) {
        let detach = |weights: [&Tensor; 2]| -> tch::Result<[Tensor; 2]> {
            Ok([weights[0].f_detach()?, weights[1].f_detach()?])
        };
        let saved = Saved {
            gpu,
            heads,
            shape,
            table,
            like: (rows.size(), rows.kind()),
            normed: match scales {
                Some(scales) => Some([rows.f_detach()?, scales]),
                None => None,
            },
            weights: weights.map(detach).transpose()?,
        };
        record(&inputs, &[&q, &k, &v], move |gradients| saved.backward(gradients))?;
    }
    Ok(Some([q, k, v]))
}

fn weights_of([query, key]: [&Tensor; 2]) -> tch::Result<Weights> {
    Ok(Weights { query: values(query)?, key: values(key)? })
}

/// What the backward pass needs.
struct Saved {
    gpu: &'static Machine,
    heads: Heads,
    shape: Shape,
    table: Tensor,
    /// Shape and kind of the rows.
    like: (Vec<i64>, Kind),
    /// The rows and the scales, where heads were normalised.
    normed: Option<[Tensor; 2]>,
    weights: Option<[Tensor; 2]>,
}

impl Saved {
    /// Gradients of the rows, and of the two weights if there are any.
    fn backward(self, gradients: Vec<Option<Tensor>>) -> tch::Result<Vec<Option<Tensor>>> {
        let Heads { batch, sequence, counts, width } = self.heads;
        let device = self.table.device();
        let (size, kind) = &self.like;
        let zeros = |count| Tensor::f_zeros([batch, sequence, count, width], (*kind, device));
        let present = |(gradient, count): (Option<Tensor>, i64)| match gradient {
            Some(gradient) => Ok(gradient),
            None => zeros(count),
        };
        let gradients: Vec<Tensor> =
            gradients.into_iter().zip(counts).map(present).collect::<tch::Result<_>>()?;
        let y_gradient = no_grad(|| Tensor::f_cat(&gradients[..2], 2))?;
        let x_gradient = no_grad(|| Tensor::f_empty(size.as_slice(), (*kind, device)))?;
        let [_, _, mut of_values] = self.heads.split(&x_gradient)?;
        no_grad(|| of_values.f_copy_(&gradients[2]))?;
        let (rows, kind) = (x_gradient.size2()?.0 as usize, values(&x_gradient)?.kind);
        let partial = cuda::partial_len(self.gpu, kind, rows, self.shape) as i64;
        let places = |weights: &[Tensor; 2]| -> tch::Result<[[Tensor; 2]; 2]> {
            let place = |weight: &Tensor| -> tch::Result<[Tensor; 2]> {
                Ok([empty_beside(weight, &[width])?, floats_beside(weight, &[partial])?])
            };
            Ok([place(&weights[0])?, place(&weights[1])?])
        };
        let places = self.weights.as_ref().map(places).transpose()?;
        let weight_gradients = |[query, key]: &[[Tensor; 2]; 2]| -> tch::Result<WeightGradients> {
            Ok(WeightGradients {
                gradients: weights_of([&query[0], &key[0]])?,
                partial: weights_of([&query[1], &key[1]])?,
            })
        };
        let normed = |[x, scales]: &[Tensor; 2]| -> tch::Result<[_; 2]> {
            Ok([values(x)?, values(scales)?])
        };
        let weights = self.weights.as_ref().map(|[query, key]| weights_of([query, key]));
        let tensors = Backward {
            y_gradient: values(&y_gradient)?,
            normed: self.normed.as_ref().map(normed).transpose()?,
            weights: weights.transpose()?,
            table: values(&self.table)?,
            x_gradient: values(&x_gradient)?,
            weight_gradients: places.as_ref().map(weight_gradients).transpose()?,
        };
        // SAFETY: as forward.
        #[expect(unsafe_code, reason = "kernels work on addresses")]
        unsafe { cuda::backward(self.gpu, STREAM, &tensors, self.shape) }.map_err(failed)?;
        let of_weights = places.into_iter().flatten().map(|[gradient, _]| Some(gradient));
        Ok([Some(x_gradient)].into_iter().chain(of_weights).collect())
    }
}
