//! From values to places on an axis, and the ticks beside it.

use super::chart::{Axis, Numbers, Scale};
use super::number::{self, Written, Zeros};

/// Largest magnitude that has a place. Sums and differences of two such values stay finite.
const MAGNITUDE_MAX: f64 = 1e300;
/// Smaller magnitudes are zero, so that no step between ticks underflows.
const MAGNITUDE_MIN: f64 = 1e-290;
/// Values whose spread is a smaller share of their size are drawn as equal: a double could not
/// name the ticks between them.
const SPREAD_MIN: f64 = 1e-9;
/// Free room on each side, as a share of the spread.
const PADDING: f64 = 0.05;
/// Ticks wanted on an axis.
const TICKS_WANTED: f64 = 6.0;
/// Most ticks on an axis; the rules below give fewer, this bounds them whatever the input.
const TICKS_MAX: usize = 120;
/// Fewer labels do not show where a reader is. Powers of ten are wide and say enough.
const LABELS_MIN: usize = 4;
const POWERS_MIN: usize = 3;
/// Labels at 1, 2, 3, ... crowd at the upper end of a decade; fewer of them than this do not
/// cover the axis, and evenly spaced ticks do.
const EVERY_MANTISSA_MIN: usize = 6;
/// Up to this many decades each one is labelled.
const DECADES_LABELLED_MAX: f64 = 9.0;

/// The part of an axis that is shown, in the axis' own space: values, or their decimal logarithms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Domain {
    scale: Scale,
    low: f64,
    high: f64,
}

/// A mark on an axis; minor ones have no label.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tick {
    /// Share of the axis, from 0 at its low end to 1.
    pub(super) share: f64,
    /// What is written beside it.
    pub(super) label: Option<Written>,
    /// Whether its label gives way to those of other ticks when there is no room.
    pub(super) yields: bool,
}

impl Domain {
    /// Shows all `values`, and of the `reach` (ends of intervals) what lies at most one spread
    /// away, so that one endless interval does not squeeze the data. Values without a place are
    /// passed over; `None` when no value has one.
    pub(super) fn around(
        scale: Scale,
        values: impl Iterator<Item = f64>,
        reach: impl Iterator<Item = f64>,
    ) -> Option<Self> {
        let extent = |values: &mut dyn Iterator<Item = f64>| {
            values
                .filter_map(|value| space(scale, value))
                .map(|place| (place, place))
                .reduce(|(low, high), (place, _)| (low.min(place), high.max(place)))
        };
        let (low, high) = extent(&mut { values })?;
        let size = low.abs().max(high.abs());
        let smallest = match scale {
            Scale::Linear if size == 0.0 => 1.0,
            Scale::Linear => size * 0.05,
            Scale::Log => 0.15,
        };
        let spread = high - low;
        let equal = spread <= SPREAD_MIN * size.max(MAGNITUDE_MIN);
        let room = if equal { smallest } else { spread };
        let (reach_low, reach_high) = extent(&mut { reach }).unwrap_or((low, high));
        let low = low.min(reach_low.max(low - room));
        let high = high.max(reach_high.min(high + room));
        let padding = if equal { smallest } else { PADDING * (high - low) };
        Some(Self { scale, low: low - padding, high: high + padding })
    }

    /// Where `value` is, as a share of the axis; outside [0, 1] when it is not shown. `None` when
    /// it has no place on this axis at all.
    pub(super) fn share(&self, value: f64) -> Option<f64> {
        space(self.scale, value).map(|place| (place - self.low) / (self.high - self.low))
    }

    /// Like [`Domain::share`] for the end of an interval: an infinite end, or one below the
    /// logarithmic axis, lies at the axis' end.
    pub(super) fn share_of_end(&self, value: f64) -> Option<f64> {
        if value.is_nan() {
            return None;
        }
        let outside = if value > 0.0 { 1.0 } else { 0.0 };
        Some(self.share(value).unwrap_or(outside).clamp(0.0, 1.0))
    }

    /// The ticks from low to high.
    pub(super) fn ticks(&self, axis: &Axis) -> Vec<Tick> {
        let mut ticks = match self.scale {
            Scale::Linear => self.linear_ticks(self.low, self.high, axis.numbers),
            Scale::Log => self.log_ticks(axis.numbers),
        };
        ticks.truncate(TICKS_MAX);
        ticks
    }

    fn linear_ticks(&self, low: f64, high: f64, numbers: Numbers) -> Vec<Tick> {
        let step = nice_step((high - low) / TICKS_WANTED);
        let first = (low / step - SPREAD_MIN).ceil();
        let values = (0..TICKS_MAX)
            .map(|index| (first + index as f64) * step)
            .take_while(|value| *value <= high + SPREAD_MIN * step);
        let largest = low.abs().max(high.abs());
        values
            .filter_map(|value| {
                Some(Tick {
                    share: self.share(value)?,
                    label: Some(linear_label(value, step, largest, numbers)),
                    yields: false,
                })
            })
            .collect()
    }

