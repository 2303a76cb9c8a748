//! GELU in its form with tanh, and its derivative, one pass over memory.
//!
//! ```text
//! u = sqrt(2 / pi) (x + 0.044715 x^3)        y = x (1 + tanh u) / 2 = x s
//! s = 1 / (1 + exp(-2 u))                    y' = s + 2 u' x s (1 - s)
//! ```
//! Hendrycks and Gimpel 2016, arXiv 1606.08415. Shapes: x, y and y' are (N), float32. On the
//! processor the time is the exponential's, of which libtorch computes two, as tanh, in the
//! forward pass and again in the backward pass.

pub mod processor;
