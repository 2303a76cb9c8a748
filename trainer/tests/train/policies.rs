//! Policies: what they learn, how they resume, how they fail.

use crate::{Lab, Notebook, metrics};
use proto::grpo::{
    Evaluation, POLICY_VOCABULARY, Policy, Problems, Supervised, Variant, VerifierKind,
};
use proto::train::NUMERICS_VERSION;
use proto::{
    AdamW, BlobId, BlobRef, Checkpoint, FailureClass, GrpoSpec, Mlp, ModelSpec, Norm, Positions,
};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use trainer::{End, Setting, TrainError, train_policy};

fn optimizer(learning_rate: f64) -> AdamW {
    let [beta1, beta2, epsilon, weight_decay] = [0.9, 0.95, 1e-8, 0.0];
    AdamW { learning_rate, beta1, beta2, epsilon, weight_decay, clip: Some(1.0) }
}

/// Sums of two digits, with 4 steps of each phase.
fn spec() -> GrpoSpec {
    GrpoSpec {
        numerics: NUMERICS_VERSION,
        model: ModelSpec {
            vocabulary: POLICY_VOCABULARY,
            sequence: 10,
            width: 16,
            layers: 1,
            heads: 2,
            mlp_width: 32,
            mlp: Mlp::Gelu,
            tied: false,
            positions: Positions::Learned,
            norm: Norm::RmsNorm,
        },
        problems: Problems::Addition { digits: 2 },
        held_out: 0.2,
        completion_tokens_max: 4,
        supervised: Supervised { steps: 4, batch: 8, optimizer: optimizer(1e-2), warmup_steps: 2 },
        policy: Policy {
            steps: 4,
            prompts: 3,
            rollouts: 4,
            temperature: 1.0,
            updates: 2,
            variant: Variant::GrpoClip,
            clip: 0.2,
            kl: 0.05,
            optimizer: optimizer(1e-2),
            warmup_steps: 3,
        },
        evaluation: Evaluation { every_steps: 1, problems: 16 },
    }
}

/// Twenty questions of one letter, answered by the same letter, in a lab that has them.
fn letters() -> (Lab, GrpoSpec) {
    let pair = |letter: u8| {
        let letter = char::from(letter);
        format!("{{\"prompt\": \"{letter}\", \"completion\": \"{letter}\"}}\n")
    };
    let content: String = (b'a'..b'u').map(pair).collect();
    let file = BlobRef {
        blob: BlobId::from_hash(blake3::hash(content.as_bytes())),
        bytes: content.len() as u64,
    };
    let mut spec = spec();
    spec.problems = Problems::Pairs { file, verifier: VerifierKind::Text };
    spec.completion_tokens_max = 2;
    (Lab::with(content.as_bytes()), spec)
}

fn run(
    lab: &Lab,
    spec: &GrpoSpec,
    resume: &[Checkpoint],
    notebook: &mut Notebook,
) -> Result<End, TrainError> {
    lab.set(1, |setting| train_policy(spec, setting, resume, notebook))
}

/// The final metrics without the time, and the weights.
fn bits(lab: &Lab, spec: &GrpoSpec, resume: &[Checkpoint]) -> (BTreeMap<String, u64>, Vec<u8>) {
    let mut notebook = Notebook::default();
    let mut metrics = metrics(run(lab, spec, resume, &mut notebook).unwrap());
    metrics.remove("training_seconds").unwrap();
    let folder = &notebook.checkpoints.last().unwrap().folder;
    let weights = fs::read(Path::new(folder).join("model.safetensors")).unwrap();
    (metrics.into_iter().map(|(name, value)| (name, value.to_bits())).collect(), weights)
}

/// Both phases come to their end in `lab`, on whatever device.
pub(crate) fn check_completes(lab: &Lab) {
    let found = metrics(run(lab, &spec(), &[], &mut Notebook::default()).unwrap());
    for share in ["supervised_accuracy", "accuracy"] {
        assert!((0.0..=1.0).contains(&found[share]), "{found:?}");
    }
}

// Goal: the same bits of every metric and weight, at whatever step of either phase it stopped, for
// every variant and both kinds of problems.
#[test]
fn a_resumed_policy_ends_with_the_same_bits() {
    let sums = (Lab::new(), spec());
    for (lab, spec) in [sums, letters()] {
        for variant in [Variant::NoBaseline, Variant::ReinforceWithBaseline, Variant::GrpoClip] {
            let mut spec = spec.clone();
            spec.policy.variant = variant;
            let undisturbed = bits(&lab, &spec, &[]);
            for stop_at in 0..=spec.steps() {
                let mut notebook = Notebook::stop_after(stop_at);
                let end = run(&lab, &spec, &[], &mut notebook).unwrap();
                assert_eq!(end, End::Stopped { step: stop_at });
                let resumed = bits(&lab, &spec, &notebook.checkpoints);
                assert!(resumed == undisturbed, "{variant:?} stopped at {stop_at}");
            }
        }
    }
}

