//! Trainings from outside: what they find, how they resume, how they fail.
#![expect(clippy::unwrap_used, reason = "in a test, a step that fails is the finding")]

mod budgets;
mod failures;
mod gpu;
mod losses;
mod parallel;
mod policies;
mod precision;
mod resume;
mod tokenizing;

use proto::{
    AdamW, AgentId, Attempt, BlobId, BlobRef, Checkpoint, DataSpec, Lion, Mlp, ModelSpec, Muon,
    MuonScale, Norm, Optimizer, Packing, Positions, Precision, Rest, Schedule, Sgd, TokenFormat,
    TrainSpec, Validation, train::NUMERICS_VERSION,
};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;
use trainer::{CheckpointEvery, Device, End, Observer, Setting, TrainError, train};

/// A folder with a text and room for checkpoints.
struct Lab {
    folder: TempDir,
    agent: AgentId,
    seed: u64,
    device: Device,
    kept: PathBuf,
    /// Time between checkpoints of the next training.
    checkpoint_every: CheckpointEvery,
}

impl Lab {
    fn new() -> Self {
        // libtorch counts its devices at the first backward pass of a process, whoever makes it.
        let _ = trainer::environment();
        let folder = tempfile::tempdir().unwrap();
        let lab = Self {
            kept: folder.path().join("checkpoints"),
            folder,
            agent: AgentId::new("lab").unwrap(),
            seed: 7,
            device: Device::Cpu,
            checkpoint_every: CheckpointEvery::Fixed(Duration::from_secs(3_600)),
        };
        std::fs::write(lab.data(), text()).unwrap();
        std::fs::create_dir(lab.checkpoints()).unwrap();
        lab
    }

    /// A lab whose data are `content`.
    fn with(content: &[u8]) -> Self {
        let lab = Self::new();
        std::fs::write(lab.data(), content).unwrap();
        lab
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("text")
    }

    fn tokenizer(&self) -> PathBuf {
        self.folder.path().join("tokenizer.json")
    }

    fn checkpoints(&self) -> PathBuf {
        self.folder.path().join("checkpoints")
    }

    fn train(
        &self,
        spec: &TrainSpec,
        attempt: u32,
        resume: &[Checkpoint],
        notebook: &mut Notebook,
    ) -> Result<End, TrainError> {
        self.set(attempt, |setting| train(spec, setting, resume, notebook))
    }

    /// What `work` gives in the setting of an attempt.
    fn set<T>(&self, attempt: u32, work: impl FnOnce(&Setting<'_>) -> T) -> T {
        let (data, checkpoints) = (self.data(), self.checkpoints());
        work(&Setting {
            seed: self.seed,
            device: self.device,
            threads: 1,
            data: &data,
            tokenizer: Some(&self.tokenizer()),
            kept: &self.kept,
            checkpoints: &checkpoints,
            checkpoint_every: self.checkpoint_every,
            attempt: Attempt(attempt),
            agent: &self.agent,
            membership: None,
        })
    }

    /// Trains undisturbed and gives the final metrics.
    fn complete(&self, spec: &TrainSpec) -> BTreeMap<String, f64> {
        metrics(self.train(spec, 1, &[], &mut Notebook::default()).unwrap())
    }
}

/// Writes down what a training tells, and stops it when asked to.
#[derive(Default)]
struct Notebook {
    metrics: Vec<(u64, String, f64)>,
    checkpoints: Vec<Checkpoint>,
    notes: Vec<String>,
    /// Ask to stop after this many steps of this attempt.
    stop_after: Option<u64>,
    steps: Cell<u64>,
}

impl Notebook {
    fn stop_after(steps: u64) -> Self {
        Self { stop_after: Some(steps), ..Self::default() }
    }
}

impl Observer for Notebook {
    fn metric(&mut self, step: u64, name: &str, value: f64) {
        self.metrics.push((step, name.to_owned(), value));
    }

    fn checkpoint(&mut self, checkpoint: Checkpoint) {
        self.checkpoints.push(checkpoint);
    }

    fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }

    fn stop_requested(&self) -> bool {
        let steps = self.steps.get();
        self.steps.set(steps + 1);
        self.stop_after == Some(steps)
    }
}

fn metrics(end: End) -> BTreeMap<String, f64> {
    match end {
        End::Completed { metrics, .. } => metrics,
        End::Diverged { .. } | End::Stopped { .. } => panic!("not completed: {end:?}"),
    }
}

