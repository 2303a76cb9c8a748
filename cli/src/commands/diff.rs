//! `brine diff`.

use crate::diff::keys::{Change, changes};
use crate::diff::trials::{COMPARED_MAX, Comparison, LISTED_MAX, Matched, Plan, Side, compare};
use crate::error::CliError;
use crate::inputs::RecipeFile;
use crate::number;
use crate::output::{OutputMode, Printer};
use crate::snapshot::{Snapshot, parse_json};
use crate::stored::INTERRUPTED;
use crate::table::{Align, Table};
use crate::target::{Connection, Target};
use proto::{ExperimentId, Inputs, TrialId};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use studies::recipe::Recipe;

/// Compare two recipes: which trials the new one adds, keeps and drops, and why
///
/// Nothing is submitted. A study that asks for more trials when it has seen results is compared by
/// the trials that it asked for so far.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A recipe's file, or an experiment: its id or the start of it
    #[arg(value_name = "OLD")]
    old: String,

    /// The recipe's file that may be submitted next
    #[arg(value_name = "NEW")]
    new: PathBuf,

    #[command(flatten)]
    target: Target,
}

/// One of the two.
struct Compared {
    /// As the user named it.
    name: String,
    recipe: Recipe,
    inputs: Inputs,
    plan: Plan,
    /// Its trials that are over; known of experiments only.
    ended: BTreeSet<TrialId>,
    is_running: bool,
}

pub(crate) async fn run(args: Args, printer: &Printer) -> Result<(), CliError> {
    let old_path = Path::new(&args.old);
    let old = if old_path.is_file() {
        Compared::of_file(old_path, printer)?
    } else {
        Compared::of_experiment(&args, printer).await?
    };
    let new = Compared::of_file(&args.new, printer)?;
    let failed = |error| CliError::internal("cannot write a recipe as JSON").because(error);
    let changed =
        changes((&old.recipe, &old.inputs), (&new.recipe, &new.inputs)).map_err(failed)?;
    let larger = old.plan.count().max(new.plan.count());
    let bar = printer.screen().counted("comparing trials", larger);
    let comparison = compare(&old.plan, &new.plan, &old.ended, |more| bar.advance(more));
    drop(bar);
    let difference = Difference { old, new, changed, comparison };
    match printer.mode() {
        OutputMode::Json => printer.json(&difference.json()),
        OutputMode::Human | OutputMode::Quiet => difference.print(printer),
    }
}

impl Compared {
    fn of_file(path: &Path, printer: &Printer) -> Result<Self, CliError> {
        let file = RecipeFile::read(path)?;
        let inputs = file.gather(printer)?.inputs;
        let refused = |error| {
            CliError::user(format!("{}: the recipe and its files do not fit", path.display()))
                .because(error)
        };
        let study = file.recipe.study(&inputs).map_err(refused)?;
        Ok(Self {
            name: path.display().to_string(),
            plan: Plan::first(study),
            recipe: file.recipe,
            inputs,
            ended: BTreeSet::new(),
            is_running: false,
        })
    }

    async fn of_experiment(args: &Args, printer: &Printer) -> Result<Self, CliError> {
        let no_file = |error: CliError| {
            error.hint(format!("{} is no file either; OLD is a recipe or an experiment", args.old))
        };
        let mut connection = args.target.live_or_stored(printer).await.map_err(no_file)?;
        let read = read(&args.old, &mut connection).await;
        let closed = connection.close().await;
        let read = read?;
        closed.and(Ok(read))
    }

    fn experiment(&self) -> ExperimentId {
        self.recipe.id(&self.inputs)
    }
}

async fn read(wanted: &str, connection: &mut Connection) -> Result<Compared, CliError> {
    let id = connection.experiment(Some(wanted)).await?;
    let head = connection.client.head(&id).await?;
    let summary = head.summary.clone().unwrap_or_default();
    let unreadable = |error: Box<dyn std::error::Error + Send + Sync>| {
        CliError::user(format!("the recipe of {id} cannot be read any more")).because(error)
    };
    let recipe = Recipe::parse(&head.recipe).map_err(|error| unreadable(error.into()))?;
    let inputs: Inputs = parse_json("inputs", &head.inputs_json)?;
    let study = recipe.study(&inputs).map_err(|error| unreadable(error.into()))?;
    let mut plan = Plan::first(study);
    let mut ended = BTreeSet::new();
    if u64::from(summary.trials) <= COMPARED_MAX {
        let Snapshot { trials, .. } = connection.client.snapshot(&id).await?;
        let over = trials.iter().filter(|trial| trial.outcome.is_some());
        ended.extend(over.map(|trial| trial.id.clone()));
        plan.extend(trials.into_iter().map(|trial| trial.spec).collect());
    }
    let running = proto::ExperimentState::Running.word();
    let is_running = [running, INTERRUPTED].contains(&summary.state.as_str());
    Ok(Compared { name: id.to_string(), recipe, inputs, plan, ended, is_running })
}