// Goal: rewards alone teach: a policy that hardly imitated finds the answers that are rewarded.
#[test]
fn rewards_make_right_answers_more_probable() {
    let (lab, mut spec) = letters();
    spec.held_out = 0.3;
    spec.supervised.steps = 25;
    spec.policy.steps = 150;
    spec.policy.kl = 0.0;
    spec.policy.prompts = 14;
    spec.policy.rollouts = 8;
    spec.policy.updates = 1;
    spec.policy.optimizer = optimizer(3e-3);
    spec.evaluation.every_steps = 0;
    let mut notebook = Notebook::default();
    let metrics = metrics(run(&lab, &spec, &[], &mut notebook).unwrap());
    let rewards: Vec<f64> = notebook
        .metrics
        .iter()
        .filter(|(_, name, _)| name == "reward")
        .map(|(_, _, value)| *value)
        .collect();
    assert_eq!(rewards.len(), 150);
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    let (before, after) = (mean(&rewards[..5]), mean(&rewards[145..]));
    assert!(after > before + 0.2, "{before} {after}");
    // Every number that a step must tell.
    for name in ["entropy", "kl", "response_tokens", "loss", "gradient_norm", "clipped"] {
        assert!(metrics.contains_key(name), "{name}");
    }
    assert!(metrics["kl"] > 0.0, "it left the reference");
    let first_kl = notebook.metrics.iter().find(|(_, name, _)| name == "kl").unwrap().2;
    assert!(first_kl.abs() < 1e-6, "the reference is where the rewards began: {first_kl}");
    assert!(metrics["response_tokens"] <= 2.0 && metrics["response_tokens"] >= 1.0);
}

#[test]
fn one_phase_alone_is_allowed() {
    let lab = Lab::new();
    let mut imitates = spec();
    imitates.policy.steps = 0;
    let found = metrics(run(&lab, &imitates, &[], &mut Notebook::default()).unwrap());
    assert_eq!(found["accuracy"], found["supervised_accuracy"]);
    assert!(!found.contains_key("reward"));
    let mut tries = spec();
    tries.supervised.steps = 0;
    let found = metrics(run(&lab, &tries, &[], &mut Notebook::default()).unwrap());
    assert!(found.contains_key("reward"));
    assert_eq!(found["held_out_problems"], 16.0);
}

#[test]
fn a_wrong_specification_is_invalid_and_named() {
    let check = |edit: &dyn Fn(&mut GrpoSpec), expected: &str| {
        let mut spec = spec();
        edit(&mut spec);
        let error = run(&Lab::new(), &spec, &[], &mut Notebook::default()).unwrap_err();
        assert_eq!(error.class(), FailureClass::Invalid, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(&|s| s.numerics += 1, "of the trainer's numerics, this one has");
    check(&|s| s.model.vocabulary = 256, "model.vocabulary is 256, it must be at least 257");
    check(&|s| s.model.sequence = 9, "sums fit: the prompt has 6 tokens and its completion 4");
    check(&|s| s.completion_tokens_max = 3, "a completion may have 3");
    check(&|s| s.problems = Problems::Addition { digits: 4 }, "problems.addition.digits is 4");
    check(&|s| s.held_out = 1e-9, "held_out is 0.000000001");
    check(&|s| s.policy.rollouts = 1, "policy.rollouts is 1, it must be at least 2");
    check(&|s| s.policy.temperature = 0.0, "policy.temperature is 0");
    check(&|s| s.policy.optimizer.beta1 = 1.0, "optimizer.beta1 is 1");
}

#[test]
fn scores_that_are_not_numbers_end_the_policy_as_diverged() {
    let mut spec = spec();
    spec.supervised.optimizer = optimizer(1e30);
    spec.supervised.warmup_steps = 0;
    let end = run(&Lab::new(), &spec, &[], &mut Notebook::default()).unwrap();
    assert!(matches!(end, End::Diverged { step: 1..=4, .. }), "{end:?}");
}

#[test]
fn a_state_of_another_trial_is_refused() {
    let lab = Lab::new();
    let ours = spec();
    let mut notebook = Notebook::stop_after(5);
    run(&lab, &ours, &[], &mut notebook).unwrap();
    let mut other = ours.clone();
    other.problems = Problems::Addition { digits: 1 };
    let error = run(&lab, &other, &notebook.checkpoints, &mut Notebook::default()).unwrap_err();
    assert!(error.to_string().contains("of another trial: its data is"), "{error}");
    let training = crate::spec(5);
    let error = lab.train(&training, 1, &notebook.checkpoints, &mut Notebook::default());
    let text = error.unwrap_err().to_string();
    assert!(text.contains("its reference policy is kept, this trial's is not kept"), "{text}");
}

#[test]
fn a_policy_is_trained_by_one_process() {
    let lab = Lab::new();
    let error = lab.set(1, |setting| {
        let membership = Some(trainer::Membership {
            rank: 0,
            world_size: 2,
            master_addr: "localhost",
            master_port: 1,
            name: "policy",
            attempt: setting.attempt,
            come_within: trainer::Membership::COME_WITHIN,
        });
        let setting = Setting { membership, ..*setting };
        train_policy(&spec(), &setting, &[], &mut Notebook::default()).unwrap_err()
    });
    assert_eq!(error.class(), FailureClass::Invalid);
    let words = "members is 2, it must be 1: one process samples all completions of a policy";
    assert_eq!(error.to_string(), words);
}