/// Some 20 kB of words in an order that a model can learn a little of.
fn text() -> Vec<u8> {
    let words = ["to ", "be ", "or ", "not ", "that ", "is ", "the ", "question\n"];
    let mut state = 1u32;
    let mut text = Vec::new();
    while text.len() < 20_000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text.extend_from_slice(words[(state >> 29) as usize].as_bytes());
    }
    text
}

/// A small specification over [`text`].
fn spec(steps: u64) -> TrainSpec {
    let text = text();
    TrainSpec {
        numerics: NUMERICS_VERSION,
        model: ModelSpec {
            vocabulary: 256,
            sequence: 16,
            width: 16,
            layers: 2,
            heads: 2,
            mlp_width: 32,
            mlp: Mlp::Gelu,
            tied: true,
            positions: Positions::Learned,
            norm: Norm::LayerNorm,
        },
        data: DataSpec {
            text: BlobRef {
                blob: BlobId::from_hash(blake3::hash(&text)),
                bytes: text.len() as u64,
            },
            format: TokenFormat::Bytes,
            held_out: 0.1,
            packing: Packing::Stream,
            tokenizer: None,
        },
        batch: 4,
        steps,
        optimizer: Optimizer::AdamW(adamw()),
        schedule: Schedule::linear(0.1, 0.2),
        validation: Validation::at_the_end(1_000),
        accumulation: 1,
        ema: None,
        precision: Precision::Float32,
        budget: None,
    }
}

fn adamw() -> AdamW {
    AdamW {
        learning_rate: 1e-2,
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
        clip: Some(1.0),
    }
}

/// Gives the specification AdamW with an edit.
fn edit_adamw(spec: &mut TrainSpec, edit: impl FnOnce(&mut AdamW)) {
    let mut config = adamw();
    edit(&mut config);
    spec.optimizer = Optimizer::AdamW(config);
}

/// Every optimiser, at rates that suit [`spec`].
fn optimizers() -> Vec<(&'static str, Optimizer)> {
    let lion =
        Lion { learning_rate: 1e-3, beta1: 0.9, beta2: 0.99, weight_decay: 0.1, clip: Some(1.0) };
    let sgd = |nesterov| Sgd {
        learning_rate: 0.1,
        momentum: 0.9,
        nesterov,
        weight_decay: 1e-3,
        clip: Some(1.0),
    };
    let muon = |scale, learning_rate, rest| {
        let (momentum, nesterov, weight_decay, clip) = (0.95, true, 0.1, Some(1.0));
        let config = Muon { learning_rate, momentum, nesterov, weight_decay, scale, clip, rest };
        Optimizer::Muon(config)
    };
    let rest = AdamW { clip: None, ..adamw() };
    vec![
        ("adamw", Optimizer::AdamW(adamw())),
        ("lion", Optimizer::Lion(lion.clone())),
        ("sgd", Optimizer::Sgd(sgd(false))),
        ("nesterov", Optimizer::Sgd(sgd(true))),
        ("muon", muon(MuonScale::Original, 0.02, Rest::AdamW(rest))),
        (
            "muon, lion",
            muon(MuonScale::MatchRmsAdamw, 1e-2, Rest::Lion(Lion { clip: None, ..lion })),
        ),
    ]
}

/// Every kind of data: [`text`] in that form, with the specification to read it.
fn data_kinds() -> Vec<(&'static str, Vec<u8>, TokenFormat, Packing)> {
    let text = text();
    let tokens: Vec<u16> = text.iter().map(|&byte| u16::from(byte)).collect();
    let mut shards = Vec::new();
    for part in tokens.chunks(7_001) {
        trainer::data::shards::write(&mut shards, part).unwrap();
    }
    let bare: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
    let documents = text.split_inclusive(|&byte| byte == b'\n').map(|document| {
        let text = String::from_utf8(document.to_vec()).unwrap();
        serde_json::json!({ "text": text }).to_string() + "\n"
    });
    let documents = documents.collect::<String>().into_bytes();
    vec![
        ("bytes", text, TokenFormat::Bytes, Packing::Stream),
        ("u16", bare, TokenFormat::U16, Packing::Stream),
        ("shards", shards, TokenFormat::Shards, Packing::Stream),
        ("jsonl", documents.clone(), TokenFormat::Jsonl, Packing::Stream),
        ("jsonl, packed", documents, TokenFormat::Jsonl, Packing::Documents),
    ]
}

/// Makes `spec` read `content`.
fn read(spec: &mut TrainSpec, content: &[u8], format: TokenFormat, packing: Packing) {
    let blob = BlobId::from_hash(blake3::hash(content));
    let text = BlobRef { blob, bytes: content.len() as u64 };
    spec.data = DataSpec { text, format, packing, ..spec.data.clone() };
    spec.model.vocabulary = 257;
}
