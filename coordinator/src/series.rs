//! Which points of a metric series stay when it is too long to show or to keep whole. Pure.
//!
//! The rule is M4 (Jugel, Jerzak, Hackenbroich, Markl: "M4: A Visualization-Oriented Time Series
//! Data Aggregation", PVLDB 7(10), 2014): of each group of neighbours the first, the last, the
//! smallest and the largest point. A line through them covers the same pixels as one through all
//! points when a group is a column of pixels. Largest-triangle-three-buckets (Steinarsson, 2013)
//! keeps one point a group and can lose an extreme, and a spike of the loss is what people look
//! for. Every answer is made of stored points; nothing is averaged.
//!
//! What is not a number is news too: of each group the first NaN and the first infinity of either
//! sign stay, so that they neither vanish nor stand for the smallest and largest finite value.

use proto::Attempt;

/// Points that are kept of one metric of one trial: about 6 MB on disk, and more than a figure has
/// pixels by far. Beyond it the older half is thinned, so a long series gets coarser with age.
pub const POINTS_MAX: usize = 100_000;
/// Least number of points that [`shape`] can be asked for: one group with all that is kept of it.
pub const SHAPE_MIN: usize = CORNERS + UNDEFINED.len();

/// First, last, smallest, largest.
const CORNERS: usize = 4;
/// What can stand in a series beside finite values.
const UNDEFINED: [fn(f64) -> bool; 3] =
    [f64::is_nan, |x| x == f64::INFINITY, |x| x == f64::NEG_INFINITY];

/// A value at a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Step, from 0.
    pub step: u64,
    /// The attempt that wrote it.
    pub attempt: Attempt,
    /// Value; may be NaN or infinite.
    pub value: f64,
}

/// At most `most` of `samples`, which ascend by step, in their order: all of them when they are no
/// more, else the corners of groups that are equally wide in steps. `most` is at least
/// [`SHAPE_MIN`]; of less a single group is made.
pub fn shape(samples: &[Sample], most: usize) -> Vec<Sample> {
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else { return Vec::new() };
    if samples.len() <= most {
        return samples.to_vec();
    }
    let groups = (most / kept_of_each(samples)).max(1) as u128;
    let width = u128::from(last.step.saturating_sub(first.step)) + 1;
    let group =
        |sample: &Sample| u128::from(sample.step.saturating_sub(first.step)) * groups / width;
    samples.chunk_by(|a, b| group(a) == group(b)).flat_map(corners).collect()
}

/// What is kept of a stored series: all of it up to [`POINTS_MAX`] points, else its newer half and
/// of its older half the corners of equally long groups, half as many, again and again until it is
/// short enough. Depends on the samples alone; the extremes always stay.
pub fn thin(mut samples: Vec<Sample>) -> Vec<Sample> {
    while samples.len() > POINTS_MAX {
        let newer = samples.split_off(samples.len() / 2);
        samples = samples.chunks(2 * kept_of_each(&samples)).flat_map(corners).collect();
        samples.extend(newer);
    }
    samples
}

/// Most points that stay of a group.
fn kept_of_each(samples: &[Sample]) -> usize {
    let occurs = |is: &&fn(f64) -> bool| samples.iter().any(|sample| is(sample.value));
    CORNERS + UNDEFINED.iter().filter(occurs).count()
}

