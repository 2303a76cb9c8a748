//! What stands between the two matrices of an MLP, forward and backward, one pass over memory each.
//!
//! ```text
//! GELU         y as in crate::gelu
//! ReLU squared y = max(x, 0)^2           dx = 2 max(x, 0) dy
//! SwiGLU       x = [g | v]               y = g s v,  s = 1 / (1 + exp(-g))
//!              dg = dy v (s + g s (1 - s))           dv = dy g s
//! ```
//! Hendrycks and Gimpel 2016, arXiv 1606.08415; So et al. 2021, arXiv 2109.08668; Shazeer 2020,
//! arXiv 2002.05202. Shapes: x, y and their gradients are (N), for SwiGLU x is (rows, 2 width) and
//! y (rows, width); float32 or bfloat16.
//!
//! Memory bound: 2 values moved per x forward and 3 backward; SwiGLU 3 per y forward and 5
//! backward.

pub mod cpu;
pub mod cuda;

use crate::launch::{Module, variants};

/// By the kind of the activations.
pub(crate) static MODULES: [Module; 2] = variants(
    "activation",
    include_str!("activation.cu"),
    &[
        "gelu_forward",
        "gelu_backward",
        "relu_squared_forward",
        "relu_squared_backward",
        "swiglu_forward",
        "swiglu_backward",
    ],
);
