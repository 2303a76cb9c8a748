//! `brine sim`: how a recipe would fare, or a world that is drawn from a seed.

use crate::error::CliError;
use crate::estimate::{CPU_SLOT_FLOPS_PER_SECOND, GPU_FLOPS_PER_SECOND};
use crate::inputs::RecipeFile;
use crate::number;
use crate::output::{OutputMode, Printer};
use serde::Serialize;
use simulation::forecast::{Cluster, forecast};
use simulation::{Failure, Finished, Pace, Settings, World};
use std::path::PathBuf;
use studies::recipe::{Bytes, Duration, Recipe, StudySpec};

/// Try a recipe on simulated machines, or the control plane on a seed's worth of faults
///
/// With a recipe: how long, what is used and what fails, with the production scheduler on machines
/// that fail at random. Without: one seed of the simulation test, replayed to the same trace.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Recipe file; without it a world of faults is drawn from the seed
    recipe: Option<PathBuf>,

    /// Seeds everything
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Without a recipe: this many seeds, from --seed on
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "recipe")]
    seeds: u64,

    /// Without a recipe: things that happen before the faults end
    #[arg(long, value_name = "N", default_value_t = 2_000, conflicts_with = "recipe")]
    steps: u64,

    /// Machines
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    agents: u32,

    /// GPUs of each machine
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=256))]
    gpus: u32,

    /// CPU slots of each machine
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4_096))]
    cpus: u32,

    /// Memory of each GPU, for example 80GiB
    #[arg(long, value_name = "SIZE", default_value = "80GiB")]
    gpu_memory: Bytes,

    /// Main memory of each machine
    #[arg(long, value_name = "SIZE", default_value = "1024GiB")]
    memory: Bytes,

    /// Mean time between failures of one machine, for example 8h [default: none fails]
    #[arg(long, value_name = "TIME")]
    mtbf: Option<Duration>,

    /// Time of one trial that runs a program, whose cost nobody else can tell
    #[arg(long, value_name = "TIME", default_value = "10m")]
    program_time: Duration,

    /// How often such a program saves its state [default: never, so it starts over]
    #[arg(long, value_name = "TIME")]
    program_saves: Option<Duration>,

    /// Counted training FLOPs per second of one GPU [default: 1e14]
    #[arg(long, value_name = "FLOPS")]
    flops_per_second: Option<f64>,

    /// Price of one GPU hour
    #[arg(long, value_name = "USD")]
    price: Option<f64>,
}

pub(crate) fn run(args: &Args, printer: &Printer) -> Result<(), CliError> {
    match &args.recipe {
        Some(path) => {
            let file = RecipeFile::read(path)?;
            let gathered = file.gather(printer)?;
            let pace = Pace::Estimated {
                gpu_flops_per_s: args.flops_per_second.unwrap_or(GPU_FLOPS_PER_SECOND),
                cpu_flops_per_s: CPU_SLOT_FLOPS_PER_SECOND,
                program_ms: args.program_time.0,
                program_saves_ms: args.program_saves.map(|interval| interval.0),
            };
            let cluster = args.cluster();
            let _spinner = printer.screen().spinner("simulating");
            let finished = forecast(&file.text, &gathered.inputs, &cluster, pace, args.seed)
                .map_err(|failure| unfinished(&failure))?;
            Forecast::new(&finished, args, not_simulated(&file.recipe)).print(printer)?;
            stuck(&finished).map_or(Ok(()), Err)
        }
        None => replay(args, printer),
    }
}

/// What of a recipe the forecast leaves out, for people.
fn not_simulated(recipe: &Recipe) -> Vec<String> {
    let mut notes = Vec::new();
    if let StudySpec::Sweep(sweep) = &recipe.study
        && sweep.early_stopping.is_some()
    {
        notes.push(
            "early stopping is not simulated: nobody knows the metrics, so every trial runs to \
             its end"
                .to_owned(),
        );
    }
    if let Some(limit_ms) = recipe.trial_time_ms {
        let limit = number::duration_s(limit_ms as f64 / 1e3);
        notes.push(format!(
            "limits.trial_time is not simulated: attempts run to their end, however much longer \
             than {limit}"
        ));
    }
    notes
}

/// Why the forecast ended before all trials had.
fn stuck(finished: &Finished) -> Option<CliError> {
    (finished.open > 0).then(|| {
        let ended: u64 = finished.ended.values().sum();
        let all = ended + finished.open;
        let trials = number::plural(usize::try_from(all).unwrap_or(usize::MAX), "trial");
        let waits = match finished.waits.as_str() {
            "" => "nobody has room for one".to_owned(),
            waits => format!("the first waits for {waits}"),
        };
        let error = format!("{} of {trials} cannot run on these machines: {waits}", finished.open);
        CliError::user(error).hint(ENLARGE)
    })
}