/// The points of a group that stay, in their order.
fn corners(group: &[Sample]) -> Vec<Sample> {
    let finite = || group.iter().enumerate().filter(|(_, sample)| sample.value.is_finite());
    // Of equal values the first: `min_by` answers the first, `max_by` the last.
    let smallest = finite().min_by(|(_, a), (_, b)| a.value.total_cmp(&b.value));
    let largest = finite().rev().max_by(|(_, a), (_, b)| a.value.total_cmp(&b.value));
    let ends = [0, group.len().saturating_sub(1)].into_iter();
    let extremes = [smallest, largest].into_iter().flatten().map(|(index, _)| index);
    let undefined =
        UNDEFINED.iter().filter_map(|is| group.iter().position(|sample| is(sample.value)));
    let mut kept: Vec<usize> = ends.chain(extremes).chain(undefined).collect();
    kept.sort_unstable();
    kept.dedup();
    kept.into_iter().filter_map(|index| group.get(index).copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAN: f64 = f64::NAN;
    const INF: f64 = f64::INFINITY;

    fn samples(values: &[f64]) -> Vec<Sample> {
        let sample =
            |(step, value): (u64, &f64)| Sample { step, attempt: Attempt(1), value: *value };
        (0..).zip(values).map(sample).collect()
    }

    fn steps(samples: &[Sample]) -> Vec<u64> {
        samples.iter().map(|sample| sample.step).collect()
    }

    #[track_caller]
    fn check(values: &[f64], most: usize, expected: &[u64]) {
        assert_eq!(steps(&shape(&samples(values), most)), expected, "{values:?} to {most}");
    }

    #[test]
    fn a_short_series_is_answered_exactly() {
        check(&[], 8, &[]);
        check(&[1.0], 8, &[0]);
        check(&[NAN; 8], 8, &[0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn of_each_group_the_first_last_smallest_and_largest_stay() {
        check(&[5.0, 1.0, 9.0, 4.0, 3.0, 2.0, 8.0, 5.0, 0.0, 7.0], 8, &[0, 1, 2, 4, 5, 6, 8, 9]);
        // Of equal values the first.
        check(&[1.0; 10], 4, &[0, 9]);
        check(&[0.0, 2.0, 2.0, -1.0, -1.0, 0.0], 5, &[0, 1, 3, 5]);
    }

    #[test]
    fn what_is_not_a_number_stays_beside_the_finite_extremes() {
        check(&[1.0, NAN, 3.0, NAN, 0.0, 2.0], 5, &[0, 1, 2, 4, 5]);
        check(&[1.0, INF, 3.0, -INF, NAN, 0.0, INF, 2.0], 7, &[0, 1, 2, 3, 4, 5, 7]);
        check(&[NAN; 20], 10, &[0, 9, 10, 19]);
        check(&[INF; 20], 5, &[0, 19]);
    }

    #[test]
    fn groups_are_equally_wide_in_steps_however_wide() {
        let mut far = samples(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
        far[8].step = u64::MAX;
        assert_eq!(steps(&shape(&far, 8)), [0, 7, u64::MAX]);
    }

    #[test]
    fn a_full_series_is_thinned_in_its_older_half_only() {
        let value = |step: usize| if step == 777 { 9.0 } else { (step % 10) as f64 / 10.0 };
        let values: Vec<f64> = (0..=POINTS_MAX).map(value).collect();
        let all = samples(&values);
        let short = thin(all[..POINTS_MAX].to_vec());
        assert_eq!(short.len(), POINTS_MAX, "not full yet");
        let kept = thin(all.clone());
        let newer = POINTS_MAX / 2;
        assert_eq!(kept[kept.len() - newer - 1..], all[newer..]);
        let older = &kept[..kept.len() - newer - 1];
        assert!(older.len() <= POINTS_MAX / 4 + 8 && older.len() > POINTS_MAX / 8);
        assert!(steps(older).contains(&777), "the largest value");
        assert_eq!(thin(kept.clone()), kept);
    }

    fn value() -> impl Strategy<Value = f64> {
        prop_oneof![8 => -1e3..1e3, 1 => Just(NAN), 1 => Just(INF), 1 => Just(-INF), 1 => Just(0.0)]
    }

    proptest! {
        #[test]
        fn order_ends_and_extremes_are_kept(
            values in prop::collection::vec((1_u64..50, value()), 0..400),
            most in SHAPE_MIN..200,
        ) {
            let mut step = 0;
            let sample = |(gap, value): (u64, f64)| {
                step += gap;
                Sample { step, attempt: Attempt(1), value }
            };
            let all: Vec<Sample> = values.into_iter().map(sample).collect();
            let kept = shape(&all, most);
            prop_assert!(kept.len() <= most);
            prop_assert!(kept.is_sorted_by(|a, b| a.step < b.step));
            let bits = |sample: &Sample| (sample.step, sample.value.to_bits());
            let known: std::collections::BTreeSet<_> = all.iter().map(bits).collect();
            prop_assert!(kept.iter().all(|sample| known.contains(&bits(sample))));
            prop_assert_eq!(kept.first().map(bits), all.first().map(bits));
            prop_assert_eq!(kept.last().map(bits), all.last().map(bits));
            for is in UNDEFINED {
                let first = |samples: &[Sample]| {
                    samples.iter().find(|sample| is(sample.value)).map(bits)
                };
                prop_assert_eq!(first(&kept), first(&all));
            }
            let finite = |samples: &[Sample]| {
                let values = samples.iter().map(|sample| sample.value);
                let mut finite: Vec<f64> = values.filter(|value| value.is_finite()).collect();
                finite.sort_by(f64::total_cmp);
                (finite.first().copied(), finite.last().copied())
            };
            prop_assert_eq!(finite(&kept), finite(&all));
        }
    }
}
