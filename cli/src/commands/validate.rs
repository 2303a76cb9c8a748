//! `brine validate`.

use crate::error::{CliError, Kind};
use crate::inputs::{parse, read_recipe};
use crate::number;
use crate::output::{OutputMode, Printer};
use std::path::PathBuf;

/// Check recipes without running anything
///
/// Every recipe is checked, also after a wrong one. The files that a recipe names are not read.
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
        let checked = read_recipe(path).and_then(|text| parse(path, &text));
        match (&checked, printer.mode()) {
            (Ok(recipe), OutputMode::Human | OutputMode::Quiet) => {
                let study = recipe.study.word();
                printer.data(&format!("{}: valid ({study} {})", path.display(), recipe.name))?;
            }
            (Ok(recipe), OutputMode::Json) => results.push(serde_json::json!({
                "recipe": path, "valid": true, "name": recipe.name, "study": recipe.study.word(),
            })),
            (Err(error), mode) => {
                wrong += 1;
                printer.error(error);
                if mode == OutputMode::Json {
                    results.push(serde_json::json!({
                        "recipe": path, "valid": false, "error": error.to_string(),
                    }));
                }
            }
        }
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
