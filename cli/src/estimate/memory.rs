//! The peak of memory of Brine's own trainer, from what it allocates. Compared with measured peaks
//! by `cargo bench -p brine-benches --bench memory`; on a GPU it was not measured.

use proto::{GrpoSpec, Mlp, ModelSpec, Norm, Optimizer, Positions, Precision, Rest, TrainSpec};

/// The formula in words.
pub(super) const FORMULA: &str = "memory = 165 MB + 4 N (2 s + 1) + max(4 N, (1 + 1.2 / L) a B S) + 4 d (B S + V) bytes in float32 on a processor: N parameters in L layers; s of their size, twice because a checkpoint is a copy: weights, moments, mean of the weights; a bytes of activations per token of B sequences of S; width d, V distinct tokens; in bfloat16 there, and for a policy, the scores of V distinct tokens are there three times: 12 V B S more; of each of M members: B / M instead of B, and 12 N more to add up gradients, 8 N on a GPU";

/// What a member of several needs to add up gradients, in sizes of the parameters: the gradient
/// with the loss, the others' parts of its part, and on the processor the bytes that are sent.
const EXCHANGED: f64 = 3.0;
const EXCHANGED_ON_GPU: f64 = 2.0;
/// Main memory of a process that has loaded libtorch and trained the smallest model.
const PROCESS_BYTES: f64 = 165e6;
/// Memory of a GPU that a process takes before its first tensor.
const GPU_CONTEXT_BYTES: f64 = 500e6;
/// Bytes of a value in float32.
const FLOAT32: f64 = 4.0;
/// Bytes of a value in bfloat16.
const BF16: f64 = 2.0;
/// Scores that the trainer makes at once on a GPU.
const GPU_SCORES: f64 = 268e6;
/// Intermediate results of one layer's backward pass over what its forward pass left, and what the
/// allocator does not find a use for. Measured: 0.7 to 2.
const BACKWARD_LAYERS: f64 = 1.2;

/// Peak of training `spec`, in bytes, of the first of `members`.
pub(super) fn of_training(spec: &TrainSpec, members: u32, gpu: bool) -> f64 {
    let model = &spec.model;
    let parts = spec.batch.div_ceil(members.max(1)).div_ceil(spec.accumulation.max(1));
    let kept = 1.0 + moments(&spec.optimizer) + if spec.ema.is_some() { 1.0 } else { 0.0 };
    // One gradient; the sum of several; Muon's update; the rounded weights and their gradient.
    let mut sets = 1.0;
    sets += if spec.accumulation > 1 { 1.0 } else { 0.0 };
    sets += if matches!(spec.optimizer, Optimizer::Muon(_)) { 1.0 } else { 0.0 };
    sets += match (members, gpu) {
        (0 | 1, _) => 0.0,
        (_, false) => EXCHANGED,
        (_, true) => EXCHANGED_ON_GPU,
    };
    sets += match spec.precision {
        Precision::Float32 => 0.0,
        Precision::Bf16 => 2.0 * BF16 / FLOAT32,
    };
    let rows = f64::from(parts) * f64::from(model.sequence);
    // The loss's gradients, which are made with it.
    let width = f64::from(model.width);
    let made = FLOAT32 * width * (rows + f64::from(model.vocabulary));
    let scores = match Operations::of(spec.precision, gpu) {
        // Some rows at a time, which stay in the cache.
        Operations::Processor => made,
        // Likewise, of many more rows.
        Operations::Gpu => made + GPU_SCORES.min(rows * f64::from(model.vocabulary)) * FLOAT32,
        Operations::Libtorch => rows * score_bytes(model, spec.precision),
    };
    peak(model, gpu, spec.precision, kept, sets, rows) + scores
}

/// Peak of training the policy of `spec`, in bytes.
pub(super) fn of_policy(spec: &GrpoSpec, gpu: bool) -> f64 {
    let rollouts = spec.policy.prompts.saturating_mul(spec.policy.rollouts);
    let rows = f64::from(rollouts.max(spec.supervised.batch)) * f64::from(spec.model.sequence);
    let scores = rows * score_bytes(&spec.model, Precision::Float32);
    // Weights, the two moments of AdamW, and the reference.
    peak(&spec.model, gpu, Precision::Float32, 4.0, 1.0, rows) + scores
}

/// Who computes a norm, a rotation and the loss: what they leave differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operations {
    /// The trainer's own on the processor.
    Processor,
    /// The trainer's own on a GPU.
    Gpu,
    /// libtorch's single operations.
    Libtorch,
}

impl Operations {
    fn of(precision: Precision, gpu: bool) -> Self {
        match precision {
            Precision::Float32 | Precision::Bf16 if gpu => Self::Gpu,
            Precision::Float32 => Self::Processor,
            Precision::Bf16 => Self::Libtorch,
        }
    }
}

/// Numbers that the optimiser keeps per parameter. Muon's matrices have one; few values are not
/// in them.
fn moments(optimizer: &Optimizer) -> f64 {
    match optimizer {
        Optimizer::AdamW(_) => 2.0,
        Optimizer::Lion(_) | Optimizer::Sgd(_) => 1.0,
        Optimizer::Muon(muon) => match muon.rest {
            Rest::AdamW(_) | Rest::Lion(_) => 1.0,
        },
    }
}

/// `kept` and `sets` are in sizes of the parameters in float32: what a checkpoint holds, and what
/// else there is beside the gradients of single tensors. `rows` are the tokens of one pass.
fn peak(
    model: &ModelSpec,
    gpu: bool,
    precision: Precision,
    kept: f64,
    sets: f64,
    rows: f64,
) -> f64 {
    let parameters = FLOAT32 * model.parameters() as f64;
    let (process, copies) = match gpu {
        false => (PROCESS_BYTES, 2.0),
        true => (GPU_CONTEXT_BYTES, 1.0), // a checkpoint's copy is in main memory
    };
    // The gradients of single tensors take the place of the activations that they free.
    let held = 1.0 + BACKWARD_LAYERS / f64::from(model.layers);
    let activations = activation_bytes(model, precision, Operations::of(precision, gpu));
    let pass = (held * rows * activations).max(parameters);
    process + parameters * (copies * kept + sets) + pass
}

