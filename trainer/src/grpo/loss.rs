//! Advantages and the losses of tokens: pure functions.
//!
//! ```text
//! A    = (r - mean of the group) / (std of the group + 1e-6), std unbiased (divided by n - 1)
//! rho  = exp(log p - log p_old)
//! loss = mean over all tokens of the batch of (token loss + kl k3)
//! k3   = exp(log p_ref - log p) - (log p_ref - log p) - 1
//! ```
//! The token losses are those of [`Variant`]. k3 is Schulman's estimate of the divergence from the
//! reference ("Approximating KL Divergence", 2020): unbiased, and never negative.

use proto::grpo::Variant;
use tch::{Kind, Tensor};

/// Keeps the advantages of a group of equal rewards finite.
const STD_EPSILON: f64 = 1e-6;

/// Advantage of every rollout; each `group` neighbours, two at least, answer one prompt.
pub fn advantages(rewards: &[f64], group: usize) -> Vec<f64> {
    let of_group = |rewards: &[f64]| {
        let n = rewards.len() as f64;
        let mean = rewards.iter().sum::<f64>() / n;
        let square = rewards.iter().map(|r| (r - mean).powi(2)).sum::<f64>();
        let std = (square / (n - 1.0)).sqrt();
        rewards.iter().map(|r| (r - mean) / (std + STD_EPSILON)).collect::<Vec<_>>()
    };
    rewards.chunks(group).flat_map(of_group).collect()
}

/// What the loss of a batch of n tokens depends on, each (n).
#[derive(Debug)]
pub struct Tokens<'a> {
    /// Log-probability under the policy that is trained.
    pub log_p: &'a Tensor,
    /// Under the policy that drew them; no gradient.
    pub old: &'a Tensor,
    /// Under the reference; no gradient.
    pub reference: &'a Tensor,
    /// Advantage of the token's rollout, or its reward for [`Variant::NoBaseline`].
    pub weight: &'a Tensor,
}

/// Mean loss per token, a scalar.
///
/// # Errors
/// libtorch refuses, for lack of memory.
pub fn loss(tokens: &Tokens<'_>, variant: Variant, clip: f64, kl: f64) -> tch::Result<Tensor> {
    let Tokens { log_p, old, reference, weight } = *tokens;
    let tokens = match variant {
        Variant::NoBaseline | Variant::ReinforceWithBaseline => log_p.f_mul(weight)?.f_neg()?,
        Variant::GrpoClip => {
            let ratio = log_p.f_sub(old)?.f_exp()?;
            let clipped = ratio.f_clamp(1.0 - clip, 1.0 + clip)?.f_mul(weight)?;
            ratio.f_mul(weight)?.f_minimum(&clipped)?.f_neg()?
        }
    };
    let mean = tokens.f_mean(None::<Kind>)?;
    if kl == 0.0 {
        return Ok(mean);
    }
    mean.f_add(&k3(log_p, reference)?.f_mean(None::<Kind>)?.f_mul_scalar(kl)?)
}

/// Estimate of the divergence from the reference for every token, (n).
///
/// # Errors
/// libtorch refuses, for lack of memory.
pub fn k3(log_p: &Tensor, reference: &Tensor) -> tch::Result<Tensor> {
    let difference = reference.f_sub(log_p)?;
    difference.f_exp()?.f_sub(&difference)?.f_sub_scalar(1.0)
}

