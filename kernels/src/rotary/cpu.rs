//! The reference: float32, head by head.

/// Turns each pair of `values` (width) by its angle; `table` (width) has cosines and sines in turn.
fn turn(values: &mut [f32], table: &[f32], sign: f32) {
    for (pair, angle) in values.chunks_exact_mut(2).zip(table.chunks_exact(2)) {
        let (a, b, cosine, sine) = (pair[0], pair[1], angle[0], sign * angle[1]);
        pair[0] = a * cosine - b * sine;
        pair[1] = a * sine + b * cosine;
    }
}

/// Normalises one head `x` (width) if there is an `epsilon`, multiplies by `weight` if it is not
/// empty, and turns. Returns r, or 1.
pub fn forward(
    x: &[f32],
    weight: &[f32],
    table: &[f32],
    epsilon: Option<f32>,
    y: &mut [f32],
) -> f32 {
    let square = x.iter().map(|&x| f64::from(x * x)).sum::<f64>() as f32 / x.len() as f32;
    let scale = epsilon.map_or(1.0, |epsilon| 1.0 / (square + epsilon).sqrt());
    for (i, (y, x)) in y.iter_mut().zip(x).enumerate() {
        *y = x * scale * weight.get(i).copied().unwrap_or(1.0);
    }
    turn(y, table, 1.0);
    scale
}

/// The gradient of one head from that of its `y`; adds to the weight's gradient (width). `scale` is
/// what [`forward`] returned, or None where nothing was normalised.
pub fn backward(
    y_gradient: &[f32],
    x: &[f32],
    weight: &[f32],
    table: &[f32],
    scale: Option<f32>,
    x_gradient: &mut [f32],
    weight_gradient: &mut [f32],
) {
    x_gradient.copy_from_slice(y_gradient);
    turn(x_gradient, table, -1.0);
    let Some(scale) = scale else { return };
    let mut products = 0.0;
    for i in 0..x.len() {
        weight_gradient[i] += x_gradient[i] * x[i] * scale;
        x_gradient[i] *= weight.get(i).copied().unwrap_or(1.0);
        products += f64::from(x_gradient[i] * x[i] * scale);
    }
    let mean = products as f32 / x.len() as f32;
    for (gradient, x) in x_gradient.iter_mut().zip(x) {
        *gradient = (*gradient - x * scale * mean) * scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPSILON: f64 = 1e-3;

    /// The formula in 64 bits, with angles.
    fn textbook(x: &[f64], weight: &[f64], angles: &[f64], normed: bool) -> Vec<f64> {
        let square = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let root = if normed { (square + EPSILON).sqrt() } else { 1.0 };
        let n = |i: usize| x[i] / root * weight[i];
        let pair = |(j, a): (usize, &f64)| {
            let (even, odd) = (n(2 * j), n(2 * j + 1));
            [even * a.cos() - odd * a.sin(), even * a.sin() + odd * a.cos()]
        };
        angles.iter().enumerate().flat_map(pair).collect()
    }

    fn wave(len: usize, step: f64) -> Vec<f64> {
        (0..len).map(|i| (i as f64 * step + 0.4).sin() * 2.0).collect()
    }

    fn single(values: &[f64]) -> Vec<f32> {
        values.iter().map(|&value| value as f32).collect()
    }

    // Goal: values are the formula's, and gradients are the slopes of L = sum of c y in 64 bits.
    #[test]
    fn values_and_gradients_are_the_formula_s() {
        for normed in [false, true] {
            for width in [2, 6, 64] {
                let [x, c] = [0.7, 0.4].map(|step| wave(width, step));
                let weight = if normed { wave(width, 1.1) } else { vec![1.0; width] };
                let angles = wave(width / 2, 2.3);
                let loss = |x: &[f64], weight: &[f64]| -> f64 {
                    textbook(x, weight, &angles, normed).iter().zip(&c).map(|(y, c)| y * c).sum()
                };
                let table: Vec<f32> =
                    angles.iter().flat_map(|a| [a.cos() as f32, a.sin() as f32]).collect();
                let [x32, w32, c32] = [&x, &weight, &c].map(|values| single(values));
                let mut y = vec![f32::NAN; width];
                let epsilon = normed.then_some(EPSILON as f32);
                let scale = forward(&x32, &w32, &table, epsilon, &mut y);
                let (mut dx, mut dw) = (vec![f32::NAN; width], vec![0.0; width]);
                let scale = normed.then_some(scale);
                backward(&c32, &x32, &w32, &table, scale, &mut dx, &mut dw);
                let wanted = textbook(&x, &weight, &angles, normed);
                let near = |found: f32, wanted: f64| {
                    let error = (f64::from(found) - wanted).abs();
                    assert!(error < 1e-5 * (1.0 + wanted.abs()), "{found} is not {wanted}");
                };
                for i in 0..width {
                    near(y[i], wanted[i]);
                    let moved = |step: f64| {
                        let mut x = x.clone();
                        x[i] += step;
                        loss(&x, &weight)
                    };
                    near(dx[i], (moved(1e-5) - moved(-1e-5)) / 2e-5);
                    let moved = |step: f64| {
                        let mut weight = weight.clone();
                        weight[i] += step;
                        loss(&x, &weight)
                    };
                    let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                    near(dw[i], if normed { slope } else { 0.0 });
                }
            }
        }
    }
}
