//! Both fits of one table, their intervals and their predictions.

use super::approach2::{BUDGETS_MIN, Isoflop, Lines, Minimum, Parabola, Verdict};
use super::bootstrap::{Resampler, USABLE_MIN, interval95};
use super::newton::Theta;
use super::parametric::{Fitted, Problem};
use super::{BUDGETS_MAX, Objective, Point, RESAMPLES_MAX, Surface, notes};
use serde::Serialize;

/// Most local minima of the table from which every resample is searched.
const WARM_STARTS_MAX: usize = 3;

/// What to compute.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// What the parametric fit minimises.
    pub objective: Objective,
    /// Bootstrap resamples, at most [`RESAMPLES_MAX`]; 0 gives no intervals.
    pub resamples: u32,
    /// Seeds the resamples.
    pub seed: u64,
    /// Budget C in FLOPs at which N* and D* are predicted.
    pub target_budget: Option<f64>,
    /// k of `C = k N D`, which the parametric prediction needs; 6 is Chinchilla's convention.
    pub flops_per_product: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            objective: Objective::HUBER,
            resamples: 1_000,
            seed: 0,
            target_budget: None,
            flops_per_product: 6.0,
        }
    }
}

/// A number and its 95 % bootstrap interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// From all points.
    pub value: f64,
    /// Percentiles 2.5 and 97.5 of the resamples; `None` when too few were usable.
    pub ci95: Option<[f64; 2]>,
}

impl Estimate {
    fn new(value: f64, draws: impl IntoIterator<Item = f64>) -> Self {
        let ci95 = interval95(draws);
        Self { value, ci95 }
    }
}

/// How many resamples a fit's intervals stand on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Resamples {
    /// Drawn.
    pub requested: u32,
    /// Those that had a fit; the others are left out of the intervals.
    pub usable: u32,
}

/// Share of usable resamples below which an interval is that of a part only: where a tenth is lost,
/// the ends at 2.5 % and 97.5 % may lie among the lost ones.
const USABLE_SHARE_MIN: f64 = 0.9;

impl Resamples {
    /// Whether so many were lost that the intervals must not be called sharp.
    pub fn are_few(self) -> bool {
        f64::from(self.usable) < USABLE_SHARE_MIN * f64::from(self.requested)
    }
}

/// The compute-optimal model at a budget.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Prediction {
    /// Budget C in FLOPs.
    pub flops: f64,
    /// Parameters N*.
    pub parameters: Estimate,
    /// Tokens D*.
    pub tokens: Estimate,
}

/// The lines of Approach 2: `N* = 10^a_intercept C^a`, `D* = 10^b_intercept C^b`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Approach2 {
    /// Exponent of N*.
    pub a: Estimate,
    /// Exponent of D*.
    pub b: Estimate,
    /// log10 N* at C = 1.
    pub a_intercept: Estimate,
    /// log10 D* at C = 1.
    pub b_intercept: Estimate,
    /// Budgets that the lines use.
    pub budgets_used: usize,
    /// What the intervals stand on.
    pub resamples: Resamples,
    /// At the target budget, when there is one.
    pub prediction: Option<Prediction>,
    #[serde(skip)]
    lines: Lines,
}

impl Approach2 {
    /// N* and D* at a budget; `None` when they are no positive finite numbers.
    pub fn optimum(&self, flops: f64) -> Option<(f64, f64)> {
        self.lines.optimum(flops)
    }
}

/// The parametric fit.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Parametric {
    /// Loss that remains.
    #[serde(rename = "E")]
    pub e: Estimate,
    /// Scale of the model term.
    #[serde(rename = "A")]
    pub scale_a: Estimate,
    /// Scale of the data term.
    #[serde(rename = "B")]
    pub scale_b: Estimate,
    /// Exponent of the model term.
    pub alpha: Estimate,
    /// Exponent of the data term.
    pub beta: Estimate,
    /// Exponent of N*; `None` when the loss does not fall with both N and D.
    pub a: Option<Estimate>,
    /// Exponent of D*; likewise.
    pub b: Option<Estimate>,
    /// The minimised sum.
    pub objective: f64,
    /// Points.
    pub n: usize,
    /// What was minimised.
    pub objective_kind: Objective,
    /// What the intervals stand on.
    pub resamples: Resamples,
    /// At the target budget, when there is one.
    pub prediction: Option<Prediction>,
    #[serde(skip)]
    surface: Surface,
}

impl Parametric {
    /// The fitted constants.
    pub fn surface(&self) -> Surface {
        self.surface
    }
}

/// A budget's minimum.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BudgetMinimum {
    /// N*.
    pub parameters: Estimate,
    /// D*.
    pub tokens: Estimate,
    /// Loss at N*.
    pub loss: Estimate,
    /// Distance of N* from the grid's middle in log10 N, as a share of half the grid: 0 is
    /// centred, 1 is at an end; negative towards small models.
    pub off_centre: f64,
    /// The parabola of loss against log10 N.
    pub parabola: Parabola,
    /// What the intervals stand on.
    pub resamples: Resamples,
}

