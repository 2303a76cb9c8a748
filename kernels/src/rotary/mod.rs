//! Rotary positions of queries and keys, each head normalised before by its root mean square if the
//! model does so, in one pass forward and one backward.
//!
//! ```text
//! r = 1 / sqrt(mean(x^2) + eps)      n = x r w          without normalisation n = x
//! y_2j   = n_2j cos a_j - n_2j+1 sin a_j
//! y_2j+1 = n_2j sin a_j + n_2j+1 cos a_j
//! g = dy, turned back                h = w g            u = x r
//! dx = r (h - u mean(h u))           dw = sum over heads and rows of g u
//! ```
//! Su et al. 2021, arXiv 2104.09864; Henry et al. 2020, arXiv 2010.04245. Shapes: a row is one
//! token; x is (rows, stride), of which the first heads times width values are the heads, queries
//! before keys, so that the product of a token with the weights of queries, keys and values is used
//! as it is; y (rows, heads, width); w (width), one for queries and one for keys; the table
//! (positions, width) holds cos a_j and sin a_j in turn, float32, and row i has position i modulo
//! positions; r (rows, heads) float32. Everything else is float32 or bfloat16.
//!
//! Memory bound: 2 values moved per value forward; backward 2, or 3 with normalisation.

pub mod cpu;
pub mod cuda;
pub mod processor;

use crate::launch::{Module, variants};

/// By the kind of the activations.
pub(crate) static MODULES: [Module; 2] =
    variants("rotary", include_str!("rotary.cu"), &["rotary_forward", "rotary_backward"]);
