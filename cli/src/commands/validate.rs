//! `brine validate`.

use crate::error::{CliError, Kind};
use crate::inputs::{read_recipe, refused};
use crate::number;
use crate::output::{OutputMode, Printer};
use serde_json::{Value, json};
use std::path::PathBuf;
use studies::recipe::{Recipe, RecipeError};

/// Check recipes without running anything
///
/// Every recipe is checked, also after a wrong one, and all of its mistakes are told at once. The
/// files that a recipe names are not read.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Recipes to check
    #[arg(required = true, value_name = "RECIPE")]
    recipes: Vec<PathBuf>,
}

pub(crate) fn run(args: &Args, printer: &Printer) -> Result<(), CliError> {
    let mut results = Vec::new();
    let mut wrong = 0;
    for path in &args.recipes {
        let (error, mistakes) = match read_recipe(path).map(|text| Recipe::parse(&text)) {
            Ok(Ok(recipe)) => {
                let (name, study) = (&recipe.name, recipe.study.word());
                match printer.mode() {
                    OutputMode::Human | OutputMode::Quiet => {
                        printer.data(&format!("{}: valid ({study} {name})", path.display()))?;
                    }
                    OutputMode::Json => results.push(json!({
                        "recipe": path, "valid": true, "name": name, "study": study,
                    })),
                }
                continue;
            }
            Ok(Err(mistakes)) => (refused(path, &mistakes), mistakes.iter().map(fields).collect()),
            Err(error) => (error, Vec::new()),
        };
        wrong += 1;
        printer.error(&error);
        results.push(json!({
            "recipe": path, "valid": false, "error": error.to_string(), "mistakes": mistakes,
        }));
    }
    if printer.mode() == OutputMode::Json {
        printer.json(&results)?;
    }
    match (wrong, args.recipes.len()) {
        (0, _) => Ok(()),
        // Its error was the only one and says it all.
        (1, 1) => Err(CliError::said(Kind::User)),
        (wrong, all) => {
            Err(CliError::user(format!("{wrong} of {} are wrong", number::plural(all, "recipe"))))
        }
    }
}

fn fields(mistake: &RecipeError) -> Value {
    let place = mistake.place;
    json!({
        "path": mistake.path.to_string(),
        "line": place.map(|place| place.line),
        "column": place.map(|place| place.column),
        "message": mistake.message,
        "hint": mistake.hint,
    })
}
