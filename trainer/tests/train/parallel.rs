//! One model trained by several members, each a thread with sockets of its own.

use crate::{Lab, Notebook, data_kinds, edit_adamw, optimizers, read, spec};
use proto::{Attempt, Budget, Checkpoint, FailureClass, TrainSpec};
use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::thread;
use std::time::Duration;
use trainer::{CheckpointEvery, End, Membership, Observer, Setting, TrainError, train};

/// Largest difference between losses of one and of several members after 30 updates, in nats per
/// token: the gradients' sums in float32 have another order. Found: 1.4e-6.
const ROUNDING: f64 = 1e-5;

/// How one member ended, and what it told.
type Told = (Result<End, TrainError>, Notebook);

/// Writes down, and is asked to stop or dies at a step of this attempt: like a process that is
/// killed, without a word.
#[derive(Default)]
struct Member {
    notebook: Notebook,
    stops_at: Option<u64>,
    dies_at: Option<u64>,
    /// What it does besides, before each step.
    pause: Duration,
}

impl Member {
    /// Whether all members have come, before which it is asked now and then.
    fn has_begun(&self) -> bool {
        self.notebook.notes.iter().any(|note| note.ends_with("all members have come"))
    }
}

impl Observer for Member {
    fn metric(&mut self, step: u64, name: &str, value: f64) {
        self.notebook.metric(step, name, value);
    }

    fn checkpoint(&mut self, checkpoint: Checkpoint) {
        self.notebook.checkpoint(checkpoint);
    }

    fn note(&mut self, text: &str) {
        self.notebook.note(text);
    }