/// Bytes per token that the forward pass leaves for the backward pass.
fn activation_bytes(model: &ModelSpec, precision: Precision, operations: Operations) -> f64 {
    let [d, i, layers] = [model.width, model.mlp_width, model.layers].map(f64::from);
    let value = match precision {
        Precision::Float32 => FLOAT32,
        Precision::Bf16 => BF16,
    };
    // A norm's output; libtorch makes RMSNorm of single operations, which keep the values before
    // the weight too, and in float32 the values that come in.
    let norm = match (operations, model.norm, precision) {
        (Operations::Processor | Operations::Gpu, _, _)
        | (Operations::Libtorch, Norm::LayerNorm, _) => value,
        (Operations::Libtorch, Norm::RmsNorm | Norm::PlainRmsNorm, Precision::Float32) => {
            2.0 * value
        }
        (Operations::Libtorch, Norm::RmsNorm | Norm::PlainRmsNorm, Precision::Bf16) => {
            value + 2.0 * FLOAT32
        }
    };
    // On the processor they are turned in place.
    let turned = match (operations, model.positions) {
        (Operations::Processor, _) | (_, Positions::Learned) => 0.0,
        (Operations::Gpu | Operations::Libtorch, Positions::Rotary) => 2.0,
    };
    // Queries, keys and values, attention's output, and the residual stream twice. Attention's
    // scores are never stored.
    let attention = 3.0 + turned + 1.0 + 2.0;
    // Before and after the nonlinearity; SwiGLU has a second branch and the product.
    let mlp = match model.mlp {
        Mlp::Gelu => 2.0,
        Mlp::SwiGlu => 4.0,
    };
    layers * (2.0 * norm * d + value * (attention * d + mlp * i)) + norm * d
}

/// Bytes per token: scores, their logarithms, and the gradient, for each distinct token.
fn score_bytes(model: &ModelSpec, precision: Precision) -> f64 {
    let per_score = match precision {
        Precision::Float32 => 3.0 * FLOAT32,
        Precision::Bf16 => 3.0 * FLOAT32 + BF16,
    };
    f64::from(model.vocabulary) * per_score
}

#[cfg(test)]
mod tests {
    use super::super::tests::training;
    use super::*;
    use proto::Runner;

    fn spec() -> TrainSpec {
        let Runner::Train(spec) = training(10).runner else { panic!("not a training") };
        *spec
    }

    // N = 32,928; 8 sequences of 64 tokens; 32 wide, MLP 128, 2 layers, rotary, RMSNorm, GELU.
    const N: f64 = 4.0 * 32_928.0;
    const A: f64 = 1.6 * 512.0 * (2.0 * (2.0 * 4.0 * 32.0 + 4.0 * (6.0 * 32.0 + 256.0)) + 128.0);
    // On a GPU queries and keys are not turned in place.
    const A_GPU: f64 =
        1.6 * 512.0 * (2.0 * (2.0 * 4.0 * 32.0 + 4.0 * (8.0 * 32.0 + 256.0)) + 128.0);
    const SCORES: f64 = 512.0 * 256.0 * 4.0;

    /// The loss's gradients with respect to what the output layer reads and to its weights.
    fn made(rows: f64) -> f64 {
        4.0 * 32.0 * (rows + 256.0)
    }

    #[track_caller]
    fn check(edit: impl Fn(&mut TrainSpec), wanted: f64) {
        let mut spec = spec();
        edit(&mut spec);
        let found = of_training(&spec, 1, false);
        assert!((found - wanted).abs() < 1.0, "{found} {wanted}");
    }

    #[test]
    fn the_peak_follows_the_formula() {
        check(|_| (), 165e6 + 7.0 * N + A + made(512.0));
        check(|s| s.ema = Some(0.9), 165e6 + 9.0 * N + A + made(512.0));
        check(|s| s.accumulation = 4, 165e6 + 8.0 * N + A / 4.0 + made(128.0));
        // With few tokens the gradients are larger than the activations.
        check(|s| s.batch = 1, 165e6 + 7.0 * N + A / 8.0 + made(64.0));
        check(|s| s.model.sequence = 1, 165e6 + 7.0 * N + N + made(8.0));
        let gpu = of_training(&spec(), 1, true);
        assert!((gpu - (500e6 + 4.0 * N + A_GPU + SCORES + made(512.0))).abs() < 1.0, "{gpu}");
    }

    #[test]
    fn a_member_has_its_part_of_the_batch_and_room_for_the_others_gradients() {
        let found = of_training(&spec(), 4, false);
        let wanted = 165e6 + 10.0 * N + A / 4.0 + made(128.0);
        assert!((found - wanted).abs() < 1.0, "{found} {wanted}");
        let more = of_training(&spec(), 8, true) - of_training(&spec(), 1, true);
        let less = (A_GPU + SCORES) * 7.0 / 8.0 + made(512.0) - made(64.0);
        assert!((more - (2.0 * N - less)).abs() < 1.0, "{more} {less}");
    }

    #[test]
    fn activations_in_bfloat16_are_smaller() {
        let [exact, rounded] = [Precision::Float32, Precision::Bf16]
            .map(|precision| activation_bytes(&spec().model, precision, Operations::Libtorch));
        assert!(rounded < 0.9 * exact && rounded > 0.5 * exact, "{exact} {rounded}");
    }
}
