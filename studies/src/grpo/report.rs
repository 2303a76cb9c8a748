//! What the policies learned.

use super::spec::GrpoSpec;
use super::wilson::{difference95, wilson95};
use crate::report::{Cell, Column, CourseWanted, Passed, Report, Section, Table};
use crate::study::TrialView;
use proto::{Outcome, Value};
use serde_json::json;
use std::collections::BTreeMap;

/// Metrics whose course the page shows, with their axes.
const COURSES: [(&str, &str); 6] = [
    ("reward", "reward (mean over the rollouts)"),
    ("accuracy", "held-out accuracy (greedy)"),
    ("entropy", "entropy of the policy (nats per token)"),
    ("response_tokens", "response length (tokens)"),
    ("kl", "KL from the reference (nats per token)"),
    ("loss", "loss (first of imitation, then of the policy)"),
];

/// A policy that was trained to its end.
struct Trained<'a> {
    view: &'a TrialView<'a>,
    metrics: &'a BTreeMap<String, f64>,
    /// Measured held-out problems.
    problems: f64,
    /// Share of them before the first reward, and after the last.
    before: f64,
    after: f64,
}

impl<'a> Trained<'a> {
    /// `None` while it is not at its end, and when it did not get there.
    fn of(view: &'a TrialView<'a>) -> Option<Self> {
        let Some(Outcome::Completed { metrics, .. }) = view.outcome else { return None };
        let metric = |name: &str| metrics.get(name).copied();
        Some(Self {
            view,
            metrics,
            problems: metric("held_out_problems")?,
            before: metric("supervised_accuracy")?,
            after: metric("accuracy")?,
        })
    }

    fn policy(&self) -> String {
        let text = |name: &str| self.view.spec.parameters.get(name).map_or("?".into(), shown);
        format!(
            "{}, learning rate {}, KL weight {}, seed {}",
            text("variant"),
            text("learning_rate"),
            text("kl_weight"),
            self.view.spec.seed
        )
    }
}

pub(super) fn build(spec: &GrpoSpec, trials: &[TrialView<'_>]) -> Report {
    let trained: Vec<Trained<'_>> = trials.iter().filter_map(Trained::of).collect();
    let best = trained.iter().max_by(|a, b| a.after.total_cmp(&b.after));
    Report {
        title: "Policies with verified rewards".to_owned(),
        summary: summary(&trained, trials.len()),
        sections: vec![Section {
            heading: "Held-out accuracy".to_owned(),
            text: lead(spec, best),
            tables: vec![table(trials)],
            ..Section::default()
        }],
        notes: notes(spec, &trained, trials),
        curve_parameter: compared(spec).map(str::to_owned),
        courses: COURSES
            .map(|(metric, label)| CourseWanted::new(metric, label, Passed::Steps))
            .into(),
    }
}

/// The first parameter with more than one value.
fn compared(spec: &GrpoSpec) -> Option<&'static str> {
    let policy = &spec.policy;
    let lists = [
        ("variant", policy.variants.len()),
        ("learning_rate", policy.learning_rates.len()),
        ("kl_weight", policy.kl_weights.len()),
    ];
    lists.into_iter().find(|(_, values)| *values > 1).map(|(name, _)| name)
}

fn shown(value: &Value) -> String {
    value.to_string()
}

fn percent([low, high]: [f64; 2]) -> String {
    format!("{:.1} to {:.1}", 100.0 * low, 100.0 * high)
}

fn lead(spec: &GrpoSpec, best: Option<&Trained<'_>>) -> Vec<String> {
    let Some(best) = best else {
        return vec!["No policy is at its end yet.".to_owned()];
    };
    let Trained { problems, before, after, .. } = *best;
    vec![
        format!(
            "{}: {:.1} % of {problems} held-out problems are solved after {} supervised and {} \
             rewarded steps (95 % interval {}), {:.1} % after the supervised steps alone ({}). \
             The rewards changed it by {:+.1} points ({}).",
            best.policy(),
            100.0 * after,
            spec.supervised.steps,
            spec.policy.steps,
            percent(wilson95(after, problems)),
            100.0 * before,
            percent(wilson95(before, problems)),
            100.0 * (after - before),
            percent(difference95(before, after, problems)),
        ),
        "The held-out problems are never trained on in either phase, and are the same for every \
         policy and seed. A completion is the most probable token every time; it is right when \
         the verifier says so and it ends by itself."
            .to_owned(),
    ]
}

