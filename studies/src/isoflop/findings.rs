//! What the measured losses say: both fits and everything a reader must know beside them.

use super::closed_loop::{Closing, Decision};
use super::grid::FlopsConvention;
use super::history::{State, Training};
use super::planner::IsoflopStudy;
use super::spec::IsoflopSpec;
use crate::fit::approach2::PLACES_MIN;
use crate::fit::{Analysis, BudgetFit, Options, Point, analyse};
use crate::training::repeats;
use serde::Serialize;

/// Training FLOPs below which published studies have no budget.
const PUBLISHED_FLOPS_MIN: f64 = 1e18;
/// Most left-out trials that are named one by one.
const LEFT_OUT_NAMED_MAX: usize = 20;

/// The results so far.
#[derive(Debug)]
pub(super) struct Findings<'a> {
    pub(super) analysis: Analysis,
    /// Trainings with a loss, and what the fits saw of them.
    pub(super) measured: Vec<(Training<'a>, Point)>,
    /// What the closed loop says about each budget, smallest first.
    pub(super) decisions: Vec<(f64, Decision)>,
    pub(super) notes: Vec<String>,
}

/// What programs read.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    #[serde(flatten)]
    analysis: &'a Analysis,
    conventions: Conventions,
    scaled_down: bool,
    resamples: u32,
}

#[derive(Debug, Serialize)]
struct Conventions {
    flops: String,
    params: String,
    loss: &'static str,
}

