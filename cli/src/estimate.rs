//! What a trial will cost, before anything runs. Pure arithmetic; every assumption has a name.

mod memory;

use proto::{Budget, Devices, Resources, Runner, TrialSpec};
use serde::Serialize;

/// FLOP/s that one CPU slot reaches in training small models in float32: models 16 to 128 wide
/// reach 1.6e10 to 5.6e10 on one idle core of an EPYC of 2022 (`benches/benches/torch`).
pub(crate) const CPU_SLOT_FLOPS_PER_SECOND: f64 = 2.5e10;
/// FLOP/s that one GPU reaches: a third of the bfloat16 peak of an A100 (312e12). Small models
/// reach less.
pub(crate) const GPU_FLOPS_PER_SECOND: f64 = 1.0e14;

/// The formulas in words, for the foot of the table.
pub(crate) const FORMULAS: [&str; 3] = [
    "FLOPs = 3 f D: f counted forward FLOPs per token (full attention matrix), D training tokens, the backward pass is twice the forward pass",
    memory::FORMULA,
    "time = FLOPs / rate; members add up their rates; evaluation, checkpoints, start-up and what members send each other are not counted",
];

/// The cost of one trial. `None` where only the program knows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Estimate {
    /// Trained values N. A plan has the study's `parameters` beside it.
    #[serde(rename = "model_parameters")]
    pub(crate) parameters: Option<u64>,
    /// Training tokens D.
    pub(crate) tokens: Option<u64>,
    /// Optimiser steps.
    pub(crate) steps: Option<u64>,
    /// Counted training FLOPs.
    pub(crate) flops: Option<f64>,
    /// Peak of memory in bytes, of each member: of the GPU when it has one, else main memory.
    pub(crate) memory_bytes: Option<f64>,
    /// Assumed rate.
    pub(crate) flops_per_second: f64,
    /// `flops / flops_per_second`.
    pub(crate) seconds: Option<f64>,
}

/// The cost of `spec` at `flops_per_second`, or at the assumed rate of its devices, those of all
/// members together.
pub(crate) fn estimate(spec: &TrialSpec, flops_per_second: Option<f64>) -> Estimate {
    let gpus = gpus(&spec.resources);
    let assumed = if gpus > 0.0 {
        gpus * GPU_FLOPS_PER_SECOND
    } else {
        f64::from(spec.resources.cpus) * CPU_SLOT_FLOPS_PER_SECOND
    };
    let members = spec.placement.members.max(1);
    let rate = flops_per_second.unwrap_or(assumed * f64::from(members));
    let gpus = gpus > 0.0;
    match &spec.runner {
        Runner::Train(train) => {
            let flops = train.model.training_flops(train.tokens());
            Estimate {
                parameters: Some(train.model.parameters()),
                tokens: Some(train.tokens()),
                steps: Some(train.steps_max()),
                flops: Some(flops),
                memory_bytes: Some(memory::of_training(train, members, gpus)),
                flops_per_second: rate,
                seconds: Some(match train.budget {
                    Some(Budget::WallMs(limit)) => (flops / rate).min(limit as f64 / 1e3),
                    Some(Budget::Flops(_)) | None => flops / rate,
                }),
            }
        }
        Runner::Grpo(grpo) => Estimate {
            parameters: Some(grpo.model.parameters()),
            tokens: None,
            steps: Some(grpo.steps()),
            flops: Some(grpo.flops()),
            memory_bytes: Some(memory::of_policy(grpo, gpus)),
            flops_per_second: rate,
            seconds: Some(grpo.flops() / rate),
        },
        Runner::Command(_) | Runner::Noop => Estimate {
            parameters: None,
            tokens: None,
            steps: None,
            flops: None,
            memory_bytes: None,
            flops_per_second: rate,
            seconds: None,
        },
    }
}

/// GPUs, or the part of one.
fn gpus(resources: &Resources) -> f64 {
    let whole = f64::from(Devices::WHOLE_MILLI);
    f64::from(resources.gpus) + f64::from(resources.gpu_share_milli) / whole
}