/// Share of the tokens whose ratio is clipped, a scalar: it is above the range with an advantage
/// above zero, or below with one below, and so has no gradient.
///
/// # Errors
/// libtorch refuses, for lack of memory.
pub fn clipped_share(tokens: &Tokens<'_>, clip: f64) -> tch::Result<Tensor> {
    let ratio = tokens.log_p.f_sub(tokens.old)?.f_exp()?;
    let high = ratio.f_gt(1.0 + clip)?.f_logical_and(&tokens.weight.f_gt(0.0)?)?;
    let low = ratio.f_lt(1.0 - clip)?.f_logical_and(&tokens.weight.f_lt(0.0)?)?;
    high.f_logical_or(&low)?.f_to_kind(Kind::Float)?.f_mean(None::<Kind>)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn near(found: f64, wanted: f64) {
        assert!((found - wanted).abs() < 1e-9, "found {found}, wanted {wanted}");
    }

    #[test]
    fn advantages_are_those_of_each_group() {
        let one_in_eight = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        let found = advantages(&one_in_eight, 8);
        // mean 1/8, unbiased variance 1/8
        near(found[0], 0.875 / (0.125_f64.sqrt() + 1e-6));
        assert!((found[0] - 2.474_867).abs() < 1e-5 && (found[7] + 0.353_552).abs() < 1e-5);
        // Two groups; equal rewards teach nothing.
        let found = advantages(&[1.0, 1.0, 0.0, 1.0], 2);
        assert_eq!(found[..2], [0.0, 0.0]);
        near(found[3], 0.5 / (0.5_f64.sqrt() + 1e-6));
        near(found[2], -found[3]);
    }

    fn tensor(values: &[f64]) -> Tensor {
        Tensor::from_slice(values)
    }

    #[track_caller]
    fn check(variant: Variant, kl: f64, wanted: f64) {
        // Ratios 1.5, 0.5, 1.5, 0.5, 1.1 with advantages 2, 2, -1, -1, 3.
        let ratios = [1.5_f64, 0.5, 1.5, 0.5, 1.1];
        let old = [-1.0, -2.0, -0.5, -0.25, -3.0];
        let log_p: Vec<f64> = old.iter().zip(ratios).map(|(old, r)| old + r.ln()).collect();
        // Under the reference everything has half the probability.
        let reference: Vec<f64> = log_p.iter().map(|p| p - 2_f64.ln()).collect();
        let [log_p, old, reference] = [&log_p[..], &old, &reference].map(tensor);
        let weight = tensor(&[2.0, 2.0, -1.0, -1.0, 3.0]);
        let tokens = Tokens { log_p: &log_p, old: &old, reference: &reference, weight: &weight };
        near(loss(&tokens, variant, 0.2, kl).unwrap().double_value(&[]), wanted);
        let share = clipped_share(&tokens, 0.2).unwrap().double_value(&[]);
        assert!((share - 0.4).abs() < 1e-6, "the first and the fourth: {share}");
    }

    #[test]
    fn the_loss_is_the_one_on_paper() {
        // min(1.5 2, 1.2 2) = 2.4; min(.5 2, .8 2) = 1; min(-1.5, -1.2) = -1.5;
        // min(-.5, -.8) = -.8; min(3.3, 3.3) = 3.3; sum 4.4
        check(Variant::GrpoClip, 0.0, -4.4 / 5.0);
        // k3 = 1/2 + ln 2 - 1
        let k3 = 2_f64.ln() - 0.5;
        check(Variant::GrpoClip, 0.1, -4.4 / 5.0 + 0.1 * k3);
        let log_p = |old: f64, ratio: f64| old + ratio.ln();
        let sum =
            2.0 * log_p(-1.0, 1.5) + 2.0 * log_p(-2.0, 0.5) - log_p(-0.5, 1.5) - log_p(-0.25, 0.5)
                + 3.0 * log_p(-3.0, 1.1);
        check(Variant::ReinforceWithBaseline, 0.0, -sum / 5.0);
        check(Variant::NoBaseline, 0.2, -sum / 5.0 + 0.2 * k3);
    }

    // Goal: the gradient that training follows is that of the loss, away from the corners of the
    // clipping, for every variant and with the divergence.
    #[test]
    fn the_gradient_is_the_loss_s() {
        const STEP: f64 = 1e-6;
        let scores = [0.3, -0.2, 0.9, 1.2, 0.1, -0.7, 0.4, 0.8, -0.5];
        let log_p = |scores: &Tensor| {
            let all = scores.view([3, 3]).log_softmax(-1, Kind::Double);
            all.gather(1, &Tensor::from_slice(&[2_i64, 0, 1]).view([3, 1]), false).view(-1)
        };
        let old = log_p(&tensor(&scores)) + tensor(&[-0.3, 0.05, 0.3]);
        let reference = log_p(&tensor(&scores)) + tensor(&[0.2, -0.4, 0.1]);
        let weight = tensor(&[1.5, -0.5, -1.0]);
        for variant in [Variant::NoBaseline, Variant::ReinforceWithBaseline, Variant::GrpoClip] {
            let of = |scores: &Tensor| {
                let log_p = log_p(scores);
                let tokens =
                    Tokens { log_p: &log_p, old: &old, reference: &reference, weight: &weight };
                loss(&tokens, variant, 0.2, 0.3).unwrap()
            };
            let leaf = tensor(&scores).set_requires_grad(true);
            let gradient = Tensor::run_backward(&[of(&leaf)], &[&leaf], false, false);
            for place in 0..scores.len() {
                let at = |change: f64| {
                    let mut moved = scores;
                    moved[place] += change;
                    of(&tensor(&moved)).double_value(&[])
                };
                let slope = (at(STEP) - at(-STEP)) / (2.0 * STEP);
                let found = gradient[0].double_value(&[place as i64]);
                assert!((found - slope).abs() < 1e-8, "{variant:?} {place}: {found} {slope}");
            }
        }
    }
}
