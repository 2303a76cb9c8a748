//! Trainings in bfloat16 with weights in float32.

use crate::resume::{bits, stop};
use crate::{Lab, Notebook, optimizers, spec};
use proto::{Mlp, Norm, Positions, Precision, TrainSpec};
use safetensors::SafeTensors;

pub(crate) fn modern(steps: u64) -> TrainSpec {
    let mut spec = spec(steps);
    spec.model.norm = Norm::RmsNorm;
    spec.model.positions = Positions::Rotary;
    spec.model.mlp = Mlp::SwiGlu;
    spec.model.tied = false;
    spec.precision = Precision::Bf16;
    spec
}

// Goal: what is rounded is the pass, not the training: the losses stay near those of float32, and
// are not the same.
#[test]
fn rounded_passes_find_almost_the_same_losses() {
    let lab = Lab::new();
    for (name, optimizer) in optimizers() {
        for base in [spec(15), modern(15)] {
            let losses = |precision| {
                let optimizer = optimizer.clone();
                let spec = TrainSpec { precision, optimizer, ..base.clone() };
                let metrics = lab.complete(&spec);
                [metrics["validation_loss"], metrics["train_loss"]]
            };
            let exact = losses(Precision::Float32);
            for (exact, rounded) in exact.iter().zip(losses(Precision::Bf16)) {
                let error = (exact - rounded).abs() / exact;
                assert!(error > 0.0 && error < 0.02, "{name}: {exact} and {rounded}");
            }
        }
    }
}

// Goal: the same bits again, in parts, with a mean of the weights and measurements on the way.
#[test]
fn a_rounded_training_resumes_to_the_same_bits() {
    let lab = Lab::new();
    for (name, optimizer) in optimizers() {
        let mut spec = TrainSpec { optimizer, ema: Some(0.9), ..modern(8) };
        spec.accumulation = 2;
        spec.validation.every_steps = 3;
        let undisturbed = bits(&lab, &spec, &[]);
        for stop_at in 0..8 {
            let checkpoint = stop(&lab, &spec, 1, &[], stop_at);
            let resumed = bits(&lab, &spec, &[checkpoint]);
            assert!(resumed == undisturbed, "{name}, stopped at {stop_at}");
        }
    }
}

// Goal: updates that are too small for eight bits of a weight still add up. Rates of 1e-6 move a
// weight of one, whose neighbours in bfloat16 are 4e-3 away, by nothing but in float32.
#[test]
fn small_updates_add_up() {
    let lab = Lab::new();
    let mut spec = modern(20);
    crate::edit_adamw(&mut spec, |adamw| {
        adamw.learning_rate = 1e-6;
        adamw.weight_decay = 0.0;
    });
    let mut notebook = Notebook::default();
    lab.train(&spec, 1, &[], &mut notebook).unwrap();
    let folder = &notebook.checkpoints.last().unwrap().folder;
    let file = std::fs::read(format!("{folder}/model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let weight = tensors.tensor("final_norm.weight").unwrap(); // it began as ones
    for bytes in weight.data().chunks_exact(4) {
        let moved = (f32::from_le_bytes(bytes.try_into().unwrap()) - 1.0).abs();
        assert!(moved > 1e-6 && moved < 1e-4, "moved by {moved}");
    }
}
