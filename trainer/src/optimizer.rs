//! AdamW with decoupled weight decay and clipping by the global norm, on the flat parameters.
//!
//! ```text
//! g <- g min(1, clip / (|g| + 1e-6))
//! m <- b1 m + (1 - b1) g          v <- b2 v + (1 - b2) g^2
//! p <- p (1 - lr decay)           p <- p - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
//! ```
//! t counts steps from 1. Loshchilov and Hutter, arXiv 1711.05101, in the order of PyTorch's AdamW.

use crate::parameters::Parameters;
use proto::AdamW;
use tch::{Kind, Tensor, no_grad};

/// Keeps the clipping factor finite for a gradient of zeros; PyTorch's constant.
const CLIP_EPSILON: f64 = 1e-6;

/// The moments of all parameters.
#[derive(Debug)]
pub struct Optimizer {
    config: AdamW,
    first_moment: Tensor,
    second_moment: Tensor,
}

impl Optimizer {
    /// Moments of zeros.
    ///
    /// # Errors
    /// libtorch has no memory for them.
    pub fn new(config: &AdamW, parameters: &Parameters) -> tch::Result<Self> {
        Ok(Self {
            config: config.clone(),
            first_moment: parameters.zeros()?,
            second_moment: parameters.zeros()?,
        })
    }

    /// Mean of the gradient and mean of its square, each (N) in the parameters' order.
    pub fn moments(&self) -> [&Tensor; 2] {
        [&self.first_moment, &self.second_moment]
    }

    /// Continues from `moments`, bytes of float32 values, each (N).
    ///
    /// # Errors
    /// libtorch has no memory for them.
    pub(crate) fn set_moments(&mut self, moments: [&[u8]; 2]) -> tch::Result<()> {
        let places = [&mut self.first_moment, &mut self.second_moment];
        for (place, bytes) in places.into_iter().zip(moments) {
            place.f_copy_(&Tensor::f_from_data_size(bytes, &place.size(), Kind::Float)?)?;
        }
        Ok(())
    }

