//! AdamW in place, one pass over memory. t counts updates from 1.
//!
//! ```text
//! g <- s g
//! m <- b1 m + (1 - b1) g              v <- b2 v + (1 - b2) g^2
//! p <- p (1 - lr decay) - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
//! ```
//! Loshchilov and Hutter, arXiv 1711.05101. Shapes: p, g, m, v are (N), float32; s is the clipping
//! factor. Memory bound: reads 4 N and writes 3 N floats; half of the gradient's less where it is
//! bfloat16, and 2 N bytes more where a copy in bfloat16 is made in the same pass.

pub mod cpu;
pub mod cuda;

use crate::KernelError;
use crate::launch::{Module, variants};

/// What a recipe says about the optimiser.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Config {
    /// lr of this update.
    pub learning_rate: f64,
    /// b1.
    pub beta1: f64,
    /// b2.
    pub beta2: f64,
    /// eps.
    pub epsilon: f64,
    /// Decoupled decay; 0 for vectors.
    pub weight_decay: f64,
    /// s: what the gradient is multiplied by first; 1 leaves it as it is.
    pub gradient_scale: f64,
}

/// The numbers of one update in the form in which both implementations use them. Worked out in 64
/// bits once, not per value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Constants {
    pub(crate) gradient_scale: f32,
    pub(crate) one_minus_beta1: f32,
    pub(crate) one_minus_beta2: f32,
    /// 1 / sqrt(1 - b2^t).
    pub(crate) root_scale: f32,
    pub(crate) epsilon: f32,
    /// 1 - lr decay.
    pub(crate) keep: f32,
    /// lr / (1 - b1^t).
    pub(crate) step_size: f32,
}

impl Constants {
    /// The numbers of update number `t`, from 1.
    pub fn new(config: &Config, t: u64) -> Self {
        debug_assert!(t >= 1, "updates count from 1");
        let t = t as f64;
        Self {
            gradient_scale: config.gradient_scale as f32,
            one_minus_beta1: (1.0 - config.beta1) as f32,
            one_minus_beta2: (1.0 - config.beta2) as f32,
            root_scale: (1.0 - config.beta2.powf(t)).sqrt().recip() as f32,
            epsilon: config.epsilon as f32,
            keep: (1.0 - config.learning_rate * config.weight_decay) as f32,
            step_size: (config.learning_rate / (1.0 - config.beta1.powf(t))) as f32,
        }
    }
}

/// By the kind of the gradient.
pub(crate) static MODULES: [Module; 2] =
    variants("adamw", include_str!("adamw.cu"), &["adamw_update"]);

/// Checks that gradient and moments have as many values as the parameters.
pub(crate) fn check_lengths(
    parameters: usize,
    gradient: usize,
    first_moment: usize,
    second_moment: usize,
) -> Result<(), KernelError> {
    let others = [
        ("the gradient", gradient),
        ("the first moment", first_moment),
        ("the second moment", second_moment),
    ];
    match others.into_iter().find(|&(_, len)| len != parameters) {
        None => Ok(()),
        Some((name, found)) => Err(KernelError::Length { name, found, wanted: parameters }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_of_other_lengths_are_refused() {
        assert!(check_lengths(3, 3, 3, 3).is_ok());
        for (g, m, v, message) in [
            (2, 3, 3, "the gradient has 2 values instead of 3"),
            (3, 4, 3, "the first moment has 4 values instead of 3"),
            (3, 3, 0, "the second moment has 0 values instead of 3"),
        ] {
            let error = check_lengths(3, g, m, v).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
    }
}
