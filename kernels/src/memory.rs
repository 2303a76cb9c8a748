//! Values in a GPU's memory that another library owns, mostly libtorch: an address, a length and a
//! kind. Nothing is copied and nothing is freed.

use crate::KernelError;

/// Width of the widest load, in bytes.
const ALIGNMENT: u64 = 16;

/// An address in the memory of a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DevicePtr(pub u64);

impl DevicePtr {
    /// Stands for a tensor that is not there.
    pub const NULL: Self = Self(0);
}

/// What one value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 32 bits.
    Float32,
    /// The upper half of a float32.
    BFloat16,
    /// 64 bits.
    Float64,
    /// A whole number of 64 bits with a sign.
    Int64,
}

impl Kind {
    /// Bytes of one value.
    pub fn bytes(self) -> usize {
        match self {
            Self::BFloat16 => 2,
            Self::Float32 => 4,
            Self::Float64 | Self::Int64 => 8,
        }
    }

    /// Values that a thread takes at once, for the kinds of activations.
    pub(crate) fn lanes(self) -> usize {
        ALIGNMENT as usize / self.bytes()
    }
}

/// Values one after the other in the memory of a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceValues {
    /// Where the first one is.
    pub pointer: DevicePtr,
    /// How many there are.
    pub len: usize,
    /// What they are.
    pub kind: Kind,
}

impl DeviceValues {
    /// The address, if the values are what they must be; `name` is for the error.
    pub(crate) fn checked(
        &self,
        name: &'static str,
        kind: Kind,
        len: usize,
    ) -> Result<DevicePtr, KernelError> {
        if self.len != len {
            return Err(KernelError::Length { name, found: self.len, wanted: len });
        }
        if self.kind != kind {
            return Err(KernelError::Kind { name, found: self.kind, wanted: kind });
        }
        Ok(self.pointer)
    }
}

/// As [`DeviceValues::checked`] for a tensor that may be absent.
pub(crate) fn checked_option(
    values: Option<&DeviceValues>,
    name: &'static str,
    kind: Kind,
    len: usize,
) -> Result<DevicePtr, KernelError> {
    values.map_or(Ok(DevicePtr::NULL), |values| values.checked(name, kind, len))
}

/// Whether whole packs of 16 bytes may be loaded from all of these. Absent tensors do no harm.
pub(crate) fn aligned(pointers: &[DevicePtr]) -> bool {
    pointers.iter().all(|pointer| pointer.0.is_multiple_of(ALIGNMENT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_lengths_and_kinds_are_named() {
        let values = DeviceValues { pointer: DevicePtr(16), len: 3, kind: Kind::BFloat16 };
        assert_eq!(values.checked("x", Kind::BFloat16, 3).unwrap(), DevicePtr(16));
        let length = values.checked("x", Kind::BFloat16, 4).unwrap_err();
        assert_eq!(length.to_string(), "x has 3 values instead of 4");
        let kind = values.checked("x", Kind::Float32, 3).unwrap_err();
        assert_eq!(kind.to_string(), "x holds BFloat16 instead of Float32");
        let absent = checked_option(None, "x", Kind::Float32, 3).unwrap();
        assert_eq!(absent, DevicePtr::NULL);
    }

    #[test]
    fn one_address_off_is_enough_to_load_singly() {
        assert!(aligned(&[DevicePtr(32), DevicePtr::NULL]));
        assert!(!aligned(&[DevicePtr(32), DevicePtr(40)]));
    }
}
