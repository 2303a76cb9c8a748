//! How trainings fail: who has to act, and what they are told.

use crate::{Lab, Notebook, edit_adamw, spec};
use proto::{Budget, FailureClass, Positions, TokenFormat, TrainSpec};
use std::fs;
use trainer::{Device, End, TrainError};

/// The error's text with all its causes.
fn text(error: &TrainError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[track_caller]
fn check_invalid(edit: impl Fn(&mut TrainSpec), expected: &str) {
    let mut spec = spec(5);
    edit(&mut spec);
    let error = Lab::new().train(&spec, 1, &[], &mut Notebook::default()).unwrap_err();
    let text = text(&error);
    assert!(text.contains(expected), "{text}");
    assert_eq!(error.class(), FailureClass::Invalid, "{text}");
}

#[test]
fn a_wrong_specification_is_invalid_and_named() {
    check_invalid(|s| s.numerics += 1, "of the trainer's numerics, this one has");
    check_invalid(|s| s.model.heads = 3, "model.width is 16, it must be a multiple of heads, 3");
    check_invalid(
        |s| {
            s.model.positions = Positions::Rotary;
            s.model.heads = 16;
        },
        "a multiple of twice the heads, 32",
    );
    check_invalid(|s| s.model.heads = 0, "model.heads is 0, it must be at least 1");
    check_invalid(|s| s.model.width = u32::MAX, "model.width is 4294967295");
    check_invalid(|s| s.model.vocabulary = u32::MAX, "model.vocabulary is 4294967295");
    check_invalid(|s| s.model.layers = 0, "model.layers is 0");
    check_invalid(|s| s.model.sequence = 0, "model.sequence is 0");
    check_invalid(|s| s.batch = 0, "batch is 0");
    check_invalid(|s| s.steps = 0, "steps is 0");
    check_invalid(|s| s.steps = u64::MAX, "steps is 18446744073709551615");
    check_invalid(
        |s| edit_adamw(s, |a| a.learning_rate = f64::NAN),
        "optimizer.learning_rate is NaN",
    );
    check_invalid(
        |s| edit_adamw(s, |a| a.learning_rate = -1.0),
        "it must be above 0 and below inf",
    );
    check_invalid(|s| edit_adamw(s, |a| a.beta2 = 1.0), "optimizer.beta2 is 1");
    check_invalid(|s| edit_adamw(s, |a| a.clip = Some(0.0)), "optimizer.clip is 0");
    check_invalid(|s| s.schedule.warmup = 0.9, "schedule.decay is 0.2");
    check_invalid(|s| s.data.held_out = 1.0, "data.held_out is 1");
    check_invalid(|s| s.validation.target = Some(0.0), "validation.target is 0");
    check_invalid(|s| s.budget = Some(Budget::WallMs(0)), "budget.wall_ms is 0");
    // 3 (2 (2048 + 2048 + 1024 + 96) + 8192) counted operations for each of 4 * 16 tokens.
    check_invalid(
        |s| s.budget = Some(Budget::Flops(3_575_807.0)),
        "budget.flops is 3575807, it must be at least 3575808",
    );
    check_invalid(|s| s.budget = Some(Budget::Flops(f64::NAN)), "budget.flops is NaN");
}

#[test]
fn data_that_does_not_fit_is_invalid_and_named() {
    check_invalid(|s| s.data.text.bytes += 1, "bytes, the trial wants");
    check_invalid(
        |s| s.data.text.blob = proto::BlobId::new("0".repeat(64)).unwrap(),
        "the trial wants 0000",
    );
    check_invalid(|s| s.data.held_out = 1e-4, "the held-out text has 2 tokens");
    check_invalid(|s| s.data.held_out = 0.9999, "the training text has 2 tokens");
    check_invalid(|s| s.model.vocabulary = 100, "; the vocabulary has 100");
    check_invalid(|s| s.data.format = TokenFormat::U16, "the vocabulary has 256");
}

#[test]
fn data_that_can_not_be_read_is_an_infrastructure_failure() {
    let lab = Lab::new();
    fs::remove_file(lab.data()).unwrap();
    let error = lab.train(&spec(5), 1, &[], &mut Notebook::default()).unwrap_err();
    assert_eq!(error.class(), FailureClass::Infrastructure);
    assert!(text(&error).contains("No such file"), "{}", text(&error));
}

#[test]
fn a_disk_that_refuses_is_an_infrastructure_failure() {
    let lab = Lab::new();
    fs::remove_dir(lab.checkpoints()).unwrap();
    let error = lab.train(&spec(2), 1, &[], &mut Notebook::default()).unwrap_err();
    assert_eq!(error.class(), FailureClass::Infrastructure);
    assert!(text(&error).contains("cannot write the checkpoint"), "{}", text(&error));
}

#[test]
fn a_loss_that_is_not_a_number_ends_the_training_as_diverged() {
    let mut spec = spec(50);
    edit_adamw(&mut spec, |a| a.learning_rate = 1e30);
    spec.schedule.warmup = 0.0;
    let mut notebook = Notebook::default();
    let end = Lab::new().train(&spec, 1, &[], &mut notebook).unwrap();
    let End::Diverged { metric, step } = end else { panic!("not diverged: {end:?}") };
    assert_eq!(metric, "loss");
    assert!(step < 5, "{step}");
    let (last_step, name, value) = notebook.metrics.last().unwrap();
    assert_eq!((*last_step, name.as_str()), (step, "loss"));
    assert!(!value.is_finite());
    assert!(notebook.checkpoints.is_empty());
}

#[test]
fn a_checkpoint_of_another_trial_is_refused() {
    let lab = Lab::new();
    let ours = spec(10);
    let mut notebook = Notebook::stop_after(5);
    lab.train(&ours, 1, &[], &mut notebook).unwrap();
    let check = |other: &TrainSpec, expected: &str| {
        let resume = &notebook.checkpoints;
        let error = lab.train(other, 2, resume, &mut Notebook::default()).unwrap_err();
        assert_eq!(error.class(), FailureClass::Invalid);
        assert!(text(&error).contains(expected), "{}", text(&error));
    };
    let mut wider = ours.clone();
    wider.model.mlp_width = 48;
    check(&wider, "tensor layers.0.mlp.up.weight is F32 [32, 16], the model wants F32 [48, 16]");
    let mut deeper = ours.clone();
    deeper.model.layers = 3;
    check(&deeper, "has no tensor layers.2.");
    let mut shorter = ours.clone();
    shorter.steps = 3;
    check(&shorter, "its step is 5, this trial's is at most 3");
}

#[test]
fn a_model_that_is_too_big_is_a_failure_with_its_numbers() {
    let mut spec = spec(1);
    spec.model.vocabulary = 1 << 24;
    spec.model.width = 1 << 16;
    spec.model.mlp_width = 1 << 20;
    spec.model.layers = 1 << 10;
    let error = Lab::new().train(&spec, 1, &[], &mut Notebook::default()).unwrap_err();
    assert_eq!(error.class(), FailureClass::Trial);
    let parameters = format!("{} parameters", spec.model.parameters());
    assert!(text(&error).contains(&parameters), "{}", text(&error));
    assert!(matches!(error, TrainError::OutOfMemory { .. }));
}

#[test]
fn the_environment_says_why_there_is_no_gpu_or_how_many() {
    let environment = trainer::environment();
    assert!(environment.threads >= 1);
    match environment.gpus {
        Ok(count) => assert!(count >= 0),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    assert_ne!(Device::Cpu, Device::Cuda(0));
}
