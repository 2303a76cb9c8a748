//! RMSNorm and LayerNorm of rows, together with the residual addition before them, and backwards.
//!
//! ```text
//! s = x + added                                  rounded as the activations are
//! RMSNorm    m = 0          r = 1 / sqrt(mean(s^2) + eps)          y = (s - m) r w
//! LayerNorm  m = mean(s)    r = 1 / sqrt(mean((s - m)^2) + eps)    y = (s - m) r w + b
//! n = (s - m) r             h = w dy
//! ds = r (h - mean(h) - n mean(h n)) + passed    RMSNorm has no mean(h)
//! dw = sum over rows of dy n                     db = sum over rows of dy
//! ```
//! Zhang and Sennrich 2019, arXiv 1910.07467; Ba et al. 2016, arXiv 1607.06450. Shapes: x, added,
//! s, y and their gradients are (rows, width), w and b (width), m and r (rows) float32. `ds` is the
//! gradient of both x and `added`; `passed` is what reaches s by the residual stream. Without w or
//! b they count as 1 and 0.
//!
//! Memory bound: with the addition, 4 values of (rows, width) are moved forward and 4 backward.

pub mod cpu;
pub mod cuda;
pub mod processor;

use crate::launch::{Module, variants};

const SOURCE: &str = include_str!("norm.cu");
const FUNCTIONS: &[&str] = &["norm_forward", "norm_backward"];

/// RMSNorm, by the kind of the activations: of rows narrow enough for one pack a thread, and of
/// wide ones.
pub(crate) static RMS: [[Module; 2]; 2] = {
    let narrow = variants("norm", SOURCE, FUNCTIONS);
    [narrow, with(narrow, [&["-DWIDE"], &["-DWIDE", "-DBF16"]])]
};
/// LayerNorm, likewise.
pub(crate) static LAYER: [[Module; 2]; 2] = {
    let narrow = variants("norm", SOURCE, FUNCTIONS);
    [
        with(narrow, [&["-DCENTRED"], &["-DCENTRED", "-DBF16"]]),
        with(narrow, [&["-DCENTRED", "-DWIDE"], &["-DCENTRED", "-DWIDE", "-DBF16"]]),
    ]
};

/// The same sources with other options.
const fn with(modules: [Module; 2], options: [&'static [&'static str]; 2]) -> [Module; 2] {
    let [float32, bf16] = modules;
    [Module { options: options[0], ..float32 }, Module { options: options[1], ..bf16 }]
}

/// Which normalisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Centring {
    /// RMSNorm.
    None,
    /// LayerNorm.
    Mean,
}
