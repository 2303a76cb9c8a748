//! What stands between the two matrices of an MLP, where libtorch needs several operations for it.

use super::{Machine, STREAM, are_usable, empty_beside, failed, machine_of, values};
use crate::operations::function::{is_recorded, record};
use crate::operations::host::contiguous;
use kernels::activation::cuda::{self, Pointwise};
use tch::Tensor;

/// The squared ReLU of every value of `x` (rows, i).
pub(crate) fn relu_squared(x: &Tensor) -> tch::Result<Tensor> {
    match machine_of(x).filter(|_| are_usable(&[x])) {
        Some(gpu) => Activation::ReluSquared.of(gpu, x),
        None => x.f_relu()?.f_square(),
    }
}

/// SwiGLU: of `x` (rows, 2 i), gates before values, to (rows, i).
pub(crate) fn swiglu(x: &Tensor) -> tch::Result<Tensor> {
    match machine_of(x).filter(|_| are_usable(&[x])) {
        Some(gpu) => Activation::SwiGlu.of(gpu, x),
        None => {
            let parts = x.f_chunk(2, 1)?;
            parts[0].f_silu()?.f_mul(&parts[1])
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Activation {
    ReluSquared,
    SwiGlu,
}

impl Activation {
    fn of(self, gpu: &'static Machine, x: &Tensor) -> tch::Result<Tensor> {
        let (rows, width) = x.size2()?;
        let y = match self {
            Self::ReluSquared => empty_beside(x, &[rows, width])?,
            Self::SwiGlu => empty_beside(x, &[rows, width / 2])?,
        };
        self.forward(gpu, x, &y)?;
        if is_recorded(&[x]) {
            let saved = x.f_detach()?;
            record(&[x], &[&y], move |mut gradients| {
                let Some(gradient) = gradients.remove(0) else { return Ok(vec![None]) };
                let of_x = empty_beside(&saved, &saved.size())?;
                self.backward(gpu, &contiguous(&gradient)?, &saved, &of_x)?;
                Ok(vec![Some(of_x)])
            })?;
        }
        Ok(y)
    }

    #[expect(unsafe_code, reason = "kernels work on addresses")]
    fn forward(self, gpu: &Machine, x: &Tensor, y: &Tensor) -> tch::Result<()> {
        let width = y.size2()?.1 as usize;
        let (x, y) = (values(x)?, values(y)?);
        // SAFETY: contiguous tensors of this machine, each its own; libtorch reuses their memory
        // only in the order of its stream.
        unsafe {
            match self {
                Self::ReluSquared => cuda::forward(gpu, STREAM, Pointwise::ReluSquared, &x, &y),
                Self::SwiGlu => cuda::swiglu_forward(gpu, STREAM, &x, &y, width),
            }
        }
        .map_err(failed)
    }

    #[expect(unsafe_code, reason = "kernels work on addresses")]
    fn backward(
        self,
        gpu: &Machine,
        gradient: &Tensor,
        x: &Tensor,
        of_x: &Tensor,
    ) -> tch::Result<()> {
        let width = gradient.size2()?.1 as usize;
        let (gradient, x, of_x) = (values(gradient)?, values(x)?, values(of_x)?);
        let relu = Pointwise::ReluSquared;
        // SAFETY: as forward.
        unsafe {
            match self {
                Self::ReluSquared => cuda::backward(gpu, STREAM, relu, &gradient, &x, &of_x),
                Self::SwiGlu => cuda::swiglu_backward(gpu, STREAM, &gradient, &x, &of_x, width),
            }
        }
        .map_err(failed)
    }
}
