//! Writes the report of a made-up IsoFLOP sweep, for those who change how reports look:
//!
//! ```text
//! cargo run --release -p brine-studies --example report_sample -- sample.html sample.svg
//! ```
//!
//! The losses come from a known surface with a little noise; nothing is trained.

use proto::{
    AgentId, Attempt, BlobId, Checkpoint, CheckpointFile, ExperimentId, ExperimentState, TrialId,
    Value,
};
use std::collections::BTreeMap;
use std::error::Error;
use studies::report::{
    Alignment, Axis, Band, Cell, Chart, Column, Curve, Figure, LearningCurves, Numbers, Palette,
    Point, Provenance, Report, Section, Series, Style, Table, TrialRow, html, svg,
};

const BUDGETS: [f64; 4] = [3e10, 1e11, 3e11, 1e12];
const CELLS: usize = 7;

fn main() -> Result<(), Box<dyn Error>> {
    let mut paths = std::env::args().skip(1);
    let (Some(page), Some(picture)) = (paths.next(), paths.next()) else {
        return Err("usage: report_sample PAGE.html PICTURE.svg".into());
    };
    let cells = cells();
    let report = report(&cells);
    std::fs::write(page, html(&report, &provenance(&cells)?))?;
    std::fs::write(picture, svg(&report.sections[0].figures[0].chart))?;
    Ok(())
}

/// One trial of the sweep.
struct Sample {
    id: TrialId,
    budget: usize,
    parameters: f64,
    loss: f64,
    diverged: bool,
}

impl Sample {
    fn tokens(&self) -> f64 {
        BUDGETS[self.budget] / (6.0 * self.parameters)
    }
}

/// L = E + A / N^alpha + B / D^beta with numbers that suit models of this size.
fn surface(parameters: f64, tokens: f64) -> f64 {
    1.4 + 60.0 / parameters.powf(0.42) + 180.0 / tokens.powf(0.40)
}

fn loss_at(budget: f64, parameters: f64) -> f64 {
    surface(parameters, budget / (6.0 * parameters))
}

fn optimum(budget: f64) -> f64 {
    let grid = (0..4_000).map(|step| 1e3 * 10f64.powf(f64::from(step) / 1_000.0));
    grid.min_by(|a, b| loss_at(budget, *a).total_cmp(&loss_at(budget, *b))).unwrap_or(1e5)
}

/// Noise in [-1, 1] that is the same every time.
fn noise(index: usize) -> f64 {
    let hash = blake3::hash(&index.to_le_bytes());
    f64::from(hash.as_bytes()[0]) / 127.5 - 1.0
}

fn cells() -> Vec<Sample> {
    let all = (0..BUDGETS.len()).flat_map(|budget| (0..CELLS).map(move |cell| (budget, cell)));
    all.map(|(budget, cell)| {
        let index = budget * CELLS + cell;
        let parameters = optimum(BUDGETS[budget]) * 1.7f64.powi(cell as i32 - 3);
        let tokens = BUDGETS[budget] / (6.0 * parameters);
        let diverged = index == 27;
        let loss = surface(parameters, tokens) + 0.008 * noise(index);
        Sample {
            id: TrialId::from_hash(blake3::hash(&[index as u8])),
            budget,
            parameters,
            loss: if diverged { f64::NAN } else { loss },
            diverged,
        }
    })
    .collect()
}

fn report(cells: &[Sample]) -> Report {
    Report {
        title: "IsoFLOP sweep: isoflop-mini".into(),
        summary: serde_json::json!({"approach2": {"a": {"value": 0.487}}}),
        sections: vec![
            Section {
                heading: "Loss at equal compute".into(),
                text: vec![
                    "At every budget one model size is best: smaller models cannot use the \
                     tokens, larger ones see too few of them. The diamonds are the minima of a \
                     quadratic in log N."
                        .into(),
                ],
                figures: vec![curves_figure(cells)],
                tables: vec![minima_table()],
            },
            Section {
                heading: "Compute-optimal allocation".into(),
                text: vec!["N* grows as C to the power 0.487, D* as C to the power 0.513.".into()],
                figures: vec![
                    optimum_figure("n_star", "N* (parameters)", 0.487, 28_500.0),
                    optimum_figure("d_star", "D* (tokens)", 0.513, 585_000.0),
                ],
                tables: vec![fits_table()],
            },
            Section {
                heading: "Residuals of the parametric fit".into(),
                figures: vec![residual_figure(cells)],
                ..Section::default()
            },
        ],
        notes: vec![
            "FLOPs are counted training FLOPs (forward times three); N counts all parameters, \
             embeddings included."
                .into(),
            "One trial diverged and is left out of both fits.".into(),
            "The minimum of budget 1e12 lies near the edge of its grid.".into(),
        ],
        curve_parameter: Some("flop_budget".into()),
        courses: Vec::new(),
    }
}

