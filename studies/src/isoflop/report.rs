//! The findings as a report: words and tables.

use super::closed_loop::{Closing, Decision};
use super::figures;
use super::findings::Findings;
use super::history::{BITS, BUDGET, State, Training};
use super::planner::IsoflopStudy;
use super::spec::IsoflopSpec;
use crate::fit::{Estimate, Method, Prediction, Resamples};
use crate::report::{Cell, Column, CourseWanted, Passed, Report, Section, Table};
use proto::{Outcome, Runner, TokenFormat};

/// Builds the report of the trials so far.
pub(super) fn build(study: &IsoflopStudy, trainings: &[Training<'_>]) -> Report {
    let spec = &study.spec;
    let findings = Findings::gather(study, trainings);
    let sections = vec![
        Section {
            heading: "Compute-optimal size and data".to_owned(),
            text: lead(spec, &findings, trainings.len()),
            figures: figures::of_findings(spec, &findings),
            tables: vec![fits(&findings)],
        },
        Section {
            heading: "Budgets".to_owned(),
            text: Vec::new(),
            figures: Vec::new(),
            tables: vec![budgets(spec, &findings, trainings)],
        },
        Section {
            heading: "Trainings".to_owned(),
            text: Vec::new(),
            figures: Vec::new(),
            tables: vec![trials(spec, trainings)],
        },
    ];
    Report {
        title: "IsoFLOP sweep".to_owned(),
        summary: findings.summary(spec),
        sections,
        notes: findings.notes,
        curve_parameter: Some(BUDGET.to_owned()),
        courses: vec![CourseWanted::new("loss", "training loss (nats per token)", Passed::Tokens)],
    }
}

fn lead(spec: &IsoflopSpec, findings: &Findings<'_>, planned: usize) -> Vec<String> {
    let mut text = vec![format!(
        "{} of {planned} planned trainings gave a loss, at {} budgets of {}. N is {}.",
        findings.measured.len(),
        spec.flop_budgets.len(),
        spec.flops,
        spec.params
    )];
    if let Some(fit) = &findings.analysis.approach2 {
        text.push(exponents(Method::Approach2, &fit.a, &fit.b));
    }
    if let Some(fit) = &findings.analysis.parametric
        && let (Some(a), Some(b)) = (&fit.a, &fit.b)
    {
        text.push(exponents(Method::Parametric, a, b));
    }
    text
}

fn exponents(method: Method, a: &Estimate, b: &Estimate) -> String {
    let shown = |estimate: &Estimate| match estimate.ci95 {
        Some([low, high]) => format!("{:.3} [{low:.3}, {high:.3}]", estimate.value),
        None => format!("{:.3}", estimate.value),
    };
    format!("{}: N* ~ C^{} and D* ~ C^{}.", method.name(), shown(a), shown(b))
}

pub(super) fn estimate_cell(estimate: &Estimate) -> Cell {
    match estimate.ci95 {
        Some([low, high]) => Cell::Interval { value: estimate.value, low, high },
        None => Cell::Number(estimate.value),
    }
}

fn fits(findings: &Findings<'_>) -> Table {
    let analysis = &findings.analysis;
    let line = analysis.approach2.as_ref();
    let surface = analysis.parametric.as_ref();
    let cell = |estimate: Option<&Estimate>, reason: &str| {
        estimate.map_or_else(|| Cell::missing(reason), estimate_cell)
    };
    let (no_line, no_surface) = ("see the notes", "see the notes");
    let mut rows = vec![
        vec![
            Cell::text("a (N* ~ C^a)"),
            cell(line.map(|fit| &fit.a), no_line),
            cell(surface.and_then(|fit| fit.a.as_ref()), no_surface),
        ],
        vec![
            Cell::text("b (D* ~ C^b)"),
            cell(line.map(|fit| &fit.b), no_line),
            cell(surface.and_then(|fit| fit.b.as_ref()), no_surface),
        ],
    ];
    if let Some(fit) = surface {
        let constants = [
            ("E", &fit.e),
            ("A", &fit.scale_a),
            ("B", &fit.scale_b),
            ("alpha", &fit.alpha),
            ("beta", &fit.beta),
        ];
        rows.extend(constants.map(|(name, estimate)| {
            vec![Cell::text(name), Cell::missing(""), estimate_cell(estimate)]
        }));
    }
    let predictions = [
        line.and_then(|fit| fit.prediction.as_ref()),
        surface.and_then(|fit| fit.prediction.as_ref()),
    ];
    if let Some(target) = predictions.iter().flatten().next() {
        let row = |name: &str, of: fn(&Prediction) -> &Estimate| {
            let cells = predictions.map(|prediction| cell(prediction.map(of), "no fit"));
            let mut row = vec![Cell::text(format!("{name} at C = {:.2e}", target.flops))];
            row.extend(cells);
            row
        };
        rows.push(row("N*", |prediction| &prediction.parameters));
        rows.push(row("D*", |prediction| &prediction.tokens));
    }
    Table {
        name: "fits".to_owned(),
        caption:
            "Both fits side by side, with 95 % bootstrap intervals. Approach 2 is biased when \
                  the loss surface is asymmetric or a grid is wide or off-centre."
                .to_owned(),
        columns: vec![
            Column::text("quantity"),
            Column::number("Approach 2", ""),
            Column::number("parametric", ""),
        ],
        rows,
    }
}

fn budgets(spec: &IsoflopSpec, findings: &Findings<'_>, trainings: &[Training<'_>]) -> Table {
    let row = |(flops, decision): &(f64, Decision)| {
        let planned = trainings.iter().filter(|training| training.budget == *flops).count();
        let fit = findings.budget(*flops);
        let minimum = fit.and_then(|fit| fit.minimum.as_ref());
        let missing = || Cell::missing(if fit.is_some() { "no minimum" } else { "no loss yet" });
        let estimate = |of: Option<&Estimate>| of.map_or_else(missing, estimate_cell);
        vec![
            Cell::Number(*flops),
            Cell::Number(planned as f64),
            Cell::Number(fit.map_or(0, |fit| fit.points) as f64),
            estimate(minimum.map(|minimum| &minimum.parameters)),
            estimate(minimum.map(|minimum| &minimum.tokens)),
            estimate(minimum.map(|minimum| &minimum.loss)),
            minimum.map_or_else(missing, |minimum| Cell::Number(minimum.off_centre)),
            minimum.map_or_else(missing, |minimum| usable(minimum.resamples)),
            fit.map_or_else(missing, |fit| Cell::text(fit.verdict.to_string())),
            Cell::text(state_of(decision)),
        ]
    };
    Table {
        name: "budgets".to_owned(),
        caption:
            "The minimum of each budget's parabola. Off-centre is the distance of N* from the \
                  middle of the grid in log N: 0 is the middle, 1 the large and -1 the small end. \
                  The intervals stand on the resamples whose minimum lies inside the grid."
                .to_owned(),
        columns: vec![
            Column::number("C", spec.flops.to_string()),
            Column::number("trials", ""),
            Column::number("with loss", ""),
            Column::number("N*", "parameters"),
            Column::number("D*", "tokens"),
            Column::number("L*", "nats per token"),
            Column::number("off-centre", ""),
            Column::text("usable resamples"),
            Column::text("Approach 2"),
            Column::text("closed loop"),
        ],
        rows: findings.decisions.iter().map(row).collect(),
    }
}

