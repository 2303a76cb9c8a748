//! Row by row, each of which stays in the first cache from its sum to its last use.

use super::Centring;
use crate::KernelError;
use crate::simd::{fma, fold, vectorized};

/// What is done to each row.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    /// d, values of a row.
    pub width: usize,
    /// Which normalisation.
    pub centring: Centring,
    /// eps.
    pub epsilon: f32,
    /// (d).
    pub weight: Option<&'a [f32]>,
    /// (d); never without a weight.
    pub bias: Option<&'a [f32]>,
}

impl Norm<'_> {
    /// # Errors
    /// Weight or bias have another width.
    fn check(&self) -> Result<(), KernelError> {
        for (name, part) in [("the weight", self.weight), ("the bias", self.bias)] {
            let found = part.map_or(self.width, <[f32]>::len);
            if found != self.width {
                return Err(KernelError::Length { name, found, wanted: self.width });
            }
        }
        Ok(())
    }
}

/// The rows of one forward pass, (rows, d) each.
#[derive(Debug)]
pub struct Forward<'a> {
    /// x.
    pub x: &'a [f32],
    /// What is added to x before, and where the sum goes.
    pub residual: Option<(&'a [f32], &'a mut [f32])>,
    /// y.
    pub y: &'a mut [f32],
    /// (rows) mean, 0 for RMSNorm, and factor of each row, for the backward pass.
    pub statistics: &'a mut [[f32; 2]],
}

/// The rows of one backward pass, (rows, d) each.
#[derive(Debug)]
pub struct Backward<'a> {
    /// What was normalised: x, or the sum.
    pub x: &'a [f32],
    /// Of the forward pass.
    pub statistics: &'a [[f32; 2]],
    /// Gradient of y.
    pub y: &'a [f32],
    /// Gradient of the sum by other ways than y.
    pub sum: Option<&'a [f32]>,
    /// Takes the gradient of x.
    pub gradient: &'a mut [f32],
    /// (d) the gradient of the weight is added here; empty when there is none.
    pub weight: &'a mut [f32],
    /// (d) likewise of the bias.
    pub bias: &'a mut [f32],
}

/// y of every row.
///
/// # Errors
/// The slices do not have the same rows of the norm's width.
pub fn forward(norm: &Norm<'_>, rows: Forward<'_>) -> Result<(), KernelError> {
    let len = norm.width * rows.statistics.len();
    check("x", rows.x.len(), len)?;
    check("y", rows.y.len(), len)?;
    if let Some((delta, sum)) = &rows.residual {
        check("what is added", delta.len(), len)?;
        check("the sum", sum.len(), len)?;
    }
    norm.check()?;
    each_forward(norm, rows);
    Ok(())
}

/// Gradients of x, and of weight and bias.
///
/// # Errors
/// As [`forward`].
pub fn backward(norm: &Norm<'_>, rows: Backward<'_>) -> Result<(), KernelError> {
    let len = norm.width * rows.statistics.len();
    check("x", rows.x.len(), len)?;
    check("the gradient of y", rows.y.len(), len)?;
    check("the gradient of the sum", rows.sum.map_or(len, <[f32]>::len), len)?;
    check("the gradient of x", rows.gradient.len(), len)?;
    check("the gradient of the weight", rows.weight.len(), norm.weight.map_or(0, <[f32]>::len))?;
    check("the gradient of the bias", rows.bias.len(), norm.bias.map_or(0, <[f32]>::len))?;
    norm.check()?;
    each_backward(norm, rows, &mut vec![0.0; norm.width]);
    Ok(())
}

fn check(name: &'static str, found: usize, wanted: usize) -> Result<(), KernelError> {
    if found == wanted { Ok(()) } else { Err(KernelError::Length { name, found, wanted }) }
}

vectorized! { fn each_forward(norm: &Norm<'_>, rows: Forward<'_>) = forward_rows; }
vectorized! {
    fn each_backward(norm: &Norm<'_>, rows: Backward<'_>, scaled: &mut [f32]) = backward_rows;
}