fn table(trials: &[TrialView<'_>]) -> Table {
    let row = |view: &TrialView<'_>| {
        let parameter = |name: &str| match view.spec.parameters.get(name) {
            Some(value) => match value.as_f64() {
                Some(number) => Cell::Number(number),
                None => Cell::text(shown(value)),
            },
            None => Cell::missing(""),
        };
        let state = view.outcome.map_or("open", Outcome::word);
        let mut cells = vec![Cell::Trial(view.id.clone())];
        cells.extend(["variant", "learning_rate", "kl_weight"].map(parameter));
        // As text, because a seed beyond 2^53 is no exact number.
        cells.push(Cell::text(view.spec.seed.to_string()));
        match Trained::of(view) {
            None => cells.extend((0..7).map(|_| Cell::missing(state))),
            Some(Trained { metrics, problems, before, after, .. }) => {
                let interval = |value: f64, [low, high]: [f64; 2]| Cell::Interval {
                    value: 100.0 * value,
                    low: 100.0 * low,
                    high: 100.0 * high,
                };
                let metric = |name: &str| match metrics.get(name) {
                    Some(value) => Cell::Number(*value),
                    None => Cell::missing("no rewards"),
                };
                let difference = difference95(before, after, problems);
                cells.extend([
                    interval(before, wilson95(before, problems)),
                    interval(after, wilson95(after, problems)),
                    interval(after - before, difference),
                    metric("reward"),
                    metric("entropy"),
                    metric("response_tokens"),
                    metric("kl"),
                ]);
            }
        }
        cells.push(Cell::text(state));
        cells
    };
    Table {
        name: "policies".to_owned(),
        caption: "Held-out accuracy with 95 % intervals: Wilson's of each share, Newcombe's of \
                  their difference. Reward, entropy, length and KL are those of the last step."
            .to_owned(),
        columns: vec![
            Column::text("trial"),
            Column::text("variant"),
            Column::number("learning rate", ""),
            Column::number("KL weight", ""),
            Column::number("seed", ""),
            Column::number("after imitation", "%"),
            Column::number("after rewards", "%"),
            Column::number("difference", "points"),
            Column::number("reward", ""),
            Column::number("entropy", "nats per token"),
            Column::number("length", "tokens"),
            Column::number("KL", "nats per token"),
            Column::text("state"),
        ],
        rows: trials.iter().map(row).collect(),
    }
}

fn summary(trained: &[Trained<'_>], planned: usize) -> serde_json::Value {
    let policy = |policy: &Trained<'_>| {
        let Trained { view, problems, before, after, .. } = *policy;
        json!({
            "trial": view.id,
            "parameters": view.spec.parameters,
            "seed": view.spec.seed,
            "held_out_problems": problems,
            "supervised_accuracy": {"value": before, "ci95": wilson95(before, problems)},
            "accuracy": {"value": after, "ci95": wilson95(after, problems)},
            "difference": {
                "value": after - before,
                "ci95": difference95(before, after, problems),
            },
        })
    };
    json!({
        "study": "grpo",
        "planned": planned,
        "policies": trained.iter().map(policy).collect::<Vec<_>>(),
    })
}

fn notes(spec: &GrpoSpec, trained: &[Trained<'_>], trials: &[TrialView<'_>]) -> Vec<String> {
    let mut notes = Vec::new();
    let ended = trials.iter().filter(|view| view.outcome.is_some()).count();
    if trained.len() < ended {
        let left_out = ended - trained.len();
        notes.push(format!("{left_out} policies ended without an accuracy and are left out."));
    }
    if ended < trials.len() {
        notes.push(format!("{} policies are not at their end.", trials.len() - ended));
    }
    if spec.seeds.len() == 1 {
        notes.push(
            "There is one seed: the intervals are about the held-out problems, not about how \
             training varies from seed to seed."
                .to_owned(),
        );
    }
    if trained.len() > 1 {
        notes.push(
            "The best of several policies is chosen by the accuracy that is shown for it, which \
             is a little optimistic."
                .to_owned(),
        );
    }
    notes.push(
        "The interval of a difference takes its two measurements for independent; they are of the \
         same problems, so it is rather too wide."
            .to_owned(),
    );
    notes
}
