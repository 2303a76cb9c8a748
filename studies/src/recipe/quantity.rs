//! Amounts with their unit, as recipes write them: `20GiB`, `60s`.

use super::error::{HINT, plain};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// An amount of memory, written with one of B, kB, MB, GB, TB (powers of 1000), KiB, MiB, GiB,
/// TiB (powers of 1024), for example `20GiB` or `1.5 GB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytes(pub u64);

/// A length of time in milliseconds, written with one of ms, s, m (minutes), h, d, for example
/// `60s` or `1.5h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Duration(
    /// Milliseconds.
    pub u64,
);

/// Units of memory with their size in bytes.
const BYTES_UNITS: &[(&str, u64)] = &[
    ("B", 1),
    ("kB", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
    ("TB", 1_000_000_000_000),
    ("TiB", 1 << 40),
];

/// Units of time with their length in milliseconds.
const DURATION_UNITS: &[(&str, u64)] =
    &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Largest amount of memory, 1024 TiB: more than a machine has, and sums of a million do not
/// overflow.
const BYTES_MAX: u64 = 1 << 50;
/// Longest time, ten years: more than an experiment takes, and any moment plus it exists.
const DURATION_MS_MAX: u64 = 3_650 * 86_400_000;
/// Most digits after the point; more than a unit can resolve.
const FRACTION_DIGITS_MAX: usize = 9;

/// Why a text is not an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// A number alone.
    #[error("needs a unit{HINT}write for example {example}")]
    UnitMissing {
        /// The same number with a unit.
        example: String,
    },
    /// Not a decimal number.
    #[error("expected a number with a unit, found \"{found}\"{HINT}write for example {example}")]
    Number {
        /// The text that was given.
        found: String,
        /// A correct one.
        example: &'static str,
    },
    /// A unit that is not known.
    #[error("unknown unit \"{found}\"{HINT}known: {known}")]
    Unit {
        /// The unit that was given.
        found: String,
        /// The units that exist.
        known: String,
    },
    /// Below zero.
    #[error("must not be negative, found {0}")]
    Negative(String),
    /// Smaller parts than the smallest unit has.
    #[error("{found} is not a whole number of {unit}")]
    Fraction {
        /// The text that was given.
        found: String,
        /// The smallest unit.
        unit: &'static str,
    },
    /// More than the largest amount.
    #[error("{found} is too large; the largest is {max}")]
    TooLarge {
        /// The text that was given.
        found: String,
        /// The largest amount.
        max: String,
    },
}

struct Dimension {
    units: &'static [(&'static str, u64)],
    max: u64,
    /// The unit that examples use, and a whole example.
    unit: &'static str,
    example: &'static str,
}

const MEMORY: Dimension =
    Dimension { units: BYTES_UNITS, max: BYTES_MAX, unit: "GiB", example: "8GiB" };

const TIME: Dimension =
    Dimension { units: DURATION_UNITS, max: DURATION_MS_MAX, unit: "s", example: "60s" };

impl Dimension {
    /// The amount that `text` writes, in the smallest unit.
    fn parse(&self, text: &str) -> Result<u64, QuantityError> {
        let shown = || plain(text.trim());
        let number_error = || QuantityError::Number { found: shown(), example: self.example };
        let text = text.trim();
        let magnitude = text.strip_prefix('-').unwrap_or(text);
        let end =
            magnitude.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(magnitude.len());
        let (number, unit) = magnitude.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || fraction.contains('.') || number.ends_with('.') {
            return Err(number_error());
        }
        let size = self.unit_size(number, unit.trim())?;
        if text.starts_with('-') {
            return Err(QuantityError::Negative(shown()));
        }
        let too_large = || QuantityError::TooLarge { found: shown(), max: self.format(self.max) };
        if fraction.len() > FRACTION_DIGITS_MAX {
            return Err(number_error());
        }
        // Up to 20 digits before and 9 after the point, times 2^40, stay below 2^128; a longer
        // whole part does not fit u64.
        let whole: u64 = whole.parse().map_err(|_| too_large())?;
        let scale = 10u128.pow(fraction.len() as u32);
        let fraction: u128 = format!("0{fraction}").parse().map_err(|_| number_error())?;
        let scaled = (u128::from(whole) * scale + fraction) * u128::from(size);
        if !scaled.is_multiple_of(scale) {
            let unit = self.units[0].0;
            return Err(QuantityError::Fraction { found: shown(), unit });
        }
        match u64::try_from(scaled / scale) {
            Ok(amount) if amount <= self.max => Ok(amount),
            _ => Err(too_large()),
        }
    }