    /// Update number `t`, from 1, of `parameters` by `gradient` (N), which it uses up. Returns the
    /// gradient's norm before clipping, a scalar tensor, so that a GPU need not wait for it.
    ///
    /// # Errors
    /// libtorch refuses, for lack of memory.
    pub fn step(
        &mut self,
        parameters: &Parameters,
        mut gradient: Tensor,
        learning_rate: f64,
        t: u64,
    ) -> tch::Result<Tensor> {
        no_grad(|| {
            let AdamW { beta1, beta2, epsilon, weight_decay, clip, .. } = self.config;
            let norm = gradient.f_norm()?;
            if let Some(clip) = clip {
                let factor = norm.f_add_scalar(CLIP_EPSILON)?.f_reciprocal_()?;
                let factor = (factor * clip).f_clamp_max(1.0)?;
                let _ = gradient.f_mul_(&factor)?;
            }
            let t = t as f64;
            let _ = self.first_moment.f_lerp_(&gradient, 1.0 - beta1)?;
            let _ = self.second_moment.f_lerp_(&gradient.f_square_()?, 1.0 - beta2)?;
            let mut root = self.second_moment.f_sqrt()?;
            let _ = root.f_mul_scalar_((1.0 - beta2.powf(t)).sqrt().recip())?;
            let _ = root.f_add_scalar_(epsilon)?;
            let mut change = self.first_moment.f_div(&root)?;
            let _ = change.f_mul_scalar_(learning_rate / (1.0 - beta1.powf(t)))?;

            let decayed = parameters.layout().decayed_len() as i64;
            let mut matrices = parameters.flat().f_narrow(0, 0, decayed)?;
            let _ = matrices.f_mul_scalar_(1.0 - learning_rate * weight_decay)?;
            let _ = parameters.flat().shallow_clone().f_sub_(&change)?;
            Ok(norm)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::{Layout, VALUE_BYTES};
    use kernels::adamw::{Config, Constants, cpu};
    use proto::{Mlp, ModelSpec, Norm, Positions};
    use tch::Device;

    const SPEC: ModelSpec = ModelSpec {
        vocabulary: 11,
        sequence: 8,
        width: 8,
        layers: 1,
        heads: 2,
        mlp_width: 16,
        mlp: Mlp::Gelu,
        tied: true,
        positions: Positions::Learned,
        norm: Norm::LayerNorm,
    };

    fn floats(tensor: &Tensor) -> Vec<f32> {
        let mut values = vec![0.0; tensor.numel()];
        tensor.copy_data(&mut values, tensor.numel());
        values
    }

    /// 20 updates of both from the same start.
    #[track_caller]
    fn check(config: &AdamW) {
        let layout = Layout::of(&SPEC);
        let decayed = layout.decayed_len();
        let bytes = layout.initial_values(5).unwrap();
        let start = bytes.chunks_exact(VALUE_BYTES);
        let mut p: Vec<f32> = start.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let (mut m, mut v) = (vec![0.0; p.len()], vec![0.0; p.len()]);
        let parameters = Parameters::new(layout, &bytes, Device::Cpu).unwrap();
        let mut optimizer = Optimizer::new(config, &parameters).unwrap();
        for t in 1..=20 {
            let wave = |i: usize| ((i * 31) as f32 + t as f32).sin() * 0.1;
            let gradient: Vec<f32> = (0..p.len()).map(wave).collect();
            let norm = gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
            let learning_rate = config.learning_rate / t as f64;
            let found = optimizer
                .step(&parameters, Tensor::from_slice(&gradient), learning_rate, t)
                .unwrap();
            assert!((found.double_value(&[]) - norm).abs() < 1e-5 * norm);

            let scale = config.clip.map_or(1.0, |clip| (clip / (norm + CLIP_EPSILON)).min(1.0));
            for (range, weight_decay) in
                [(0..decayed, config.weight_decay), (decayed..p.len(), 0.0)]
            {
                let reference = Config {
                    learning_rate,
                    beta1: config.beta1,
                    beta2: config.beta2,
                    epsilon: config.epsilon,
                    weight_decay,
                    gradient_scale: scale,
                };
                cpu::update(
                    &mut p[range.clone()],
                    &gradient[range.clone()],
                    &mut m[range.clone()],
                    &mut v[range],
                    &Constants::new(&reference, t),
                )
                .unwrap();
            }
        }
        let [first, second] = optimizer.moments().map(floats);
        let ours = [floats(parameters.flat()), first, second];
        for (name, found, wanted) in [("p", &ours[0], &p), ("m", &ours[1], &m), ("v", &ours[2], &v)]
        {
            for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
                let error = (found - wanted).abs();
                assert!(error <= 1e-6 + 1e-5 * wanted.abs(), "{name}[{i}]: {found} {wanted}");
            }
        }
    }

    #[test]
    fn it_agrees_with_the_kernel_s_reference() {
        let config = AdamW {
            learning_rate: 1e-2,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            clip: Some(0.5),
        };
        check(&config);
        check(&AdamW { clip: None, ..config.clone() });
        check(&AdamW { clip: Some(1e6), weight_decay: 0.0, ..config.clone() });
        check(&AdamW { beta1: 0.95, beta2: 0.98, epsilon: 1e-15, ..config });
    }

    #[test]
    fn a_gradient_of_zeros_does_no_harm() {
        let layout = Layout::of(&SPEC);
        let bytes = layout.initial_values(5).unwrap();
        let parameters = Parameters::new(layout, &bytes, Device::Cpu).unwrap();
        let config = AdamW {
            learning_rate: 1e-2,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-15,
            weight_decay: 0.0,
            clip: Some(1.0),
        };
        let mut optimizer = Optimizer::new(&config, &parameters).unwrap();
        let before = floats(parameters.flat());
        let zeros = parameters.zeros().unwrap();
        optimizer.step(&parameters, zeros, 1e-2, 1).map(drop).unwrap();
        assert_eq!(floats(parameters.flat()), before);
    }
}
