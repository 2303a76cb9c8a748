//! A training that was stopped, killed or damaged ends like one that was not.

use crate::{Lab, Notebook, data_kinds, edit_adamw, metrics, optimizers, read, spec};
use proto::{Checkpoint, DecayShape, Mlp, Norm, Positions, TrainSpec};
use std::fs;
use std::path::Path;
use std::time::Duration;
use trainer::{CheckpointEvery, End};

/// Metrics that do not depend on the clock.
const EXACT: [&str; 4] =
    ["validation_loss", "validation_bits_per_byte", "train_loss", "validation_loss_ema"];

/// The final metrics, the weights and, where it is kept, their mean.
pub(crate) fn bits(
    lab: &Lab,
    spec: &TrainSpec,
    resume: &[Checkpoint],
) -> (Vec<u64>, Vec<u8>, Option<Vec<u8>>) {
    let mut notebook = Notebook::default();
    let metrics = metrics(lab.train(spec, 99, resume, &mut notebook).unwrap());
    let folder = &notebook.checkpoints.last().unwrap().folder;
    let weights = fs::read(Path::new(folder).join("model.safetensors")).unwrap();
    let average =
        spec.ema.map(|_| fs::read(Path::new(folder).join("average.safetensors")).unwrap());
    let exact = EXACT.iter().filter_map(|name| Some(metrics.get(*name)?.to_bits()));
    (exact.collect(), weights, average)
}

pub(crate) fn stop(
    lab: &Lab,
    spec: &TrainSpec,
    attempt: u32,
    resume: &[Checkpoint],
    steps: u64,
) -> Checkpoint {
    let mut notebook = Notebook::stop_after(steps);
    let end = lab.train(spec, attempt, resume, &mut notebook).unwrap();
    let checkpoint = notebook.checkpoints.pop().unwrap();
    assert_eq!(end, End::Stopped { step: checkpoint.step });
    checkpoint
}

// Goal: the same bits of the final losses and of every weight, wherever the training stopped, for
// every kind of model. 30 steps pass the warm-up, the plateau, the decay and, with 4 windows of 16
// tokens out of some 1,100, a part of an epoch.
#[test]
fn a_resumed_training_ends_with_the_same_bits() {
    for norm in [Norm::LayerNorm, Norm::RmsNorm, Norm::PlainRmsNorm] {
        for positions in [Positions::Learned, Positions::Rotary] {
            for mlp in [Mlp::Gelu, Mlp::SwiGlu] {
                for tied in [true, false] {
                    let mut spec = spec(30);
                    spec.model.norm = norm;
                    spec.model.positions = positions;
                    spec.model.mlp = mlp;
                    spec.model.tied = tied;
                    let lab = Lab::new();
                    let undisturbed = bits(&lab, &spec, &[]);
                    for stop_at in [0, 1, 17, 29] {
                        let checkpoint = stop(&lab, &spec, 1, &[], stop_at);
                        assert_eq!(checkpoint.step, stop_at);
                        let resumed = bits(&lab, &spec, &[checkpoint]);
                        assert!(resumed == undisturbed, "stopped at {stop_at}: {:?}", spec.model);
                    }
                }
            }
        }
    }
}

// Goal: the same bits, the mean of the weights included, for every optimiser on every kind of data,
// stopped at any step, with a batch in two parts.
#[test]
fn every_optimiser_resumes_to_the_same_bits_on_every_kind_of_data() {
    for (kind, content, format, packing) in data_kinds() {
        let lab = Lab::with(&content);
        for (name, optimizer) in optimizers() {
            let mut spec = spec(8);
            read(&mut spec, &content, format, packing);
            spec.optimizer = optimizer;
            spec.schedule.shape = DecayShape::Cosine;
            spec.batch = 3;
            spec.accumulation = 2;
            spec.ema = Some(0.9);
            let undisturbed = bits(&lab, &spec, &[]);
            for stop_at in 0..8 {
                let checkpoint = stop(&lab, &spec, 1, &[], stop_at);
                assert_eq!(checkpoint.step, stop_at);
                let resumed = bits(&lab, &spec, &[checkpoint]);
                assert!(resumed == undisturbed, "{name} on {kind}, stopped at {stop_at}");
            }
        }
    }
}