/// GPU memory in bytes that a trial can count on: of the least GPU that its recipe allows, the part
/// that it shares. `None` when the recipe allows every GPU.
pub(crate) fn gpu_room_bytes(resources: &Resources) -> Option<f64> {
    let wanted = resources.gpu_memory_bytes;
    (wanted > 0).then(|| wanted as f64 * gpus(resources).min(1.0))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proto::{
        AdamW, BlobId, BlobRef, CommandSpec, DataSpec, Mlp, ModelSpec, Norm, Optimizer, Packing,
        Positions, Precision, Retries, Schedule, TokenFormat, TrainSpec, Validation,
    };
    use std::collections::BTreeMap;

    pub(crate) fn trial(runner: Runner, seed: u64) -> TrialSpec {
        TrialSpec {
            runner,
            parameters: BTreeMap::new(),
            seed,
            resources: Resources::default(),
            retries: Retries::default(),
            time_limit_ms: None,
            checkpoint_every_ms: Some(60_000),
            hang: None,
            placement: proto::Placement::default(),
        }
    }

    pub(crate) fn command(seed: u64) -> TrialSpec {
        let command = CommandSpec {
            arguments: vec!["true".into()],
            environment: BTreeMap::new(),
            working_folder: None,
            files: BTreeMap::new(),
        };
        trial(Runner::Command(command), seed)
    }

    pub(crate) fn training(steps: u64) -> TrialSpec {
        let train = TrainSpec {
            numerics: proto::train::NUMERICS_VERSION,
            model: ModelSpec {
                vocabulary: 256,
                sequence: 64,
                width: 32,
                layers: 2,
                heads: 2,
                mlp_width: 128,
                mlp: Mlp::Gelu,
                tied: true,
                positions: Positions::Rotary,
                norm: Norm::RmsNorm,
            },
            data: DataSpec {
                text: BlobRef { blob: BlobId::from_hash(blake3::hash(b"text")), bytes: 4 },
                format: TokenFormat::Bytes,
                held_out: 0.1,
                packing: Packing::Stream,
                tokenizer: None,
            },
            batch: 8,
            steps,
            optimizer: Optimizer::AdamW(AdamW {
                learning_rate: 1e-3,
                beta1: 0.9,
                beta2: 0.95,
                epsilon: 1e-8,
                weight_decay: 0.1,
                clip: Some(1.0),
            }),
            schedule: Schedule::linear(0.1, 0.2),
            accumulation: 1,
            ema: None,
            precision: Precision::Float32,
            budget: None,
            validation: Validation::at_the_end(1_024),
        };
        trial(Runner::Train(Box::new(train)), 0)
    }

    #[test]
    fn the_cost_of_training_follows_the_formulas() {
        let estimate = estimate(&training(10), Some(1e6));
        // 2 (4*32^2 + 2*32*128 + 2*32) + 32 values in the blocks, 256*32 in the tied embedding.
        assert_eq!(estimate.parameters, Some(24_704 + 32 + 8_192));
        assert_eq!(estimate.tokens, Some(8 * 64 * 10));
        // f = 2 (4*32*128 + 8*32^2 + 4*64*32 + 3*64*2) + 2*32*256
        assert_eq!(estimate.flops, Some(3.0 * 82_688.0 * 5_120.0));
        assert_eq!(estimate.seconds, Some(3.0 * 82_688.0 * 5_120.0 / 1e6));
    }

    #[test]
    fn a_budget_cuts_the_cost() {
        let cut = |budget| {
            let mut spec = training(10);
            let Runner::Train(train) = &mut spec.runner else { panic!("not a training") };
            train.budget = Some(budget);
            let estimate = estimate(&spec, Some(1e6));
            (estimate.steps, estimate.tokens, estimate.seconds)
        };
        let step = 3.0 * 82_688.0 * 512.0;
        let tokens = |steps: u64| Some(8 * 64 * steps);
        assert_eq!(cut(Budget::WallMs(2_500)), (Some(10), tokens(10), Some(2.5)));
        assert_eq!(cut(Budget::WallMs(u64::MAX)), (Some(10), tokens(10), Some(10.0 * step / 1e6)));
        assert_eq!(cut(Budget::Flops(3.5 * step)), (Some(3), tokens(3), Some(3.0 * step / 1e6)));
    }

    #[test]
    fn the_rate_comes_from_the_devices_unless_it_is_given() {
        let mut spec = training(1);
        spec.resources.cpus = 3;
        assert_eq!(estimate(&spec, None).flops_per_second, 3.0 * CPU_SLOT_FLOPS_PER_SECOND);
        spec.resources.gpus = 2;
        assert_eq!(estimate(&spec, None).flops_per_second, 2e14);
        assert_eq!(estimate(&spec, Some(5.0)).flops_per_second, 5.0);
    }

    #[test]
    fn members_add_up_their_rates_and_share_the_batch() {
        let mut spec = training(1);
        let alone = estimate(&spec, None);
        spec.placement.members = 4;
        let gang = estimate(&spec, None);
        assert_eq!(gang.flops_per_second, 4.0 * alone.flops_per_second);
        assert_eq!((gang.flops, gang.tokens), (alone.flops, alone.tokens));
        assert_eq!(gang.seconds.map(|s| 4.0 * s), alone.seconds);
        assert!(gang.memory_bytes < alone.memory_bytes);
    }

    #[test]
    fn a_share_of_a_gpu_has_its_rate_and_its_memory() {
        let [mut whole, mut share] = [training(1), training(1)];
        whole.resources.gpus = 1;
        share.resources.gpu_share_milli = 250;
        let [of_whole, of_share] = [&whole, &share].map(|spec| estimate(spec, None));
        assert_eq!(of_share.flops_per_second, of_whole.flops_per_second / 4.0);
        assert_eq!(of_share.memory_bytes, of_whole.memory_bytes);
        assert_ne!(of_share.memory_bytes, estimate(&training(1), None).memory_bytes);
        assert_eq!(gpu_room_bytes(&share.resources), None);
        for (resources, room) in [(&mut whole.resources, 8e9), (&mut share.resources, 2e9)] {
            resources.gpu_memory_bytes = 8_000_000_000;
            assert_eq!(gpu_room_bytes(resources), Some(room));
        }
    }

    #[test]
    fn a_program_keeps_its_cost_to_itself() {
        let estimate = estimate(&command(0), None);
        assert_eq!((estimate.flops, estimate.seconds, estimate.memory_bytes), (None, None, None));
    }
}
