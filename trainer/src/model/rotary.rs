//! Rotary positions: pairs of neighbouring values of a query or key, turned by an angle that grows
//! with the position.

use super::architecture::Angles;
use tch::{Device, Kind, Tensor};

/// Turns each pair of neighbouring values of `x` (B, S, H, hd) by its angle: one complex product,
/// because on small tensors the number of operations is the cost. `rotation` is (S, 1, hd/2), or
/// (B, S, 1, hd/2) where sequences have positions of their own.
pub(crate) fn rotate(x: &Tensor, rotation: &Tensor) -> tch::Result<Tensor> {
    let shape = x.size();
    let mut pairs = shape.clone();
    let head = pairs.pop().unwrap_or_default();
    pairs.extend([head / 2, 2]);
    // There are no complex numbers of bfloat16; one rounding at the end is better anyway.
    x.f_to_kind(Kind::Float)?
        .f_view(pairs.as_slice())?
        .f_view_as_complex()?
        .f_mul(rotation)?
        .f_view_as_real()?
        .f_view(shape.as_slice())?
        .f_to_kind(x.kind())
}

/// `exp(i p base^(-2j / hd))` for positions p below `sequence` and pairs j of a head of
/// `head_width`: complex, (S, 1, hd/2).
pub(crate) fn rotations(
    sequence: u32,
    head_width: u32,
    base: f64,
    angles: Angles,
) -> tch::Result<Tensor> {
    match angles {
        Angles::Double => double(sequence, head_width / 2, base),
        Angles::Single => single(i64::from(sequence), i64::from(head_width), base),
    }
}

fn double(sequence: u32, pairs: u32, base: f64) -> tch::Result<Tensor> {
    let frequency = |pair: u32| base.powf(-f64::from(pair) / f64::from(pairs));
    let frequencies: Vec<f64> = (0..pairs).map(frequency).collect();
    let parts: Vec<f32> = (0..sequence)
        .flat_map(|position| frequencies.iter().map(move |f| f64::from(position) * f))
        .flat_map(|angle| [angle.cos() as f32, angle.sin() as f32])
        .collect();
    Tensor::f_from_slice(&parts)?
        .f_view([i64::from(sequence), 1, i64::from(pairs), 2])?
        .f_view_as_complex()?
        .f_to_kind(Kind::ComplexFloat)
}

/// The same operations in the same order as `transformers`, so with the same roundings.
fn single(sequence: i64, head_width: i64, base: f64) -> tch::Result<Tensor> {
    let exponents = Tensor::f_arange_start_step(0, head_width, 2, (Kind::Float, Device::Cpu))?;
    let exponents = exponents.f_div_scalar(head_width)?;
    let frequencies = Tensor::f_pow_scalar(base, &exponents)?.f_reciprocal()?;
    let positions = Tensor::f_arange(sequence, (Kind::Float, Device::Cpu))?;
    let angles = positions.f_unsqueeze(1)?.f_mul(&frequencies)?;
    let parts = [angles.f_cos()?, angles.f_sin()?];
    Tensor::f_complex(&parts[0], &parts[1])?.f_unsqueeze(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Goal: rotary scores depend on distances only.
    #[test]
    fn rotary_products_depend_on_the_distance_only() {
        for angles in [Angles::Double, Angles::Single] {
            let table = rotations(8, 4, 10_000.0, angles).unwrap();
            let head = Tensor::from_slice(&[0.3f32, -1.2, 0.7, 0.1]);
            let x = head.view([1, 1, 1, 4]).expand([1, 8, 2, 4], true).contiguous();
            let turned = rotate(&x, &table).unwrap();
            let at = |position: i64| turned.select(1, position).select(1, 0).view(-1);
            let product = |a: i64, b: i64| (at(a) * at(b)).sum(Kind::Float).double_value(&[]);
            for distance in 0..4 {
                let near = product(0, distance);
                assert!((near - product(3, 3 + distance)).abs() < 1e-5, "distance {distance}");
            }
            assert!((product(0, 0) - product(0, 3)).abs() > 1e-3);
            let same = (at(0) - &head).abs().max().double_value(&[]);
            assert_eq!(same, 0.0);
        }
    }

    #[test]
    fn both_precisions_agree_where_angles_are_small() {
        let [double, single] = [Angles::Double, Angles::Single]
            .map(|angles| rotations(64, 16, 10_000.0, angles).unwrap());
        let difference = (double - single).abs().max().double_value(&[]);
        assert!(difference > 0.0 && difference < 1e-5, "{difference}");
    }
}