/// What came of one budget.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BudgetFit {
    /// C in FLOPs.
    pub flops: f64,
    /// Points.
    pub points: usize,
    /// Whether the lines use it, and why not.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// The minimum, when the parabolas have one; also when it is not used.
    pub minimum: Option<BudgetMinimum>,
}

/// One of the two fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// [`Approach2`].
    Approach2,
    /// [`Parametric`].
    Parametric,
}

impl Method {
    /// Name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Approach2 => "Approach 2",
            Self::Parametric => "parametric",
        }
    }
}

/// Both fits of one table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Analysis {
    /// Points.
    pub n: usize,
    /// `None` when it is impossible; the notes say why.
    pub approach2: Option<Approach2>,
    /// `None` when it is impossible; the notes say why.
    pub parametric: Option<Parametric>,
    /// Every budget, smallest first.
    pub budgets: Vec<BudgetFit>,
    /// k of `C = k N D` in the parametric prediction.
    pub flops_per_product: f64,
    /// Seed of the resamples.
    pub seed: u64,
    /// What a reader must know before believing a number.
    pub notes: Vec<String>,
}

/// Fits `points` both ways. Whatever is impossible is absent, and a note says why.
pub fn analyse(points: &[Point], options: &Options) -> Analysis {
    let mut notes = Vec::new();
    let mut parametric = match Problem::new(points, options.objective)
        .and_then(|problem| Ok((problem.fit()?, problem)))
    {
        Ok((minima, problem)) => Some(ParametricDraws::new(problem, minima)),
        Err(error) => {
            notes.push(format!("no parametric fit: {error}"));
            None
        }
    };
    let mut isoflops = Isoflop::group(points);
    if isoflops.len() > BUDGETS_MAX {
        notes.push(format!(
            "no Approach 2: the budgets have {} different values, more than {BUDGETS_MAX}; give a \
             column of nominal budgets",
            isoflops.len()
        ));
        isoflops.clear();
    }
    let mut budgets: Vec<BudgetDraws> = isoflops.into_iter().map(BudgetDraws::new).collect();
    let all: Vec<(f64, Minimum)> = budgets.iter().filter_map(BudgetDraws::used).collect();
    let lines = Lines::through(&all);
    let mut line_draws = Vec::new();
    let resamples = options.resamples.min(RESAMPLES_MAX);
    let mut resampler = Resampler::new(points, options.seed);
    for _ in 0..resamples {
        let counts = resampler.draw();
        if let Some(parametric) = &mut parametric {
            parametric.resample(&counts);
        }
        let minima: Vec<(f64, Minimum)> =
            budgets.iter_mut().filter_map(|budget| budget.resample(&counts)).collect();
        line_draws.extend(lines.and_then(|_| Lines::through(&minima)));
    }
    let approach2 = lines.map(|lines| approach2(lines, &line_draws, all.len(), resamples, options));
    if approach2.is_none() && !budgets.is_empty() {
        notes.push(format!(
            "no Approach 2: {} of {} budgets have a bracketed minimum, {BUDGETS_MIN} are needed",
            all.len(),
            budgets.len()
        ));
    }
    let absent = parametric.as_ref().map(|draws| draws.best.absent_terms()).unwrap_or_default();
    let parametric = parametric.map(|draws| draws.finish(points.len(), resamples, options));
    let budgets: Vec<BudgetFit> = budgets.iter().map(|draws| draws.finish(resamples)).collect();
    notes.extend(notes::of_parametric(parametric.as_ref(), &absent));
    notes.extend(notes::of_approach2(approach2.as_ref(), &budgets));
    Analysis {
        n: points.len(),
        approach2,
        parametric,
        budgets,
        flops_per_product: options.flops_per_product,
        seed: options.seed,
        notes,
    }
}

/// Only the budgets of `points`, without lines: what a closed loop decides on.
pub(crate) fn fit_budgets(points: &[Point], resamples: u32, seed: u64) -> Vec<BudgetFit> {
    let mut budgets: Vec<BudgetDraws> =
        Isoflop::group(points).into_iter().map(BudgetDraws::new).collect();
    let mut resampler = Resampler::new(points, seed);
    for _ in 0..resamples {
        let counts = resampler.draw();
        for budget in &mut budgets {
            budget.resample(&counts);
        }
    }
    budgets.iter().map(|draws| draws.finish(resamples)).collect()
}

/// The parametric fit and its resamples so far.
struct ParametricDraws {
    problem: Problem,
    best: Fitted,
    warm: Vec<Theta>,
    surfaces: Vec<Surface>,
}

impl ParametricDraws {
    fn new(problem: Problem, minima: Vec<Fitted>) -> Self {
        let warm = minima.iter().take(WARM_STARTS_MAX).map(|minimum| minimum.theta).collect();
        Self { problem, best: minima[0], warm, surfaces: Vec::new() }
    }

