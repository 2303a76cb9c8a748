//! The keys of `spec.study.sweep` as they are written, and what makes sense.

use super::command::{Names, RawCommand, check_length, check_no_nul};
use super::points::listed;
use super::spec::{
    Domain, GRID_TRIALS_MAX, Goal, Metric, Program, RANDOM_TRIALS_MAX, Search, SweepSpec,
};
use super::stopping::raw::{RawEarlyStopping, check_measured};
use super::template::SEED;
use crate::recipe::{Mistakes, NAME_BYTES_MAX, Path, RecipeError, all, check_name, every};
use proto::Value;
use serde::{Deserialize, Deserializer};
use std::collections::{BTreeMap, BTreeSet};

/// Most parameters; a grid over more has too many points anyway.
const PARAMETERS_MAX: usize = 32;
/// Longest text that a parameter may choose.
const CHOICE_BYTES_MAX: usize = 128;
/// Most points of one parameter at equal distances: a picture needs far fewer.
const SPACED_MAX: u32 = 100_000;

#[derive(Debug, Deserialize)]
pub(crate) struct RawSweep {
    command: Option<RawCommand>,
    noop: Option<RawNoop>,
    #[serde(default)]
    parameters: BTreeMap<String, RawDomain>,
    search: RawSearch,
    seeds: Option<Vec<u64>>,
    /// `Some(None)` is `metric: null`, which says that none is wanted.
    #[serde(default, deserialize_with = "written")]
    metric: Option<Option<RawMetric>>,
    early_stopping: Option<RawEarlyStopping>,
}

#[derive(Debug, Deserialize)]
struct RawNoop {}

