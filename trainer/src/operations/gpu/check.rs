//! Kernels are compiled for the GPU at hand, which nobody may have tried before. So each training
//! first compares them with libtorch's operations, on a small model of its own kind.

use super::{Machine, set_machine};
use crate::data::NOT_SCORED;
use crate::device::{DeviceError, KERNELS};
use crate::error::chain;
use crate::model::Model;
use crate::model::architecture::{Architecture, Sizes};
use crate::optimizer::Optimizer;
use crate::parameters::{Layout, Parameters};
use kernels::Gpu;
use proto::{AdamW, Precision};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use tch::{Device, Kind, Reduction, Tensor};

/// A small model and its batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trial {
    vocabulary: u32,
    sequence: u32,
    sequences: i64,
    /// Of the MLP, in widths of the model, and values more.
    mlp: [u32; 2],
}

/// Nothing is a whole pack of values.
pub(super) const ODD: Trial = Trial { vocabulary: 523, sequence: 9, sequences: 3, mlp: [3, 1] };
/// Everything is, and there are more rows than a large GPU takes at once.
pub(super) const WHOLE: Trial =
    Trial { vocabulary: 1_024, sequence: 64, sequences: 40, mlp: [4, 0] };
/// Wider heads are libtorch's anyway.
const HEAD_WIDTH_MAX: u32 = 258;
/// Largest differences of loss, gradient and update, relative to their size: sums in another order,
/// or other roundings to bfloat16.
const LIMIT_FLOAT32: f64 = 1e-5;
const LIMIT_BF16: f64 = 3e-2;

const NOT_USED: &str = "the GPU's kernels are not used, libtorch's operations are, which need more \
                        memory than planned";

/// Set while kernels are tried, whose shapes come only once.
static CHECKING: AtomicBool = AtomicBool::new(false);

/// Whether kernels are being tried.
pub(in crate::operations) fn is_checking() -> bool {
    CHECKING.load(Ordering::Relaxed)
}

/// Lets the operations of a training of `architecture` use the kernels, if it is on a GPU, and if
/// they do what libtorch's operations do. Otherwise those are used, and the sentence says why.
/// Compiled kernels are kept in the folder `cache`.
///
/// # Errors
/// The GPU is of no use to this process any more.
pub(crate) fn prepare(
    architecture: &Architecture,
    precision: Precision,
    device: Device,
    cache: &Path,
) -> Result<Option<String>, DeviceError> {
    let Device::Cuda(index) = device else { return Ok(None) };
    set_machine(None);
    if std::env::var_os(KERNELS).is_some_and(|value| value == "off") {
        return Ok(Some(format!("{NOT_USED}: {KERNELS} is off")));
    }
    let compare = || -> Result<(), String> {
        let gpu = Gpu::open(index as u32, Some(cache)).map_err(|error| chain(&error))?;
        let find = |trial| {
            results(architecture, precision, device, trial).map_err(|error| error.to_string())
        };
        let theirs = [find(ODD)?, find(WHOLE)?];
        set_machine(Some((index, Machine::new(gpu))));
        for (trial, theirs) in [ODD, WHOLE].into_iter().zip(&theirs) {
            differences(&find(trial)?, theirs, precision)?;
        }
        Ok(())
    };
    CHECKING.store(true, Ordering::Relaxed);
    let compared = compare();
    CHECKING.store(false, Ordering::Relaxed);
    let Err(problem) = compared else { return Ok(None) };
    set_machine(None);
    // A kernel that touches what is not there takes the whole GPU from its process.
    let alive = Tensor::f_ones([1], (Kind::Float, device)).and_then(|one| one.f_double_value(&[0]));
    match alive {
        Ok(_) => Ok(Some(format!("{NOT_USED}: {problem}"))),
        Err(error) => Err(DeviceError::Broken { problem, reason: error.to_string() }),
    }
}

/// Loss, gradient, one update by AdamW, and then the summed loss without a gradient, of a small
/// model of the kind of `architecture`.
pub(super) fn results(
    architecture: &Architecture,
    precision: Precision,
    device: Device,
    trial: Trial,
) -> tch::Result<[Tensor; 4]> {
    let small = small(architecture, trial);
    let layout = Layout::of(&small);
    let values = layout
        .initial_values(1)
        .map_err(|_| tch::TchError::Torch("no memory for a small model".to_owned()))?;
    let parameters = Parameters::new(layout, &values, precision, device)?;
    // Layers that begin with zeros would hide what is before them.
    fill(&mut parameters.flat().shallow_clone())?;
    parameters.changed()?;
    let model = Model::new(&small, &parameters)?;
    let count = trial.sequences * i64::from(trial.sequence);
    let tokens = Tensor::f_arange(count, (Kind::Int64, device))?.f_mul_scalar(37)?;
    let tokens = tokens.f_remainder(i64::from(trial.vocabulary))?;
    let targets = tokens.f_roll([-1], [0])?;
    let _ = targets.f_narrow(0, 4, 2)?.f_fill_(NOT_SCORED)?;
    let tokens = tokens.f_view([trial.sequences, i64::from(trial.sequence)])?;
    let loss = model.loss(&tokens, &targets, Reduction::Mean)?;
    let gradient = parameters.gradient(&loss)?;
    let adamw = AdamW {
        learning_rate: 0.1,
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
        clip: Some(0.5),
    };
    let mut optimizer = Optimizer::new(&proto::Optimizer::AdamW(adamw), &parameters)?;
    // Of a gradient of its own: the first step follows signs, which tiny differences turn.
    let mut slope = gradient.f_empty_like()?;
    fill(&mut slope)?;
    let _norm = optimizer.step(&parameters, slope, 1.0, 1)?;
    // Of the weights after the update, as the model reads them.
    let sum = tch::no_grad(|| model.loss(&tokens, &targets, Reduction::Sum))?;
    Ok([loss.f_detach()?, gradient, parameters.flat().shallow_clone(), sum])
}