    fn log_ticks(&self, numbers: Numbers) -> Vec<Tick> {
        let decades = self.high - self.low;
        if decades > DECADES_LABELLED_MAX {
            let stride = nice_step(decades / TICKS_WANTED).max(1.0);
            let first = (self.low / stride).ceil();
            return (0..TICKS_MAX)
                .map(|index| (first + index as f64) * stride)
                .take_while(|decade| *decade <= self.high)
                .map(|decade| self.log_tick(decade, 1.0, numbers, true))
                .collect();
        }
        let inside = |mantissas: &[f64]| {
            let mut places = Vec::new();
            let mut decade = self.low.floor();
            while decade <= self.high {
                for mantissa in mantissas {
                    let place = decade + mantissa.log10();
                    if (self.low..=self.high).contains(&place) {
                        places.push((decade, *mantissa));
                    }
                }
                decade += 1.0;
            }
            places
        };
        let all: [f64; 9] = std::array::from_fn(|index| 1.0 + index as f64);
        let few = match numbers {
            Numbers::Scientific => POWERS_MIN,
            Numbers::Plain | Numbers::Count => LABELS_MIN,
        };
        let choices: [(&[f64], usize); 3] =
            [(&[1.0], few), (&[1.0, 2.0, 5.0], few), (&all, EVERY_MANTISSA_MIN)];
        let labelled =
            choices.into_iter().find(|(mantissas, enough)| inside(mantissas).len() >= *enough);
        let Some((labelled, _)) = labelled else {
            let [low, high] = [self.low, self.high].map(|place| 10f64.powf(place));
            return self.linear_ticks(low, high, plain_if_scientific(numbers));
        };
        inside(&all)
            .into_iter()
            .map(|(decade, mantissa)| {
                self.log_tick(decade, mantissa, numbers, labelled.contains(&mantissa))
            })
            .collect()
    }

    fn log_tick(&self, decade: f64, mantissa: f64, numbers: Numbers, labelled: bool) -> Tick {
        let place = decade + mantissa.log10();
        let value = || mantissa * 10f64.powf(decade);
        let label = || match numbers {
            Numbers::Plain => number::write(value(), 1, Zeros::Trim),
            Numbers::Count => number::count(value(), 1),
            Numbers::Scientific => {
                Written { mantissa: format!("{mantissa:.0}"), exponent: Some(decade as i32) }
            }
        };
        Tick {
            share: (place - self.low) / (self.high - self.low),
            label: labelled.then(label),
            yields: mantissa != 1.0,
        }
    }
}

/// The place of a value in the axis' space.
pub(super) fn space(scale: Scale, value: f64) -> Option<f64> {
    if !value.is_finite() || value.abs() > MAGNITUDE_MAX {
        return None;
    }
    match scale {
        Scale::Linear if value.abs() < MAGNITUDE_MIN => Some(0.0),
        Scale::Linear => Some(value),
        Scale::Log => (value >= MAGNITUDE_MIN).then(|| value.log10()),
    }
}

/// The nearest, by ratio, of 1, 2, 5 times a power of ten.
fn nice_step(raw: f64) -> f64 {
    let power = 10f64.powf(raw.log10().floor());
    let factor = match raw / power {
        factor if factor < 1.41 => 1.0,
        factor if factor < 3.16 => 2.0,
        factor if factor < 7.07 => 5.0,
        _ => 10.0,
    };
    factor * power
}

/// Between two powers of ten there is nothing to gain from exponents alone.
fn plain_if_scientific(numbers: Numbers) -> Numbers {
    match numbers {
        Numbers::Scientific => Numbers::Plain,
        Numbers::Plain | Numbers::Count => numbers,
    }
}