fn written<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<RawMetric>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RawDomain {
    Choice(Vec<Value>),
    Linear(f64, f64, u32),
    Log(f64, f64, u32),
    Range(i64, i64),
    Uniform(f64, f64),
    LogUniform(f64, f64),
    IntUniform(i64, i64),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RawSearch {
    Grid,
    Random(RawRandom),
}

#[derive(Debug, Deserialize)]
struct RawRandom {
    trials: u32,
    #[serde(default)]
    seed: u64,
}

#[derive(Debug, Deserialize)]
struct RawMetric {
    name: String,
    goal: Goal,
}

impl RawSweep {
    pub(crate) fn check(self, at: &Path) -> Result<SweepSpec, Mistakes> {
        let [parameters_at, command_at, stopping_at] =
            ["parameters", "command", "early_stopping"].map(|key| at.key(key));
        let known = self.parameters.keys().cloned().collect();
        let names = Names { at: parameters_at, known };
        let search = match self.search {
            RawSearch::Grid => Search::Grid,
            RawSearch::Random(RawRandom { trials, seed }) => Search::Random { trials, seed },
        };
        let given = (self.command.is_some(), self.noop.is_some());
        let command = self.command.map(|command| command.check(&names, &command_at));
        let stopping = self.early_stopping.map(|raw| raw.check(&stopping_at));
        all! {
            let _program = check_program(given, at);
            let command = command.transpose();
            let points = check_points(self.parameters, &search, self.seeds, at);
            let metric = check_metric(self.metric, given, at);
            let early_stopping = stopping.transpose();
        }
        let program = command.map_or(Program::Noop, Program::Command);
        let (parameters, seeds, trials) = points;
        let spec = SweepSpec { program, parameters, search, seeds, metric, early_stopping };
        all! {
            let _command = match &spec.program {
                Program::Command(command) => check_length(command, &spec.parameters, &command_at),
                Program::Noop => Ok(()),
            };
            let _stopping = check_stopping(&spec, trials, at);
        }
        Ok(spec)
    }
}

/// Whether the recipe has a command, and whether it has a noop.
type Given = (bool, bool);

fn check_program(given: Given, at: &Path) -> Result<(), RecipeError> {
    match given {
        (true, false) | (false, true) => Ok(()),
        (true, true) => {
            let message = "a trial is a command or a noop, not both";
            Err(RecipeError::new(&at.key("noop"), message).hint("keep one of the two"))
        }
        (false, false) => Err(RecipeError::missing(at, "command")
            .given([at.key("noop")])
            .hint("write for example command: {arguments: [python3, train.py]}")),
    }
}

fn check_metric(
    raw: Option<Option<RawMetric>>,
    given: Given,
    at: &Path,
) -> Result<Option<Metric>, RecipeError> {
    let path = at.key("metric");
    match (raw, given) {
        (None, (true, _)) => Err(RecipeError::missing(at, "metric")
            .hint("write metric: null when only the end of the programs counts")),
        (Some(None), _) | (None, (false, _)) => Ok(None),
        (Some(Some(_)), (false, true)) => Err(RecipeError::new(&path, "a noop reports no metric")
            .given([at.key("command")])
            .hint("leave the key out")),
        (Some(Some(RawMetric { name, goal })), _) => {
            check_metric_name(&name, &path.key("name"))?;
            Ok(Some(Metric { name, goal }))
        }
    }
}

fn check_stopping(spec: &SweepSpec, trials: u64, at: &Path) -> Result<(), RecipeError> {
    let path = at.key("early_stopping");
    match &spec.early_stopping {
        None => Ok(()),
        Some(_) if spec.metric.is_none() => {
            let values = ["metric", "command"].map(|key| at.key(key));
            Err(RecipeError::new(&path, "needs a metric to compare").given(values))
        }
        Some(rule) => {
            check_measured(rule, trials, &path).map_err(|error| error.given([at.key("search")]))
        }
    }
}

/// What varies, the seeds, and the number of trials; a random search has fewer when draws repeat.
type Points = (BTreeMap<String, Domain>, Vec<u64>, u64);

fn check_points(
    parameters: BTreeMap<String, RawDomain>,
    search: &Search,
    seeds: Option<Vec<u64>>,
    at: &Path,
) -> Result<Points, Mistakes> {
    let none = parameters.is_empty();
    all! {
        let parameters = check_parameters(parameters, search, at);
        let _search = check_draws(search, none, at);
        let seeds = check_seeds(seeds, &at.key("seeds"));
    }
    let trials = check_trials(search, &parameters, seeds.len() as u64, at)?;
    Ok((parameters, seeds, trials))
}

/// `search` decides which domains fit.
fn check_parameters(
    raw: BTreeMap<String, RawDomain>,
    search: &Search,
    sweep: &Path,
) -> Result<BTreeMap<String, Domain>, Mistakes> {
    let at = sweep.key("parameters");
    if raw.len() > PARAMETERS_MAX {
        let message = format!("at most {PARAMETERS_MAX} parameters, found {}", raw.len());
        return Err(RecipeError::new(&at, message).into());
    }
    let mut variables = BTreeSet::new();
    let parameters = raw.into_iter().map(|(name, domain)| {
        let path = at.key(&name);
        check_name(&name, "a parameter", &path)?;
        if name == SEED {
            return Err(RecipeError::new(&path, "`seed` is the trial's own seed")
                .hint("list seeds under spec.study.sweep.seeds")
                .into());
        }
        if !variables.insert(name.to_uppercase().replace('-', "_")) {
            let message = "is too similar to another parameter's name";
            return Err(RecipeError::new(&path, message)
                .hint("both would be the same BRINE_PARAM_ variable")
                .into());
        }
        let domain = domain.check(&path)?;
        check_fits(search, &domain, &path).map_err(|error| error.given([sweep.key("search")]))?;
        Ok::<_, Mistakes>((name, domain))
    });
    Ok(every(parameters)?.into_iter().collect())
}

impl RawDomain {
    fn check(self, at: &Path) -> Result<Domain, Mistakes> {
        let domain = match self {
            Self::Choice(values) => Domain::Choice(values),
            Self::Linear(low, high, n) => Domain::Linear(low, high, n),
            Self::Log(low, high, n) => Domain::Log(low, high, n),
            Self::Range(low, high) => Domain::Range(low, high),
            Self::Uniform(low, high) => Domain::Uniform(low, high),
            Self::LogUniform(low, high) => Domain::LogUniform(low, high),
            Self::IntUniform(low, high) => Domain::IntUniform(low, high),
        };
        let at = at.key(domain.word());
        match &domain {
            Domain::Choice(values) => check_choice(values, &at)?,
            Domain::Linear(low, high, n) | Domain::Log(low, high, n) => {
                all! {
                    let _bounds = check_bounds(*low, *high, &at);
                    let _number = check_spaced(*n, &at.index(2));
                }
            }
            Domain::Uniform(low, high) | Domain::LogUniform(low, high) => {
                check_bounds(*low, *high, &at)?;
            }
            Domain::IntUniform(low, high) | Domain::Range(low, high) => {
                check_bounds(*low, *high, &at)?;
            }
        }
        match domain {
            Domain::Log(low, ..) | Domain::LogUniform(low, _) if low <= 0.0 => {
                let message = format!("a logarithm needs a lower bound above 0, found {low}");
                Err(RecipeError::new(&at.index(0), message).into())
            }
            Domain::Choice(_)
            | Domain::Linear(..)
            | Domain::Log(..)
            | Domain::Range(..)
            | Domain::Uniform(..)
            | Domain::LogUniform(..)
            | Domain::IntUniform(..) => Ok(domain),
        }
    }
}

fn check_spaced(points: u32, at: &Path) -> Result<(), RecipeError> {
    if (2..=SPACED_MAX).contains(&points) {
        return Ok(());
    }
    let message = format!("the number of points must be from 2 to {SPACED_MAX}");
    Err(RecipeError::new(at, message).hint("points are written [low, high, number]"))
}

fn check_bounds<T: PartialOrd + std::fmt::Display>(
    low: T,
    high: T,
    at: &Path,
) -> Result<(), RecipeError> {
    if low < high {
        return Ok(());
    }
    let message = format!("the lower bound {low} is not below the upper bound {high}");
    Err(RecipeError::new(at, message).hint("bounds are written [low, high]"))
}

fn check_choice(values: &[Value], at: &Path) -> Result<(), Mistakes> {
    if values.is_empty() {
        return Err(RecipeError::new(at, "has nothing to choose from").into());
    }
    // 1 and 1.0 fill in the same text, so they are the same trial twice.
    let mut seen = BTreeSet::new();
    every(values.iter().enumerate().map(|(index, value)| {
        let (text, path) = (value.to_string(), at.index(index));
        check_no_nul(&text, &path)?;
        if matches!(value, Value::Text(_)) && text.len() > CHOICE_BYTES_MAX {
            let message = format!("a text has at most {CHOICE_BYTES_MAX} bytes here");
            return Err(RecipeError::new(&path, message));
        }
        if !seen.insert(text) {
            let error = RecipeError::new(&path, format!("{value} is listed twice"));
            return Err(error.given([at.clone()]));
        }
        Ok(())
    }))?;
    Ok(())
}

fn check_seeds(seeds: Option<Vec<u64>>, at: &Path) -> Result<Vec<u64>, Mistakes> {
    let seeds = seeds.unwrap_or_else(|| vec![0]);
    if seeds.is_empty() {
        let error = RecipeError::new(at, "needs at least one seed").hint("write [0]");
        return Err(error.into());
    }
    let mut seen = BTreeSet::new();
    every(seeds.iter().enumerate().map(|(index, seed)| {
        if seen.insert(*seed) {
            return Ok(());
        }
        let error = RecipeError::new(&at.index(index), format!("the seed {seed} is listed twice"));
        Err(error.given([at.clone()]))
    }))?;
    Ok(seeds)
}

/// Refuses a random search that draws nothing; `none` says that there is no parameter.
fn check_draws(search: &Search, none: bool, sweep: &Path) -> Result<(), RecipeError> {
    let at = sweep.key("search");
    match search {
        Search::Random { trials: 0, .. } => {
            let path = at.key("random").key("trials");
            Err(RecipeError::new(&path, "must be at least 1, found 0"))
        }
        Search::Random { .. } if none => {
            let error = RecipeError::new(&at, "a random search needs a parameter to draw");
            Err(error.given([sweep.key("parameters")]))
        }
        Search::Random { .. } | Search::Grid => Ok(()),
    }
}

/// The number of trials, unless there are too many.
fn check_trials(
    search: &Search,
    parameters: &BTreeMap<String, Domain>,
    seeds: u64,
    at: &Path,
) -> Result<u64, RecipeError> {
    let search_at = at.key("search");
    let (counted, points, max) = match search {
        Search::Grid => {
            let values = parameters.values().map(listed);
            (search_at, values.fold(1, u64::saturating_mul), GRID_TRIALS_MAX)
        }
        Search::Random { trials, .. } => {
            (search_at.key("random").key("trials"), u64::from(*trials), RANDOM_TRIALS_MAX)
        }
    };
    let trials = points.saturating_mul(seeds);
    if trials > max {
        let message = format!(
            "{points} points with {seeds} seeds are {trials} trials; at most {max} are allowed"
        );
        return Err(RecipeError::new(&counted, message)
            .hint("use fewer values, or search: {random: {trials: 100}}"));
    }
    Ok(trials)
}

/// Refuses a domain that does not fit the kind of search.
fn check_fits(search: &Search, domain: &Domain, at: &Path) -> Result<(), RecipeError> {
    let fits = match (search, domain) {
        (_, Domain::Choice(_)) => true,
        (Search::Grid, _) => listed(domain) > 0,
        (Search::Random { .. }, _) => listed(domain) == 0,
    };
    if fits { Ok(()) } else { Err(misfit(domain, at)) }
}

fn misfit(domain: &Domain, at: &Path) -> RecipeError {
    let word = domain.word();
    let grid = |points: String| {
        RecipeError::new(at, format!("a grid needs listed values, but `{word}` is continuous"))
            .hint(format!("write {points}, or search: {{random: {{trials: 20}}}}"))
    };
    let random = |range: String| {
        RecipeError::new(
            at,
            format!("a random search draws from a range, but `{word}` lists points"),
        )
        .hint(format!("write {range}, or search: grid"))
    };
    match domain {
        Domain::Uniform(low, high) => grid(format!("{{linear: [{low}, {high}, 5]}}")),
        Domain::LogUniform(low, high) => grid(format!("{{log: [{low}, {high}, 5]}}")),
        Domain::Linear(low, high, _) => random(format!("{{uniform: [{low}, {high}]}}")),
        Domain::Log(low, high, _) => random(format!("{{log_uniform: [{low}, {high}]}}")),
        Domain::Range(low, high) => random(format!("{{int_uniform: [{low}, {}]}}", high - 1)),
        Domain::IntUniform(low, high) => {
            grid(format!("{{range: [{low}, {}]}}", high.saturating_add(1)))
        }
        Domain::Choice(_) => unreachable!("a choice fits every search"),
    }
}

/// Programs name their metrics as they like: `loss`, `eval/loss`, `top-5 accuracy`.
fn check_metric_name(name: &str, at: &Path) -> Result<(), RecipeError> {
    if name.trim().is_empty() || name.contains(char::is_control) {
        return Err(RecipeError::new(at, format!("{name:?} is not the name of a metric")));
    }
    if name.len() > NAME_BYTES_MAX {
        let message = format!("a metric's name has at most {NAME_BYTES_MAX} bytes");
        return Err(RecipeError::new(at, message));
    }
    Ok(())
}
