//! `brine fit`.

use crate::commands::plan::positive;
use crate::error::CliError;
use crate::inputs::read_text;
use crate::number;
use crate::output::{OutputMode, Printer};
use crate::table::{Align, Table};
use std::path::PathBuf;
use studies::fit::table::{DataColumn, Filter, TABLE_BYTES_MAX, TableFit, TableOptions, fit_table};
use studies::fit::{Estimate, Objective, Options, Prediction, RESAMPLES_MAX};

/// Fit scaling laws to a table of trained models
///
/// Fits L = E + A/N^alpha + B/D^beta (parametric) and, with --budget, Approach 2: a parabola per
/// budget and lines through their minima. Intervals are 95 % bootstrap intervals over the rows.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// CSV file whose first line names the columns
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Column of the number of parameters N
    #[arg(long, value_name = "COLUMN", default_value = "params")]
    params: String,

    /// Column of the training FLOPs C; then D = C / (6 N)
    #[arg(
        long,
        value_name = "COLUMN",
        required_unless_present = "tokens",
        conflicts_with = "tokens"
    )]
    flops: Option<String>,

    /// Column of the training tokens D
    #[arg(long, value_name = "COLUMN")]
    tokens: Option<String>,

    /// Column of the loss L
    #[arg(long, value_name = "COLUMN", default_value = "loss")]
    loss: String,

    /// Column of the nominal compute budget, which Approach 2 needs
    #[arg(long, value_name = "COLUMN")]
    budget: Option<String>,

    /// Use only rows where COLUMN has VALUE; may be repeated
    #[arg(long = "where", value_name = "COLUMN=VALUE")]
    filters: Vec<Filter>,

    /// Leave out the K rows of highest loss
    #[arg(long, value_name = "K", default_value_t = 0)]
    drop_highest: usize,

    /// What the parametric fit minimises, on the residuals of ln L
    #[arg(long, value_enum, default_value_t = ObjectiveName::Huber)]
    objective: ObjectiveName,

    /// Resamples behind the intervals; 0 for none
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(..=i64::from(RESAMPLES_MAX)))]
    bootstrap: u32,

    /// Seed of the resamples
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,

    /// Predict N* and D* at this budget, in FLOPs
    #[arg(long, value_name = "FLOPS", value_parser = positive)]
    target_budget: Option<f64>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ObjectiveName {
    /// Sum of Huber losses with delta 1e-3.
    Huber,
    /// Sum of squares.
    Mse,
}

pub(crate) fn run(args: &Args, printer: &Printer) -> Result<(), CliError> {
    let text = read_text(&args.file, "table", TABLE_BYTES_MAX as u64)?;
    let data = match (&args.flops, &args.tokens) {
        (Some(flops), _) => DataColumn::Flops(flops.clone()),
        (None, Some(tokens)) => DataColumn::Tokens(tokens.clone()),
        (None, None) => return Err(CliError::usage("give --flops COLUMN or --tokens COLUMN")),
    };
    let table = TableOptions {
        parameters: args.params.clone(),
        data,
        loss: args.loss.clone(),
        budget: args.budget.clone(),
        filters: args.filters.clone(),
        drop_highest: args.drop_highest,
    };
    let options = Options {
        objective: match args.objective {
            ObjectiveName::Huber => Objective::HUBER,
            ObjectiveName::Mse => Objective::Mse,
        },
        resamples: args.bootstrap,
        seed: args.seed,
        target_budget: args.target_budget,
        ..Options::default()
    };
    let spinner = printer.screen().spinner("fitting");
    let fit = fit_table(&text, &table, &options).map_err(|error| {
        CliError::user(format!("cannot fit {}", args.file.display())).because(error)
    })?;
    drop(spinner);
    match printer.mode() {
        OutputMode::Json => printer.json(&fit)?,
        OutputMode::Human | OutputMode::Quiet => print(&fit, printer)?,
    }
    if fit.analysis.approach2.is_none() && fit.analysis.parametric.is_none() {
        return Err(CliError::user("neither fit is possible; the notes say why"));
    }
    Ok(())
}

fn print(fit: &TableFit, printer: &Printer) -> Result<(), CliError> {
    let analysis = &fit.analysis;
    printer.data(&format!(
        "{} of {} used; {}",
        analysis.n,
        number::plural(fit.rows_read, "row"),
        fit.conventions.join("; ")
    ))?;
    if let Some(parametric) = &analysis.parametric {
        printer.data(&format!(
            "\nparametric fit L = E + A/N^alpha + B/D^beta, objective {:.6e}",
            parametric.objective
        ))?;
        let mut table = estimates_table();
        for (name, estimate) in [
            ("E", Some(parametric.e)),
            ("A", Some(parametric.scale_a)),
            ("B", Some(parametric.scale_b)),
            ("alpha", Some(parametric.alpha)),
            ("beta", Some(parametric.beta)),
            ("a (N* ~ C^a)", parametric.a),
            ("b (D* ~ C^b)", parametric.b),
        ] {
            if let Some(estimate) = estimate {
                table.row([name.to_owned(), text(estimate)]);
            }
        }
        add_prediction(&mut table, parametric.prediction);
        printer.data(&table.render())?;
    }
    if let Some(approach2) = &analysis.approach2 {
        printer.data(&format!(
            "\nApproach 2, lines through the minima of {}",
            number::plural(approach2.budgets_used, "budget")
        ))?;
        let mut table = estimates_table();
        table.row(["a (N* ~ C^a)".to_owned(), text(approach2.a)]);
        table.row(["b (D* ~ C^b)".to_owned(), text(approach2.b)]);
        add_prediction(&mut table, approach2.prediction);
        printer.data(&table.render())?;
    }
    for note in &analysis.notes {
        printer.data(&format!("note: {note}"))?;
    }
    Ok(())
}

fn estimates_table() -> Table {
    Table::new(&[("", Align::Left), ("estimate [95 % interval]", Align::Left)])
}

fn add_prediction(table: &mut Table, prediction: Option<Prediction>) {
    if let Some(prediction) = prediction {
        let flops = number::scientific(prediction.flops);
        table.row([format!("N* at {flops} FLOPs (parameters)"), text(prediction.parameters)]);
        table.row([format!("D* at {flops} FLOPs (tokens)"), text(prediction.tokens)]);
    }
}

fn text(estimate: Estimate) -> String {
    match estimate.ci95 {
        Some([low, high]) => number::interval(estimate.value, low, high),
        None => number::short(estimate.value),
    }
}
