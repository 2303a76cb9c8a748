//! Intervals of shares.

/// The 97.5 % quantile of the standard normal distribution.
const Z: f64 = 1.959_963_985;

/// Ends of the 95 % interval of a share that was found among `n` (Wilson 1927).
pub(super) fn wilson95(share: f64, n: f64) -> [f64; 2] {
    let z2 = Z * Z;
    let middle = share + z2 / (2.0 * n);
    let half = Z * (share * (1.0 - share) / n + z2 / (4.0 * n * n)).sqrt();
    [middle - half, middle + half].map(|end| (end / (1.0 + z2 / n)).clamp(0.0, 1.0))
}

/// Ends of the 95 % interval of `after - before`, both found among `n` (Newcombe 1998, method 10),
/// as if the two were independent.
pub(super) fn difference95(before: f64, after: f64, n: f64) -> [f64; 2] {
    let ([low_before, high_before], [low_after, high_after]) =
        (wilson95(before, n), wilson95(after, n));
    let difference = after - before;
    [
        difference - (after - low_after).hypot(high_before - before),
        difference + (high_after - after).hypot(before - low_before),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn near(found: [f64; 2], wanted: [f64; 2]) {
        assert!(found.iter().zip(wanted).all(|(f, w)| (f - w).abs() < 5e-5), "{found:?}");
    }

    // Values of Newcombe (1998), Statistics in Medicine 17, tables I and II.
    #[test]
    fn intervals_are_the_published_ones() {
        near(wilson95(81.0 / 263.0, 263.0), [0.2553, 0.3662]);
        near(wilson95(15.0 / 148.0, 148.0), [0.0624, 0.1605]);
        near(wilson95(0.0, 20.0), [0.0, 0.1611]);
        near(wilson95(1.0, 20.0), [0.8389, 1.0]);
        // 9/10 - 3/10
        near(difference95(0.3, 0.9, 10.0), [0.1705, 0.8090]);
    }
}
