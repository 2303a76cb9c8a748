//! RMSNorm (arXiv 1910.07467) and LayerNorm (arXiv 1607.06450), with the residual addition before
//! them:
//!
//! ```text
//! s = x + delta
//! RMSNorm    factor = 1 / sqrt(mean(s^2) + eps)              y = s factor weight
//! LayerNorm  factor = 1 / sqrt(mean((s - mean)^2) + eps)     y = (s - mean) factor weight + bias
//! ```
//! Backward, with g = dy weight, n = (s - mean) factor, and the means over the row:
//! ```text
//! ds = factor (g - mean(g) - n mean(g n)) + what comes from s itself; RMSNorm without mean(g)
//! dweight = sum over rows of dy n                                     dbias = sum of dy
//! ```

pub mod cpu;

use crate::KernelError;

/// What is done to each row.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    /// d, values of a row.
    pub width: usize,
    /// LayerNorm, which takes the mean off; RMSNorm does not.
    pub centred: bool,
    /// eps.
    pub epsilon: f32,
    /// (d).
    pub weight: Option<&'a [f32]>,
    /// (d); never without a weight.
    pub bias: Option<&'a [f32]>,
}

impl Norm<'_> {
    /// # Errors
    /// Weight or bias have another width.
    fn check(&self) -> Result<(), KernelError> {
        for (name, part) in [("the weight", self.weight), ("the bias", self.bias)] {
            let found = part.map_or(self.width, <[f32]>::len);
            if found != self.width {
                return Err(KernelError::Length { name, found, wanted: self.width });
            }
        }
        Ok(())
    }
}
