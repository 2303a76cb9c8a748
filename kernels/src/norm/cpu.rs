//! The reference: float32, row by row. Sums over a row are taken in 64 bits, so that the reference
//! is nearer to the formula than any order of additions in 32.

use super::Centring;

/// What the backward pass needs of one row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Statistics {
    /// m.
    pub mean: f32,
    /// r.
    pub scale: f32,
}

/// `y` of one row `s`; all have one length, as have `weight` and `bias` where they are not empty.
pub fn forward(
    centring: Centring,
    s: &[f32],
    weight: &[f32],
    bias: &[f32],
    epsilon: f32,
    y: &mut [f32],
) -> Statistics {
    let width = s.len() as f32;
    let mean = match centring {
        Centring::None => 0.0,
        Centring::Mean => sum(s.iter().copied()) / width,
    };
    let squares = sum(s.iter().map(|s| (s - mean) * (s - mean)));
    let scale = 1.0 / (squares / width + epsilon).sqrt();
    for (i, (y, s)) in y.iter_mut().zip(s).enumerate() {
        let weight = weight.get(i).copied().unwrap_or(1.0);
        let bias = bias.get(i).copied().unwrap_or(0.0);
        *y = (s - mean) * scale * weight + bias;
    }
    Statistics { mean, scale }
}

/// `s_gradient` of one row, without what is passed; adds to the gradients of weight and bias, which
/// have the row's length.
pub fn backward(
    centring: Centring,
    y_gradient: &[f32],
    s: &[f32],
    weight: &[f32],
    statistics: Statistics,
    s_gradient: &mut [f32],
    [weight_gradient, bias_gradient]: [&mut [f32]; 2],
) {
    let Statistics { mean, scale } = statistics;
    let width = s.len() as f32;
    let normed = |i: usize| (s[i] - mean) * scale;
    let slope = |i: usize| weight.get(i).copied().unwrap_or(1.0) * y_gradient[i];
    let slopes = match centring {
        Centring::None => 0.0,
        Centring::Mean => sum((0..s.len()).map(slope)) / width,
    };
    let products = sum((0..s.len()).map(|i| slope(i) * normed(i))) / width;
    for i in 0..s.len() {
        s_gradient[i] = (slope(i) - slopes - normed(i) * products) * scale;
        weight_gradient[i] += y_gradient[i] * normed(i);
        bias_gradient[i] += y_gradient[i];
    }
}

fn sum(values: impl Iterator<Item = f32>) -> f32 {
    values.map(f64::from).sum::<f64>() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPSILON: f64 = 1e-3;

    /// The formula in 64 bits.
    fn textbook(centring: Centring, s: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
        let width = s.len() as f64;
        let mean = match centring {
            Centring::None => 0.0,
            Centring::Mean => s.iter().sum::<f64>() / width,
        };
        let variance = s.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / width;
        let root = (variance + EPSILON).sqrt();
        (0..s.len()).map(|i| (s[i] - mean) / root * weight[i] + bias[i]).collect()
    }

    fn wave(len: usize, step: f64) -> Vec<f64> {
        (0..len).map(|i| (i as f64 * step + 0.3).sin() * 2.0).collect()
    }

    fn single(values: &[f64]) -> Vec<f32> {
        values.iter().map(|&value| value as f32).collect()
    }

    #[track_caller]
    fn near(found: f32, wanted: f64, what: &str) {
        let error = (f64::from(found) - wanted).abs();
        assert!(error < 2e-5 * (1.0 + wanted.abs()), "{what}: {found} is not {wanted}");
    }

    // Goal: values are the formula's, and gradients are the slopes of L = sum of c y in 64 bits.
    #[test]
    fn values_and_gradients_are_the_formula_s() {
        for centring in [Centring::None, Centring::Mean] {
            for len in [1, 2, 7, 64] {
                let [s, weight, bias, c] = [0.7, 1.3, 2.1, 0.4].map(|step| wave(len, step));
                let loss = |s: &[f64], weight: &[f64], bias: &[f64]| -> f64 {
                    textbook(centring, s, weight, bias).iter().zip(&c).map(|(y, c)| y * c).sum()
                };
                let slope = |which: usize, i: usize| {
                    let at = |step: f64| {
                        let mut all = [s.clone(), weight.clone(), bias.clone()];
                        all[which][i] += step;
                        loss(&all[0], &all[1], &all[2])
                    };
                    (at(1e-5) - at(-1e-5)) / 2e-5
                };
                let [s32, w32, b32, c32] = [&s, &weight, &bias, &c].map(|v| single(v));
                let mut y = vec![f32::NAN; len];
                let statistics = forward(centring, &s32, &w32, &b32, EPSILON as f32, &mut y);
                let mut found = [vec![f32::NAN; len], vec![0.0; len], vec![0.0; len]];
                let [ds, dw, db] = &mut found;
                backward(centring, &c32, &s32, &w32, statistics, ds, [dw, db]);
                let wanted = textbook(centring, &s, &weight, &bias);
                for i in 0..len {
                    near(y[i], wanted[i], "y");
                    for (which, found) in found.iter().enumerate() {
                        near(found[i], slope(which, i), "a gradient");
                    }
                }
            }
        }
    }

    #[test]
    fn without_weight_and_bias_they_are_one_and_zero() {
        let s = single(&wave(9, 0.9));
        let (mut bare, mut full) = ([0.0; 9], [0.0; 9]);
        forward(Centring::Mean, &s, &[], &[], 1e-5, &mut bare);
        forward(Centring::Mean, &s, &[1.0; 9], &[0.0; 9], 1e-5, &mut full);
        assert_eq!(bare, full);
    }
}
