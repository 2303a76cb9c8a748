//! Cross-entropy over a piece of the logits, with their gradient in their place, so that the logits
//! of a whole batch never exist at once: a caller makes some rows of them by one matrix product,
//! calls this, and makes the gradients of hidden values and weights by two more.
//!
//! ```text
//! l = c tanh(z / c), or z where there is no cap c
//! loss = log(sum exp l) - l[target]
//! z <- (exp(l) / sum exp l - [target]) (1 - (l / c)^2) scale
//! ```
//! The cap is Gemma 2's, arXiv 2408.00118, section 2. Shapes: z (rows, V), float32 or bfloat16,
//! targets (rows), losses (rows) float32. A row whose target is the number for "not scored" has
//! loss 0 and gradient 0; a target that is no token gives no numbers. For the mean over scored
//! rows, `scale` is one over their count.
//!
//! Memory bound: z is read and written once, and read once more from the second-level cache.

pub mod cpu;
pub mod cuda;
pub mod processor;

use crate::launch::{Module, variants};

/// By the kind of the logits.
pub(crate) static MODULES: [Module; 2] =
    variants("logits", include_str!("logits.cu"), &["cross_entropy"]);