fn curves_figure(cells: &[Sample]) -> Figure {
    let mut series = Vec::new();
    for (group, budget) in BUDGETS.iter().enumerate() {
        let centre = optimum(*budget);
        let fit = |x: f64| loss_at(*budget, x);
        let mine = cells.iter().filter(|cell| cell.budget == group);
        series.push(Series {
            label: format!("{budget:e}"),
            group,
            line: (-35..=35)
                .map(|step| centre * 1.7f64.powf(f64::from(step) / 10.0))
                .map(|x| [x, fit(x)])
                .collect(),
            points: mine
                .map(|cell| Point {
                    x: cell.parameters,
                    y: cell.loss,
                    trial: Some(cell.id.clone()),
                    excluded: group == 0 && cell.parameters > 5e4,
                    ..Point::default()
                })
                .collect(),
            ..Series::default()
        });
        series.push(Series {
            label: if group == 3 { "minimum, 95 % interval" } else { "" }.into(),
            group,
            style: Style::Minimum,
            points: vec![Point {
                x: centre,
                y: fit(centre),
                x_interval: Some([centre * 0.86, centre * 1.17]),
                label: "minimum of the quadratic".into(),
                ..Point::default()
            }],
            ..Series::default()
        });
    }
    Figure {
        name: "isoflop_curves".into(),
        caption: "Held-out loss against model size at four budgets of counted training FLOPs. \
                  Lines are quadratics in log N; hollow points are left out of them."
            .into(),
        chart: Chart {
            title: "IsoFLOP curves".into(),
            x: Axis::log("N (parameters)").numbers(Numbers::Count),
            y: Axis::linear("validation loss (nats per token)"),
            series,
            palette: Palette::Sequential,
            legend_title: "Budget (FLOPs)".into(),
            reference_y: None,
        },
    }
}

fn optimum_figure(name: &str, label: &str, exponent: f64, at_1e11: f64) -> Figure {
    let law = |budget: f64| at_1e11 * (budget / 1e11).powf(exponent);
    let wide = |budget: f64| 1.0 + 0.12 * (1.0 + (budget / 1e11).log10().abs());
    let grid = |from: i32, to: i32| (from..=to).map(|step| 10f64.powf(f64::from(step) / 10.0));
    let minima = BUDGETS.iter().enumerate().map(|(index, budget)| Point {
        x: *budget,
        y: law(*budget) * (1.0 + 0.08 * noise(index)),
        y_interval: Some([law(*budget) * 0.85, law(*budget) * 1.18]),
        ..Point::default()
    });
    Figure {
        name: name.into(),
        caption: format!(
            "{label} against compute with 95 % bootstrap intervals; dashed: prediction."
        ),
        chart: Chart {
            title: format!("{label} against compute"),
            x: Axis::log("C (counted training FLOPs)"),
            y: Axis::log(label).numbers(Numbers::Count),
            series: vec![
                Series {
                    label: "Approach 2".into(),
                    style: Style::Minimum,
                    points: minima.collect(),
                    line: grid(104, 120).map(|x| [x, law(x)]).collect(),
                    band: grid(104, 130)
                        .map(|x| Band { x, low: law(x) / wide(x), high: law(x) * wide(x) })
                        .collect(),
                    ..Series::default()
                },
                Series {
                    label: "prediction".into(),
                    style: Style::Dashed,
                    line: grid(120, 130).map(|x| [x, law(x)]).collect(),
                    ..Series::default()
                },
                Series {
                    label: "parametric fit".into(),
                    group: 1,
                    style: Style::Line,
                    line: grid(104, 130).map(|x| [x, law(x) * (x / 1e11).powf(0.02)]).collect(),
                    ..Series::default()
                },
            ],
            ..Chart::default()
        },
    }
}

fn residual_figure(cells: &[Sample]) -> Figure {
    let series = BUDGETS.iter().enumerate().map(|(group, budget)| Series {
        label: format!("{budget:e}"),
        group,
        points: cells
            .iter()
            .filter(|cell| cell.budget == group)
            .map(|cell| Point {
                x: cell.parameters,
                y: cell.loss - surface(cell.parameters, cell.tokens()),
                trial: Some(cell.id.clone()),
                ..Point::default()
            })
            .collect(),
        ..Series::default()
    });
    Figure {
        name: "residuals".into(),
        caption: "Measured minus fitted loss. A trend would mean that the surface does not fit."
            .into(),
        chart: Chart {
            title: "Residuals".into(),
            x: Axis::log("N (parameters)").numbers(Numbers::Count),
            y: Axis::linear("residual (nats per token)"),
            series: series.collect(),
            palette: Palette::Sequential,
            legend_title: "Budget (FLOPs)".into(),
            reference_y: Some(0.0),
        },
    }
}

