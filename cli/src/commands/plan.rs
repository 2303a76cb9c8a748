//! `brine plan`.

use crate::error::CliError;
use crate::estimate::{Estimate, FORMULAS, estimate, gpu_room_bytes};
use crate::inputs::RecipeFile;
use crate::number;
use crate::output::{OutputMode, Printer};
use crate::table::{Align, Table};
use proto::{ExperimentId, TrialId, TrialSpec};
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::PathBuf;
use studies::study::{Next, Study, TrialView};

/// Trials that are estimated one by one; more than this are all alike.
const PLANNED_MAX: u64 = 100_000;
/// Trials that the table lists; `--output json` has them all.
const LISTED_MAX: usize = 500;

/// Show the trials of a recipe and what they will cost, before anything runs
///
/// Reads the recipe's files, because they decide which trials there are. A study may ask for more
/// trials when it has seen the first results; these are not in the plan.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The recipe
    #[arg(value_name = "RECIPE")]
    recipe: PathBuf,

    /// Rate at which one trial computes, in FLOP/s [default: 2.5e10 per CPU, 1e14 per GPU]
    #[arg(long, value_name = "RATE", value_parser = positive)]
    flops_per_second: Option<f64>,

    /// Trials that run at the same time, for the time in sum [default: as many as this machine's
    /// CPU slots allow]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    parallel: Option<u32>,
}

pub(crate) fn run(args: &Args, printer: &Printer) -> Result<(), CliError> {
    let file = RecipeFile::read(&args.recipe)?;
    let gathered = file.gather(printer)?;
    let refused = |error| {
        CliError::user(format!("{}: the recipe and its files do not fit", args.recipe.display()))
            .because(error)
    };
    let study = file.recipe.study(&gathered.inputs).map_err(refused)?;
    let (trials, reason) = match study.next(&[]) {
        Next::Plan { trials, reason } => (trials, reason),
        Next::PlanRange { count, reason } => {
            let listed = (0..count.min(PLANNED_MAX)).map_while(|index| study.trial(index));
            let trials = listed.collect();
            if count > PLANNED_MAX {
                printer.warning(&format!(
                    "the plan has {count} trials; the sums below are of the first {PLANNED_MAX}"
                ));
            }
            (trials, reason)
        }
        Next::Stop { .. } | Next::Wait | Next::Complete => {
            (Vec::new(), "the study asks for no trial".to_owned())
        }
    };
    let room = gpu_room_bytes(&file.recipe.resources);
    let notes = warnings(&*study, &trials);
    let plan = Plan::new(file.recipe.id(&gathered.inputs), reason, trials, notes, args);
    if let Some(words) = room.and_then(|room| plan.crowded(room)) {
        printer.warning(&words);
    }
    if printer.mode() == OutputMode::Json {
        return printer.json(&plan);
    }
    if let Some(words) = &gathered.data_words {
        printer.status(&format!("training text: {words}"));
    }
    plan.print(printer)
}

/// What the trials already say of their results.
fn warnings(study: &dyn Study, trials: &[TrialSpec]) -> Vec<String> {
    let ids: Vec<TrialId> = trials.iter().map(TrialSpec::id).collect();
    let views = ids.iter().zip(trials).map(|(id, spec)| TrialView {
        id,
        spec,
        attempts: 0,
        outcome: None,
        measured: &[],
    });
    study.warnings(&views.collect::<Vec<_>>())
}

#[derive(Debug, Serialize)]
struct Plan {
    experiment: ExperimentId,
    reason: String,
    trials: Vec<Planned>,
    total: Total,
    /// What the results will have to be read with.
    notes: Vec<String>,
    formulas: [&'static str; 3],
}

#[derive(Debug, Serialize)]
struct Planned {
    id: proto::TrialId,
    seed: u64,
    parameters: std::collections::BTreeMap<String, proto::Value>,
    #[serde(flatten)]
    estimate: Estimate,
}

/// Sums over the trials whose cost is known.
#[derive(Debug, Serialize)]
struct Total {
    trials: usize,
    flops: f64,
    /// Largest of any trial.
    memory_bytes: f64,
    /// Of all trials, one after the other.
    device_seconds: f64,
    /// With `parallel` trials at the same time, and no gap.
    seconds: f64,
    parallel: u32,
    /// Trials whose cost only their program knows.
    unknown: usize,
}

impl Plan {
    fn new(
        experiment: ExperimentId,
        reason: String,
        trials: Vec<TrialSpec>,
        notes: Vec<String>,
        args: &Args,
    ) -> Self {
        let cpus =
            |spec: &TrialSpec| spec.resources.cpus.saturating_mul(spec.placement.members.max(1));
        let cpus_of_each = trials.iter().map(cpus).max();
        let planned = trials.into_iter().map(|spec| Planned {
            id: spec.id(),
            seed: spec.seed,
            estimate: estimate(&spec, args.flops_per_second),
            parameters: spec.parameters,
        });
        let trials: Vec<Planned> = planned.collect();
        let parallel = args.parallel.unwrap_or_else(|| fits(cpus_of_each));
        let estimates = || trials.iter().map(|trial| &trial.estimate);
        let device_seconds = estimates().filter_map(|estimate| estimate.seconds).sum();
        // The longest trial is a floor, however many run beside it.
        let longest = estimates().filter_map(|estimate| estimate.seconds).fold(0.0, f64::max);
        let total = Total {
            trials: trials.len(),
            flops: estimates().filter_map(|estimate| estimate.flops).sum(),
            memory_bytes: estimates()
                .filter_map(|estimate| estimate.memory_bytes)
                .fold(0.0, f64::max),
            device_seconds,
            seconds: longest.max(device_seconds / f64::from(parallel)),
            parallel,
            unknown: estimates().filter(|estimate| estimate.seconds.is_none()).count(),
        };
        Self { experiment, reason, trials, total, notes, formulas: FORMULAS }
    }

