//! What trainings find.

use crate::{Lab, Notebook, data_kinds, metrics, optimizers, read, spec};
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
    check_golden_within(edit, golden, 1e-4);
}

#[track_caller]
fn check_golden_within(edit: impl Fn(&mut proto::TrainSpec), golden: [f64; 10], tolerance: f64) {
    let losses: Vec<f64> = (1..=10).map(|steps| last_loss(steps, &edit)).collect();
    for (found, wanted) in losses.iter().zip(golden) {
        assert!((found - wanted).abs() < tolerance, "found {losses:?}, wanted {golden:?}");
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

// Goal: as above for every optimiser that is not AdamW.
#[test]
fn the_first_losses_of_every_optimiser_are_the_golden_ones() {
    let golden: [(&str, [f64; 10]); 5] = [
        (
            "lion",
            [
                5.730_369, 5.681_383, 5.617_633, 5.671_368, 5.671_357, 5.587_197, 5.370_703,
                5.474_090, 5.231_125, 5.160_609,
            ],
        ),
        (
            "sgd",
            [
                5.730_369, 5.599_226, 5.233_750, 5.112_989, 4.941_334, 4.497_340, 3.886_408,
                3.888_547, 3.453_404, 3.029_079,
            ],
        ),
        (
            "nesterov",
            [
                5.730_369, 5.479_055, 4.983_437, 4.851_613, 4.662_563, 4.128_668, 3.435_325,
                3.655_665, 3.223_452, 2.729_678,
            ],
        ),
        (
            "muon",
            [
                5.730_369, 5.481_761, 5.073_461, 5.010_917, 4.840_490, 4.463_052, 4.032_729,
                3.969_357, 3.658_695, 3.363_068,
            ],
        ),
        (
            "muon, lion",
            [
                5.730_369, 5.675_677, 5.588_711, 5.638_861, 5.635_642, 5.524_746, 5.302_793,
                5.404_090, 5.148_832, 5.095_310,
            ],
        ),
    ];
    let others = optimizers().into_iter().skip(1);
    for ((name, optimizer), (golden_name, golden)) in others.zip(golden) {
        assert_eq!(name, golden_name);
        // Muon's bfloat16 rounds in other orders elsewhere.
        let tolerance = if name.starts_with("muon") { 2e-2 } else { 1e-4 };
        check_golden_within(|spec| spec.optimizer = optimizer.clone(), golden, tolerance);
    }
}

/// What is the same for one batch in one part and in several. Sums in another order differ by
/// some 1e-7 of their size per step.
#[test]
fn a_batch_in_parts_is_the_batch() {
    for (kind, content, format, packing) in data_kinds() {
        let lab = Lab::with(&content);
        for (name, optimizer) in optimizers() {
            if name == "muon" || name == "muon, lion" || name == "lion" {
                // A sign turns the smallest difference into a whole step, and bfloat16 enlarges
                // it; what they get, the gradient, is the same as the others'.
                continue;
            }
            let losses = |accumulation| {
                let mut spec = spec(6);
                read(&mut spec, &content, format, packing);
                spec.optimizer = optimizer.clone();
                spec.batch = 5;
                spec.accumulation = accumulation;
                let metrics = lab.complete(&spec);
                [metrics["train_loss"], metrics["validation_loss"]]
            };
            let whole = losses(1);
            for accumulation in [2, 3, 5, 9] {
                for (whole, parts) in whole.iter().zip(losses(accumulation)) {
                    let error = (whole - parts).abs() / whole;
                    assert!(error < 3e-6, "{name} on {kind} in {accumulation}: {error}");
                }
            }
        }
    }
}

// Goal: shards and bare tokens of the same text train the same, to the bit.
#[test]
fn the_same_tokens_train_the_same_however_they_are_stored() {
    let losses: Vec<u64> = data_kinds()[..3]
        .iter()
        .map(|(_, content, format, packing)| {
            let mut spec = spec(5);
            read(&mut spec, content, *format, *packing);
            Lab::with(content).complete(&spec)["validation_loss"].to_bits()
        })
        .collect();
    assert_eq!(losses[0], losses[1]);
    assert_eq!(losses[0], losses[2]);
}

// Goal: the mean of the weights follows them, late, and does not change them.
#[test]
fn the_mean_of_the_weights_lags_behind_them() {
    let mut spec = spec(60);
    let without = Lab::new().complete(&spec);
    spec.ema = Some(0.95);
    let with = Lab::new().complete(&spec);
    assert_eq!(without["validation_loss"].to_bits(), with["validation_loss"].to_bits());
    assert!(!without.contains_key("validation_loss_ema"));
    let mean = with["validation_loss_ema"];
    assert!(mean > with["validation_loss"] && mean < 256f64.ln(), "{with:?}");
    // A mean that forgets at once is the weights.
    spec.ema = Some(1e-9);
    let with = Lab::new().complete(&spec);
    let error = (with["validation_loss_ema"] - with["validation_loss"]).abs();
    assert!(error < 1e-5, "{with:?}");
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
