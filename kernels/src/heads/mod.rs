//! Rotary positions (arXiv 2104.09864) in the rows that hold queries, keys and values: pairs of
//! neighbouring values of a query or key, turned by an angle of the row's position and the pair.
//!
//! ```text
//! (a, b) <- (a cos - b sin, a sin + b cos)
//! ```
//! Backward: turned back by the same angle.

pub mod cpu;
