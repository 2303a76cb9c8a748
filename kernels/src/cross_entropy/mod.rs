//! Cross-entropy of targets under scores, with its gradient in the place of the scores:
//!
//! ```text
//! z = scores, or cap tanh(scores / cap)
//! loss of a row = log(sum over v of exp(z_v)) - z_target
//! dscores_v = scale (exp(z_v) / sum - [v = target]) (1 - (z_v / cap)^2)
//! ```
//! A row without a target has the loss 0 and a gradient of zeros.

pub mod cpu;
