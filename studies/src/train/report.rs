//! What the trainings found.

use super::planner::RATE;
use super::spec::TrainStudySpec;
use crate::interval::mean_ci95;
use crate::report::{Cell, Column, CourseWanted, Passed, Report, Section, Table};
use crate::study::TrialView;
use proto::{Budget, Outcome, Runner};
use serde_json::json;

/// Held-out loss in nats per token.
const LOSS: &str = "validation_loss";
/// Time in updates until the held-out loss was at the target.
const TO_TARGET: &str = "seconds_to_target";
/// The final metrics of a training that the table shows, with their units.
const METRICS: [(&str, &str, &str); 9] = [
    (LOSS, "held-out loss", "nats per token"),
    ("validation_bits_per_byte", "held-out loss", "bits per byte"),
    ("validation_loss_ema", "of the mean weights", "nats per token"),
    ("train_loss", "training loss", "nats per token"),
    ("steps", "steps", ""),
    ("training_seconds", "time", "s"),
    (TO_TARGET, "time to the target", "s"),
    ("tokens_per_second", "rate", "tokens/s"),
    ("peak_memory_bytes", "peak of main memory", "bytes"),
];

/// The trainings with one learning rate.
struct Group {
    rate: f64,
    losses: Vec<f64>,
}

impl Group {
    fn cell(&self) -> Cell {
        match mean_ci95(&self.losses) {
            None => Cell::missing("no loss yet"),
            Some((mean, None)) => Cell::Number(mean),
            Some((value, Some([low, high]))) => Cell::Interval { value, low, high },
        }
    }

    fn mean(&self) -> Option<f64> {
        mean_ci95(&self.losses).map(|(mean, _)| mean)
    }
}