/// Waves of size 0.1, the same on every device but for the last bits.
fn fill(tensor: &mut Tensor) -> tch::Result<()> {
    let place = Tensor::f_arange(tensor.numel() as i64, (Kind::Double, tensor.device()))?;
    let wave = place.f_mul_scalar(1.7)?.f_sin_()?.f_mul_scalar(0.1)?;
    tch::no_grad(|| tensor.f_copy_(&wave))
}

/// All that decides which operations there are, and heads as wide as the real ones.
fn small(architecture: &Architecture, trial: Trial) -> Architecture {
    let grouped = architecture.sizes.heads != architecture.sizes.kv_heads;
    let head_width = architecture.head_width.min(HEAD_WIDTH_MAX);
    let width = 2 * head_width;
    let [times, more] = trial.mlp;
    let sizes = Sizes {
        vocabulary: trial.vocabulary,
        sequence: trial.sequence,
        width,
        layers: 1,
        heads: 2,
        kv_heads: if grouped { 1 } else { 2 },
        mlp_width: times * width + more,
    };
    Architecture { sizes, head_width, ..architecture.clone() }
}

/// # Errors
/// What differs, and by how much.
pub(super) fn differences(
    ours: &[Tensor; 4],
    theirs: &[Tensor; 4],
    precision: Precision,
) -> Result<(), String> {
    let limit = match precision {
        Precision::Float32 => LIMIT_FLOAT32,
        Precision::Bf16 => LIMIT_BF16,
    };
    // The update is of float32 in both.
    let limits = [limit, limit, LIMIT_FLOAT32, limit];
    let names = ["loss", "gradient", "update", "held-out loss"];
    for ((name, limit), (ours, theirs)) in names.iter().zip(limits).zip(ours.iter().zip(theirs)) {
        let size = |tensor: &Tensor| {
            let norm = tensor.f_norm().and_then(|norm| norm.f_double_value(&[]));
            norm.map_err(|error| error.to_string())
        };
        let difference = ours.f_sub(theirs).map_err(|error| error.to_string())?;
        let (found, whole) = (size(&difference)?, size(theirs)?);
        if found.is_nan() || found > limit * whole {
            return Err(format!(
                "their {name} of a small model differs by {found:.2e} of {whole:.2e}; please tell \
                 Brine's developers the card and this line"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::emulated::emulating;

    fn kinds() -> Vec<Architecture> {
        let sizes = Sizes {
            vocabulary: 1_000,
            sequence: 64,
            width: 64,
            layers: 3,
            heads: 4,
            kv_heads: 2,
            mlp_width: 256,
        };
        vec![
            Architecture::gpt2(Sizes { kv_heads: 4, ..sizes }),
            Architecture::llama(sizes),
            Architecture::qwen3(sizes),
            Architecture::speedrun(sizes),
        ]
    }

    // Goal: in the emulator, every kind of model passes in both precisions.
    #[test]
    fn kernels_agree_with_libtorch() {
        for architecture in kinds() {
            for precision in [Precision::Float32, Precision::Bf16] {
                // The emulator is slow.
                for trial in [ODD, Trial { sequences: 1, ..WHOLE }] {
                    let find = || results(&architecture, precision, Device::Cpu, trial).unwrap();
                    let (ours, theirs) = (emulating(find), find());
                    differences(&ours, &theirs, precision).unwrap();
                    assert_ne!(ours[1], theirs[1], "both are libtorch's: {architecture:?}");
                }
            }
        }
    }

    #[test]
    fn what_differs_is_named() {
        let theirs = results(&kinds()[1], Precision::Float32, Device::Cpu, ODD).unwrap();
        for (index, name) in ["loss", "gradient", "update", "held-out loss"].iter().enumerate() {
            for factor in [1.001, f64::NAN] {
                let mut ours = theirs.each_ref().map(Tensor::copy);
                ours[index] = &theirs[index] * factor;
                let problem = differences(&ours, &theirs, Precision::Float32).unwrap_err();
                assert!(problem.contains(&format!("their {name} of")), "{problem}");
            }
        }
    }

    // Goal: the loss does not hide a layer: each tensor has a gradient.
    #[test]
    fn every_tensor_takes_part() {
        for architecture in kinds() {
            let found = results(&architecture, Precision::Float32, Device::Cpu, ODD).unwrap();
            for entry in Layout::of(small(&architecture, ODD)).entries() {
                let part = found[1].narrow(0, entry.start as i64, entry.len as i64);
                let size = part.norm().double_value(&[]);
                assert!(size > 1e-6, "{}: {size}", entry.name);
            }
        }
    }

    #[test]
    fn the_processor_needs_no_kernels() {
        let kind = &kinds()[0];
        let prepared = prepare(kind, Precision::Float32, Device::Cpu, Path::new("none"));
        assert_eq!(prepared, Ok(None));
    }
}