struct Difference {
    old: Compared,
    new: Compared,
    changed: Vec<Change>,
    comparison: Comparison,
}

impl Difference {
    fn print(&self, printer: &Printer) -> Result<(), CliError> {
        for (word, side) in [("old", &self.old), ("new", &self.new)] {
            let (id, count) = (side.experiment(), side.plan.count());
            printer.data(&format!("{word}: {} ({id}, {count} trials)", side.name))?;
        }
        if self.changed.is_empty() {
            printer.data("no key and no file differs")?;
        } else {
            printer.data("\nwhat differs:")?;
        }
        for change in &self.changed {
            printer.data(&format!("  {}", change.line()))?;
        }
        match &self.comparison {
            Comparison::Matched(matched) => self.print_matched(matched, printer),
            Comparison::TooMany => {
                printer.data(&format!(
                    "\nboth have more than {COMPARED_MAX} trials, so trials were not compared one by one"
                ))?;
                printer.data(&self.advice())
            }
        }
    }

    fn print_matched(&self, matched: &Matched, printer: &Printer) -> Result<(), CliError> {
        let ended = match matched.kept_ended {
            0 => String::new(),
            ended => format!(" ({ended} of them ended already)"),
        };
        printer.data(&format!(
            "\ntrials: {} added, {} kept{ended}, {} dropped",
            matched.added.count, matched.kept, matched.dropped.count
        ))?;
        for (word, side) in [("added", &matched.added), ("dropped", &matched.dropped)] {
            if side.count > 0 {
                printer.data(&format!("\n{word}:\n{}", table(side).render()))?;
            }
            if side.count > LISTED_MAX as u64 {
                printer.data(&format!("and {} more", side.count - LISTED_MAX as u64))?;
            }
        }
        printer.data("")?;
        printer.data(&self.advice())?;
        if matched.dropped.count > 0 && self.old.is_running {
            let old = &self.old.name;
            printer.hint(&format!(
                "{old} goes on with the dropped trials; end it with: brine cancel {old}"
            ));
        }
        Ok(())
    }

    /// What submitting the new recipe would do.
    fn advice(&self) -> String {
        let new = &self.new.name;
        if self.old.experiment() == self.new.experiment() {
            return format!("`brine submit {new}` goes on with the same experiment");
        }
        let added = match &self.comparison {
            Comparison::Matched(matched) => {
                number::plural(usize::try_from(matched.added.count).unwrap_or(usize::MAX), "trial")
            }
            Comparison::TooMany => "trials".to_owned(),
        };
        format!(
            "`brine submit {new}` runs only the {added} added; kept trials are known by their content \
             and do not run again on the coordinator that has them"
        )
    }

    fn json(&self) -> serde_json::Value {
        let side = |side: &Compared| {
            serde_json::json!({
                "name": side.name, "experiment": side.experiment(), "trials": side.plan.count(),
            })
        };
        let trials = match &self.comparison {
            Comparison::TooMany => serde_json::Value::Null,
            Comparison::Matched(matched) => serde_json::json!({
                "added": side_json(&matched.added),
                "kept": { "count": matched.kept, "ended": matched.kept_ended },
                "dropped": side_json(&matched.dropped),
            }),
        };
        serde_json::json!({
            "old": side(&self.old),
            "new": side(&self.new),
            "changes": self.changed,
            "trials": trials,
        })
    }
}

/// The count is of all; the list is of the first.
fn side_json(side: &Side) -> serde_json::Value {
    let listed = side.listed.iter().map(|spec| {
        serde_json::json!({ "id": spec.id(), "parameters": spec.parameters, "seed": spec.seed })
    });
    serde_json::json!({ "count": side.count, "first": listed.collect::<Vec<_>>() })
}

fn table(side: &Side) -> Table {
    let names: BTreeSet<&String> =
        side.listed.iter().flat_map(|spec| spec.parameters.keys()).collect();
    let mut titles = vec![("trial", Align::Left), ("seed", Align::Right)];
    titles.extend(names.iter().map(|name| (name.as_str(), Align::Right)));
    let mut table = Table::new(&titles);
    for spec in &side.listed {
        let mut row = vec![spec.id().to_string(), spec.seed.to_string()];
        row.extend(names.iter().map(|name| {
            let value = spec.parameters.get(*name);
            value.map_or_else(|| "-".to_owned(), number::parameter)
        }));
        table.row(row);
    }
    table
}
