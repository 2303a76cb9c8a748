//! The crate as a library: trains a small Llama on the bytes of a file, saves it as a folder of
//! Hugging Face, loads that, and lets it write.
//!
//!     cargo run --release -p brine-trainer --example train -- TEXT FOLDER
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::path::PathBuf;
use tch::{Device, Reduction, Tensor};
use trainer::generate::{Request, Sampler, generate};
use trainer::hf;
use trainer::model::{Architecture, Model, Sizes};
use trainer::optimizer::Optimizer;
use trainer::parameters::{Layout, Parameters};

const STEPS: u64 = 300;
const BATCH: usize = 16;
const SIZES: Sizes = Sizes {
    vocabulary: 256,
    sequence: 128,
    width: 64,
    layers: 2,
    heads: 4,
    kv_heads: 2,
    mlp_width: 176,
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [text, folder] = arguments.as_slice() else {
        return Err("usage: train TEXT FOLDER".into());
    };
    let text: Vec<i64> = std::fs::read(text)?.into_iter().map(i64::from).collect();
    let window = SIZES.sequence as usize + 1;
    let last = text.len().checked_sub(window).ok_or("the text is shorter than one sequence")?;

    let architecture = Architecture::llama(SIZES);
    let layout = Layout::of(&architecture);
    let values = layout.initial_values(1)?;
    let parameters = Parameters::new(layout, &values, proto::Precision::Float32, Device::Cpu)?;
    let model = Model::new(&architecture, &parameters)?;
    let adamw = proto::Optimizer::AdamW(proto::AdamW {
        learning_rate: 3e-3,
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
        clip: Some(1.0),
    });
    let mut optimizer = Optimizer::new(&adamw, &parameters)?;

    for step in 1..=STEPS {
        // Windows at places that jump about the text.
        let start = |i: usize| (step as usize * BATCH + i) * 7_919 % (last + 1);
        let rows: Vec<i64> =
            (0..BATCH).flat_map(|i| &text[start(i)..][..window]).copied().collect();
        let batch = Tensor::f_from_slice(&rows)?.f_view([BATCH as i64, window as i64])?;
        let targets = batch.f_narrow(1, 1, window as i64 - 1)?.f_reshape(-1)?;
        let inputs = batch.f_narrow(1, 0, window as i64 - 1)?;
        let loss = model.loss(&inputs, &targets, Reduction::Mean)?;
        let gradient = parameters.gradient(&loss)?;
        optimizer.step(&parameters, gradient, 1.0, step).map(drop)?;
        if step % 50 == 0 {
            println!("step {step:>4}  loss {:.4}", loss.f_double_value(&[])?);
        }
    }

    hf::save(folder, &model, &parameters, None, hf::SHARD_BYTES)?;
    let (_parameters, model) = hf::load(folder, Device::Cpu)?;
    let sampler = Sampler::Random { temperature: 0.8, top_k: None, top_p: Some(0.95) };
    let request = Request { tokens_max: 64, sampler, seed: 1, stop_tokens: vec![] };
    let prompt = vec![b'T'.into(), b'h'.into()];
    let texts = generate(&model, Device::Cpu, &[prompt], &request, &mut |_, _| Ok(false))?;
    let bytes: Vec<u8> = texts.concat().into_iter().map(|token| token as u8).collect();
    println!("Th{}", String::from_utf8_lossy(&bytes));
    Ok(())
}
