//! What ends a training early, and how its held-out loss is measured.

use crate::resume::bits;
use crate::{Lab, Notebook, data_kinds, metrics, read, spec};
use proto::{Budget, Mlp, Norm, Positions, Scoring, TrainSpec};

fn step_flops(spec: &TrainSpec) -> f64 {
    spec.model.training_flops(spec.tokens_per_step())
}

/// Held-out losses with their steps.
fn losses(notebook: &Notebook) -> Vec<(u64, u64)> {
    let losses = notebook.metrics.iter().filter(|(_, name, _)| name == "validation_loss");
    losses.map(|(step, _, loss)| (*step, loss.to_bits())).collect()
}

// Goal: the schedule stays the whole training's: the budget cuts it, it does not squeeze it.
#[test]
fn counted_operations_end_a_training_within_its_schedule() {
    let lab = Lab::new();
    let mut whole = spec(30);
    whole.validation.every_steps = 1;
    let mut notebook = Notebook::default();
    lab.train(&whole, 1, &[], &mut notebook).unwrap();
    let all = losses(&notebook);
    for (share, steps) in [(1.0, 1), (7.0, 7), (7.9, 7), (30.0, 30), (1e9, 30)] {
        let budget = Some(Budget::Flops(share * step_flops(&whole)));
        let short = TrainSpec { budget, ..whole.clone() };
        let mut notebook = Notebook::default();
        let metrics = metrics(lab.train(&short, 2, &[], &mut notebook).unwrap());
        assert_eq!(losses(&notebook), all[..steps]);
        assert_eq!(metrics["steps"], steps as f64);
        assert_eq!(metrics["tokens"], (steps * 4 * 16) as f64);
        assert_eq!(metrics["training_flops"], steps as f64 * step_flops(&whole));
    }
}

#[test]
fn time_ends_a_training_after_the_update_that_reached_it() {
    let lab = Lab::new();
    let mut spec = spec(1 << 20);
    spec.budget = Some(Budget::WallMs(60));
    let mut notebook = Notebook::default();
    let end = metrics(lab.train(&spec, 1, &[], &mut notebook).unwrap());
    let steps = end["steps"];
    assert!(steps >= 1.0 && steps < f64::from(1 << 20), "{end:?}");
    assert!(end["training_seconds"] >= 0.06, "{end:?}");
    assert_eq!(end["tokens"], steps * 64.0);
    // The time of earlier attempts counts: nothing is left, and the end is the same.
    let checkpoint = notebook.checkpoints.last().unwrap().clone();
    assert_eq!(checkpoint.step as f64, steps);
    let again = metrics(lab.train(&spec, 2, &[checkpoint], &mut Notebook::default()).unwrap());
    assert_eq!(again, end);
}

// Goal: the two paths agree for every kind of model and of window, so a difference is the model's
// looking ahead.
#[test]
fn tokens_one_by_one_have_the_scores_that_they_have_at_once() {
    for (kind, content, format, packing) in data_kinds() {
        let lab = Lab::with(&content);
        for (norm, positions, mlp) in [
            (Norm::LayerNorm, Positions::Learned, Mlp::Gelu),
            (Norm::RmsNorm, Positions::Rotary, Mlp::SwiGlu),
            (Norm::PlainRmsNorm, Positions::Learned, Mlp::Gelu),
        ] {
            let mut spec = spec(10);
            read(&mut spec, &content, format, packing);
            (spec.model.norm, spec.model.positions, spec.model.mlp) = (norm, positions, mlp);
            spec.ema = Some(0.5);
            let at_once = lab.complete(&spec);
            spec.validation.scoring = Scoring::TokenByToken;
            let one_by_one = lab.complete(&spec);
            for name in ["validation_loss", "validation_loss_ema"] {
                let error = (at_once[name] - one_by_one[name]).abs();
                assert!(error < 1e-6, "{name} of {:?} on {kind}: {error}", spec.model);
            }
        }
    }
}

#[test]
fn the_time_to_a_target_is_that_of_the_first_measurement_at_it() {
    let lab = Lab::new();
    let mut spec = spec(40);
    spec.validation.every_steps = 10;
    spec.validation.target = Some(1e-3);
    assert!(!lab.complete(&spec).contains_key("seconds_to_target"));
    spec.validation.target = Some(3.0);
    let mut notebook = Notebook::stop_after(39);
    lab.train(&spec, 1, &[], &mut notebook).unwrap();
    let losses = notebook.metrics.iter().filter(|(_, name, _)| name == "validation_loss");
    let losses: Vec<f64> = losses.map(|(.., loss)| *loss).collect();
    assert!(losses[0] > 3.0 && losses[2] <= 3.0, "{losses:?}");
    // A resumed training remembers it.
    let end = lab.train(&spec, 2, &notebook.checkpoints, &mut Notebook::default()).unwrap();
    let end = metrics(end);
    let seconds = end["seconds_to_target"];
    assert!(seconds > 0.0 && seconds < end["training_seconds"], "{end:?}");
}

#[test]
fn a_measurement_writes_the_line_of_the_speed_runs() {
    let mut spec = spec(20);
    spec.validation.every_steps = 10;
    let mut notebook = Notebook::default();
    metrics(Lab::new().train(&spec, 1, &[], &mut notebook).unwrap());
    let lines: Vec<&str> = notebook.notes.iter().map(String::as_str).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    for (line, step) in lines.iter().zip(["10", "20"]) {
        let rest = line.strip_prefix(&format!("step:{step}/20 val_loss:")).unwrap();
        let (loss, time) = rest.split_once(" train_time:").unwrap();
        assert!(loss.parse::<f64>().unwrap() > 0.0, "{line}");
        assert!(time.strip_suffix("ms").unwrap().parse::<u64>().is_ok(), "{line}");
    }
}

// Goal: a measurement leaves no trace in the weights.
#[test]
fn scoring_does_not_change_the_training() {
    let lab = Lab::new();
    let plain = spec(12);
    let mut scored = plain.clone();
    scored.validation.scoring = Scoring::TokenByToken;
    scored.validation.every_steps = 3;
    let weights = |spec| bits(&lab, spec, &[]).1;
    assert!(weights(&plain) == weights(&scored));
}
