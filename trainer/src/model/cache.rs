//! Keys and values of the tokens that a model has already seen, so that a next token costs one
//! position and not the whole text again.

use super::Model;
use super::architecture::Sizes;
use tch::{Kind, Tensor};

/// Room for B sequences of up to C tokens in every layer. Sequences of different lengths are padded
/// on the left: all end in the same column, and nobody attends to a padded one.
#[derive(Debug)]
pub struct Cache {
    layers: Vec<KeysValues>,
    /// (B, 1) columns of padding before each sequence's first token.
    padding: Tensor,
    /// Columns filled, the same for every sequence.
    len: i64,
    capacity: i64,
}

#[derive(Debug)]
struct KeysValues {
    /// (B, kv heads, C, hd).
    keys: Tensor,
    /// Likewise.
    values: Tensor,
}

/// What all layers of one pass share.
pub(super) struct Columns {
    /// (B, S) position of each new token in its own sequence; 0 for padding.
    pub(super) positions: Tensor,
    /// (B, 1, S, columns) whether a new token may attend to a column.
    pub(super) mask: Tensor,
}

impl Cache {
    /// An empty cache of `model` for one sequence per element of `padding`, each of which will
    /// begin after that many columns of padding, and for `capacity` columns in all.
    ///
    /// # Errors
    /// libtorch has no memory for it: `2 L B C kv hd` numbers as the model computes in.
    pub fn new(model: &Model, padding: &[i64], capacity: i64) -> tch::Result<Self> {
        let architecture = model.architecture();
        let (kind, device) = model.kind_and_device();
        let Sizes { layers, kv_heads, .. } = architecture.sizes;
        let [heads, head_width] = [kv_heads, architecture.head_width].map(i64::from);
        let shape = [padding.len() as i64, heads, capacity, head_width];
        let zeros = || Tensor::f_zeros(shape, (kind, device));
        let layers = (0..layers)
            .map(|_| Ok(KeysValues { keys: zeros()?, values: zeros()? }))
            .collect::<tch::Result<_>>()?;
        Ok(Self {
            layers,
            padding: Tensor::f_from_slice(padding)?.f_unsqueeze(1)?.f_to_device(device)?,
            len: 0,
            capacity,
        })
    }

    /// Columns that are filled.
    pub fn len(&self) -> i64 {
        self.len
    }

    /// Whether nothing has been seen.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Columns that can still be filled.
    pub fn room(&self) -> i64 {
        self.capacity - self.len
    }

    /// Where the next `count` tokens of every sequence stand and what they see.
    pub(super) fn columns(&self, count: i64) -> tch::Result<Columns> {
        let device = self.padding.device();
        let end = self.len + count;
        let columns = Tensor::f_arange(end, (Kind::Int64, device))?.f_unsqueeze(0)?;
        let own = columns.f_narrow(1, self.len, count)?;
        let earlier = columns.f_le_tensor(&own.f_tr()?)?; // (S, columns)
        let real = columns.f_ge_tensor(&self.padding)?; // (B, columns)
        // Padding sees itself: a row that sees nothing would be 0 / 0.
        let itself = columns.f_eq_tensor(&own.f_tr()?)?;
        let mask = earlier.f_logical_and(&real.f_unsqueeze(1)?)?.f_logical_or(&itself)?;
        let positions = own.f_sub(&self.padding)?.f_clamp_min(0)?;
        Ok(Columns { positions, mask: mask.f_unsqueeze(1)? })
    }

    /// Adds the new tokens' `keys` and `values` (B, kv heads, S, hd) of one layer, and gives those
    /// of all columns.
    pub(super) fn extend(
        &mut self,
        layer: usize,
        keys: &Tensor,
        values: &Tensor,
    ) -> tch::Result<[Tensor; 2]> {
        let count = keys.size()[2];
        let own = &self.layers[layer];
        own.keys.f_narrow(2, self.len, count)?.f_copy_(keys)?;
        own.values.f_narrow(2, self.len, count)?.f_copy_(values)?;
        let filled = |all: &Tensor| all.f_narrow(2, 0, self.len + count);
        Ok([filled(&own.keys)?, filled(&own.values)?])
    }

    /// Says that every layer has seen `count` more tokens.
    pub(super) fn advance(&mut self, count: i64) {
        self.len += count;
    }
}
