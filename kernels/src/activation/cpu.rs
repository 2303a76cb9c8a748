//! References: float32, value by value. GELU's is [`gelu::processor`](crate::gelu::processor).

/// y and y' of the squared ReLU.
pub fn relu_squared(x: f32) -> [f32; 2] {
    let above = if x < 0.0 { 0.0 } else { x };
    [above * above, 2.0 * above]
}

/// y of SwiGLU, and its slopes along gate and value.
pub fn swiglu(gate: f32, value: f32) -> [f32; 3] {
    let s = 1.0 / (1.0 + (-gate).exp());
    let open = gate * s;
    [open * value, value * (s + open * (1.0 - s)), open]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(x: f64, found: [f32; 2], formula: impl Fn(f64) -> f64) {
        let slope = (formula(x + 1e-5) - formula(x - 1e-5)) / 2e-5;
        for (found, wanted) in found.into_iter().zip([formula(x), slope]) {
            let error = (f64::from(found) - wanted).abs();
            assert!(error < 1e-5 * (1.0 + wanted.abs()), "at {x}: {found} is not {wanted}");
        }
    }

    // Goal: values are the formulas', and slopes theirs in 64 bits.
    #[test]
    fn values_and_slopes_are_the_formulas() {
        let silu = |x: f64| x / (1.0 + (-x).exp());
        for i in -200..=200 {
            let x = f64::from(i) * 0.05 + 0.013;
            check(x, relu_squared(x as f32), |x| x.max(0.0).powi(2));
            let value = (x * 3.1).sin() * 2.0;
            let [y, gate_slope, value_slope] = swiglu(x as f32, value as f32);
            check(x, [y, gate_slope], |x| silu(x) * value);
            check(value, [y, value_slope], |value| silu(x) * value);
        }
    }

    #[test]
    fn what_is_no_number_stays_none_and_far_gates_are_closed() {
        assert!(relu_squared(f32::NAN)[0].is_nan());
        let closed = swiglu(-200.0, 3.0);
        assert!(closed.iter().all(|value| value.abs() < 1e-30), "{closed:?}");
        assert_eq!(swiglu(200.0, 3.0)[0], 600.0);
    }
}
