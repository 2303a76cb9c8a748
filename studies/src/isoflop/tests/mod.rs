//! The study from its recipe to its report. Losses come from known surfaces.

mod checking;
mod grid;
mod planning;
mod reporting;

use super::history::{BITS, LOSS, Training};
use super::planner::IsoflopStudy;
use super::spec::IsoflopSpec;
use crate::fit::{Point, Surface};
use crate::recipe::{Mistakes, Recipe, StudySpec, TrialSettings};
use crate::study::{Next, Study, TrialView};
use proto::{
    BlobId, BlobRef, FailureClass, Inputs, Outcome, Resources, Retries, TrialId, TrialSpec,
};
use std::collections::BTreeMap;

pub(super) const SODA: &str = include_str!("../../../../recipes/isoflop-soda.yaml");

/// A recipe whose section `isoflop` has these lines.
pub(super) fn recipe(lines: &str) -> Result<IsoflopSpec, Mistakes> {
    let head = "apiVersion: brine.dev/v1\nkind: Experiment\nmetadata: {name: test}\n\
                spec:\n  study:\n    isoflop:";
    let indented = lines.lines().map(|line| format!("      {line}"));
    let text: Vec<String> = std::iter::once(head.to_owned()).chain(indented).collect();
    parse(&text.join("\n"))
}

pub(super) fn parse(text: &str) -> Result<IsoflopSpec, Mistakes> {
    match Recipe::parse(text)?.study {
        StudySpec::Isoflop(spec) => Ok(spec),
        StudySpec::Train(_) | StudySpec::Grpo(_) | StudySpec::Sweep(_) => {
            unreachable!("the recipe names isoflop")
        }
    }
}

/// A small study: four budgets, seven widths.
pub(super) const MINI: &str = "\
flop_budgets: [3.0e10, 1.0e11, 3.0e11, 1.0e12]
widths: [16, 24, 32, 48, 64, 96, 128]
fit: {resamples: 200, target_budget: 1.0e13}
";

/// Losses near those of a byte-level model; its optimum is inside the grid of [`MINI`].
pub(super) const BYTES: Surface = Surface { e: 0.9, a: 60.0, b: 70.0, alpha: 0.45, beta: 0.35 };

pub(super) fn study(spec: IsoflopSpec) -> IsoflopStudy {
    let text = BlobRef { blob: BlobId::from_hash(blake3::hash(b"text")), bytes: 20_000_000 };
    let inputs = Inputs { data: Some(text), ..Inputs::default() };
    let data = spec.data.spec(&inputs, spec.grid.sequence).unwrap();
    IsoflopStudy::new(spec, settings(), data)
}

pub(super) fn settings() -> TrialSettings {
    TrialSettings {
        resources: Resources::default(),
        retries: Retries::default(),
        time_limit_ms: None,
        checkpoint_every_ms: Some(1_000),
        hang: None,
        placement: proto::Placement::default(),
    }
}

/// The history of an experiment.
#[derive(Clone)]
pub(super) struct Lab {
    pub(super) study: std::sync::Arc<IsoflopStudy>,
    pub(super) trials: Vec<(TrialId, TrialSpec, Option<Outcome>)>,
}

impl Lab {
    pub(super) fn new(lines: &str) -> Self {
        let study = std::sync::Arc::new(study(recipe(lines).unwrap()));
        Self { study, trials: Vec::new() }
    }

    pub(super) fn views(&self) -> Vec<TrialView<'_>> {
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

    pub(super) fn next(&self) -> Next {
        self.study.next(&self.views())
    }

    /// Adds what the study plans, and returns the planned widths by budget.
    #[track_caller]
    pub(super) fn plan(&mut self) -> Vec<(f64, u32)> {
        let Next::Plan { trials, reason } = self.next() else {
            panic!("the study plans nothing");
        };
        assert!(!trials.is_empty() && !reason.is_empty());
        let first = self.trials.len();
        for spec in trials {
            let id = spec.id();
            assert!(self.trials.iter().all(|(known, _, _)| *known != id), "planned twice");
            self.trials.push((id, spec, None));
        }
        let views = self.views();
        let planned = Training::read_all(&self.study.spec, &views[first..]);
        planned.iter().map(|training| (training.budget, training.width)).collect()
    }

    /// Ends every open trial that `chosen` accepts with the loss that `loss` gives, or diverged.
    pub(super) fn finish(
        &mut self,
        chosen: impl Fn(f64, u32) -> bool,
        loss: impl Fn(f64, &Point) -> Option<f64>,
    ) {
        let spec = self.study.spec.clone();
        for (id, trial, outcome) in &mut self.trials {
            let view = TrialView {
                id,
                spec: trial,
                attempts: 1,
                outcome: outcome.as_ref(),
                measured: &[],
            };
            let trainings = Training::read_all(&spec, &[view]);
            let training = trainings[0];
            if outcome.is_some() || !chosen(training.budget, training.width) {
                continue;
            }
            let point = Point {
                parameters: training.parameters,
                tokens: training.tokens,
                loss: 1.0,
                budget: None,
            };
            *outcome = Some(match loss(training.budget, &point) {
                Some(loss) => completed(loss),
                None => Outcome::Diverged { metric: "loss".into(), step: 7 },
            });
        }
    }

    /// Ends every open trial on the surface.
    pub(super) fn finish_on(&mut self, surface: &Surface) {
        self.finish(|_, _| true, |_, point| Some(surface.loss(point.parameters, point.tokens)));
    }
}

pub(super) fn completed(loss: f64) -> Outcome {
    Outcome::Completed {
        metrics: BTreeMap::from([
            (LOSS.to_owned(), loss),
            (BITS.to_owned(), loss / std::f64::consts::LN_2),
        ]),
        checkpoint: None,
    }
}

pub(super) fn failed() -> Outcome {
    Outcome::failed(FailureClass::Trial, "the program failed")
}
