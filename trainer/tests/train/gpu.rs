//! The same trainings on a GPU. Where there is none these tests say so and pass, unless
//! `BRINE_REQUIRE_GPU=1`.

use crate::precision::modern;
use crate::resume::stop;
use crate::{Lab, Notebook, metrics, optimizers, policies, spec};
use proto::{FailureClass, Precision, TrainSpec};
use std::time::Duration;
use trainer::{CheckpointEvery, Device, TrainError};

/// Largest relative difference of losses after [`STEPS`] updates between two devices that add up in
/// other orders, in float32 and, as between float32 and bfloat16 on one device, in bfloat16.
const FLOAT32: f64 = 2e-3;
const BF16: f64 = 2e-2;
const STEPS: u64 = 15;

/// A lab on the GPU.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn lab() -> Option<Lab> {
    match trainer::environment().gpus {
        Ok(count) if count > 0 => {
            // Beside this program, so that kernels are compiled once and not once per test.
            let kept = std::env::current_exe().unwrap().with_file_name("kept");
            Some(Lab { device: Device::Cuda(0), kept, ..Lab::new() })
        }
        found => {
            let required = std::env::var_os("BRINE_REQUIRE_GPU").is_some_and(|value| value == "1");
            assert!(!required, "BRINE_REQUIRE_GPU is set, but: {found:?}");
            eprintln!("skipped: no GPU ({found:?})");
            None
        }
    }
}

fn losses(lab: &Lab, spec: &TrainSpec) -> [f64; 2] {
    let metrics = lab.complete(spec);
    [metrics["validation_loss"], metrics["train_loss"]]
}

#[track_caller]
fn check_near(found: [f64; 2], wanted: [f64; 2], most: f64, what: &str) {
    for (found, wanted) in found.into_iter().zip(wanted) {
        let error = (found - wanted).abs() / wanted;
        assert!(error < most, "{what}: {found} on the GPU, {wanted} on the processor");
    }
}

// Goal: every optimiser and both kinds of model find the processor's losses, also with a batch in
// parts and a mean of the weights, and with passes in bfloat16.
#[test]
fn losses_are_the_processors_on_gpu() {
    let Some(lab) = lab() else { return };
    let processor = Lab::new();
    let of_each = optimizers().into_iter().map(|(name, optimizer)| {
        (name, TrainSpec { optimizer, ema: Some(0.9), accumulation: 2, ..modern(STEPS) })
    });
    for (name, spec) in of_each.chain([("adamw, gpt-2", spec(STEPS))]) {
        let spec = |precision| TrainSpec { precision, ..spec.clone() };
        let wanted = losses(&processor, &spec(Precision::Float32));
        check_near(losses(&lab, &spec(Precision::Float32)), wanted, FLOAT32, name);
        check_near(losses(&lab, &spec(Precision::Bf16)), wanted, BF16, name);
    }
}

// Goal: the kernels pass the comparison that every training makes before it uses them.
#[test]
fn kernels_are_used_on_gpu() {
    let Some(lab) = lab() else { return };
    for base in [spec(2), modern(2)] {
        for precision in [Precision::Float32, Precision::Bf16] {
            let mut notebook = Notebook::default();
            let spec = TrainSpec { precision, ..base.clone() };
            lab.train(&spec, 1, &[], &mut notebook).unwrap();
            let turned_off = notebook.notes.iter().find(|note| note.contains("are not used"));
            assert_eq!(turned_off, None);
        }
    }
}

// Goal: a stopped training ends where an undisturbed one does, whose checkpoints are copied beside
// its steps.
#[test]
fn a_training_resumes_on_gpu() {
    let Some(lab) = lab() else { return };
    let lab = Lab { checkpoint_every: CheckpointEvery::Fixed(Duration::from_millis(1)), ..lab };
    let optimizers = optimizers().into_iter();
    for (name, optimizer) in optimizers.filter(|(name, _)| ["adamw", "muon"].contains(name)) {
        let spec = TrainSpec { optimizer, precision: Precision::Float32, ..modern(STEPS) };
        let wanted = losses(&lab, &spec);
        for stop_at in [0, 4, STEPS - 1] {
            let checkpoint = stop(&lab, &spec, 1, &[], stop_at);
            let mut notebook = Notebook::default();
            let end = lab.train(&spec, 2, &[checkpoint], &mut notebook).unwrap();
            let found = metrics(end);
            let found = [found["validation_loss"], found["train_loss"]];
            check_near(found, wanted, FLOAT32, &format!("{name}, stopped at {stop_at}"));
        }
    }
}

#[test]
fn a_policy_learns_on_gpu() {
    let Some(lab) = lab() else { return };
    policies::check_completes(&lab);
}

// Goal: a batch that no GPU holds is the trial's own fault, and said in numbers.
#[test]
fn memory_runs_out_on_gpu() {
    let Some(lab) = lab() else { return };
    let mut spec = modern(2);
    // 17 GB for one activation of one layer, 50 GB for queries, keys and values.
    (spec.batch, spec.model.sequence, spec.model.width) = (32_768, 1_000, 256);
    let error = lab.train(&spec, 1, &[], &mut Notebook::default()).unwrap_err();
    assert!(matches!(error, TrainError::OutOfMemory { .. }), "{error}");
    assert_eq!(error.class(), FailureClass::Trial);
}