pub(super) fn build(spec: &TrainStudySpec, trials: &[TrialView<'_>]) -> Report {
    let of_rate = |rate: &f64| Group {
        rate: *rate,
        losses: trials.iter().filter(|view| has_rate(view, *rate)).filter_map(loss).collect(),
    };
    let groups: Vec<Group> = spec.learning_rates.iter().map(of_rate).collect();
    let complete = groups.iter().filter(|group| group.losses.len() == spec.seeds.len());
    let best = complete.min_by(|a, b| {
        let [a, b] = [a, b].map(|group| group.mean().unwrap_or(f64::INFINITY));
        a.total_cmp(&b)
    });
    Report {
        title: "Training".to_owned(),
        summary: json!({
            "study": "train",
            "parameters": spec.model.parameters(),
            "steps": spec.steps(),
            "learning_rates": groups.iter().map(|group| json!({
                "learning_rate": group.rate,
                "validation_loss": group.mean(),
                "losses": group.losses,
            })).collect::<Vec<_>>(),
            "best": best.map(|group| group.rate),
        }),
        sections: vec![Section {
            heading: "Held-out loss".to_owned(),
            text: vec![lead(spec, best)],
            tables: vec![rates(spec, &groups), trainings(spec, trials)],
            ..Section::default()
        }],
        notes: notes(spec, trials),
        curve_parameter: (spec.learning_rates.len() > 1).then(|| RATE.to_owned()),
        courses: vec![
            CourseWanted::new("loss", "training loss (nats per token)", Passed::Tokens),
            CourseWanted::new(LOSS, "held-out loss (nats per token)", Passed::Steps),
        ],
    }
}

fn has_rate(view: &TrialView<'_>, rate: f64) -> bool {
    view.spec.parameters.get(RATE).and_then(proto::Value::as_f64) == Some(rate)
}

/// The final loss, when there is one.
fn loss(view: &TrialView<'_>) -> Option<f64> {
    let Some(Outcome::Completed { metrics, .. }) = view.outcome else { return None };
    metrics.get(LOSS).copied().filter(|loss| loss.is_finite())
}

fn lead(spec: &TrainStudySpec, best: Option<&Group>) -> String {
    let tokens = spec.tokens_per_step() * spec.steps();
    let budget = match spec.budget {
        None => String::new(),
        Some(Budget::WallMs(limit)) => {
            format!(", ended after {} s of updates", limit as f64 / 1e3)
        }
        Some(Budget::Flops(flops)) => format!(", ended after {flops:.3e} of them"),
    };
    let model = format!(
        "{} parameters, {} steps, {tokens} tokens, {:.3e} counted training FLOPs{budget}",
        spec.model.parameters(),
        spec.steps(),
        spec.model.training_flops(tokens)
    );
    match best {
        None => format!("No learning rate has a loss of every seed yet ({model})."),
        Some(group) => format!(
            "The learning rate {} ends with a held-out loss of {} nats per token ({model}).",
            group.rate,
            group.cell().to_text()
        ),
    }
}

fn rates(spec: &TrainStudySpec, groups: &[Group]) -> Table {
    let row = |group: &Group| {
        let seeds = format!("{} of {}", group.losses.len(), spec.seeds.len());
        vec![Cell::Number(group.rate), group.cell(), Cell::text(seeds)]
    };
    Table {
        name: "learning_rates".to_owned(),
        caption: "Held-out loss at the end: mean and 95 % interval over the seeds (Student's t) \
                  where there are several."
            .to_owned(),
        columns: vec![
            Column::number("learning rate", ""),
            Column::number("held-out loss", "nats per token"),
            Column::number("seeds", ""),
        ],
        rows: groups.iter().map(row).collect(),
    }
}

fn trainings(spec: &TrainStudySpec, trials: &[TrialView<'_>]) -> Table {
    let has_target = spec.validation.target.is_some();
    let metrics = || METRICS.into_iter().filter(|(name, ..)| has_target || *name != TO_TARGET);

    let row = |view: &TrialView<'_>| {
        let state = view.outcome.map_or("open", Outcome::word);
        let rate = match &view.spec.runner {
            Runner::Train(train) => Cell::Number(train.optimizer.learning_rate()),
            Runner::Grpo(_) | Runner::Command(_) | Runner::Noop => Cell::missing("not a training"),
        };
        // As text, because a seed beyond 2^53 is no exact number.
        let seed = Cell::text(view.spec.seed.to_string());
        let mut cells = vec![Cell::Trial(view.id.clone()), rate, seed];
        cells.extend(metrics().map(|(name, ..)| match view.outcome {
            Some(Outcome::Completed { metrics, .. }) => match metrics.get(name) {
                Some(value) => Cell::Number(*value),
                None => Cell::missing("not measured"),
            },
            Some(Outcome::Diverged { .. } | Outcome::Failed { .. }) | None => Cell::missing(state),
        }));
        cells.push(Cell::text(state));
        cells
    };
    let mut columns = vec![
        Column::text("trial"),
        Column::number("learning rate", ""),
        Column::number("seed", ""),
    ];
    columns.extend(metrics().map(|(_, name, unit)| Column::number(name, unit)));
    columns.push(Column::text("state"));
    Table {
        name: "trainings".to_owned(),
        caption: "Every training. Times are of its steps, without measurements and checkpoints."
            .to_owned(),
        columns,
        rows: trials.iter().map(row).collect(),
    }
}

fn notes(spec: &TrainStudySpec, trials: &[TrialView<'_>]) -> Vec<String> {
    let mut notes = Vec::new();
    let without = trials.iter().filter(|view| view.outcome.is_some() && loss(view).is_none());
    match without.count() {
        0 => {}
        count => notes.push(format!("Trainings that ended without a loss: {count}.")),
    }
    match trials.iter().filter(|view| view.outcome.is_none()).count() {
        0 => {}
        count => notes.push(format!("Trainings that are not at their end: {count}.")),
    }
    if let Some(target) = spec.validation.target {
        notes.push(format!(
            "The target is a held-out loss of {target} nats per token; its time is that of the \
             first measurement at or below it."
        ));
    }
    if let Some(Budget::WallMs(_)) = spec.budget {
        notes.push(
            "How many steps a budget of time allows depends on the machine: such losses compare \
             only between equal ones."
                .to_owned(),
        );
    }
    if spec.learning_rates.len() > 1 {
        notes.push(
            "The best learning rate is chosen by the loss that is shown for it, which is a little \
             optimistic."
                .to_owned(),
        );
    }
    notes
}