    fn unit_size(&self, number: &str, unit: &str) -> Result<u64, QuantityError> {
        if unit.is_empty() {
            let example = format!("{}{}", plain(number), self.unit);
            return Err(QuantityError::UnitMissing { example });
        }
        let known = self.units.iter().find(|(name, _)| *name == unit);
        known.map(|(_, size)| *size).ok_or_else(|| {
            let names: Vec<_> = self.units.iter().map(|(name, _)| *name).collect();
            QuantityError::Unit { found: plain(unit), known: names.join(", ") }
        })
    }

    /// The shortest exact text: the unit that leaves the smallest whole number.
    fn format(&self, amount: u64) -> String {
        // The list ascends, so the last unit that divides the amount leaves the smallest number.
        let exact = |unit: &&(&str, u64)| amount != 0 && amount.is_multiple_of(unit.1);
        let (name, size) = self.units.iter().rev().find(exact).unwrap_or(&self.units[0]);
        format!("{}{name}", amount / size)
    }
}

macro_rules! quantity {
    ($name:ident, $dimension:ident, $expecting:literal) => {
        impl FromStr for $name {
            type Err = QuantityError;
            fn from_str(text: &str) -> Result<Self, QuantityError> {
                $dimension.parse(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&$dimension.format(self.0))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl serde::de::Visitor<'_> for Visitor {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                    // A number without a unit gets the same message as its text would.
                    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<$name, E> {
                        self.visit_str(&value.to_string())
                    }
                    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<$name, E> {
                        self.visit_str(&value.to_string())
                    }
                    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<$name, E> {
                        self.visit_str(&value.to_string())
                    }
                }
                deserializer.deserialize_any(Visitor)
            }
        }
    };
}

quantity!(Bytes, MEMORY, "an amount of memory such as 8GiB");
quantity!(Duration, TIME, "a length of time such as 60s");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check<T>(text: &str, expected: Result<T, &str>)
    where
        T: FromStr<Err = QuantityError> + PartialEq + fmt::Debug,
    {
        let found = text.parse::<T>().map_err(|error| error.to_string());
        assert_eq!(found, expected.map_err(str::to_owned), "{text:?}");
    }

    #[test]
    fn memory_is_read_with_its_unit() {
        check("20GiB", Ok(Bytes(20 << 30)));
        check(" 8 MB ", Ok(Bytes(8_000_000)));
        check("1.5KiB", Ok(Bytes(1536)));
        check("0B", Ok(Bytes(0)));
        check("8", Err::<Bytes, _>("needs a unit\nhint: write for example 8GiB"));
        check("-8GiB", Err::<Bytes, _>("must not be negative, found -8GiB"));
        check("0.3B", Err::<Bytes, _>("0.3B is not a whole number of B"));
        check(
            "8Gb",
            Err::<Bytes, _>(
                "unknown unit \"Gb\"\nhint: known: B, kB, KiB, MB, MiB, GB, GiB, TB, TiB",
            ),
        );
        check(
            "99999999999999999999999TiB",
            Err::<Bytes, _>("99999999999999999999999TiB is too large; the largest is 1024TiB"),
        );
        for text in ["", "GiB", "1.2.3GiB", "1.GiB", ".5GiB", "1.0000000001GiB", "+1GiB"] {
            let message = format!(
                "expected a number with a unit, found \"{text}\"\nhint: write for example 8GiB"
            );
            check(text, Err::<Bytes, _>(message.as_str()));
        }
    }

    #[test]
    fn time_is_read_with_its_unit() {
        check("500ms", Ok(Duration(500)));
        check("60s", Ok(Duration(60_000)));
        check("1.5h", Ok(Duration(5_400_000)));
        check("2m", Ok(Duration(120_000)));
        check("1d", Ok(Duration(86_400_000)));
        check("60", Err::<Duration, _>("needs a unit\nhint: write for example 60s"));
        check("0.5ms", Err::<Duration, _>("0.5ms is not a whole number of ms"));
        check("3651d", Err::<Duration, _>("3651d is too large; the largest is 3650d"));
    }

    #[test]
    fn the_shortest_exact_text_is_shown() {
        for (amount, text) in [(0, "0B"), (8 << 30, "8GiB"), (8_000_000, "8MB"), (1001, "1001B")] {
            assert_eq!(Bytes(amount).to_string(), text);
        }
        for (amount, text) in [(0, "0ms"), (90_000, "90s"), (7_200_000, "2h"), (1, "1ms")] {
            assert_eq!(Duration(amount).to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back_as_the_same_amount(
            amount in 0..=BYTES_MAX,
            time in 0..=DURATION_MS_MAX,
        ) {
            prop_assert_eq!(Bytes(amount).to_string().parse(), Ok(Bytes(amount)));
            prop_assert_eq!(Duration(time).to_string().parse(), Ok(Duration(time)));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[-0-9.]{0,40}[ a-zA-Z]{0,4}") {
            let _: Result<Bytes, _> = text.parse();
            let _: Result<Duration, _> = text.parse();
        }
    }
}
