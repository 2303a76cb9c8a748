//! The findings as pictures.

use super::findings::Findings;
use super::spec::IsoflopSpec;
use crate::fit::approach2::Verdict;
use crate::fit::{BudgetFit, Estimate, Method, Prediction, Surface};
use crate::report::{Axis, Chart, Figure, Numbers, Palette, Point, Series, Style};

/// Corners of a drawn curve: smooth at any size of the picture.
const CORNERS: usize = 61;
/// How far beyond its grid (whose ends are at 1) a minimum that is not used is still drawn.
const PLACE_DRAWN_MAX: f64 = 1.5;

/// Every picture for which there is something to draw.
pub(super) fn of_findings(spec: &IsoflopSpec, findings: &Findings<'_>) -> Vec<Figure> {
    if findings.measured.is_empty() {
        return Vec::new();
    }
    let mut figures = vec![isoflop_curves(spec, findings)];
    if findings.analysis.budgets.iter().any(|budget| budget.minimum.is_some()) {
        figures.push(optimum(spec, findings, &PARAMETERS));
        figures.push(optimum(spec, findings, &TOKENS));
    }
    figures.extend(
        findings.analysis.parametric.as_ref().map(|fit| residuals(spec, findings, &fit.surface())),
    );
    figures
}

fn budget_label(flops: f64) -> String {
    format!("{flops:.2e}").replace(".00e", "e")
}

fn isoflop_curves(spec: &IsoflopSpec, findings: &Findings<'_>) -> Figure {
    let mut series = Vec::new();
    for (group, fit) in findings.analysis.budgets.iter().enumerate() {
        let own = findings.measured.iter().filter(|(training, _)| training.budget == fit.flops);
        let points = own.map(|(training, point)| Point {
            x: point.parameters,
            y: point.loss,
            trial: Some(training.view.id.clone()),
            label: format!("width {}, {:.3e} tokens", training.width, training.tokens),
            ..Point::default()
        });
        series.push(Series {
            label: budget_label(fit.flops),
            group,
            style: Style::Points,
            points: points.collect(),
            ..Series::default()
        });
        series.extend(curve(fit, group));
    }
    Figure {
        name: "isoflop_curves".to_owned(),
        caption: format!(
            "Held-out loss against model size at equal compute. Lines: a parabola in log N for \
             each budget; diamonds: its minimum with a 95 % interval, hollow where it is not \
             used. C is {}; N is {}.",
            spec.flops, spec.params
        ),
        chart: Chart {
            title: "IsoFLOP curves".to_owned(),
            x: Axis::log(format!("N ({})", spec.params)).numbers(Numbers::Count),
            y: Axis::linear("held-out loss (nats per token)"),
            series,
            palette: Palette::Sequential,
            legend_title: "Budget (FLOPs)".to_owned(),
            reference_y: None,
        },
    }
}

/// The parabola of a budget and its minimum.
fn curve(fit: &BudgetFit, group: usize) -> Vec<Series> {
    let Some(minimum) = &fit.minimum else {
        return Vec::new();
    };
    let parabola = &minimum.parabola;
    let used = fit.verdict == Verdict::Used;
    let end = |place: f64| 10f64.powf(parabola.middle + place * parabola.half);
    let line = spaced(end(-1.0), end(1.0)).map(|x| [x, parabola.at(x)]);
    let curve = Series {
        group,
        style: if used { Style::Line } else { Style::Dashed },
        line: line.collect(),
        ..Series::default()
    };
    let mut series = vec![curve];
    if minimum.off_centre.abs() <= PLACE_DRAWN_MAX {
        series.push(Series {
            group,
            style: Style::Minimum,
            points: vec![Point {
                x: minimum.parameters.value,
                y: minimum.loss.value,
                x_interval: minimum.parameters.ci95,
                label: format!("N*, {}", fit.verdict),
                excluded: !used,
                ..Point::default()
            }],
            ..Series::default()
        });
    }
    series
}

/// [`CORNERS`] values from `low` to `high`, evenly in the logarithm.
fn spaced(low: f64, high: f64) -> impl Iterator<Item = f64> {
    let step = (high / low).ln() / (CORNERS - 1) as f64;
    (0..CORNERS).map(move |corner| low * (step * corner as f64).exp())
}

/// What a picture of optima shows: N* or D*.
struct Quantity {
    name: &'static str,
    symbol: &'static str,
    unit: &'static str,
    at_minimum: fn(&crate::fit::BudgetMinimum) -> &Estimate,
    predicted: fn(&Prediction) -> &Estimate,
    of_optimum: fn((f64, f64)) -> f64,
}

const PARAMETERS: Quantity = Quantity {
    name: "optimal_parameters",
    symbol: "N*",
    unit: "parameters",
    at_minimum: |minimum| &minimum.parameters,
    predicted: |prediction| &prediction.parameters,
    of_optimum: |(parameters, _)| parameters,
};

const TOKENS: Quantity = Quantity {
    name: "optimal_tokens",
    symbol: "D*",
    unit: "tokens",
    at_minimum: |minimum| &minimum.tokens,
    predicted: |prediction| &prediction.tokens,
    of_optimum: |(_, tokens)| tokens,
};

