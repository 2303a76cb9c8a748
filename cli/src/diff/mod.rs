//! Two recipes side by side: which keys differ and what that means ([`keys`]), and which trials
//! only one of them has ([`trials`]).

pub(crate) mod keys;
pub(crate) mod trials;
