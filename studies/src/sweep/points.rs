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
    axes: BTreeMap<String, Domain>,
    order: Order,
}

#[derive(Debug)]
enum Order {
    /// Every combination, this many; the last parameter varies fastest.
    Grid(u64),
    Random {
        seed: u64,
        /// Draws that repeat an earlier one are left out; these are the others.
        distinct: Vec<u32>,
        repeated: usize,
    },
}

impl Points {
    pub(super) fn new(spec: &SweepSpec) -> Self {
        let axes = spec.parameters.clone();
        let order = match spec.search {
            // The recipe's check keeps the number below GRID_TRIALS_MAX.
            Search::Grid => Order::Grid(axes.values().map(listed).product()),
            Search::Random { trials, seed } => {
                let mut seen = BTreeSet::new();
                let is_new = |index: &u32| seen.insert(key(&drawn(&axes, seed, *index)));
                let distinct: Vec<u32> = (0..trials).filter(is_new).collect();
                Order::Random { seed, repeated: trials as usize - distinct.len(), distinct }
            }
        };
        Self { axes, order }
    }

    pub(super) fn len(&self) -> u64 {
        match &self.order {
            Order::Grid(count) => *count,
            Order::Random { distinct, .. } => distinct.len() as u64,
        }
    }

    /// Draws that were left out because they repeat an earlier one.
    pub(super) fn repeated(&self) -> usize {
        match &self.order {
            Order::Grid(_) => 0,
            Order::Random { repeated, .. } => *repeated,
        }
    }

    /// The point at `index`; `None` past the end.
    pub(super) fn get(&self, index: u64) -> Option<Point> {
        match &self.order {
            Order::Grid(count) if index >= *count => None,
            Order::Grid(_) => {
                let mut rest = index;
                let value = |(name, domain): (&String, &Domain)| {
                    let values = listed(domain);
                    let value = at(domain, rest % values);
                    rest /= values;
                    (name.clone(), value)
                };
                Some(self.axes.iter().rev().map(value).collect())
            }
            Order::Random { seed, distinct, .. } => {
                let index = distinct.get(usize::try_from(index).ok()?)?;
                Some(drawn(&self.axes, *seed, *index))
            }
        }
    }
}

fn drawn(axes: &BTreeMap<String, Domain>, seed: u64, index: u32) -> Point {
    // A stream of its own for every draw: the number of trials changes none of them.
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(u64::from(index));
    axes.iter().map(|(name, domain)| (name.clone(), draw(domain, rng.next_u64()))).collect()
}

/// A text that equal points share.
fn key(point: &Point) -> String {
    serde_json::to_string(point).expect("names and scalars are JSON")
}

/// How many values a domain lists; none when it is continuous.
pub(super) fn listed(domain: &Domain) -> u64 {
    match domain {
        Domain::Choice(values) => values.len() as u64,
        Domain::Linear(_, _, n) | Domain::Log(_, _, n) => u64::from(*n),
        Domain::Range(low, high) => high.abs_diff(*low),
        Domain::Uniform(..) | Domain::LogUniform(..) | Domain::IntUniform(..) => 0,
    }
}

/// The value at `index`, which is below [`listed`], of a domain that lists its values.
fn at(domain: &Domain, index: u64) -> Value {
    let spaced = |n: u32, at: &dyn Fn(f64) -> f64| {
        let share = index as f64 / f64::from(n - 1);
        Value::Number(rounded(at(share), GRID_DIGITS))
    };
    match domain {
        Domain::Choice(values) => values[index as usize].clone(),
        Domain::Linear(low, high, n) => spaced(*n, &|share| low * (1.0 - share) + high * share),
        Domain::Log(low, high, n) => {
            spaced(*n, &|share| (low.ln() * (1.0 - share) + high.ln() * share).exp())
        }
        Domain::Range(low, _) => Value::Integer(low.wrapping_add_unsigned(index)),
        Domain::Uniform(..) | Domain::LogUniform(..) | Domain::IntUniform(..) => {
            unreachable!("the recipe's check refused a continuous parameter in a grid")
        }
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
        Domain::Linear(..) | Domain::Log(..) | Domain::Range(..) => {
            unreachable!("the recipe's check refused points in a random search")
        }
    }
}

fn rounded(value: f64, digits: usize) -> f64 {
    format!("{value:.*e}", digits - 1).parse().expect("a formatted float is a float")
}