fn usable(resamples: Resamples) -> Cell {
    match resamples {
        Resamples { requested: 0, .. } => Cell::missing("none asked for"),
        Resamples { requested, usable } => Cell::text(format!("{usable} of {requested}")),
    }
}

fn state_of(decision: &Decision) -> String {
    match decision {
        Decision::Wait => "trials are open".to_owned(),
        Decision::Ask { width, why } => format!("asks for width {width}: {why}"),
        Decision::Close(closing @ (Closing::Sharp | Closing::Narrow(_) | Closing::Bracketed)) => {
            closing.to_string()
        }
        Decision::Close(closing) => format!("closed: {closing}"),
    }
}

fn trials(spec: &IsoflopSpec, trainings: &[Training<'_>]) -> Table {
    Table {
        name: "trainings".to_owned(),
        caption: "Every planned training. Those without a loss are not in the fits.".to_owned(),
        columns: vec![
            Column::text("trial"),
            Column::number("C", "FLOPs"),
            Column::number("N", "parameters"),
            Column::number("D", "tokens"),
            Column::number("width", ""),
            Column::number("layers", ""),
            Column::number("batch", "sequences"),
            Column::number("steps", ""),
            Column::number("learning rate", ""),
            Column::number("seed", ""),
            Column::number("loss", "nats per token"),
            Column::number("loss", "bits per byte"),
            Column::text("state"),
        ],
        rows: trainings.iter().map(|training| trial_row(spec, training)).collect(),
    }
}

fn trial_row(spec: &IsoflopSpec, training: &Training<'_>) -> Vec<Cell> {
    let shape: [Cell; 5] = match &training.view.spec.runner {
        Runner::Train(train) => [
            Cell::Number(f64::from(train.model.width)),
            Cell::Number(f64::from(train.model.layers)),
            Cell::Number(f64::from(train.batch)),
            Cell::Number(train.steps as f64),
            Cell::Number(train.optimizer.learning_rate()),
        ],
        Runner::Grpo(_) | Runner::Command(_) | Runner::Noop => {
            std::array::from_fn(|_| Cell::missing("not a training"))
        }
    };
    let (loss, bits) = match training.state {
        State::Measured(loss) => (Cell::Number(loss), bits_per_byte(spec, training, loss)),
        State::Open => (Cell::missing("not ended"), Cell::missing("not ended")),
        State::LeftOut => (Cell::missing("left out"), Cell::missing("left out")),
    };
    let mut row = vec![
        Cell::Trial(training.view.id.clone()),
        Cell::Number(training.budget),
        Cell::Number(training.parameters),
        Cell::Number(training.tokens),
    ];
    row.extend(shape);
    let state = training.left_out_reason().unwrap_or_else(|| match training.view.outcome {
        Some(outcome) => outcome.word().to_owned(),
        None => "open".to_owned(),
    });
    // As text, because a seed beyond 2^53 is no exact number.
    row.extend([Cell::text(training.view.spec.seed.to_string()), loss, bits, Cell::text(state)]);
    row
}

fn bits_per_byte(spec: &IsoflopSpec, training: &Training<'_>, loss: f64) -> Cell {
    let reported = match training.view.outcome {
        Some(Outcome::Completed { metrics, .. }) => metrics.get(BITS).copied(),
        Some(Outcome::Diverged { .. } | Outcome::Failed { .. }) | None => None,
    };
    match (reported, spec.data.format) {
        (Some(bits), _) => Cell::Number(bits),
        (None, TokenFormat::Bytes) => Cell::Number(loss / std::f64::consts::LN_2),
        (None, TokenFormat::U16 | TokenFormat::Shards | TokenFormat::Text | TokenFormat::Jsonl) => {
            Cell::missing("bytes per token unknown")
        }
    }
}
