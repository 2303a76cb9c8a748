//! Causal attention of one sequence, on the processor.
//!
//! ```text
//! s_ij = scale q_i k_j  for j <= i        p_ij = exp(s_ij - l_i)     l_i = log sum_j exp(s_ij)
//! o_i  = sum_j p_ij v_j
//! dv_j = sum_i p_ij do_i                  D_i  = do_i o_i
//! e_ij = p_ij (do_i v_j - D_i)
//! dq_i = scale sum_j e_ij k_j             dk_j = scale sum_i e_ij q_i
//! ```
//! Vaswani et al. 2017, arXiv 1706.03762; that the backward pass makes p again instead of reading
//! it, and D, are those of Dao et al. 2022, arXiv 2205.14135. Shapes: q, o and their gradients are
//! (S, heads hd), k, v and theirs (S, hd): the query heads that share one head of keys and values;
//! l is (heads, S). float32.
//!
//! [`processor::LANES`] queries stand side by side in vectors, and their scores with all keys
//! before them stay in the first cache. A key after the last of these queries costs nothing, and
//! with scores transposed no sum runs across a vector. The time is that of 2 products of S^2 / 2
//! times hd forward, 5 backward.

mod columns;
pub mod processor;
#[cfg(test)]
mod tests;
mod tile;

pub use columns::{Columns, ColumnsMut};
