use super::spec::{Length, TrainStudySpec};
use crate::recipe::{Recipe, StudySpec, TrialSettings};
use crate::report::Cell;
use crate::study::{Next, Study, TrialView};
use proto::{
    BlobId, BlobRef, Budget, Inputs, Outcome, Precision, Runner, Scoring, TrialId, TrialSpec,
};
use std::collections::BTreeMap;

fn recipe(lines: &str) -> Recipe {
    let head = "apiVersion: brine.dev/v1\nkind: Experiment\nmetadata: {name: test}\n\
                spec:\n  study:\n    train:";
    let indented = lines.lines().map(|line| format!("      {line}"));
    let text: Vec<String> = std::iter::once(head.to_owned()).chain(indented).collect();
    Recipe::parse(&text.join("\n")).unwrap()
}

fn spec(lines: &str) -> TrainStudySpec {
    let StudySpec::Train(spec) = recipe(lines).study else { panic!("not a training") };
    spec
}

fn study(spec: &TrainStudySpec, settings: TrialSettings) -> Box<dyn Study> {
    let text = BlobRef { blob: BlobId::from_hash(blake3::hash(b"text")), bytes: 1_000_000 };
    spec.study(settings, &Inputs { data: Some(text), ..Inputs::default() }).unwrap()
}

#[test]
fn a_budget_of_flops_becomes_the_nearest_number_of_steps() {
    let steps = spec("length: {steps: 70}");
    assert_eq!((steps.steps(), steps.length), (70, Length::Steps(70)));
    let per_step = steps.model.training_flops(16 * 128);
    for (share, wanted) in [(70.0, 70), (70.4, 70), (70.6, 71)] {
        let flops = spec(&format!("length: {{flops: {:e}}}", share * per_step));
        assert_eq!(flops.steps(), wanted);
    }
}

#[test]
fn every_rate_is_tried_with_every_seed_and_the_report_compares_them() {
    let lines = "length: {steps: 70}\nlearning_rates: [1.0e-3, 1.0e-2]\nseeds: [3, 4]";
    let study = study(&spec(lines), recipe(lines).trial_settings());
    let Next::Plan { trials, .. } = study.next(&[]) else { panic!("nothing is planned") };
    let facts: Vec<_> = trials
        .iter()
        .map(|trial| {
            let Runner::Train(train) = &trial.runner else { panic!("not a training") };
            (train.optimizer.learning_rate(), trial.seed, train.steps)
        })
        .collect();
    assert_eq!(facts, [(1e-3, 3, 70), (1e-3, 4, 70), (1e-2, 3, 70), (1e-2, 4, 70)]);
    let mut history: Vec<(TrialId, TrialSpec, Option<Outcome>)> =
        trials.into_iter().map(|trial| (trial.id(), trial, None)).collect();
    let views = |history: &'_ [(TrialId, TrialSpec, Option<Outcome>)]| -> String {
        let views: Vec<TrialView<'_>> = history
            .iter()
            .map(|(id, spec, outcome)| TrialView {
                id,
                spec,
                attempts: 1,
                outcome: outcome.as_ref(),
                measured: &[],
            })
            .collect();
        let report = study.report(&views);
        let rows = &report.sections[0].tables[0].rows;
        let cells: Vec<String> = rows.iter().map(|row| row[1].to_text()).collect();
        format!("{:?} {} {}", study.next(&views), report.summary["best"], cells.join(", "))
    };
    assert!(views(&history).starts_with("Wait null - (no loss yet)"), "{}", views(&history));
    for ((_, _, outcome), loss) in history.iter_mut().zip([2.0, 2.2, 1.8, f64::NAN]) {
        let metrics = BTreeMap::from([("validation_loss".to_owned(), loss)]);
        *outcome = Some(Outcome::Completed { metrics, checkpoint: None });
    }
    // 2.1 +- 12.7062 0.1; the other rate lacks a seed, so it can not be the best.
    let mean = Cell::Interval { value: 2.1, low: 2.1 - 1.270_62, high: 2.1 + 1.270_62 };
    assert_eq!(views(&history), format!("Complete 0.001 {}, 1.8", mean.to_text()));
}

#[test]
fn a_text_that_is_seen_more_than_once_is_said_before_and_after() {
    let warned = |lines: &str| {
        let study = study(&spec(lines), recipe(lines).trial_settings());
        let Next::Plan { trials, .. } = study.next(&[]) else { panic!("nothing is planned") };
        let ids: Vec<TrialId> = trials.iter().map(TrialSpec::id).collect();
        let views = ids.iter().zip(&trials).map(|(id, spec)| TrialView {
            id,
            spec,
            attempts: 0,
            outcome: None,
            measured: &[],
        });
        let views: Vec<TrialView<'_>> = views.collect();
        let warnings = study.warnings(&views);
        assert!(warnings.iter().all(|words| study.report(&views).notes.contains(words)));
        warnings.join("; ")
    };
    assert_eq!(warned("length: {steps: 70}"), "");
    let often = warned("length: {steps: 20_000}");
    assert!(often.contains("1 of 1 trials see it more than once, at most 4"), "{often}");
    assert_eq!(warned("length: {steps: 20_000}\nbudget: {wall: 1m}"), "");
}

#[test]
fn what_a_recipe_says_of_budget_precision_and_scoring_reaches_the_trial() {
    let trained = |lines: &str| {
        let lines = format!("length: {{steps: 70}}\n{lines}");
        let study = study(&spec(&lines), recipe(&lines).trial_settings());
        let Next::Plan { trials, .. } = study.next(&[]) else { panic!("nothing is planned") };
        let Runner::Train(train) = &trials[0].runner else { panic!("not a training") };
        let report = study.report(&[]);
        let columns = report.sections[0].tables[1].columns.iter();
        let has_target = columns.clone().any(|column| column.name == "time to the target");
        (train.budget, train.precision, train.validation.scoring, has_target, report.notes.len())
    };
    let (plain, exact) = (Scoring::Parallel, Precision::Float32);
    assert_eq!(trained(""), (None, exact, plain, false, 0));
    let budget = Some(Budget::WallMs(90_000));
    assert_eq!(trained("budget: {wall: 1.5m}"), (budget, exact, plain, false, 1));
    let budget = Some(Budget::Flops(3e12));
    assert_eq!(trained("budget: {flops: 3e12}"), (budget, exact, plain, false, 0));
    let lines = "training: {precision: bf16}\n\
                 validation: {scoring: token_by_token, target: 3.28}";
    assert_eq!(trained(lines), (None, Precision::Bf16, Scoring::TokenByToken, true, 1));
}