#[test]
fn a_checkpoint_of_another_optimiser_is_refused() {
    let lab = Lab::new();
    let ours = spec(10);
    let checkpoint = stop(&lab, &ours, 1, &[], 4);
    let check = |other: &TrainSpec, expected: &str| {
        let resume = std::slice::from_ref(&checkpoint);
        let error = lab.train(other, 2, resume, &mut Notebook::default()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    let mut other = ours.clone();
    other.optimizer = optimizers().swap_remove(1).1;
    check(&other, "has no tensor momentum.token_embedding.weight");
    let mut other = ours.clone();
    other.ema = Some(0.9);
    check(&other, "its mean of the weights is not kept, this trial's is kept");
}

// Goal: as above when it is stopped again and again, over the end of an epoch, without clipping
// and with measurements on the way.
#[test]
fn a_training_that_is_stopped_often_ends_with_the_same_bits() {
    let mut spec = spec(120);
    spec.model.sequence = 128; // some 140 windows
    spec.batch = 2;
    edit_adamw(&mut spec, |a| a.clip = None);
    spec.validation.every_steps = 7;
    let lab = Lab::new();
    let undisturbed = bits(&lab, &spec, &[]);
    let mut checkpoints = Vec::new();
    for (attempt, steps) in [(1, 5), (2, 1), (3, 0), (4, 64), (5, 23)] {
        checkpoints.insert(0, stop(&lab, &spec, attempt, &checkpoints, steps));
    }
    assert_eq!(checkpoints[0].step, 93);
    assert_eq!(bits(&lab, &spec, &checkpoints), undisturbed);
}

// Goal: what is on disk counts, not what the first process did afterwards, also when it went on
// while the checkpoint was written.
#[test]
fn every_checkpoint_on_the_way_leads_to_the_same_end() {
    let mut lab = Lab::new();
    let spec = spec(12);
    let undisturbed = bits(&lab, &spec, &[]);
    lab.checkpoint_every = CheckpointEvery::Fixed(Duration::ZERO);
    let mut notebook = Notebook::default();
    lab.train(&spec, 1, &[], &mut notebook).unwrap();
    let steps: Vec<u64> = notebook.checkpoints.iter().map(|saved| saved.step).collect();
    // The training does not wait for the disk, so not every step has one.
    assert!(steps.is_sorted_by(|a, b| a < b), "{steps:?}");
    assert_eq!((steps.first(), steps.last()), (Some(&0), Some(&12)));
    lab.checkpoint_every = CheckpointEvery::Best { mtbf: Duration::from_secs(3_600) };
    for checkpoint in notebook.checkpoints {
        let step = checkpoint.step;
        assert!(bits(&lab, &spec, &[checkpoint]) == undisturbed, "from step {step}");
    }
}

/// Damages the newest of two checkpoints, and checks the end and the first note.
#[track_caller]
fn check_damage(damage: impl Fn(&mut Checkpoint), expected_note: &str) {
    let lab = Lab::new();
    let spec = spec(20);
    let undisturbed = bits(&lab, &spec, &[]);
    let older = stop(&lab, &spec, 1, &[], 5);
    let mut newer = stop(&lab, &spec, 2, std::slice::from_ref(&older), 6);
    damage(&mut newer);
    let mut notebook = Notebook::default();
    let candidates = [newer, older];
    lab.train(&spec, 3, &candidates, &mut notebook).unwrap();
    assert_eq!(notebook.notes[..2], [expected_note, "resumed from the checkpoint at step 5"]);
    assert_eq!(bits(&lab, &spec, &candidates), undisturbed);
}

#[test]
fn a_damaged_checkpoint_gives_way_to_the_one_before_it() {
    let path = |checkpoint: &Checkpoint, file: &str| Path::new(&checkpoint.folder).join(file);
    check_damage(
        |newer| {
            let path = path(newer, "optimizer.safetensors");
            let mut content = fs::read(&path).unwrap();
            let middle = content.len() / 2;
            content[middle] ^= 1;
            fs::write(path, content).unwrap();
        },
        "checkpoint at step 11 is damaged (file optimizer.safetensors: hash differs); \
         using the one before it",
    );
    check_damage(
        |newer| {
            let content = fs::read(path(newer, "model.safetensors")).unwrap();
            fs::write(path(newer, "model.safetensors"), &content[..1_000]).unwrap();
            newer.files[0].bytes = 7_777;
        },
        "checkpoint at step 11 is damaged (file model.safetensors: has 1000 bytes, recorded were \
         7777); using the one before it",
    );
    check_damage(
        |newer| fs::remove_file(path(newer, "state.json")).unwrap(),
        "checkpoint at step 11 is damaged (file state.json: cannot be read: No such file or \
         directory (os error 2)); using the one before it",
    );
    check_damage(
        |newer| newer.files.retain(|file| file.name != "state.json"),
        "checkpoint at step 11 is damaged (file state.json: is not in the record); using the one \
         before it",
    );
}

#[test]
fn without_a_whole_checkpoint_a_training_starts_again() {
    let lab = Lab::new();
    let spec = spec(20);
    let undisturbed = bits(&lab, &spec, &[]);
    let only = stop(&lab, &spec, 1, &[], 5);
    fs::remove_dir_all(&only.folder).unwrap();
    let candidates = [only];
    let mut notebook = Notebook::default();
    lab.train(&spec, 2, &candidates, &mut notebook).unwrap();
    assert!(notebook.notes[0].ends_with("there is none before it"), "{:?}", notebook.notes);
    assert_eq!(notebook.notes[1], "no checkpoint is whole; starting from step 0");
    assert_eq!(bits(&lab, &spec, &candidates), undisturbed);
}

#[test]
fn a_finished_training_that_is_asked_again_answers_the_same() {
    let lab = Lab::new();
    let spec = spec(10);
    let mut notebook = Notebook::default();
    let first = metrics(lab.train(&spec, 1, &[], &mut notebook).unwrap());
    let again =
        metrics(lab.train(&spec, 2, &notebook.checkpoints, &mut Notebook::default()).unwrap());
    assert_eq!(EXACT.map(|name| first.get(name)), EXACT.map(|name| again.get(name)));
}

#[test]
fn a_checkpoint_is_never_written_over() {
    let lab = Lab::new();
    let spec = spec(10);
    let first = stop(&lab, &spec, 1, &[], 4);
    // A process that was killed while it wrote leaves this.
    fs::create_dir(format!("{}-again-1.partial", first.folder)).unwrap();
    let second = stop(&lab, &spec, 1, &[], 4);
    assert!(first.folder.ends_with("step-00000004-attempt-1"), "{}", first.folder);
    assert!(second.folder.ends_with("step-00000004-attempt-1-again-1"), "{}", second.folder);
    assert!(Path::new(&first.folder).is_absolute());
    assert_eq!(first.files[..2], second.files[..2]);
}