fn optimum(spec: &IsoflopSpec, findings: &Findings<'_>, quantity: &Quantity) -> Figure {
    let analysis = &findings.analysis;
    let mut series = Vec::new();
    let range = flops_range(spec);
    if let Some(fit) = &analysis.parametric {
        let law = |flops| fit.surface().optimum(flops, analysis.flops_per_product);
        series.extend(law_series(
            Method::Parametric,
            Style::Dashed,
            range,
            law,
            fit.prediction.as_ref(),
            quantity,
        ));
    }
    if let Some(fit) = &analysis.approach2 {
        let law = |flops| fit.optimum(flops);
        series.extend(law_series(
            Method::Approach2,
            Style::Line,
            range,
            law,
            fit.prediction.as_ref(),
            quantity,
        ));
    }
    series.push(Series {
        label: "minima of the budgets".to_owned(),
        group: group_of(Method::Approach2),
        style: Style::Minimum,
        points: analysis.budgets.iter().filter_map(|fit| minimum_point(fit, quantity)).collect(),
        ..Series::default()
    });
    let Quantity { symbol, unit, .. } = quantity;
    Figure {
        name: quantity.name.to_owned(),
        caption: format!(
            "Compute-optimal {unit} {symbol} against the budget C ({}), with 95 % intervals. \
             Solid: Approach 2, the straight line through the minima; hollow minima are not used. \
             Dashed: the parametric fit with C = {:.2} N D.{}",
            spec.flops,
            analysis.flops_per_product,
            match spec.fit.target_budget {
                Some(target) => format!(" Discs: predictions at C = {}.", budget_label(target)),
                None => String::new(),
            }
        ),
        chart: Chart {
            title: format!("{symbol} against C"),
            x: Axis::log(format!("C ({})", spec.flops)).numbers(Numbers::Scientific),
            y: Axis::log(format!("{symbol} ({unit})")).numbers(Numbers::Count),
            series,
            palette: Palette::Categorical,
            legend_title: String::new(),
            reference_y: None,
        },
    }
}

fn group_of(method: Method) -> usize {
    match method {
        Method::Approach2 => 0,
        Method::Parametric => 1,
    }
}

/// From the smallest budget to the largest or to the target.
fn flops_range(spec: &IsoflopSpec) -> (f64, f64) {
    let all = || spec.flop_budgets.iter().copied().chain(spec.fit.target_budget);
    (all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max))
}

fn law_series(
    method: Method,
    style: Style,
    (low, high): (f64, f64),
    law: impl Fn(f64) -> Option<(f64, f64)>,
    prediction: Option<&Prediction>,
    quantity: &Quantity,
) -> Vec<Series> {
    let value = |flops: f64| law(flops).map(quantity.of_optimum);
    let line = spaced(low, high).filter_map(|flops| Some([flops, value(flops)?]));
    let group = group_of(method);
    let mut series = vec![Series {
        label: method.name().to_owned(),
        group,
        style,
        line: line.collect(),
        ..Series::default()
    }];
    series.extend(prediction.map(|prediction| {
        let estimate = (quantity.predicted)(prediction);
        Series {
            group,
            style: Style::Points,
            points: vec![Point {
                x: prediction.flops,
                y: estimate.value,
                y_interval: estimate.ci95,
                label: format!("{} predicted by {}", quantity.symbol, method.name()),
                ..Point::default()
            }],
            ..Series::default()
        }
    }));
    series
}

fn minimum_point(fit: &BudgetFit, quantity: &Quantity) -> Option<Point> {
    let minimum = fit.minimum.as_ref()?;
    let estimate = (quantity.at_minimum)(minimum);
    let drawn = minimum.off_centre.abs() <= PLACE_DRAWN_MAX;
    drawn.then(|| Point {
        x: fit.flops,
        y: estimate.value,
        y_interval: estimate.ci95,
        label: fit.verdict.to_string(),
        excluded: fit.verdict != Verdict::Used,
        ..Point::default()
    })
}

fn residuals(spec: &IsoflopSpec, findings: &Findings<'_>, surface: &Surface) -> Figure {
    let of_budget = |(group, fit): (usize, &BudgetFit)| {
        let own = findings.measured.iter().filter(|(training, _)| training.budget == fit.flops);
        let points = own.map(|(training, point)| Point {
            x: point.parameters,
            y: 100.0 * (point.loss / surface.loss(point.parameters, point.tokens) - 1.0),
            trial: Some(training.view.id.clone()),
            label: format!("width {}", training.width),
            ..Point::default()
        });
        Series {
            label: budget_label(fit.flops),
            group,
            style: Style::Points,
            points: points.collect(),
            ..Series::default()
        }
    };
    Figure {
        name: "residuals".to_owned(),
        caption: format!(
            "Residuals of the parametric fit: measured over fitted loss, minus one. A pattern by \
             size or budget means that the surface does not hold. N is {}.",
            spec.params
        ),
        chart: Chart {
            title: "Residuals of the parametric fit".to_owned(),
            x: Axis::log(format!("N ({})", spec.params)).numbers(Numbers::Count),
            y: Axis::linear("measured over fitted loss - 1 (%)"),
            series: findings.analysis.budgets.iter().enumerate().map(of_budget).collect(),
            palette: Palette::Sequential,
            legend_title: "Budget (FLOPs)".to_owned(),
            reference_y: Some(0.0),
        },
    }
}
