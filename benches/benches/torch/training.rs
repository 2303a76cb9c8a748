//! Tokens per second of training steps. Ours are those of a trial's process, between two reports of
//! a loss: with the reading of data and the reports, without validation and checkpoints.

use crate::figures::in_turn;
use crate::peer::Peer;
use crate::trial;
use agent_core::TrialEnd;
use agent_keeper::order::{Metric, TrialRecord};
use brine_benches::median;
use proto::train::NUMERICS_VERSION;
use proto::{
    AdamW, BlobId, BlobRef, DataSpec, Mlp, ModelSpec, Norm, Optimizer, Outcome, Packing, Positions,
    Precision, Schedule, TokenFormat, TrainSpec, Validation,
};
use serde_json::{Value, json};
use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use tempfile::TempDir;

/// Random tokens below this number, so that they are bytes of both vocabularies.
const TOKENS: u32 = 65;
const TEXT_BYTES: u32 = 1_000_000;

/// A training and how it is measured.
pub(crate) struct Training {
    pub(crate) spec: TrainSpec,
    pub(crate) text: PathBuf,
    pub(crate) threads: u32,
    /// Has the text, and goes with this value.
    _folder: TempDir,
    /// Steps before the clock starts.
    warmup: u64,
}

/// What one side found.
struct Found {
    rate: f64,
    parameters: u64,
    first_loss: f64,
}

impl Training {
    /// `steps` are those that are measured.
    pub(crate) fn new(model: ModelSpec, batch: u32, threads: u32, warmup: u64, steps: u64) -> Self {
        let folder = tempfile::tempdir_in(".").unwrap();
        let text = folder.path().join("text");
        let byte = |i: u32| ((i.wrapping_mul(2_654_435_761) >> 8) % TOKENS) as u8;
        let content: Vec<u8> = (0..TEXT_BYTES).map(byte).collect();
        fs::write(&text, &content).unwrap();
        let blob = BlobId::from_hash(blake3::hash(&content));
        let spec = TrainSpec {
            numerics: NUMERICS_VERSION,
            data: DataSpec {
                text: BlobRef { blob, bytes: content.len() as u64 },
                format: TokenFormat::Bytes,
                held_out: 0.1,
                packing: Packing::Stream,
                tokenizer: None,
            },
            batch,
            steps: warmup + steps,
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
            validation: Validation::at_the_end(u64::from(model.sequence)),
            model,
        };
        Self { spec, text, threads, _folder: folder, warmup }
    }

    /// Tokens of so many steps.
    fn tokens(&self, steps: u64) -> f64 {
        (steps * self.spec.tokens_per_step()) as f64
    }

    fn ours(&self) -> Found {
        let (mut first_loss, mut begun, mut last, mut end) = (None, None, None, None);
        trial::run(&self.spec, &self.text, self.threads, &mut |seconds, record| {
            match record {
                TrialRecord::Metric(Metric { metric, step, value }) if metric == "loss" => {
                    first_loss.get_or_insert(value);
                    if step >= self.warmup {
                        begun.get_or_insert((step, seconds));
                    }
                    last = Some((step, seconds));
                }
                TrialRecord::Ended(ended) => end = Some(ended),
                TrialRecord::Metric(_) | TrialRecord::Checkpoint(_) | TrialRecord::Started => {}
            }
            ControlFlow::Continue(())
        });
        let Some(TrialEnd::Outcome(Outcome::Completed { metrics, .. })) = end else {
            panic!("it ended with {end:?}")
        };
        let ((first, begun), (last, ended)) = (begun.unwrap(), last.unwrap());
        assert_eq!(last, self.spec.steps - 1, "the last step is reported");
        Found {
            rate: self.tokens(last - first) / (ended - begun),
            parameters: metrics["parameters"] as u64,
            first_loss: first_loss.unwrap(),
        }
    }

    pub(crate) fn request(&self, is_fused: bool) -> Value {
        json!({
            "spec": self.spec,
            "text": self.text,
            "threads": self.threads,
            "warmup": self.warmup,
            "steps": self.spec.steps - self.warmup,
            "fused": is_fused,
        })
    }

    fn theirs(&self, peer: &mut Peer, is_fused: bool) -> Found {
        let answer = peer.ask(&self.request(is_fused));
        Found {
            rate: self.tokens(self.spec.steps - self.warmup) / answer["seconds"].as_f64().unwrap(),
            parameters: answer["parameters"].as_u64().unwrap(),
            first_loss: answer["first_loss"].as_f64().unwrap(),
        }
    }

    /// One row. Of PyTorch's two AdamW the one that is faster here.
    fn measure(&self, peer: Option<&mut Peer>) -> String {
        let flops = self.spec.model.training_flops(1);
        let mut rates = Vec::new();
        let mut ours = || {
            let rate = self.ours().rate;
            rates.push(rate);
            rate
        };
        let Some(peer) = peer else {
            let line = in_turn(&mut ours, None);
            return format!("{line}, {:.1e} counted FLOP/s", median(&rates) * flops);
        };
        let [fused, foreach] = [true, false].map(|is_fused| self.theirs(peer, is_fused));
        check_same(&self.ours(), &fused);
        let is_fused = fused.rate > foreach.rate;
        let line = in_turn(&mut ours, Some(&mut || self.theirs(peer, is_fused).rate));
        let name = if is_fused { "fused" } else { "foreach" };
        format!("{line}, {name}, {:.1e} counted FLOP/s", median(&rates) * flops)
    }
}

/// The same model: as many values, and a first loss near that of guessing.
fn check_same(ours: &Found, theirs: &Found) {
    assert_eq!(ours.parameters, theirs.parameters, "parameters");
    let difference = (ours.first_loss - theirs.first_loss).abs();
    assert!(difference < 0.3, "first losses {} and {}", ours.first_loss, theirs.first_loss);
}

/// GPT-2's shape, 6 layers of 384: 10.75 million values.
pub(crate) fn large() -> ModelSpec {
    ModelSpec {
        vocabulary: TOKENS,
        sequence: 256,
        width: 384,
        layers: 6,
        heads: 6,
        mlp_width: 4 * 384,
        mlp: Mlp::Gelu,
        tied: true,
        positions: Positions::Learned,
        norm: Norm::LayerNorm,
    }
}

/// Of the kind that `recipes/isoflop-mini.yaml` trains.
pub(crate) fn narrow(width: u32, layers: u32) -> ModelSpec {
    ModelSpec {
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
    }
}

/// 10.7 million parameters on one thread and on two.
pub(crate) fn step(mut peer: Option<Peer>) {
    println!("step: 6 layers, 6 heads, 384 wide, sequence 256, batch 8");
    for (threads, steps) in [(1, 6), (2, 10)] {
        let line = Training::new(large(), 8, threads, 2, steps).measure(peer.as_mut());
        println!("  {threads} thread(s): {line}");
    }
}

/// Shapes of an IsoFLOP sweep on one thread.
pub(crate) fn small(mut peer: Option<Peer>) {
    println!("small: sequence 128, one thread");
    for (width, layers, batch, steps) in
        [(16, 1, 4, 1_000), (32, 1, 16, 200), (64, 1, 16, 100), (96, 2, 4, 100), (128, 4, 16, 16)]
    {
        let training = Training::new(narrow(width, layers), batch, 1, 10, steps);
        let line = training.measure(peer.as_mut());
        println!("  {width} wide, {layers} layer(s), batch {batch}: {line}");
    }
}
