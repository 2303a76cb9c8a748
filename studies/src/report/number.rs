//! Numbers as people read them.

/// From this power of ten on, numbers are written as a mantissa and an exponent.
const EXPONENT_HIGH: i32 = 6;
/// Below this power of ten as well.
const EXPONENT_LOW: i32 = -4;
/// From this many digits on, thousands are set apart.
const GROUPED_DIGITS_MIN: usize = 5;
/// Most significant digits that are asked for; a double has no more.
pub(super) const DIGITS_MAX: usize = 17;

/// A number in its parts, so that each medium sets the exponent in its own way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    /// Sign and digits.
    pub(super) mantissa: String,
    /// Power of ten that multiplies the mantissa.
    pub(super) exponent: Option<i32>,
}

impl Written {
    /// What stands on the line, with U+2212 for minus and thousands apart: `1.2346 × 10`, or `10`
    /// for a bare power of ten; and what is raised: `−9`.
    pub(super) fn parts(&self) -> (String, Option<String>) {
        let mantissa = grouped(&self.mantissa).replace('-', "\u{2212}");
        let Some(exponent) = self.exponent else {
            return (mantissa, None);
        };
        let base = match mantissa.as_str() {
            "1" => "10".to_owned(),
            "\u{2212}1" => "\u{2212}10".to_owned(),
            _ => format!("{mantissa} × 10"),
        };
        (base, Some(exponent.to_string().replace('-', "\u{2212}")))
    }

    /// In one line of Unicode, for tooltips: `1.2346 × 10¹⁰`.
    pub(super) fn unicode(&self) -> String {
        match (self.parts(), self.exponent) {
            ((base, _), Some(exponent)) => base + &superscript(exponent),
            ((base, _), None) => base,
        }
    }
}

/// Whether trailing zeros after the decimal point are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Zeros {
    /// `0.3310`: the digits say how exact it is.
    Keep,
    /// `0.331`.
    Trim,
}

/// `value` with `digits` significant digits. Whole numbers below a million keep all their digits.
pub(super) fn write(value: f64, digits: usize, zeros: Zeros) -> Written {
    let digits = digits.clamp(1, DIGITS_MAX);
    if !value.is_finite() {
        let mantissa = if value.is_nan() {
            "not a number"
        } else if value > 0.0 {
            "∞"
        } else {
            "-∞"
        };
        return Written { mantissa: mantissa.to_owned(), exponent: None };
    }
    if value == 0.0 {
        return Written { mantissa: "0".to_owned(), exponent: None };
    }
    let scientific = format!("{value:.*e}", digits - 1);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (EXPONENT_LOW..EXPONENT_HIGH).contains(&exponent) {
        let decimals = i32::try_from(digits).unwrap_or(0) - 1 - exponent;
        let fixed = format!("{value:.*}", usize::try_from(decimals).unwrap_or(0));
        return Written { mantissa: without_zeros(&fixed, zeros), exponent: None };
    }
    Written { mantissa: without_zeros(mantissa, zeros), exponent: Some(exponent) }
}

/// Several numbers of one size with one exponent and equal decimals: `8.989`, `7.730`, `10.52` and
/// `5`; each with its own exponent when their sizes differ too much. `digits` counts for the first.
pub(super) fn write_together<const N: usize>(
    values: [f64; N],
    digits: usize,
) -> ([Written; N], Option<String>) {
    let alone = values.map(|value| write(value, digits, Zeros::Keep));
    let first = values.first().copied().unwrap_or(0.0);
    let size = first.abs().log10().floor();
    let similar = |value: &f64| value.abs() < 10f64.powf(size + 3.0);
    let needed = alone.iter().any(|written| written.exponent.is_some());
    if !needed || !size.is_finite() || !values.iter().all(similar) {
        return (alone, None);
    }
    let scaled = values.map(|value| Written {
        mantissa: format!("{:.*}", digits - 1, value / 10f64.powf(size)),
        exponent: None,
    });
    (scaled, Some(format!("{size:.0}").replace('-', "\u{2212}")))
}

