//! Compares a model with the reference numbers that `xtask/parity.py` wrote for it.

use proto::{AdamW, Precision};
use serde::Deserialize;
use std::collections::HashMap;
use std::error::Error;
use std::path::Path;
use tch::{Device, Reduction, Tensor, no_grad};
use trainer::generate::{Request, Sampler, generate};
use trainer::hf;
use trainer::model::{Architecture, Model, Sizes};
use trainer::optimizer::Optimizer;
use trainer::parameters::{Layout, Parameters};

/// A model and what PyTorch found with it.
#[derive(Deserialize)]
pub(crate) struct Reference {
    /// Sizes, when the model is the GPT of the speed runs.
    speedrun: Option<SpeedrunSizes>,
    /// Names and shapes in the formula's order.
    #[serde(default)]
    tensors: Vec<Named>,
    tokens: Vec<Vec<i64>>,
    logits: Vec<f32>,
    prompts: Vec<Vec<u32>>,
    generated: Vec<Vec<u32>>,
    optimizer: AdamW,
    batches: Vec<Vec<Vec<i64>>>,
    losses: Vec<f64>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    shape: Vec<usize>,
}

#[derive(Deserialize)]
struct SpeedrunSizes {
    vocabulary: u32,
    sequence: u32,
    width: u32,
    layers: u32,
    heads: u32,
    kv_heads: u32,
    mlp_width: u32,
}

/// How far we are from PyTorch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Differences {
    /// Largest of any logit.
    pub(crate) logits: f64,
    /// Largest of any loss over the updates.
    pub(crate) losses: f64,
    /// Prompts to which greedy decoding added other tokens.
    pub(crate) texts: usize,
}

impl Reference {
    /// Reads `path`.
    pub(crate) fn read(path: &Path) -> Result<Self, Box<dyn Error>> {
        Ok(serde_json::from_slice(&std::fs::read(path)?)?)
    }

    /// The model of `folder`, or the GPT of the speed runs, whose weights are the formula.
    pub(crate) fn model(&self, folder: &Path) -> Result<(Parameters, Model), Box<dyn Error>> {
        let Some(sizes) = &self.speedrun else {
            return Ok(hf::load(folder, Device::Cpu)?);
        };
        let SpeedrunSizes { vocabulary, sequence, width, layers, heads, kv_heads, mlp_width } =
            *sizes;
        let architecture = Architecture::speedrun(Sizes {
            vocabulary,
            sequence,
            width,
            layers,
            heads,
            kv_heads,
            mlp_width,
        });
        let layout = Layout::of(&architecture);
        let weights: HashMap<_, _> = self.weights().map(|(name, _, bytes)| (name, bytes)).collect();
        let entries = layout.entries().iter();
        let values: Vec<u8> = entries.flat_map(|e| weights[e.name.as_str()].clone()).collect();
        let parameters = Parameters::new(layout, &values, Precision::Float32, Device::Cpu)?;
        let model = Model::new(architecture, &parameters)?;
        Ok((parameters, model))
    }

    /// Names, shapes and bytes by the formula; `fill` of `parity.py` has the same.
    pub(crate) fn weights(&self) -> impl Iterator<Item = (&str, &[usize], Vec<u8>)> {
        self.tensors.iter().enumerate().map(|(number, Named { name, shape })| {
            let centre = if shape.len() == 1 && !name.ends_with("bias") { 1.0 } else { 0.0 };
            let value = |place: usize| {
                let place = place as f64;
                centre + 0.3 * (0.013 * place * place + 0.7 * number as f64).sin()
            };
            let bytes = |place| (value(place) as f32).to_le_bytes();
            let bytes = (0..shape.iter().product()).flat_map(bytes).collect();
            (name.as_str(), shape.as_slice(), bytes)
        })
    }

    /// Runs `model`, which is trained by this.
    pub(crate) fn compare(
        &self,
        parameters: &Parameters,
        model: &Model,
    ) -> Result<Differences, Box<dyn Error>> {
        let logits = no_grad(|| model.logits(&tensor(&self.tokens)?))?.f_view(-1)?;
        let change = logits.f_sub(&Tensor::f_from_slice(&self.logits)?)?;
        let logits = change.f_abs()?.f_max()?.f_double_value(&[])?;
        let texts = self.other_texts(model)?;

        let mut optimizer =
            Optimizer::new(&proto::Optimizer::AdamW(self.optimizer.clone()), parameters)?;
        let mut losses = 0f64;
        for (t, (batch, wanted)) in (1..).zip(self.batches.iter().zip(&self.losses)) {
            let batch = tensor(batch)?;
            let last = batch.size()[1] - 1;
            let targets = batch.f_narrow(1, 1, last)?.f_reshape(-1)?;
            let loss = model.loss(&batch.f_narrow(1, 0, last)?, &targets, Reduction::Mean)?;
            let gradient = parameters.gradient(&loss)?;
            optimizer.step(parameters, gradient, 1.0, t).map(drop)?;
            losses = losses.max((loss.f_double_value(&[])? - wanted).abs());
        }
        Ok(Differences { logits, losses, texts })
    }

    fn other_texts(&self, model: &Model) -> Result<usize, Box<dyn Error>> {
        let added = self.generated.iter().map(Vec::len).max().unwrap_or(0);
        let request = Request {
            tokens_max: added as u32,
            sampler: Sampler::Greedy,
            seed: 0,
            stop_tokens: vec![],
        };
        let mut never = |_, _: &[u32]| Ok(false);
        let found = generate(model, Device::Cpu, &self.prompts, &request, &mut never)?;
        Ok(found.iter().zip(&self.generated).filter(|(found, wanted)| found != wanted).count())
    }
}

fn tensor(rows: &[Vec<i64>]) -> tch::Result<Tensor> {
    Tensor::f_from_slice(&rows.concat())?.f_view([rows.len() as i64, -1])
}
