//! What trainings find.

use crate::{Lab, Notebook, metrics, spec};
use proto::{Mlp, Norm, Positions};
use std::f64::consts::LN_2;

/// Losses of every update, which a training reports only some of; the last update is always
/// reported, so a training of k steps gives loss k.
fn last_loss(steps: u64, edit: impl Fn(&mut proto::TrainSpec)) -> f64 {
    let mut spec = spec(steps);
    spec.schedule.warmup = 0.0;
    spec.schedule.decay = 0.0;
    edit(&mut spec);
    let mut notebook = Notebook::default();
    Lab::new().train(&spec, 1, &[], &mut notebook).unwrap();
    let losses = notebook.metrics.iter().rev().find(|(_, name, _)| name == "loss");
    let (step, _, loss) = losses.unwrap();
    assert_eq!(*step, steps - 1);
    *loss
}

#[track_caller]
fn check_golden(edit: impl Fn(&mut proto::TrainSpec), golden: [f64; 10]) {
    let losses: Vec<f64> = (1..=10).map(|steps| last_loss(steps, &edit)).collect();
    for (found, wanted) in losses.iter().zip(golden) {
        assert!((found - wanted).abs() < 1e-4, "found {losses:?}, wanted {golden:?}");
    }
}

// Goal: nobody changes the arithmetic without noticing, and then raises NUMERICS_VERSION. The
// tolerance is there because processors of different makers round in different orders.
#[test]
fn the_first_losses_are_the_golden_ones() {
    check_golden(
        |_| (),
        [
            5.730_369, 5.295_398, 4.835_543, 4.782_395, 4.619_255, 4.253_141, 3.921_084, 3.821_742,
            3.568_941, 3.255_998,
        ],
    );
    check_golden(
        |spec| {
            spec.model.norm = Norm::RmsNorm;
            spec.model.positions = Positions::Rotary;
            spec.model.mlp = Mlp::SwiGlu;
            spec.model.tied = false;
        },
        [
            5.532_573, 5.212_177, 4.709_004, 4.781_761, 4.868_377, 4.365_386, 3.993_781, 3.958_189,
            3.698_690, 3.450_157,
        ],
    );
}

#[test]
fn an_untrained_model_knows_nothing_and_a_trained_one_something() {
    let uniform = 256f64.ln();
    let first = last_loss(1, |_| ());
    assert!((first - uniform).abs() < 0.3, "{first}");
    let metrics = Lab::new().complete(&spec(300));
    // The words are drawn at random from eight: some 0.5 nats per byte can not be learned.
    let loss = metrics["validation_loss"];
    assert!(loss > 0.3 && loss < 1.2, "{loss}");
    assert!((metrics["train_loss"] - loss).abs() < 0.3, "{metrics:?}");
    let bits = metrics["validation_bits_per_byte"];
    assert!((bits * LN_2 - loss).abs() < 1e-12, "{bits}");
}

#[test]
fn counted_numbers_are_exact() {
    let spec = spec(10);
    let metrics = Lab::new().complete(&spec);
    let tokens = 4.0 * 16.0 * 10.0;
    assert_eq!(metrics["tokens"], tokens);
    // Embeddings 256 d + 16 d; per layer 4 d^2 + 2 d i + 4 d; the last norm 2 d.
    assert_eq!(metrics["parameters"], 4096.0 + 256.0 + 2.0 * (1024.0 + 1024.0 + 64.0) + 32.0);
    // Per layer 2 * 2 d i + 8 d^2 + 4 S d + 3 S h; output 2 d V. Backward counts twice.
    let forward = 2.0 * (2048.0 + 2048.0 + 1024.0 + 96.0) + 8192.0;
    assert_eq!(metrics["training_flops"], 3.0 * forward * tokens);
    for name in ["training_seconds", "step_seconds", "tokens_per_second"] {
        assert!(metrics[name].is_finite() && metrics[name] > 0.0, "{name}");
    }
}

#[test]
fn the_first_and_the_last_update_are_reported_and_measurements_when_due() {
    let mut spec = spec(50);
    spec.validation.every_steps = 20;
    let mut notebook = Notebook::default();
    metrics(Lab::new().train(&spec, 1, &[], &mut notebook).unwrap());
    let steps = |wanted: &str| -> Vec<u64> {
        let points = notebook.metrics.iter().filter(|(_, name, _)| name == wanted);
        points.map(|(step, ..)| *step).collect()
    };
    for name in ["loss", "learning_rate", "gradient_norm"] {
        let steps = steps(name);
        assert_eq!((steps.first(), steps.last()), (Some(&0), Some(&49)), "{name}");
        assert!(steps.is_sorted(), "{name}");
    }
    assert_eq!(steps("tokens_per_second").last(), Some(&49));
    assert_eq!(steps("validation_loss"), [20, 40, 50]);
    assert_eq!(steps("validation_bits_per_byte"), [20, 40, 50]);
    assert!(notebook.metrics.iter().all(|(.., value)| value.is_finite()));
}

#[test]
fn the_seed_decides_the_training() {
    let mut lab = Lab::new();
    let spec = spec(3);
    let first = lab.complete(&spec)["validation_loss"];
    assert_eq!(first.to_bits(), lab.complete(&spec)["validation_loss"].to_bits());
    lab.seed += 1;
    assert_ne!(first, lab.complete(&spec)["validation_loss"]);
}