    /// What to say when trials need more GPU memory than they can count on.
    fn crowded(&self, room: f64) -> Option<String> {
        let needs =
            |trial: &&Planned| trial.estimate.memory_bytes.is_some_and(|needs| needs > room);
        let count = self.trials.iter().filter(needs).count();
        (count > 0).then(|| {
            format!(
                "{} may need up to {} of GPU memory, but spec.resources gives each {}: ask for a \
                 larger gpu_memory or a larger share in gpus",
                number::plural(count, "trial"),
                number::bytes(self.total.memory_bytes as u64),
                number::bytes(room as u64)
            )
        })
    }

    fn print(&self, printer: &Printer) -> Result<(), CliError> {
        printer.data(&format!("experiment: {}", self.experiment))?;
        printer.data(&format!(
            "{}: {}",
            number::plural(self.trials.len(), "trial"),
            self.reason
        ))?;
        let names: BTreeSet<&String> = self
            .trials
            .iter()
            .flat_map(|trial| trial.parameters.keys().filter(|name| !trial.repeats(name)))
            .collect();
        printer.data(&self.table(&names).render())?;
        if self.trials.len() > LISTED_MAX {
            let more = self.trials.len() - LISTED_MAX;
            printer.data(&format!("and {more} more, which --output json lists"))?;
        }
        let total = &self.total;
        if total.unknown < total.trials {
            let times = match total.parallel {
                1 => number::duration_s(total.device_seconds),
                parallel => format!(
                    "{} with {parallel} trials at the same time, {} one after the other",
                    number::duration_s(total.seconds),
                    number::duration_s(total.device_seconds)
                ),
            };
            printer.data(&format!(
                "in sum: {} FLOPs, at most {} of memory per trial, {times}",
                number::scientific(total.flops),
                number::bytes(total.memory_bytes as u64),
            ))?;
            for formula in self.formulas {
                printer.status(formula);
            }
            if let Some(first) = self.trials.first() {
                printer.status(&format!(
                    "rate: {} FLOP/s per trial is assumed; give yours with --flops-per-second",
                    number::scientific(first.estimate.flops_per_second)
                ));
            }
        }
        if total.unknown > 0 {
            printer.data(&format!(
                "the cost of {} is known only to the program",
                number::plural(total.unknown, "trial")
            ))?;
        }
        for note in &self.notes {
            printer.data(&format!("note: {note}"))?;
        }
        Ok(())
    }

    fn table(&self, names: &BTreeSet<&String>) -> Table {
        let costs = self.total.unknown < self.total.trials;
        let first = self.trials.first().map(|trial| trial.seed);
        let seeds = self.trials.iter().any(|trial| Some(trial.seed) != first);
        let mut titles = vec![("trial", Align::Left)];
        if seeds {
            titles.push(("seed", Align::Right));
        }
        titles.extend(names.iter().map(|name| (name.as_str(), Align::Right)));
        if costs {
            titles.extend([
                ("N (parameters)", Align::Right),
                ("D (tokens)", Align::Right),
                ("steps", Align::Right),
                ("FLOPs", Align::Right),
                ("memory", Align::Right),
                ("time", Align::Right),
            ]);
        }
        let mut table = Table::new(&titles);
        for trial in self.trials.iter().take(LISTED_MAX) {
            let mut row = vec![trial.id.to_string()];
            if seeds {
                row.push(trial.seed.to_string());
            }
            row.extend(names.iter().map(|name| {
                let value = trial.parameters.get(*name);
                value.map_or_else(|| "-".to_owned(), number::parameter)
            }));
            if costs {
                row.extend(cost_cells(&trial.estimate));
            }
            table.row(row);
        }
        table
    }
}

impl Planned {
    /// Whether a parameter says again what a column of the cost says.
    fn repeats(&self, name: &str) -> bool {
        let same = |known: Option<u64>| {
            let value = self.parameters.get(name).and_then(proto::Value::as_f64);
            value.is_some() && known.map(|known| known as f64) == value
        };
        match name {
            "parameters" => same(self.estimate.parameters),
            "tokens" => same(self.estimate.tokens),
            "steps" => same(self.estimate.steps),
            _other => false,
        }
    }
}

fn cost_cells(estimate: &Estimate) -> [String; 6] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    [
        or_dash(estimate.parameters.map(|n| number::count(n as f64))),
        or_dash(estimate.tokens.map(|d| number::count(d as f64))),
        or_dash(estimate.steps.map(|steps| steps.to_string())),
        or_dash(estimate.flops.map(number::scientific)),
        or_dash(estimate.memory_bytes.map(|bytes| number::bytes(bytes as u64))),
        or_dash(estimate.seconds.map(number::duration_s)),
    ]
}

/// How many trials of `cpus_of_each` CPU slots this machine runs at the same time.
fn fits(cpus_of_each: Option<u32>) -> u32 {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
    (cpus / cpus_of_each.unwrap_or(1).max(1)).max(1)
}

/// A positive finite number.
pub(super) fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        Ok(_) | Err(_) => Err("expected a positive number".to_owned()),
    }
}