impl<'a> Findings<'a> {
    pub(super) fn gather(study: &IsoflopStudy, trainings: &[Training<'a>]) -> Self {
        let spec = &study.spec;
        let with_point = |training: &Training<'a>| Some((*training, training.point()?));
        let measured: Vec<_> = trainings.iter().filter_map(with_point).collect();
        let points: Vec<Point> = measured.iter().map(|(_, point)| *point).collect();
        let options = Options {
            objective: spec.fit.objective,
            resamples: spec.fit.resamples,
            seed: spec.fit.seed,
            target_budget: spec.fit.target_budget,
            flops_per_product: flops_per_product(&measured),
        };
        let analysis = analyse(&points, &options);
        let mut decisions = study.decisions(trainings);
        decisions.reverse();
        let mut notes = scale_notes(spec);
        notes.extend(convention_notes(spec, &analysis));
        notes.extend(refused_widths(spec));
        notes.extend(trial_notes(trainings));
        notes.extend(text_notes(study, trainings));
        notes.extend(decisions.iter().filter_map(decision_note));
        notes.extend(analysis.notes.iter().cloned());
        Self { analysis, measured, decisions, notes }
    }

    /// What came of a budget, when it has a loss.
    pub(super) fn budget(&self, flops: f64) -> Option<&BudgetFit> {
        self.analysis.budgets.iter().find(|budget| budget.flops == flops)
    }

    pub(super) fn summary(&self, spec: &IsoflopSpec) -> serde_json::Value {
        let summary = Summary {
            analysis: &self.analysis,
            conventions: Conventions {
                flops: spec.flops.to_string(),
                params: spec.params.to_string(),
                loss: "held-out loss in nats per token",
            },
            scaled_down: is_scaled_down(spec),
            resamples: spec.fit.resamples,
        };
        serde_json::to_value(summary).expect("a summary has only text keys")
    }
}

/// k of `C = k N D`: the geometric mean over the trainings, as counted FLOPs are not 6 N D.
fn flops_per_product(measured: &[(Training<'_>, Point)]) -> f64 {
    let logs = measured
        .iter()
        .map(|(training, point)| (training.flops / (point.parameters * point.tokens)).ln());
    let count = measured.len();
    if count == 0 { 6.0 } else { (logs.sum::<f64>() / count as f64).exp() }
}

fn is_scaled_down(spec: &IsoflopSpec) -> bool {
    let training = match spec.flops {
        FlopsConvention::CountedTraining | FlopsConvention::SixNd => 1.0,
        FlopsConvention::CountedForward => 3.0,
    };
    spec.flop_budgets.iter().all(|budget| training * budget < PUBLISHED_FLOPS_MIN)
}

fn scale_notes(spec: &IsoflopSpec) -> Vec<String> {
    let largest = spec.flop_budgets.last().filter(|_| is_scaled_down(spec));
    let note = |budget| {
        format!(
            "this is a scaled-down run: its largest budget is {budget:.2e} {}, published studies \
             begin near {PUBLISHED_FLOPS_MIN:.0e}; its exponents describe models of this size and \
             do not carry over to large ones",
            spec.flops
        )
    };
    largest.map(note).into_iter().collect()
}

fn convention_notes(spec: &IsoflopSpec, analysis: &Analysis) -> Vec<String> {
    let mut notes = vec![format!(
        "conventions: C is {}; N is {}; D is training tokens seen; L is the held-out loss in nats \
         per token",
        spec.flops, spec.params
    )];
    if analysis.parametric.is_some() {
        notes.push(format!(
            "predictions of the parametric fit take C = {:.2} N D, the geometric mean over these \
             trainings (6 in Chinchilla's convention)",
            analysis.flops_per_product
        ));
    }
    notes
}

/// Widths of the recipe that give no cell, so that a smaller grid than was written is no surprise.
fn refused_widths(spec: &IsoflopSpec) -> Option<String> {
    let refused = |budget: &f64| {
        let widths = spec.widths_at(*budget).into_iter();
        let refused = widths.filter(|width| spec.cell(*budget, *width).is_err());
        let widths: Vec<String> = refused.map(|width| width.to_string()).collect();
        (!widths.is_empty()).then(|| format!("{} at {budget:.2e}", widths.join(", ")))
    };
    let refused: Vec<String> = spec.flop_budgets.iter().filter_map(refused).collect();
    let budgets = spec.flop_budgets.iter();
    let all: usize = budgets.clone().map(|budget| spec.widths_at(*budget).len()).sum();
    let valid: usize = budgets.map(|budget| spec.cells_at(*budget).len()).sum();
    (!refused.is_empty()).then(|| {
        format!(
            "{} of {all} cells of the grid are left out, widths without a valid cell (too few or \
             too many steps, or too small a batch): {}",
            all - valid,
            refused.join("; ")
        )
    })
}

fn trial_notes(trainings: &[Training<'_>]) -> Vec<String> {
    let mut notes = Vec::new();
    let open = trainings.iter().filter(|training| training.state == State::Open).count();
    if open > 0 {
        notes.push(format!(
            "unfinished: {open} of {} trials have not ended; the fits use those that have",
            trainings.len()
        ));
    }
    let left_out: Vec<String> = trainings
        .iter()
        .filter_map(|training| {
            let reason = training.left_out_reason()?;
            let (id, budget, width) = (training.view.id, training.budget, training.width);
            Some(format!("{id} (budget {budget:.2e}, width {width}) {reason}"))
        })
        .collect();
    for trial in left_out.iter().take(LEFT_OUT_NAMED_MAX) {
        notes.push(format!("left out of the fits: trial {trial}"));
    }
    if left_out.len() > LEFT_OUT_NAMED_MAX {
        let more = left_out.len() - LEFT_OUT_NAMED_MAX;
        notes.push(format!("left out of the fits: {more} more trials"));
    }
    notes
}

/// Says how often the text is repeated.
fn text_notes(study: &IsoflopStudy, trainings: &[Training<'_>]) -> Option<String> {
    let trained: Vec<f64> = trainings.iter().map(|training| training.tokens).collect();
    repeats::of_text(&study.data, &trained)
}

/// Budgets whose planned sizes are too few for a parabola.
fn few_sizes(spec: &IsoflopSpec) -> Option<String> {
    let few = |budget: &f64| {
        let sizes = spec.cells_at(*budget).len();
        (sizes < PLACES_MIN).then(|| format!("{budget:.2e} ({sizes})"))
    };
    let few: Vec<String> = spec.flop_budgets.iter().filter_map(few).collect();
    let more = match spec.closed_loop.extra_cells_max {
        0 => "the closed loop may add none".to_owned(),
        cells => format!("the closed loop may add up to {cells} to each"),
    };
    (!few.is_empty()).then(|| {
        format!(
            "a parabola needs {PLACES_MIN} model sizes, and the grid has fewer at the budgets {}; \
             {more}",
            few.join(", ")
        )
    })
}

/// What the plan already says of the results, before any training.
pub(super) fn warnings(study: &IsoflopStudy, trainings: &[Training<'_>]) -> Vec<String> {
    let spec = &study.spec;
    let notes = [refused_widths(spec), few_sizes(spec), text_notes(study, trainings)];
    notes.into_iter().flatten().collect()
}

fn decision_note((budget, decision): &(f64, Decision)) -> Option<String> {
    match decision {
        Decision::Wait | Decision::Close(Closing::Sharp | Closing::Bracketed) => None,
        Decision::Close(closing @ Closing::Narrow(_)) => {
            Some(format!("budget {budget:.2e}: {closing}"))
        }
        Decision::Ask { width, why } => {
            Some(format!("budget {budget:.2e}: width {width} is asked for, because {why}"))
        }
        Decision::Close(closing) => Some(format!("budget {budget:.2e} is closed: {closing}")),
    }
}
