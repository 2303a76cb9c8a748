//! Mean and confidence interval of a few replicates.

/// Mean of `values` and, when there are at least two, the ends of its 95 % interval: the mean
/// plus and minus `t(0.975, n - 1) s / sqrt(n)`, with the standard deviation s of the sample.
pub(crate) fn mean_ci95(values: &[f64]) -> Option<(f64, Option<[f64; 2]>)> {
    let n = values.len();
    if n == 0 {
        return None;
    }
    let mean = values.iter().sum::<f64>() / n as f64;
    if n == 1 {
        return Some((mean, None));
    }
    let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
    let half = student_t_975(n - 1) * (variance / n as f64).sqrt();
    Some((mean, Some([mean - half, mean + half])))
}

/// The 97.5 % quantile of Student's t distribution with `freedom` >= 1 degrees of freedom: a table
/// up to 20, then the Cornish-Fisher expansion about the normal quantile (Abramowitz and Stegun
/// 26.7.5), which is exact to 5 digits there.
fn student_t_975(freedom: usize) -> f64 {
    const TABLE: [f64; 20] = [
        12.706_205, 4.302_653, 3.182_446, 2.776_445, 2.570_582, 2.446_912, 2.364_624, 2.306_004,
        2.262_157, 2.228_139, 2.200_985, 2.178_813, 2.160_369, 2.144_787, 2.131_450, 2.119_905,
        2.109_816, 2.100_922, 2.093_024, 2.085_963,
    ];
    if let Some(t) = freedom.checked_sub(1).and_then(|place| TABLE.get(place)) {
        return *t;
    }
    let (z, v) = (1.959_963_985_f64, freedom as f64);
    let [z3, z5, z7] = [3, 5, 7].map(|power| z.powi(power));
    z + (z3 + z) / (4.0 * v)
        + (5.0 * z5 + 16.0 * z3 + 3.0 * z) / (96.0 * v * v)
        + (3.0 * z7 + 19.0 * z5 + 17.0 * z3 - 15.0 * z) / (384.0 * v * v * v)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_agree_with_published_tables() {
        for (freedom, expected) in [
            (1, 12.7062),
            (4, 2.77645),
            (20, 2.08596),
            (21, 2.07961),
            (30, 2.04227),
            (60, 2.00030),
            (120, 1.97993),
        ] {
            let t = student_t_975(freedom);
            assert!((t - expected).abs() < 1e-4, "{freedom}: {t}");
        }
    }

    #[test]
    fn the_interval_of_three_values_is_the_textbook_one() {
        // mean 2, s = 1: 2 +- 4.302653 / sqrt(3)
        let (mean, interval) = mean_ci95(&[1.0, 2.0, 3.0]).unwrap();
        let [low, high] = interval.unwrap();
        assert_eq!(mean, 2.0);
        assert!((low - (-0.484_138)).abs() < 1e-5 && (high - 4.484_138).abs() < 1e-5);
        assert_eq!(mean_ci95(&[5.0]), Some((5.0, None)));
        assert_eq!(mean_ci95(&[]), None);
    }
}