/// What to do when machines do not suffice.
const ENLARGE: &str =
    "give the machines what the recipe asks for: --gpus, --cpus, --memory, --agents";

fn unfinished(failure: &Failure) -> CliError {
    CliError::user(format!("the recipe does not end on these machines: {}", failure.law))
        .hint(ENLARGE)
}

impl Args {
    fn cluster(&self) -> Cluster {
        Cluster {
            agents: self.agents,
            cpus: self.cpus,
            gpus: self.gpus,
            gpu_memory_bytes: self.gpu_memory.0,
            memory_bytes: self.memory.0,
            mtbf_ms: self.mtbf.map(|mtbf| mtbf.0),
        }
    }
}

/// What a simulated cluster made of a recipe.
#[derive(Debug, Serialize)]
struct Forecast {
    /// This is a forecast, not a measurement.
    simulated: bool,
    seed: u64,
    agents: u32,
    hours: f64,
    trials_by_end: std::collections::BTreeMap<&'static str, u64>,
    /// Trials that cannot run on these machines.
    trials_open: u64,
    attempts_started: u64,
    machine_failures: u64,
    gpu_hours: f64,
    cpu_hours: f64,
    /// Time of trials that was lost with machines.
    lost_hours: f64,
    /// GPU hours over all that the machines had until the end.
    gpu_utilization: Option<f64>,
    cost_usd: Option<f64>,
    /// What of the recipe was left out, for people.
    not_simulated: Vec<String>,
}

impl Forecast {
    fn new(finished: &Finished, args: &Args, not_simulated: Vec<String>) -> Self {
        let hours = |ms: u64| ms as f64 / 3.6e6;
        let all_gpus = f64::from(args.agents) * f64::from(args.gpus);
        let gpu_hours = hours(finished.work.gpu_ms);
        let used = gpu_hours / (all_gpus * hours(finished.time_ms));
        Self {
            simulated: true,
            seed: args.seed,
            agents: args.agents,
            hours: hours(finished.time_ms),
            trials_by_end: finished.ended.clone(),
            trials_open: finished.open,
            attempts_started: finished.work.started,
            machine_failures: finished.faults.values().sum(),
            gpu_hours,
            cpu_hours: hours(finished.work.cpu_ms),
            lost_hours: hours(finished.work.lost_ms),
            gpu_utilization: (all_gpus > 0.0).then_some(used),
            cost_usd: args.price.map(|price| price * all_gpus * hours(finished.time_ms)),
            not_simulated,
        }
    }

    fn print(&self, printer: &Printer) -> Result<(), CliError> {
        if printer.mode() == OutputMode::Json {
            return printer.json(self);
        }
        let line = |name: &str, value: String| printer.data(&format!("{name:<22}{value}"));
        let ended = self.trials_by_end.iter().map(|(word, count)| format!("{count} {word}"));
        let open = (self.trials_open > 0).then(|| format!("{} cannot run", self.trials_open));
        let ended: Vec<String> = ended.chain(open).collect();
        line("simulated time", number::duration_s(self.hours * 3_600.0))?;
        line("trials", ended.join(", "))?;
        line("attempts", self.attempts_started.to_string())?;
        line("machine failures", self.machine_failures.to_string())?;
        line("GPU hours", number::short(self.gpu_hours))?;
        line("CPU slot hours", number::short(self.cpu_hours))?;
        line("lost", number::duration_s(self.lost_hours * 3_600.0))?;
        if let Some(used) = self.gpu_utilization {
            line("GPUs in use", format!("{:.0} %", used * 100.0))?;
        }
        if let Some(cost) = self.cost_usd {
            line("cost of the machines", format!("{cost:.2} USD"))?;
        }
        for note in &self.not_simulated {
            printer.data(&format!("note: {note}"))?;
        }
        printer.hint("a simulation of one seed; other seeds show how much of it is luck");
        Ok(())
    }
}

/// Runs seeds of the simulation; the first broken law ends it with its log.
fn replay(args: &Args, printer: &Printer) -> Result<(), CliError> {
    for seed in args.seed..args.seed.saturating_add(args.seeds) {
        let settings = Settings { log: args.seeds == 1, ..Settings::draw(seed, args.steps) };
        match World::new(settings).run() {
            Ok(finished) => printer.data(&format!(
                "seed {seed}: {} steps, {} records, {} simulated, trace {}",
                finished.steps,
                finished.records,
                number::duration_s(finished.time_ms as f64 / 1e3),
                finished.trace
            ))?,
            Err(failure) => {
                failure.log.iter().try_for_each(|line| printer.data(line))?;
                return Err(CliError::internal(failure.to_string()));
            }
        }
    }
    Ok(())
}
