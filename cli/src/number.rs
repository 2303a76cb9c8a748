//! Numbers and times as people read them in tables. Nothing here is parsed back.

/// Digits that a measured or fitted number shows.
const DIGITS: usize = 4;

/// A finite number with four significant digits: `0.5102`, `1817`, `3.00e10`.
pub(crate) fn short(value: f64) -> String {
    if !value.is_finite() {
        return value.to_string();
    }
    if value == 0.0 {
        return "0".to_owned();
    }
    let magnitude = value.abs().log10().floor();
    if !(-4.0..6.0).contains(&magnitude) {
        return scientific(value);
    }
    // In -4..6, so the cast keeps the value.
    let decimals = (DIGITS as i32 - 1 - magnitude as i32).max(0) as usize;
    format!("{value:.decimals$}")
}

/// A large number: `3.00e10`.
pub(crate) fn scientific(value: f64) -> String {
    format!("{value:.2e}")
}

/// Significant digits that an estimate keeps however wide its interval is, and those of its ends.
const ESTIMATE_DIGITS_MIN: i32 = 3;
const END_DIGITS_MIN: i32 = 2;
/// Most digits after the point of an estimate.
const DECIMALS_MAX: i32 = 6;

/// An estimate with its interval: `0.513 [0.472, 0.561]`. Shows the digits that the interval's
/// width makes sensible, so that two of them differ between its ends, and never so few that the
/// estimate or an end loses its own: `0.114 [0.0021, 54]`.
pub(crate) fn interval(value: f64, low: f64, high: f64) -> String {
    let width = (high - low).abs();
    let all_moderate =
        [value, low, high].iter().all(|x| *x == 0.0 || (1e-4..1e5).contains(&x.abs()));
    if !all_moderate || !width.is_finite() {
        return format!("{} [{}, {}]", scientific(value), scientific(low), scientific(high));
    }
    // All are moderate, so the casts keep the values.
    let by_width = if width > 0.0 { 1 - width.log10().floor() as i32 } else { DIGITS as i32 };
    let shown = |x: f64, digits: i32| {
        let own = if x == 0.0 { 0 } else { digits - 1 - x.abs().log10().floor() as i32 };
        let decimals = by_width.min(DECIMALS_MAX - 1).max(own).clamp(0, DECIMALS_MAX) as usize;
        format!("{x:.decimals$}")
    };
    format!(
        "{} [{}, {}]",
        shown(value, ESTIMATE_DIGITS_MIN),
        shown(low, END_DIGITS_MIN),
        shown(high, END_DIGITS_MIN)
    )
}

/// A count with a suffix: `950`, `12.3k`, `1.20M`, `2.50G`.
pub(crate) fn count(value: f64) -> String {
    let (scaled, suffix) = match value.abs() {
        x if x < 1e3 => return format!("{value:.0}"),
        x if x < 1e6 => (value / 1e3, "k"),
        x if x < 1e9 => (value / 1e6, "M"),
        x if x < 1e12 => (value / 1e9, "G"),
        _huge => return scientific(value),
    };
    let decimals = if scaled.abs() < 10.0 {
        2
    } else if scaled.abs() < 100.0 {
        1
    } else {
        0
    };
    format!("{scaled:.decimals$}{suffix}")
}

/// A size in binary units: `512 B`, `1.5 MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A span of time with its two largest units: `0.4s`, `12s`, `3m 05s`, `2h 03m`, `4d 01h`.
pub(crate) fn duration_s(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "?".to_owned();
    }
    if seconds < 9.95 {
        return format!("{seconds:.1}s");
    }
    // A float becomes the nearest u64; far too long times stay at its largest value.
    let whole = seconds.round() as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3_600 % 24, whole / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{whole}s"),
        (0, 0, minutes) => format!("{minutes}m {:02}s", whole % 60),
        (0, hours, minutes) => format!("{hours}h {minutes:02}m"),
        (days, hours, _minutes) => format!("{days}d {hours:02}h"),
    }
}

/// The value of a parameter; whole numbers and texts as they are.
pub(crate) fn parameter(value: &proto::Value) -> String {
    match value {
        proto::Value::Number(value) => short(*value),
        proto::Value::Bool(_) | proto::Value::Integer(_) | proto::Value::Text(_) => {
            value.to_string()
        }
    }
}

/// A moment in milliseconds since the epoch, in the machine's time zone: `2026-01-31 09:05:59`.
pub(crate) fn local_time(at_ms: u64) -> String {
    let moment =
        i64::try_from(at_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    match moment {
        Some(moment) => {
            let here = moment.to_zoned(jiff::tz::TimeZone::system());
            here.strftime("%Y-%m-%d %H:%M:%S").to_string()
        }
        None => "?".to_owned(),
    }
}

/// `1 trial`, `3 trials`.
pub(crate) fn plural(count: usize, noun: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_show_four_significant_digits() {
        for (value, expected) in [
            (0.0, "0"),
            (0.510_234, "0.5102"),
            (0.000_123_456, "0.0001235"),
            (1.817_234, "1.817"),
            (477.84, "477.8"),
            (214_388.0, "214388"),
            (3.0e10, "3.00e10"),
            (-2.5e-7, "-2.50e-7"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(short(value), expected);
        }
    }

    #[test]
    fn an_interval_decides_how_many_digits_make_sense() {
        for (value, low, high, expected) in [
            (0.513, 0.472, 0.561, "0.513 [0.472, 0.561]"),
            (0.513, 0.2, 0.9, "0.513 [0.20, 0.90]"),
            (477.83, 284.12, 725.18, "478 [284, 725]"),
            (0.5, 0.5, 0.5, "0.5000 [0.5000, 0.5000]"),
            (0.51, 0.509_999, 0.510_001, "0.51000 [0.51000, 0.51000]"),
            (2.0e9, 1.5e9, 3.0e9, "2.00e9 [1.50e9, 3.00e9]"),
            (0.1135, 0.0, 54.2, "0.114 [0, 54]"),
            (0.1135, 0.002_13, 54.2, "0.114 [0.0021, 54]"),
            (5.23, 4.31, 421.0, "5.23 [4.3, 421]"),
            (-0.000_123, -31.0, 2.0, "-0.000123 [-31, 2.0]"),
            (99_999.0, 1.0, 99_999.5, "99999 [1.0, 100000]"),
            (0.5, 0.1, f64::INFINITY, "5.00e-1 [1.00e-1, inf]"),
        ] {
            assert_eq!(interval(value, low, high), expected);
        }
    }

    #[test]
    fn counts_sizes_and_times_have_units() {
        for (value, expected) in [
            (950.0, "950"),
            (12_345.0, "12.3k"),
            (1.2e6, "1.20M"),
            (2.5e9, "2.50G"),
            (7e13, "7.00e13"),
        ] {
            assert_eq!(count(value), expected);
        }
        for (value, expected) in [(512, "512 B"), (1_572_864, "1.5 MiB"), (u64::MAX, "16384.0 PiB")]
        {
            assert_eq!(bytes(value), expected);
        }
        for (seconds, expected) in [
            (0.44, "0.4s"),
            (12.3, "12s"),
            (185.0, "3m 05s"),
            (7_380.0, "2h 03m"),
            (349_200.0, "4d 01h"),
            (-1.0, "?"),
            (f64::INFINITY, "?"),
        ] {
            assert_eq!(duration_s(seconds), expected);
        }
        assert_eq!(plural(1, "trial"), "1 trial");
        assert_eq!(plural(3, "trial"), "3 trials");
    }
}
