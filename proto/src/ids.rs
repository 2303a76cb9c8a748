//! Names. Every id that crosses a module boundary is one of these types, never a bare string.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest id in bytes. Ids become file names and sled keys, so they stay short.
pub const ID_BYTES_MAX: usize = 96;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text is empty.
    #[error("an id must not be empty")]
    Empty,
    /// The text is longer than [`ID_BYTES_MAX`].
    #[error("an id has at most {ID_BYTES_MAX} bytes, this one has {0}")]
    TooLong(usize),
    /// A character that is not safe in a file name.
    #[error(
        "an id holds only letters, digits, '-', '_' and '.', not {0:?}, and starts with a letter or digit"
    )]
    Character(char),
    /// A hash with the wrong length or a character that is not a hexadecimal digit.
    #[error("expected {expected} hexadecimal digits, found {found:?}")]
    Hash {
        /// Digits wanted.
        expected: usize,
        /// The text that was given.
        found: String,
    },
}

fn check_name(text: &str) -> Result<(), IdError> {
    let first = text.chars().next().ok_or(IdError::Empty)?;
    if text.len() > ID_BYTES_MAX {
        return Err(IdError::TooLong(text.len()));
    }
    if !first.is_ascii_alphanumeric() {
        return Err(IdError::Character(first));
    }
    let allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match text.chars().find(|c| !allowed(c)) {
        Some(c) => Err(IdError::Character(c)),
        None => Ok(()),
    }
}

fn check_hash(text: &str, digits: usize) -> Result<(), IdError> {
    let is_digit = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    if text.len() == digits && text.chars().all(is_digit) {
        return Ok(());
    }
    Err(IdError::Hash { expected: digits, found: text.chars().take(ID_BYTES_MAX).collect() })
}

/// Everything that all ids have in common; each has its own `new` and `as_str`.
macro_rules! text {
    ($name:ident) => {
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:?})", stringify!($name), self.as_str())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.as_str().to_owned()
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    };
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
        #[serde(try_from = "String")]
        // Shared, because the scheduler copies names far more often than it reads them.
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks `text` and makes it an id.
            ///
            /// # Errors
            /// [`IdError`] names what is wrong with the text.
            pub fn new(text: impl AsRef<str>) -> Result<Self, IdError> {
                let check: fn(&str) -> Result<(), IdError> = $check;
                check(text.as_ref())?;
                Ok(Self(text.as_ref().into()))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        text!($name);
    };
}

name!(
    /// A submitted recipe: its name and the first 8 hexadecimal digits of its content's hash.
    ExperimentId,
    check_name
);
name!(
    /// The process on a node that owns its devices. Chosen by the operator, stable over restarts.
    AgentId,
    check_name
);
name!(
    /// A file known by its content: 64 hexadecimal digits of its blake3 hash.
    BlobId,
    |text| check_hash(text, 64)
);

impl BlobId {
    /// The id of content whose blake3 hash is `hash`.
    pub fn from_hash(hash: blake3::Hash) -> Self {
        Self(hash.to_hex().as_str().into())
    }
}

/// Digits of a trial's id.
const TRIAL_DIGITS: usize = 16;

/// One unit of work: 16 hexadecimal digits of the hash of its content
/// ([`TrialSpec::id`](crate::TrialSpec::id)).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
// In place, because a coordinator holds millions of them and compares them all the time.
pub struct TrialId([u8; TRIAL_DIGITS]);

impl TrialId {
    /// Checks `text` and makes it an id.
    ///
    /// # Errors
    /// [`IdError`] names what is wrong with the text.
    pub fn new(text: impl AsRef<str>) -> Result<Self, IdError> {
        let text = text.as_ref();
        check_hash(text, TRIAL_DIGITS)?;
        let digits = text.as_bytes().try_into();
        digits.map(Self).map_err(|_| IdError::TooLong(text.len()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        // Always digits, so never empty.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The id of content whose blake3 hash is `hash`: its first 64 bits.
    /// Among 10 million trials two would collide with a chance of 3e-6.
    pub fn from_hash(hash: blake3::Hash) -> Self {
        let mut digits = [0; TRIAL_DIGITS];
        digits.copy_from_slice(&hash.to_hex().as_bytes()[..TRIAL_DIGITS]);
        Self(digits)
    }
}

text!(TrialId);

/// The number of one try of a trial, from 1. It is the fencing token: a report that carries an
/// older number is refused.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
pub struct Attempt(pub u32);

impl Attempt {
    /// The attempt after this one.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One process of one try of one trial. All but the members of a gang have rank 0.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttemptKey {
    /// Which trial.
    pub trial: TrialId,
    /// Which try of it.
    pub attempt: Attempt,
    /// Which member of the gang.
    #[serde(default)]
    pub rank: u32,
}

impl fmt::Display for AttemptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.trial, self.attempt)?;
        if self.rank > 0 {
            write!(f, ".{}", self.rank)?;
        }
        Ok(())
    }
}

/// Milliseconds since the Unix epoch, on the coordinator's clock.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// This moment plus `milliseconds`; stops at the end of time instead of wrapping.
    pub fn plus_ms(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_add(milliseconds))
    }

    /// Milliseconds from `earlier` to this moment; zero when `earlier` is later.
    pub fn since_ms(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_not_safe_in_a_path_are_refused() {
        for (text, expected) in [
            ("", IdError::Empty),
            ("../x", IdError::Character('.')),
            ("a/b", IdError::Character('/')),
            ("a b", IdError::Character(' ')),
            ("a\0", IdError::Character('\0')),
        ] {
            assert_eq!(ExperimentId::new(text), Err(expected), "{text:?}");
        }
        let long = "x".repeat(ID_BYTES_MAX + 1);
        assert_eq!(AgentId::new(long), Err(IdError::TooLong(ID_BYTES_MAX + 1)));
        assert!(AgentId::new("gpu-7.rack_2").is_ok());
    }

    #[test]
    fn ids_are_checked_when_they_are_read_from_json() {
        assert!(serde_json::from_str::<TrialId>("\"0123456789abcdef\"").is_ok());
        assert!(serde_json::from_str::<TrialId>("\"0123456789ABCDEF\"").is_err());
        assert!(serde_json::from_str::<TrialId>("\"0123\"").is_err());
    }
}