    /// A resample counts when it converged and has a compute-optimal point, if the table has one.
    fn resample(&mut self, counts: &[u32]) {
        let comparable = |surface: &Surface| {
            self.best.surface.exponents().is_none() || surface.exponents().is_some()
        };
        let surface = self.problem.refit(counts, &self.warm).map(|fitted| fitted.surface);
        self.surfaces.extend(surface.filter(comparable));
    }

    fn finish(self, n: usize, requested: u32, options: &Options) -> Parametric {
        let surface = self.best.surface;
        let estimate =
            |of: fn(&Surface) -> f64| Estimate::new(of(&surface), self.surfaces.iter().map(of));
        let exponent = |of: fn((f64, f64)) -> f64| {
            let draws = self.surfaces.iter().filter_map(|surface| surface.exponents().map(of));
            surface.exponents().map(|exponents| Estimate::new(of(exponents), draws))
        };
        let optimum = |surface: &Surface, flops| surface.optimum(flops, options.flops_per_product);
        Parametric {
            e: estimate(|surface| surface.e),
            scale_a: estimate(|surface| surface.a),
            scale_b: estimate(|surface| surface.b),
            alpha: estimate(|surface| surface.alpha),
            beta: estimate(|surface| surface.beta),
            a: exponent(|(a, _)| a),
            b: exponent(|(_, b)| b),
            objective: self.best.objective,
            n,
            objective_kind: options.objective,
            resamples: Resamples { requested, usable: self.surfaces.len() as u32 },
            prediction: prediction(options, &surface, &self.surfaces, optimum),
            surface,
        }
    }
}

/// A budget and its resamples so far.
struct BudgetDraws {
    isoflop: Isoflop,
    minimum: Option<Minimum>,
    verdict: Verdict,
    draws: Vec<[f64; 3]>,
}

impl BudgetDraws {
    fn new(isoflop: Isoflop) -> Self {
        let (minimum, verdict) = isoflop.examine();
        Self { isoflop, minimum, verdict, draws: Vec::new() }
    }

    fn used(&self) -> Option<(f64, Minimum)> {
        let used = self.verdict == Verdict::Used;
        self.minimum.filter(|_| used).map(|minimum| (self.isoflop.flops, minimum))
    }

    /// The minimum in a resample, for the lines, when the budget is used and has one.
    fn resample(&mut self, counts: &[u32]) -> Option<(f64, Minimum)> {
        self.minimum?;
        let count = |member: usize| f64::from(counts[self.isoflop.members[member]]);
        let minimum = self.isoflop.resampled(count)?;
        self.draws.push([minimum.parameters, minimum.tokens, minimum.loss]);
        (self.verdict == Verdict::Used).then_some((self.isoflop.flops, minimum))
    }

    fn finish(&self, requested: u32) -> BudgetFit {
        let estimate =
            |value, axis: usize| Estimate::new(value, self.draws.iter().map(|draw| draw[axis]));
        let minimum = self.minimum.map(|minimum| BudgetMinimum {
            parameters: estimate(minimum.parameters, 0),
            tokens: estimate(minimum.tokens, 1),
            loss: estimate(minimum.loss, 2),
            off_centre: minimum.place,
            parabola: minimum.by_parameters,
            resamples: Resamples { requested, usable: self.draws.len() as u32 },
        });
        BudgetFit {
            flops: self.isoflop.flops,
            points: self.isoflop.members.len(),
            verdict: self.verdict,
            minimum,
        }
    }
}

fn approach2(
    lines: Lines,
    draws: &[Lines],
    budgets_used: usize,
    requested: u32,
    options: &Options,
) -> Approach2 {
    let estimate = |of: fn(&Lines) -> f64| Estimate::new(of(&lines), draws.iter().map(of));
    Approach2 {
        a: estimate(|lines| lines.parameters.slope),
        b: estimate(|lines| lines.tokens.slope),
        a_intercept: estimate(|lines| lines.parameters.intercept),
        b_intercept: estimate(|lines| lines.tokens.intercept),
        budgets_used,
        resamples: Resamples { requested, usable: draws.len() as u32 },
        prediction: prediction(options, &lines, draws, Lines::optimum),
        lines,
    }
}

fn prediction<Law>(
    options: &Options,
    law: &Law,
    draws: &[Law],
    optimum: impl Fn(&Law, f64) -> Option<(f64, f64)>,
) -> Option<Prediction> {
    let flops = options.target_budget?;
    let (parameters, tokens) = optimum(law, flops)?;
    let drawn: Vec<(f64, f64)> = draws.iter().filter_map(|law| optimum(law, flops)).collect();
    Some(Prediction {
        flops,
        parameters: Estimate::new(parameters, drawn.iter().map(|draw| draw.0)),
        tokens: Estimate::new(tokens, drawn.iter().map(|draw| draw.1)),
    })
}

/// Whether intervals were asked for but too few resamples were usable.
pub(super) fn lacks_intervals(resamples: Resamples) -> bool {
    resamples.requested > 0 && (resamples.usable as usize) < USABLE_MIN
}
