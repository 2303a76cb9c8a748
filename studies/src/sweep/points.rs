//! The parameter values of every trial.

use super::spec::{Domain, Search, SweepSpec};
use proto::Value;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};

/// One value for every parameter.
pub(super) type Point = BTreeMap<String, Value>;

/// Significant digits of a drawn number: enough for any search, short enough to read.
const DRAWN_DIGITS: usize = 6;
/// Significant digits of a computed grid value, so that 0.001 is not 0.0010000000000000002.
const GRID_DIGITS: usize = 12;

/// All points in order, computed when they are asked for.
#[derive(Debug)]
pub(super) struct Points {
    /// Names in order, each with its values (grid) or its domain (random).
    axes: Axes,
    /// Draws that repeat an earlier one are left out; these are the others.
    distinct: Vec<u32>,
    repeated: usize,
}

#[derive(Debug)]
enum Axes {
    Grid(Vec<(String, Vec<Value>)>),
    Random { domains: BTreeMap<String, Domain>, seed: u64 },
}

impl Points {
    pub(super) fn new(spec: &SweepSpec) -> Self {
        match &spec.search {
            Search::Grid => {
                let axis = |(name, domain): (&String, &Domain)| (name.clone(), listed(domain));
                let axes: Vec<_> = spec.parameters.iter().map(axis).collect();
                let count: usize = axes.iter().map(|(_, values)| values.len()).product();
                Self {
                    axes: Axes::Grid(axes),
                    // The recipe's check keeps the number below TRIALS_MAX.
                    distinct: (0..count as u32).collect(),
                    repeated: 0,
                }
            }
            Search::Random { trials, seed } => {
                let axes = Axes::Random { domains: spec.parameters.clone(), seed: *seed };
                let mut seen = BTreeSet::new();
                let distinct: Vec<u32> =
                    (0..*trials).filter(|&index| seen.insert(key(&axes.point(index)))).collect();
                Self { repeated: *trials as usize - distinct.len(), axes, distinct }
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.distinct.len()
    }

    /// Draws that were left out because they repeat an earlier one.
    pub(super) fn repeated(&self) -> usize {
        self.repeated
    }

    /// The point at `index`, which is below [`len`](Self::len).
    pub(super) fn get(&self, index: usize) -> Point {
        self.axes.point(self.distinct[index])
    }
}

impl Axes {
    fn point(&self, index: u32) -> Point {
        match self {
            Self::Grid(axes) => {
                // The last parameter varies fastest.
                let mut rest = index as usize;
                let mut point = Point::new();
                for (name, values) in axes.iter().rev() {
                    point.insert(name.clone(), values[rest % values.len()].clone());
                    rest /= values.len();
                }
                point
            }
            Self::Random { domains, seed } => {
                // A stream of its own for every draw: the number of trials changes none of them.
                let mut rng = ChaCha8Rng::seed_from_u64(*seed);
                rng.set_stream(u64::from(index));
                let draw = |(name, domain): (&String, &Domain)| {
                    (name.clone(), draw(domain, rng.next_u64()))
                };
                domains.iter().map(draw).collect()
            }
        }
    }
}

/// A text that equal points share.
pub(super) fn key(point: &Point) -> String {
    serde_json::to_string(point).expect("names and scalars are JSON")
}

/// The values of a domain that lists them; a continuous one has none.
fn listed(domain: &Domain) -> Vec<Value> {
    let spaced = |n: u32, at: &dyn Fn(f64) -> f64| -> Vec<Value> {
        (0..n)
            .map(|i| f64::from(i) / f64::from(n - 1))
            .map(|share| Value::Number(rounded(at(share), GRID_DIGITS)))
            .collect()
    };
    match domain {
        Domain::Choice(values) => values.clone(),
        Domain::Linear(low, high, n) => spaced(*n, &|share| low * (1.0 - share) + high * share),
        Domain::Log(low, high, n) => {
            spaced(*n, &|share| (low.ln() * (1.0 - share) + high.ln() * share).exp())
        }
        Domain::Uniform(..) | Domain::LogUniform(..) | Domain::IntUniform(..) => Vec::new(),
    }
}

/// The value of `domain` that 64 uniform random bits stand for.
fn draw(domain: &Domain, bits: u64) -> Value {
    // 53 bits fill [0, 1) evenly.
    let share = (bits >> 11) as f64 / (1u64 << 53) as f64;
    // One of `n` by the high half of a product; the bias of n/2^64 is far below what shows.
    let one_of = |n: u128| (u128::from(bits) * n) >> 64;
    let number = |value: f64, low: f64, high: f64| {
        Value::Number(rounded(value, DRAWN_DIGITS).clamp(low, high))
    };
    match domain {
        Domain::Choice(values) => values[one_of(values.len() as u128) as usize].clone(),
        Domain::Uniform(low, high) => number(low * (1.0 - share) + high * share, *low, *high),
        Domain::LogUniform(low, high) => {
            let exponent = low.ln() * (1.0 - share) + high.ln() * share;
            number(exponent.exp(), *low, *high)
        }
        Domain::IntUniform(low, high) => {
            let n = (i128::from(*high) - i128::from(*low) + 1) as u128;
            Value::Integer((i128::from(*low) + one_of(n) as i128) as i64)
        }
        Domain::Linear(..) | Domain::Log(..) => {
            unreachable!("the recipe's check refused points in a random search")
        }
    }
}

fn rounded(value: f64, digits: usize) -> f64 {
    format!("{value:.*e}", digits - 1).parse().expect("a formatted float is a float")
}