fn minima_table() -> Table {
    let row = |budget: &f64| {
        let best = optimum(*budget);
        let tokens = budget / (6.0 * best);
        let interval = |value: f64| Cell::Interval { value, low: value * 0.86, high: value * 1.17 };
        let bracketed = if *budget > 5e11 { "no, near the edge" } else { "yes" };
        vec![
            Cell::Number(*budget),
            Cell::Number(CELLS as f64),
            interval(best),
            interval(tokens),
            Cell::Number(surface(best, tokens)),
            Cell::text(bracketed),
        ]
    };
    Table {
        name: "minima".into(),
        caption: "Minimum of each budget, with 95 % bootstrap intervals.".into(),
        columns: vec![
            Column::number("C", "FLOPs"),
            Column::number("cells", ""),
            Column::number("N*", "parameters"),
            Column::number("D*", "tokens"),
            Column::number("loss", "nats per token"),
            Column { name: "bracketed".into(), unit: String::new(), alignment: Alignment::Left },
        ],
        rows: BUDGETS.iter().map(row).collect(),
    }
}

fn fits_table() -> Table {
    let interval =
        |value: f64, wide: f64| Cell::Interval { value, low: value - wide, high: value + wide };
    Table {
        name: "fits".into(),
        caption: "Exponents of N* = k C^a and D* = k C^b.".into(),
        columns: vec![
            Column::text("fit"),
            Column::number("a", ""),
            Column::number("b", ""),
            Column::number("objective", ""),
        ],
        rows: vec![
            vec![
                Cell::text("Approach 2"),
                interval(0.487, 0.031),
                interval(0.513, 0.029),
                Cell::missing("not applicable"),
            ],
            vec![
                Cell::text("Parametric"),
                interval(0.4878, 0.021),
                interval(0.5122, 0.021),
                Cell::Number(1.018_274e-5),
            ],
        ],
    }
}

fn provenance(cells: &[Sample]) -> Result<Provenance, Box<dyn Error>> {
    let data = BlobId::from_hash(blake3::hash(b"text"));
    let row = |(index, cell): (usize, &Sample)| -> Result<TrialRow, Box<dyn Error>> {
        let metrics = [
            ("validation_loss", cell.loss),
            ("bits_per_byte", cell.loss / std::f64::consts::LN_2),
            ("tokens_per_second", 91_234.5),
        ];
        let agent = AgentId::new("local")?;
        Ok(TrialRow {
            id: cell.id.clone(),
            attempts: 1 + u32::from(index % 9 == 4),
            state: if cell.diverged { "diverged" } else { "completed" }.into(),
            parameters: BTreeMap::from([
                ("flop_budget".into(), Value::Number(BUDGETS[cell.budget])),
                ("width".into(), Value::Integer(16 * (1 + (index % CELLS) as i64))),
                ("layers".into(), Value::Integer(2)),
                ("learning_rate".into(), Value::Number(0.004_123_4)),
            ]),
            metrics: metrics
                .into_iter()
                .filter(|(_, value)| value.is_finite())
                .map(|(name, value)| (name.into(), value))
                .collect(),
            seed: 7 + index as u64,
            agent: Some(agent.clone()),
            checkpoint: Some(Checkpoint {
                step: 812,
                attempt: Attempt(1),
                agent,
                folder: ".brine/checkpoints".into(),
                files: vec![CheckpointFile {
                    name: "model.safetensors".into(),
                    hash: BlobId::from_hash(blake3::hash(&[index as u8, 1])),
                    bytes: 1_234_567,
                }],
            }),
            data_hash: Some(data.clone()),
            code_version: "brine 0.1.0 (1a2b3c4)".into(),
            message: cell.diverged.then(|| "validation_loss is not a number at step 96".into()),
        })
    };
    Ok(Provenance {
        experiment: ExperimentId::new("isoflop-mini-5c1e77a0")?,
        state: ExperimentState::Complete,
        interrupted: false,
        recipe: "apiVersion: brine.dev/v1\nkind: Experiment\nmetadata: {name: isoflop-mini}\n\
                 spec:\n  study:\n    isoflop:\n      flop_budgets: [3.0e10, 1.0e11, 3.0e11, 1.0e12]\n"
            .into(),
        code_version: "brine 0.1.0 (1a2b3c4)".into(),
        data_hash: Some(data.clone()),
        created_at: "2026-03-02 14:05 UTC".into(),
        facts: vec![("Coordinator".into(), "embedded, 127.0.0.1".into())],
        trials: cells.iter().enumerate().map(row).collect::<Result<_, _>>()?,
        curves: vec![LearningCurves {
            x: Axis::log("tokens").numbers(Numbers::Count),
            y: Axis::linear("training loss (nats per token)"),
            curves: cells.iter().map(learning_curve).collect(),
        }],
    })
}

fn learning_curve(cell: &Sample) -> Curve {
    let end = cell.tokens();
    let points = (4..=200u32).map(|step| {
        let tokens = end * f64::from(step) / 200.0;
        let lost = cell.diverged && step > 60;
        let loss = surface(cell.parameters, tokens) + 0.02 * noise(step as usize);
        [
            tokens,
            if lost {
                f64::NAN
            } else {
                5.55 * (loss / 5.55).powi(-6).mul_add(1.0, 1.0).powf(-1.0 / 6.0)
            },
        ]
    });
    Curve { trial: cell.id.clone(), points: points.collect() }
}
