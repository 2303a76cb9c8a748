//! Tokens per second of a whole training, from hashing the text to the last checkpoint, of shapes
//! from `recipes/isoflop-mini.yaml` on one thread. Counted FLOP/s = tokens/s times three times
//! `ModelSpec::forward_flops_per_token`.
#![expect(clippy::unwrap_used, reason = "a bench")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use proto::train::NUMERICS_VERSION;
use proto::{
    AdamW, AgentId, Attempt, BlobId, BlobRef, Checkpoint, DataSpec, Mlp, ModelSpec, Norm,
    Optimizer, Packing, Positions, Precision, Schedule, TokenFormat, TrainSpec, Validation,
};
use std::fs;
use std::time::Duration;
use trainer::{CheckpointEvery, Device, Observer, Setting, train};

struct Silent;

impl Observer for Silent {
    fn metric(&mut self, _: u64, _: &str, _: f64) {}
    fn checkpoint(&mut self, _: Checkpoint) {}
    fn note(&mut self, _: &str) {}
    fn stop_requested(&self) -> bool {
        false
    }
}

fn spec(width: u32, layers: u32, batch: u32, text: &[u8]) -> TrainSpec {
    let text = BlobRef { blob: BlobId::from_hash(blake3::hash(text)), bytes: text.len() as u64 };
    TrainSpec {
        numerics: NUMERICS_VERSION,
        model: ModelSpec {
            vocabulary: 256,
            sequence: 128,
            width,
            layers,
            heads: width / 16,
            mlp_width: 4 * width,
            mlp: Mlp::Gelu,
            tied: false,
            positions: Positions::Rotary,
            norm: Norm::RmsNorm,
        },
        data: DataSpec {
            text,
            format: TokenFormat::Bytes,
            held_out: 0.1,
            packing: Packing::Stream,
            tokenizer: None,
        },
        batch,
        steps: 50,
        optimizer: Optimizer::AdamW(AdamW {
            learning_rate: 0.001,
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
        validation: Validation::at_the_end(128),
    }
}

fn bench(criterion: &mut Criterion) {
    let folder = tempfile::tempdir_in(".").unwrap();
    let data = folder.path().join("text");
    let text: Vec<u8> =
        (0..200_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(&data, &text).unwrap();
    let agent = AgentId::new("bench").unwrap();
    let mut group = criterion.benchmark_group("training");
    group.sample_size(10);
    for (width, layers, batch) in [(16, 1, 4), (32, 1, 16), (64, 1, 16), (96, 2, 4), (128, 4, 16)] {
        let spec = spec(width, layers, batch, &text);
        group.throughput(Throughput::Elements(spec.tokens()));
        let name = format!("d{width}_L{layers}_B{batch}");
        group.bench_function(BenchmarkId::new("tokens", name), |bencher| {
            bencher.iter(|| {
                let checkpoints = tempfile::tempdir_in(folder.path()).unwrap();
                let setting = Setting {
                    seed: 1,
                    device: Device::Cpu,
                    threads: 1,
                    data: &data,
                    tokenizer: None,
                    kept: folder.path(),
                    checkpoints: checkpoints.path(),
                    checkpoint_every: CheckpointEvery::Fixed(Duration::from_secs(3_600)),
                    attempt: Attempt(1),
                    agent: &agent,
                };
                train(&spec, &setting, &[], &mut Silent).unwrap()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