#[inline(always)]
fn forward_rows<const FUSED: bool>(norm: &Norm<'_>, rows: Forward<'_>) {
    let Forward { x, mut residual, y, statistics } = rows;
    let width = norm.width;
    for (row, statistics) in statistics.iter_mut().enumerate() {
        let place = row * width..(row + 1) * width;
        let x = &x[place.clone()];
        let x = match &mut residual {
            None => x,
            Some((delta, sum)) => {
                let sum = &mut sum[place.clone()];
                for ((sum, x), delta) in sum.iter_mut().zip(x).zip(&delta[place.clone()]) {
                    *sum = x + delta;
                }
                sum
            }
        };
        *statistics = measure::<FUSED>(norm, x);
        let [mean, factor] = *statistics;
        let y = &mut y[place];
        match (norm.weight, norm.bias) {
            (None, _) => y.iter_mut().zip(x).for_each(|(y, x)| *y = (x - mean) * factor),
            (Some(weight), None) => {
                for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
                    *y = (x - mean) * factor * weight;
                }
            }
            (Some(weight), Some(bias)) => {
                for (((y, x), weight), bias) in y.iter_mut().zip(x).zip(weight).zip(bias) {
                    *y = fma::<FUSED>((x - mean) * factor, *weight, *bias);
                }
            }
        }
    }
}

/// Mean (0 for RMSNorm) and factor of a row.
#[inline(always)]
fn measure<const FUSED: bool>(norm: &Norm<'_>, x: &[f32]) -> [f32; 2] {
    let share = 1.0 / x.len() as f32;
    let mean = match norm.centring {
        Centring::Mean => share * fold(x.len(), 0.0, |sum, i| sum + x[i], |a, b| a + b),
        Centring::None => 0.0,
    };
    let square = |sum: f32, i: usize| fma::<FUSED>(x[i] - mean, x[i] - mean, sum);
    let squares = fold(x.len(), 0.0, square, |a, b| a + b);
    [mean, 1.0 / fma::<FUSED>(share, squares, norm.epsilon).sqrt()]
}