/// The label of one of several ticks `step` apart: all of them have the same decimals.
fn linear_label(value: f64, step: f64, largest: f64, numbers: Numbers) -> Written {
    let value = if value.abs() < step / 2.0 { 0.0 } else { value };
    let step_power = (step * (1.0 + SPREAD_MIN)).log10().floor();
    let value_power = if value == 0.0 { step_power } else { value.abs().log10().floor() };
    let digits = (value_power - step_power).max(0.0) as usize + 1;
    let fixed = (-6.0..6.0).contains(&step_power) && largest < 1e6;
    match numbers {
        Numbers::Count if largest >= 1e3 => number::count(value, digits),
        Numbers::Plain | Numbers::Count if fixed => Written {
            mantissa: format!("{value:.*}", (-step_power).max(0.0) as usize),
            exponent: None,
        },
        Numbers::Plain | Numbers::Count | Numbers::Scientific => {
            number::write(value, digits, Zeros::Trim)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(axis: &Axis, values: &[f64]) -> Vec<String> {
        let domain = Domain::around(axis.scale, values.iter().copied(), [].into_iter()).unwrap();
        let labels = domain.ticks(axis).into_iter().filter_map(|tick| tick.label);
        labels.map(|label| label.unicode()).collect()
    }

    #[track_caller]
    fn check(axis: Axis, values: &[f64], expected: &[&str]) {
        assert_eq!(labels(&axis, values), expected, "{values:?}");
    }

    #[test]
    fn linear_ticks_are_round_numbers_with_equal_decimals() {
        let axis = || Axis::linear("");
        check(axis(), &[0.0, 1.0], &["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        check(axis(), &[2.93, 3.21], &["2.95", "3.00", "3.05", "3.10", "3.15", "3.20"]);
        check(axis(), &[-0.01, 0.01], &["−0.010", "−0.005", "0.000", "0.005", "0.010"]);
        check(axis(), &[5.0], &["4.8", "4.9", "5.0", "5.1", "5.2"]);
        check(axis(), &[0.0], &["−1.0", "−0.5", "0.0", "0.5", "1.0"]);
        check(axis(), &[0.0, 5e7], &["0", "10⁷", "2 × 10⁷", "3 × 10⁷", "4 × 10⁷", "5 × 10⁷"]);
        check(
            axis().numbers(Numbers::Count),
            &[0.0, 5e7],
            &["0", "10M", "20M", "30M", "40M", "50M"],
        );
    }

    #[test]
    fn log_ticks_are_decades_or_what_lies_between_them() {
        let axis = || Axis::log("");
        check(axis(), &[1e10, 1e12], &["10¹⁰", "10¹¹", "10¹²"]);
        check(axis().numbers(Numbers::Count), &[3e4, 6e5], &["50K", "100K", "200K", "500K"]);
        check(axis(), &[1.5e10, 5.5e10], &["2 × 10¹⁰", "3 × 10¹⁰", "4 × 10¹⁰", "5 × 10¹⁰"]);
        check(
            axis().numbers(Numbers::Plain),
            &[2.9, 3.2],
            &["2.90", "2.95", "3.00", "3.05", "3.10", "3.15", "3.20"],
        );
        check(axis(), &[1e-12, 1e12], &["10⁻¹⁰", "10⁻⁵", "10⁰", "10⁵", "10¹⁰"]);
    }

    #[test]
    fn values_without_a_place_are_passed_over() {
        let values = [f64::NAN, f64::INFINITY, -1.0, 0.0];
        let none = || [].into_iter();
        assert!(Domain::around(Scale::Log, values.into_iter(), none()).is_none());
        let domain = Domain::around(Scale::Log, [1.0, 100.0].into_iter(), none()).unwrap();
        assert_eq!(domain.share(-1.0), None);
        assert_eq!(domain.share(10.0), Some(0.5));
        assert_eq!(domain.share_of_end(f64::NEG_INFINITY), Some(0.0));
        assert_eq!(domain.share_of_end(f64::INFINITY), Some(1.0));
        assert_eq!(domain.share_of_end(f64::NAN), None);
    }

    #[test]
    fn an_endless_interval_does_not_squeeze_the_data() {
        let values = [0.0, 1.0].into_iter();
        let domain = Domain::around(Scale::Linear, values, [-1e30, 1e30].into_iter()).unwrap();
        let spread = domain.share(1.0).unwrap() - domain.share(0.0).unwrap();
        assert!(spread > 0.3, "{spread}");
    }

    proptest! {
        #[test]
        fn every_axis_has_some_labels_and_all_values_inside(
            values in proptest::collection::vec(any::<f64>(), 1..20),
            log in any::<bool>(),
        ) {
            let axis = if log { Axis::log("") } else { Axis::linear("") };
            let domain = Domain::around(axis.scale, values.iter().copied(), [].into_iter());
            let drawn = values.iter().filter(|value| space(axis.scale, **value).is_some());
            prop_assert_eq!(domain.is_some(), drawn.clone().count() > 0);
            let Some(domain) = domain else { return Ok(()) };
            for value in drawn {
                prop_assert!((0.0..=1.0).contains(&domain.share(*value).unwrap()));
            }
            let ticks = domain.ticks(&axis);
            prop_assert!(ticks.len() <= TICKS_MAX);
            prop_assert!(ticks.iter().filter(|tick| tick.label.is_some()).count() >= 2);
            for tick in ticks {
                prop_assert!((-1e-6..=1.0 + 1e-6).contains(&tick.share), "{}", tick.share);
            }
        }
    }
}