    fn stop_requested(&self) -> bool {
        if !self.has_begun() {
            return false;
        }
        let asked = self.notebook.steps.get();
        self.notebook.steps.set(asked + 1);
        assert!(self.dies_at != Some(asked), "killed");
        thread::sleep(self.pause);
        self.stops_at == Some(asked)
    }
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// Trains `spec` with as many members as there are `observers`; `resume` by rank.
fn train_together<O: Observer + Send>(
    lab: &Lab,
    spec: &TrainSpec,
    attempt: u32,
    resume: &(dyn Fn(u32) -> Vec<Checkpoint> + Sync),
    observers: Vec<O>,
) -> Vec<thread::Result<(Result<End, TrainError>, O)>> {
    let (port, world_size) = (free_port(), observers.len() as u32);
    thread::scope(|scope| {
        let member = |(rank, mut observer): (u32, O)| {
            scope.spawn(move || {
                let end = lab.set(attempt, |setting| {
                    let membership = Some(Membership {
                        rank,
                        world_size,
                        master_addr: "localhost",
                        master_port: port,
                        name: "trial",
                        attempt: Attempt(attempt),
                        come_within: Duration::from_secs(60),
                    });
                    let setting = Setting { membership, ..*setting };
                    train(spec, &setting, &resume(rank), &mut observer)
                });
                (end, observer)
            })
        };
        let members: Vec<_> = (0..).zip(observers).map(member).collect();
        members.into_iter().map(thread::ScopedJoinHandle::join).collect()
    })
}

fn together(
    lab: &Lab,
    spec: &TrainSpec,
    attempt: u32,
    resume: &[Checkpoint],
    members: u32,
) -> Vec<Told> {
    let observers = (0..members).map(|_| Notebook::default()).collect();
    let ends = train_together(lab, spec, attempt, &|_| resume.to_vec(), observers);
    ends.into_iter().map(|end| end.unwrap()).collect()
}

fn completed(end: &Result<End, TrainError>) -> (&BTreeMap<String, f64>, Option<&Checkpoint>) {
    match end {
        Ok(End::Completed { metrics, checkpoint }) => (metrics, checkpoint.as_ref()),
        other => panic!("not completed: {other:?}"),
    }
}

/// The final losses' bits and the weights of a training by several.
fn bits(lab: &Lab, spec: &TrainSpec, resume: &[Checkpoint], members: u32) -> (Vec<u64>, Vec<u8>) {
    let told = together(lab, spec, 99, resume, members);
    let (metrics, checkpoint) = completed(&told[0].0);
    let losses = ["validation_loss", "train_loss"].map(|name| metrics[name].to_bits());
    (losses.to_vec(), weights(checkpoint.unwrap()))
}

fn weights(checkpoint: &Checkpoint) -> Vec<u8> {
    fs::read(Path::new(&checkpoint.folder).join("model.safetensors")).unwrap()
}

// Goal: 1, 2 and 3 members train on the same batches and find the same losses within the rounding
// of float32, for every optimiser and kind of data, windows with unscored targets included; rank 0
// alone tells and saves. That all hold the same weights, members check themselves.
#[test]
fn several_members_find_the_losses_of_one() {
    for (kind, content, format, packing) in data_kinds() {
        let lab = Lab::with(&content);
        for (name, optimizer) in optimizers() {
            let mut spec = spec(30);
            read(&mut spec, &content, format, packing);
            spec.optimizer = optimizer;
            spec.accumulation = 2;
            spec.ema = Some(0.9);
            spec.validation.every_steps = 7;
            let mut alone = Notebook::default();
            let end = lab.train(&spec, 1, &[], &mut alone);
            let (one, _) = completed(&end);
            for members in [2, 3] {
                let told = together(&lab, &spec, 1, &[], members);
                for (rank, (end, notebook)) in told.iter().enumerate() {
                    let (found, checkpoint) = completed(end);
                    for metric in ["validation_loss", "validation_loss_ema", "train_loss"] {
                        let difference = (found[metric] - one[metric]).abs();
                        let case = format!("{name} on {kind}, rank {rank} of {members}: {metric}");
                        assert!(difference < ROUNDING, "{case}: {difference:e}");
                    }
                    assert_eq!(checkpoint.is_some(), rank == 0);
                    assert_eq!(notebook.metrics.is_empty(), rank > 0);
                    assert_eq!(notebook.checkpoints.is_empty(), rank > 0);
                }
                let steps = |notebook: &Notebook| {
                    let found = notebook.metrics.iter().filter(|(_, n, _)| n == "validation_loss");
                    found.map(|(step, ..)| *step).collect::<Vec<_>>()
                };
                assert_eq!(steps(&told[0].1), [7, 14, 21, 28, 30]);
            }
        }
    }
}

#[test]
fn as_many_members_give_the_same_bits_again_after_a_stop_at_any_step() {
    let lab = Lab::new();
    let mut spec = spec(12);
    spec.batch = 5;
    let undisturbed = bits(&lab, &spec, &[], 3);
    assert!(bits(&lab, &spec, &[], 3) == undisturbed);
    for (asked, stop_at) in [(0, 0), (1, 1), (2, 7), (1, 11)] {
        // Only one of them is asked, and all stop.
        let member =
            |rank| Member { stops_at: (rank == asked).then_some(stop_at), ..Member::default() };
        let members = (0..3).map(member).collect();
        let ends = train_together(&lab, &spec, 1, &|_| Vec::new(), members);
        let mut ends: Vec<_> = ends.into_iter().map(|end| end.unwrap()).collect();
        for (end, _) in &ends {
            assert_eq!(*end.as_ref().unwrap(), End::Stopped { step: stop_at });
        }
        let checkpoint = ends[0].1.notebook.checkpoints.pop().unwrap();
        assert_eq!(checkpoint.step, stop_at);
        // All find it; or only one does, and that is not the first.
        assert!(bits(&lab, &spec, std::slice::from_ref(&checkpoint), 3) == undisturbed);
        let only_the_last =
            |rank: u32| if rank == 2 { vec![checkpoint.clone()] } else { Vec::new() };
        let observers = (0..3).map(|_| Notebook::default()).collect();
        let ends = train_together(&lab, &spec, 99, &only_the_last, observers);
        let (end, notebook) = ends.into_iter().next().unwrap().unwrap();
        assert!(weights(completed(&end).1.unwrap()) == undisturbed.1, "from {stop_at}");
        let note = format!("goes on at step {stop_at} with the state of rank 2");
        assert!(notebook.notes.contains(&note), "{:?}", notebook.notes);
    }
}

#[test]
fn a_killed_member_ends_the_others_and_what_was_saved_goes_on_to_the_same_bits() {
    let mut lab = Lab::new();
    let spec = spec(40);
    let undisturbed = bits(&lab, &spec, &[], 2);
    lab.checkpoint_every = CheckpointEvery::Fixed(Duration::ZERO);
    for killed in [0, 1] {
        let mortal = |rank| Member { dies_at: (rank == killed).then_some(30), ..Member::default() };
        let observers = (0..2).map(mortal).collect();
        let mut ends = train_together(&lab, &spec, 1, &|_| Vec::new(), observers);
        assert!(ends[killed].is_err());
        let (end, survivor) = ends.swap_remove(1 - killed).unwrap();
        let error = end.unwrap_err();
        assert_eq!(error.class(), FailureClass::Infrastructure);
        assert!(error.to_string().contains(&format!("lost rank {killed}")), "{error}");
        if killed == 0 {
            continue; // What it saved, it alone can name.
        }
        let saved = survivor.notebook.checkpoints.last().unwrap();
        assert!(saved.step > 0 && saved.step < 40, "{}", saved.step);
        assert!(bits(&lab, &spec, std::slice::from_ref(saved), 2) == undisturbed);
    }
}

#[test]
fn a_diverging_training_ends_alike_for_all() {
    let lab = Lab::new();
    let mut spec = spec(60);
    edit_adamw(&mut spec, |adamw| {
        adamw.learning_rate = 1e30;
        adamw.clip = None;
    });
    let told = together(&lab, &spec, 1, &[], 2);
    let [first, second] = [0, 1].map(|rank: usize| told[rank].0.as_ref().unwrap());
    assert!(matches!(first, End::Diverged { .. }), "{first:?}");
    assert_eq!(first, second);
}

#[test]
fn the_first_members_clock_ends_a_budget_of_time_for_all() {
    let lab = Lab::new();
    let mut spec = spec(100_000);
    spec.budget = Some(Budget::WallMs(300));
    let told = together(&lab, &spec, 1, &[], 2);
    let steps = |rank: usize| completed(&told[rank].0).0["steps"];
    assert_eq!(steps(0), steps(1));
    assert!(steps(0) < 100_000.0);
    assert!(completed(&told[0].0).0["training_seconds"] >= 0.3);
}

// Goal: the time of an update is that of the slowest member, wherever the first one waits for it.
#[test]
fn the_first_members_clock_counts_what_it_waits_for_another() {
    let lab = Lab::new();
    let pause = Duration::from_millis(30);
    let slow = |rank| Member { pause: pause * rank, ..Member::default() };
    let ends = train_together(&lab, &spec(12), 1, &|_| Vec::new(), (0..2).map(slow).collect());
    let (end, _) = ends.into_iter().next().unwrap().unwrap();
    let seconds = completed(&end).0["training_seconds"];
    assert!(seconds >= 12.0 * pause.as_secs_f64(), "{seconds}");
}

#[test]
fn what_fails_for_one_fails_for_all_with_its_class() {
    let lab = Lab::new();
    let spec = spec(20);
    let mut other = crate::resume::stop(&lab, &spec, 1, &[], 3);
    other.step += 1;
    let wrong = |rank: u32| if rank == 1 { vec![other.clone()] } else { Vec::new() };
    let observers = (0..2).map(|_| Notebook::default()).collect();
    let ends = train_together(&lab, &spec, 2, &wrong, observers);
    let errors: Vec<TrainError> = ends.into_iter().map(|end| end.unwrap().0.unwrap_err()).collect();
    assert_eq!(errors[0].class(), errors[1].class());
    assert!(errors[0].to_string().contains("rank 1 failed: "), "{}", errors[0]);
}

#[test]
fn more_members_than_sequences_are_refused() {
    let lab = Lab::new();
    let spec = spec(20);
    let error = together(&lab, &spec, 1, &[], 5).remove(0).0.unwrap_err();
    assert_eq!(error.class(), FailureClass::Invalid);
    assert_eq!(error.to_string(), "members is 5, it must be at least 1 and at most 4");
}