/// `scaled` (d) is room for one row.
#[inline(always)]
fn backward_rows<const FUSED: bool>(norm: &Norm<'_>, rows: Backward<'_>, scaled: &mut [f32]) {
    let Backward { x, statistics, y, sum, gradient, weight, bias } = rows;
    let width = norm.width;
    let share = 1.0 / width as f32;
    for (row, &[mean, factor]) in statistics.iter().enumerate() {
        let place = row * width..(row + 1) * width;
        let (x, y) = (&x[place.clone()], &y[place.clone()]);
        match norm.weight {
            None => scaled.copy_from_slice(y),
            Some(values) => {
                for ((scaled, y), value) in scaled.iter_mut().zip(y).zip(values) {
                    *scaled = y * value;
                }
            }
        }
        for ((weight, y), x) in weight.iter_mut().zip(y).zip(x) {
            *weight = fma::<FUSED>(*y, (x - mean) * factor, *weight);
        }
        bias.iter_mut().zip(y).for_each(|(bias, y)| *bias += y);
        let scaled = &*scaled;
        let product = |sum: f32, i: usize| fma::<FUSED>(scaled[i], (x[i] - mean) * factor, sum);
        let along = share * fold(width, 0.0, product, |a, b| a + b);
        let shift = match norm.centring {
            Centring::Mean => share * fold(width, 0.0, |sum, i| sum + scaled[i], |a, b| a + b),
            Centring::None => 0.0,
        };
        let gradient = &mut gradient[place.clone()];
        for ((gradient, scaled), x) in gradient.iter_mut().zip(scaled).zip(x) {
            let own = (scaled - shift) - (x - mean) * factor * along;
            *gradient = factor * own;
        }
        if let Some(sum) = sum {
            gradient.iter_mut().zip(&sum[place]).for_each(|(gradient, sum)| *gradient += sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// y of one row in 64 bits.
    fn textbook(centring: Centring, x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
        let n = x.len() as f64;
        let mean = if centring == Centring::Mean { x.iter().sum::<f64>() / n } else { 0.0 };
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        let factor = 1.0 / (variance + 1e-5).sqrt();
        let values = x.iter().zip(weight).zip(bias);
        values.map(|((x, weight), bias)| (x - mean) * factor * weight + bias).collect()
    }

    fn wave(len: usize, speed: f32) -> Vec<f32> {
        (0..len).map(|i| (i as f32 * speed).sin() * 1.5 + 0.3).collect()
    }

    fn wide(values: &[f32]) -> Vec<f64> {
        values.iter().map(|&value| f64::from(value)).collect()
    }

    // Goal: the formula's values, and gradients that are the differences of the formula, with and
    // without each part, over widths that vectors do and do not divide.
    #[test]
    fn it_is_the_formula_and_its_differences() {
        for (rows, width) in [(1, 1), (3, 7), (2, 32), (5, 61), (4, 130)] {
            for centring in [Centring::None, Centring::Mean] {
                for parts in 0..3 {
                    check_case(rows, width, centring, parts);
                }
            }
        }
    }

    /// `parts` 0: neither weight nor bias; 1: a weight; 2: both.
    fn check_case(rows: usize, width: usize, centring: Centring, parts: usize) {
        let len = rows * width;
        let (x, delta) = (wave(len, 1.7), wave(len, 0.9));
        let (weight, bias) = (wave(width, 0.4), wave(width, 2.3));
        let norm = Norm {
            width,
            centring,
            epsilon: 1e-5,
            weight: (parts > 0).then_some(weight.as_slice()),
            bias: (parts > 1).then_some(bias.as_slice()),
        };
        let (mut sum, mut y) = (vec![f32::NAN; len], vec![f32::NAN; len]);
        let mut statistics = vec![[f32::NAN; 2]; rows];
        let residual = Some((delta.as_slice(), sum.as_mut_slice()));
        forward(&norm, Forward { x: &x, residual, y: &mut y, statistics: &mut statistics })
            .unwrap();
        let whole = |values: &[f32], there: bool, otherwise: f64| {
            if there { wide(values) } else { vec![otherwise; width] }
        };
        let (w, b) = (whole(&weight, parts > 0, 1.0), whole(&bias, parts > 1, 0.0));
        let given = wide(&sum);
        for row in 0..rows {
            let place = row * width..(row + 1) * width;
            let expected = textbook(centring, &given[place.clone()], &w, &b);
            for (found, expected) in y[place].iter().zip(expected) {
                assert!((f64::from(*found) - expected).abs() < 2e-5, "{found} {expected}");
            }
        }
        let (g, by_sum) = (wave(len, 0.7), wave(len, 3.1));
        let mut gradient = vec![f32::NAN; len];
        let mut of_weight = vec![0.0; if parts > 0 { width } else { 0 }];
        let mut of_bias = vec![0.0; if parts > 1 { width } else { 0 }];
        backward(
            &norm,
            Backward {
                x: &sum,
                statistics: &statistics,
                y: &g,
                sum: Some(&by_sum),
                gradient: &mut gradient,
                weight: &mut of_weight,
                bias: &mut of_bias,
            },
        )
        .unwrap();
        let loss = |x: &[f64], w: &[f64], b: &[f64]| -> f64 {
            let y = x.chunks(width).flat_map(|x| textbook(centring, x, w, b));
            let through = y.zip(&g).map(|(y, &g)| y * f64::from(g)).sum::<f64>();
            through + x.iter().zip(&by_sum).map(|(x, &g)| x * f64::from(g)).sum::<f64>()
        };
        let slope = |at: &mut dyn FnMut(f64) -> f64| (at(1e-5) - at(-1e-5)) / 2e-5;
        let moved = |values: &[f64], i: usize, by: f64| {
            let mut values = values.to_vec();
            values[i] += by;
            values
        };
        let close = |found: f32, expected: f64, what: &str| {
            let error = (f64::from(found) - expected).abs();
            assert!(error < 1e-4 * (1.0 + expected.abs()), "{what}: {found} {expected}");
        };
        for (i, found) in gradient.iter().enumerate() {
            close(*found, slope(&mut |by| loss(&moved(&given, i, by), &w, &b)), "x");
        }
        for (i, found) in of_weight.iter().enumerate() {
            close(*found, slope(&mut |by| loss(&given, &moved(&w, i, by), &b)), "weight");
        }
        for (i, found) in of_bias.iter().enumerate() {
            close(*found, slope(&mut |by| loss(&given, &w, &moved(&b, i, by))), "bias");
        }
    }

    #[test]
    fn slices_of_other_lengths_are_refused() {
        let weight = [1.0; 3];
        let norm = Norm {
            width: 4,
            centring: Centring::None,
            epsilon: 1e-5,
            weight: Some(&weight),
            bias: None,
        };
        let mut y = [0.0; 4];
        let mut statistics = [[0.0; 2]];
        let rows = Forward { x: &[0.0; 4], residual: None, y: &mut y, statistics: &mut statistics };
        let refused = forward(&norm, rows);
        assert!(matches!(refused, Err(KernelError::Length { found: 3, wanted: 4, .. })));
        let mut y = [0.0; 3];
        let rows = Forward { x: &[0.0; 4], residual: None, y: &mut y, statistics: &mut statistics };
        assert!(matches!(forward(&norm, rows), Err(KernelError::Length { name: "y", .. })));
    }
}
