//! The keys of `spec.study.sweep` as they are written, and what makes sense.

use super::command::{RawCommand, check_no_nul};
use super::points::listed;
use super::spec::{
    Domain, GRID_TRIALS_MAX, Goal, Metric, Program, RANDOM_TRIALS_MAX, Search, SweepSpec,
};
use super::stopping::raw::RawEarlyStopping;
use super::template::SEED;
use crate::recipe::{NAME_BYTES_MAX, Path, RecipeError, check_name};
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
    pub(crate) fn check(self, at: &Path) -> Result<SweepSpec, RecipeError> {
        let parameters = check_parameters(self.parameters, &at.key("parameters"))?;
        let search = match self.search {
            RawSearch::Grid => Search::Grid,
            RawSearch::Random(RawRandom { trials, seed }) => Search::Random { trials, seed },
        };
        let seeds = check_seeds(self.seeds.unwrap_or_else(|| vec![0]), &at.key("seeds"))?;
        let trials = check_search(&search, &parameters, seeds.len() as u64, at)?;
        let program = check_program(self.command, self.noop, &parameters, at)?;
        let metric = check_metric(self.metric, &program, at)?;
        let stopping_at = at.key("early_stopping");
        let early_stopping = match self.early_stopping {
            None => None,
            Some(_) if metric.is_none() => {
                return Err(RecipeError::new(&stopping_at, "needs a metric to compare"));
            }
            Some(raw) => Some(raw.check(trials, &stopping_at)?),
        };
        Ok(SweepSpec { program, parameters, search, seeds, metric, early_stopping })
    }
}

fn check_program(
    command: Option<RawCommand>,
    noop: Option<RawNoop>,
    parameters: &BTreeMap<String, Domain>,
    at: &Path,
) -> Result<Program, RecipeError> {
    match (command, noop) {
        (Some(command), None) => {
            command.check(parameters, &at.key("command")).map(Program::Command)
        }
        (None, Some(RawNoop {})) => Ok(Program::Noop),
        (Some(_), Some(_)) => {
            let message = "a trial is a command or a noop, not both";
            Err(RecipeError::new(&at.key("noop"), message).hint("keep one of the two"))
        }
        (None, None) => Err(RecipeError::new(at, "the key `command` is missing")
            .hint("write for example command: {arguments: [python3, train.py]}")),
    }
}

fn check_metric(
    raw: Option<Option<RawMetric>>,
    program: &Program,
    at: &Path,
) -> Result<Option<Metric>, RecipeError> {
    match (raw, program) {
        (Some(None), _) | (None, Program::Noop) => Ok(None),
        (Some(Some(_)), Program::Noop) => {
            Err(RecipeError::new(&at.key("metric"), "a noop reports no metric")
                .hint("leave the key out"))
        }
        (None, Program::Command(_)) => Err(RecipeError::new(at, "the key `metric` is missing")
            .hint("write metric: null when only the end of the programs counts")),
        (Some(Some(RawMetric { name, goal })), Program::Command(_)) => {
            check_metric_name(&name, &at.key("metric").key("name"))?;
            Ok(Some(Metric { name, goal }))
        }
    }
}

fn check_parameters(
    raw: BTreeMap<String, RawDomain>,
    at: &Path,
) -> Result<BTreeMap<String, Domain>, RecipeError> {
    if raw.len() > PARAMETERS_MAX {
        let message = format!("at most {PARAMETERS_MAX} parameters, found {}", raw.len());
        return Err(RecipeError::new(at, message));
    }
    let mut variables = BTreeSet::new();
    let mut parameters = BTreeMap::new();
    for (name, domain) in raw {
        let path = at.key(&name);
        check_name(&name, "a parameter", &path)?;
        if name == SEED {
            return Err(RecipeError::new(&path, "`seed` is the trial's own seed")
                .hint("list seeds under spec.study.sweep.seeds"));
        }
        if !variables.insert(name.to_uppercase().replace('-', "_")) {
            let message = "is too similar to another parameter's name";
            return Err(RecipeError::new(&path, message)
                .hint("both would be the same BRINE_PARAM_ variable"));
        }
        let domain = domain.check(&path)?;
        parameters.insert(name, domain);
    }
    Ok(parameters)
}

impl RawDomain {
    fn check(self, at: &Path) -> Result<Domain, RecipeError> {
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
                check_bounds(*low, *high, &at)?;
                if !(2..=SPACED_MAX).contains(n) {
                    let message = format!("the number of points must be from 2 to {SPACED_MAX}");
                    return Err(RecipeError::new(&at.index(2), message)
                        .hint("points are written [low, high, number]"));
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
                Err(RecipeError::new(&at.index(0), message))
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

fn check_choice(values: &[Value], at: &Path) -> Result<(), RecipeError> {
    if values.is_empty() {
        return Err(RecipeError::new(at, "has nothing to choose from"));
    }
    // 1 and 1.0 fill in the same text, so they are the same trial twice.
    let mut seen = BTreeSet::new();
    for (index, value) in values.iter().enumerate() {
        let (text, path) = (value.to_string(), at.index(index));
        check_no_nul(&text, &path)?;
        if matches!(value, Value::Text(_)) && text.len() > CHOICE_BYTES_MAX {
            let message = format!("a text has at most {CHOICE_BYTES_MAX} bytes here");
            return Err(RecipeError::new(&path, message));
        }
        if !seen.insert(text) {
            return Err(RecipeError::new(&path, format!("{value} is listed twice")));
        }
    }
    Ok(())
}

fn check_seeds(seeds: Vec<u64>, at: &Path) -> Result<Vec<u64>, RecipeError> {
    if seeds.is_empty() {
        return Err(RecipeError::new(at, "needs at least one seed").hint("write [0]"));
    }
    let mut seen = BTreeSet::new();
    match seeds.iter().position(|seed| !seen.insert(*seed)) {
        Some(index) => {
            let message = format!("the seed {} is listed twice", seeds[index]);
            Err(RecipeError::new(&at.index(index), message))
        }
        None => Ok(seeds),
    }
}

/// Refuses domains that do not fit the kind of search, and more trials than it can have. Gives
/// the number of trials; a random search has fewer when draws repeat.
fn check_search(
    search: &Search,
    parameters: &BTreeMap<String, Domain>,
    seeds: u64,
    at: &Path,
) -> Result<u64, RecipeError> {
    for (name, domain) in parameters {
        let fits = match (search, domain) {
            (_, Domain::Choice(_)) => true,
            (Search::Grid, _) => listed(domain) > 0,
            (Search::Random { .. }, _) => listed(domain) == 0,
        };
        if !fits {
            return Err(misfit(domain, &at.key("parameters").key(name)));
        }
    }
    let mut counted = at.key("search");
    let (points, max) = match search {
        Search::Grid => {
            let values = parameters.values().map(listed);
            (values.fold(1, u64::saturating_mul), GRID_TRIALS_MAX)
        }
        Search::Random { trials, .. } => {
            counted = counted.key("random").key("trials");
            if *trials == 0 {
                return Err(RecipeError::new(&counted, "must be at least 1, found 0"));
            }
            if parameters.is_empty() {
                let message = "a random search needs a parameter to draw";
                return Err(RecipeError::new(&at.key("search"), message));
            }
            (u64::from(*trials), RANDOM_TRIALS_MAX)
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
