use super::spec::GrpoSpec;
use crate::recipe::{Recipe, StudySpec};
use crate::report::{Cell, Report};
use crate::study::{Next, Study, TrialView};
use proto::grpo::{Problems, Variant, VerifierKind};
use proto::{BlobId, BlobRef, FailureClass, Inputs, Outcome, Runner, TrialId, TrialSpec};
use std::collections::BTreeSet;

const SUMS: &str = "problems: {addition: {digits: 2}}";

fn recipe(lines: &str) -> Recipe {
    let head = "apiVersion: brine.dev/v1\nkind: Experiment\nmetadata: {name: test}\n\
                spec:\n  study:\n    grpo:";
    let indented = lines.lines().map(|line| format!("      {line}"));
    let text: Vec<String> = std::iter::once(head.to_owned()).chain(indented).collect();
    Recipe::parse(&text.join("\n")).unwrap()
}

/// A study with its history.
struct Lab {
    study: Box<dyn Study>,
    trials: Vec<(TrialId, TrialSpec, Option<Outcome>)>,
}

impl Lab {
    fn new(lines: &str) -> Self {
        let study = recipe(lines).study(&Inputs::default()).unwrap();
        let Next::Plan { trials, .. } = study.next(&[]) else { panic!("nothing is planned") };
        let trials = trials.into_iter().map(|spec| (spec.id(), spec, None)).collect();
        Self { study, trials }
    }

    fn views(&self) -> Vec<TrialView<'_>> {
        self.trials
            .iter()
            .map(|(id, spec, outcome)| TrialView {
                id,
                spec,
                attempts: 1,
                outcome: outcome.as_ref(),
                measured: &[],
            })
            .collect()
    }

    fn report(&self) -> Report {
        self.study.report(&self.views())
    }
}

fn grpo(spec: &TrialSpec) -> &proto::GrpoSpec {
    let Runner::Grpo(grpo) = &spec.runner else { panic!("not a policy") };
    grpo
}

fn completed(before: f64, after: f64) -> Outcome {
    let metrics = [
        ("held_out_problems", 1_000.0),
        ("supervised_accuracy", before),
        ("accuracy", after),
        ("reward", 0.5),
    ];
    let metrics = metrics.map(|(name, value)| (name.to_owned(), value)).into();
    Outcome::Completed { metrics, checkpoint: None }
}

#[test]
fn every_combination_is_a_trial_with_every_seed() {
    let lab = Lab::new(&format!(
        "{SUMS}\npolicy: {{variants: [grpo_clip, no_baseline], learning_rates: [1.0e-3, 2.0e-3], \
         kl_weights: [0.0, 0.1]}}\nseeds: [3, 4]"
    ));
    let ids: BTreeSet<_> = lab.trials.iter().map(|(id, ..)| id).collect();
    assert_eq!((lab.trials.len(), ids.len()), (16, 16));
    let (_, first, _) = &lab.trials[0];
    let (_, last, _) = &lab.trials[15];
    let policy = &grpo(first).policy;
    assert_eq!((policy.variant, policy.optimizer.learning_rate), (Variant::GrpoClip, 1e-3));
    assert_eq!((policy.kl, first.seed), (0.0, 3));
    let policy = &grpo(last).policy;
    assert_eq!((policy.variant, policy.optimizer.learning_rate), (Variant::NoBaseline, 2e-3));
    assert_eq!((policy.kl, last.seed), (0.1, 4));
    assert_eq!(first.parameters["variant"].to_string(), "grpo_clip");
    assert_eq!(lab.study.next(&lab.views()), Next::Wait);
}

#[test]
fn pairs_are_the_data_that_the_client_reads() {
    let recipe = recipe("problems: {pairs: {files: \"a/*.jsonl\", verifier: number}}");
    assert!(recipe.wanted().data.is_some());
    assert!(recipe.study(&Inputs::default()).is_err());
    let file = BlobRef { blob: BlobId::from_hash(blake3::hash(b"pairs")), bytes: 5 };
    let inputs = Inputs { data: Some(file.clone()), ..Inputs::default() };
    let Next::Plan { trials, .. } = recipe.study(&inputs).unwrap().next(&[]) else {
        panic!("nothing is planned")
    };
    let wanted = Problems::Pairs { file, verifier: VerifierKind::Number };
    assert_eq!(grpo(&trials[0]).problems, wanted);
}

#[test]
fn the_report_says_accuracies_with_their_intervals() {
    let mut lab = Lab::new(&format!("{SUMS}\nseeds: [0, 1, 2]"));
    let text = lab.report().sections[0].text.join(" ");
    assert!(text.contains("No policy is at its end yet"), "{text}");
    lab.trials[0].2 = Some(completed(0.2, 0.5));
    lab.trials[1].2 = Some(Outcome::failed(FailureClass::Trial, "broke"));
    lab.trials[2].2 = Some(completed(0.2, 0.7));
    assert_eq!(lab.study.next(&lab.views()), Next::Complete);
    let report = lab.report();
    let lead = &report.sections[0].text[0];
    assert!(lead.contains("seed 2: 70.0 % of 1000 held-out problems"), "{lead}");
    assert!(lead.contains("interval 67.1 to 72.8") && lead.contains("+50.0 points"), "{lead}");
    let rows = &report.sections[0].tables[0].rows;
    let Cell::Interval { value, low, high } = rows[0][6] else { panic!("{:?}", rows[0]) };
    assert!((value - 50.0).abs() < 1e-9 && low < 47.0 && high > 53.0, "{low} {high}");
    assert_eq!(rows[1][6], Cell::missing("failed"));
    assert!(report.notes[0].starts_with("1 policies ended without"), "{:?}", report.notes);
    let courses: Vec<_> = report.courses.iter().map(|wanted| wanted.metric.as_str()).collect();
    let wanted = ["reward", "accuracy", "entropy", "response_tokens", "kl", "loss"];
    assert_eq!(courses, wanted);
    assert_eq!(report.summary["policies"][1]["accuracy"]["value"], 0.7);
}

#[test]
fn the_shipped_recipe_is_the_defaults_with_two_seeds() {
    let text = include_str!("../../../recipes/grpo-addition.yaml");
    let StudySpec::Grpo(shipped) = Recipe::parse(text).unwrap().study else { panic!("a policy") };
    let StudySpec::Grpo(defaults) = recipe(SUMS).study else { panic!("a policy") };
    assert_eq!(shipped, GrpoSpec { seeds: vec![0, 1], ..defaults });
}