fn without_zeros(text: &str, zeros: Zeros) -> String {
    match zeros {
        Zeros::Trim if text.contains('.') => {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        Zeros::Trim | Zeros::Keep => text.to_owned(),
    }
}

/// `value` with `digits` significant digits in plain characters: `12.5`, `1.2346e10`.
pub(super) fn plain(value: f64, digits: usize, zeros: Zeros) -> String {
    let Written { mantissa, exponent } = write(value, digits, zeros);
    match exponent {
        None => mantissa,
        Some(exponent) => format!("{mantissa}e{exponent}"),
    }
}

/// A count as people say it: `250K`, `1.5M`, `3B`, `2T`; others as [`write`] has them.
pub(super) fn count(value: f64, digits: usize) -> Written {
    let magnitude = value.abs();
    let units = [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")];
    if !(1e3..1e15).contains(&magnitude) {
        return write(value, digits, Zeros::Trim);
    }
    for (unit, letter) in units {
        if magnitude >= unit {
            let scaled = write(value / unit, digits, Zeros::Trim);
            return Written { mantissa: scaled.mantissa + letter, exponent: scaled.exponent };
        }
    }
    write(value, digits, Zeros::Trim)
}

/// `exponent` in superscript characters.
fn superscript(exponent: i32) -> String {
    const DIGITS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    exponent
        .to_string()
        .chars()
        .map(|c| match c.to_digit(10) {
            Some(digit) => DIGITS[digit as usize],
            None => '⁻',
        })
        .collect()
}

/// Sets the thousands before the decimal point apart with narrow no-break spaces.
fn grouped(text: &str) -> String {
    let (whole, rest) = match text.split_once('.') {
        Some((whole, fraction)) => (whole, format!(".{fraction}")),
        None => (text, String::new()),
    };
    let (sign, digits) = match whole.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", whole),
    };
    let all_digits = digits.bytes().all(|b| b.is_ascii_digit());
    if digits.len() < GROUPED_DIGITS_MIN || !all_digits {
        return text.to_owned();
    }
    let mut out = String::from(sign);
    for (place, digit) in digits.char_indices() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out + &rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(value: f64, digits: usize, expected: &str) {
        assert_eq!(plain(value, digits, Zeros::Trim), expected, "{value} {digits}");
    }

    #[test]
    fn numbers_keep_their_significant_digits() {
        check(0.0, 5, "0");
        check(-0.0, 5, "0");
        check(64.0, 5, "64");
        check(477.84, 5, "477.84");
        check(0.347_312, 5, "0.34731");
        check(0.001_018_274, 7, "0.001018274");
        check(0.000_012_345, 3, "1.23e-5");
        check(123_456.0, 5, "123456");
        check(999_999.6, 3, "1e6");
        check(3.0e10, 5, "3e10");
        check(-2.5e20, 5, "-2.5e20");
        check(f64::MAX, 3, "1.8e308");
        check(5e-324, 2, "4.9e-324");
        check(f64::NAN, 5, "not a number");
        check(f64::NEG_INFINITY, 5, "-∞");
        check(1.0, 0, "1");
    }

    #[test]
    fn an_interval_keeps_the_zeros_that_say_how_exact_it_is() {
        assert_eq!(plain(0.331, 4, Zeros::Keep), "0.3310");
        assert_eq!(plain(3.0e10, 4, Zeros::Keep), "3.000e10");
    }

    #[test]
    fn numbers_of_one_size_share_their_exponent() {
        let text = |values: [f64; 3]| {
            let (written, exponent) = write_together(values, 4);
            let written = written.map(|written| written.unicode()).join(" ");
            exponent.map_or(written.clone(), |exponent| format!("{written} e{exponent}"))
        };
        assert_eq!(text([8.989e5, 7.73e5, 1.052e6]), "8.989 7.730 10.520 e5");
        assert_eq!(text([0.3473, 0.331, 0.365]), "0.3473 0.3310 0.3650");
        assert_eq!(text([2e-7, -1e-7, 5e-7]), "2.000 \u{2212}1.000 5.000 e\u{2212}7");
        assert_eq!(text([2.0, 1.0, 1e9]), "2.000 1.000 1.000 × 10⁹");
        assert_eq!(text([1e9, f64::NAN, 2e9]), "1.000 × 10⁹ not a number 2.000 × 10⁹");
        assert_eq!(text([0.0, -1e9, 2e9]), "0 \u{2212}1.000 × 10⁹ 2.000 × 10⁹");
    }

    #[test]
    fn typography_sets_minus_thousands_and_exponents() {
        let set = |value: f64| write(value, 5, Zeros::Trim).unicode();
        assert_eq!(set(-123_456.0), "\u{2212}123\u{202f}456");
        assert_eq!(set(1024.0), "1024");
        assert_eq!(set(1.5e-10), "1.5 × 10⁻¹⁰");
        assert_eq!(set(1e10), "10¹⁰");
    }

    #[test]
    fn counts_are_written_as_people_say_them() {
        for (value, expected) in [
            (999.0, "999"),
            (1_000.0, "1K"),
            (250_000.0, "250K"),
            (1_500_000.0, "1.5M"),
            (3.0e9, "3B"),
            (2.0e12, "2T"),
            (-2_000.0, "-2K"),
            (0.5, "0.5"),
        ] {
            assert_eq!(count(value, 3).mantissa, expected);
        }
        assert_eq!(count(1e18, 3).exponent, Some(18));
    }
}
