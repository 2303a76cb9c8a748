//! Metric series in their shape: what a trial said, small enough for a terminal or a figure.

use crate::error::CliError;
use crate::number;
use crate::table::{Align, Table};
use proto::wire::{MetricBatch, MetricPoint};
use serde_json::json;

/// Points of one answer in memory, about 100 MB.
const POINTS_MAX: usize = 1_000_000;
/// Columns of a course in a table.
const COURSE_COLUMNS: usize = 24;
/// Heights of a column, one eighth of a line each.
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// A column with points, none of them finite.
const UNDEFINED: char = '×';

/// What a coordinator answered.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Shapes {
    pub(crate) series: Vec<Series>,
    /// What is not kept of the trial's metrics.
    pub(crate) notes: Vec<String>,
    points: usize,
}

/// One series.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Series {
    pub(crate) metric: String,
    /// Of a gang's member; 0 for any other trial.
    pub(crate) rank: u32,
    /// Points that the coordinator has of it.
    pub(crate) stored: u64,
    /// Its first, last, smallest and largest points among them, by ascending step.
    pub(crate) points: Vec<MetricPoint>,
}

impl Shapes {
    /// Takes in a part of an answer.
    ///
    /// # Errors
    /// The answer is too long.
    pub(crate) fn take(&mut self, batch: MetricBatch) -> Result<(), CliError> {
        self.notes.extend(batch.notes);
        self.points += batch.points.len();
        if self.points > POINTS_MAX {
            return Err(CliError::user(format!("the answer has more than {POINTS_MAX} points"))
                .hint("ask for fewer with --points, or for one metric with --metric")
                .hint("`brine export` writes series of any length into files"));
        }
        for point in batch.points {
            let of = (point.rank, &point.metric);
            if self.series.last().is_none_or(|series| (series.rank, &series.metric) != of) {
                let (metric, rank) = (point.metric.clone(), point.rank);
                self.series.push(Series { metric, rank, ..Series::default() });
            }
            if let Some(series) = self.series.last_mut() {
                series.points.push(point);
                let shown = series.points.len() as u64;
                series.stored = batch.series.as_ref().map_or(shown, |series| series.points);
            }
        }
        Ok(())
    }

    /// A row for each series; a gang's begin with the rank.
    pub(crate) fn table(&self) -> Table {
        let is_gang = self.series.iter().any(|series| series.rank > 0);
        let columns = [
            ("rank", Align::Right),
            ("metric", Align::Left),
            ("points", Align::Right),
            ("last step", Align::Right),
            ("first", Align::Right),
            ("last", Align::Right),
            ("min", Align::Right),
            ("max", Align::Right),
            ("course", Align::Left),
        ];
        let left_out = usize::from(!is_gang);
        let mut table = Table::new(&columns[left_out..]);
        for series in &self.series {
            let ends =
                [series.points.first(), series.points.last()].map(|end| end.map(|p| p.value));
            let (min, max) = series.extremes();
            let [first, last, min, max] = [ends[0], ends[1], min, max]
                .map(|value| value.map_or_else(String::new, number::short));
            let step = series.points.last().map_or(0, |point| point.step).to_string();
            let (name, stored) = (printable(&series.metric), series.stored.to_string());
            let (rank, course) = (series.rank.to_string(), series.course(COURSE_COLUMNS));
            let cells = [rank, name, stored, step, first, last, min, max, course];
            table.row(cells.into_iter().skip(left_out));
        }
        table.cut(&["metric"])
    }

    /// Everything, for scripts. JSON has no NaN: such a value is a text.
    pub(crate) fn json(&self, trial: &proto::TrialId) -> serde_json::Value {
        let value = |value: f64| match serde_json::Number::from_f64(value) {
            Some(number) => serde_json::Value::Number(number),
            None => json!(value.to_string()),
        };
        let point = |point: &MetricPoint| json!({ "step": point.step, "value": value(point.value), "attempt": point.attempt });
        let series = |series: &Series| {
            json!({
                "metric": series.metric,
                "rank": series.rank,
                "stored": series.stored,
                "points": series.points.iter().map(point).collect::<Vec<_>>(),
            })
        };
        let all: Vec<_> = self.series.iter().map(series).collect();
        json!({ "trial": trial, "series": all, "notes": self.notes })
    }
}

impl Series {
    /// The smallest and the largest value; infinities count, NaN does not.
    fn extremes(&self) -> (Option<f64>, Option<f64>) {
        let values = || self.points.iter().map(|point| point.value).filter(|value| !value.is_nan());
        (values().reduce(f64::min), values().reduce(f64::max))
    }

    /// The series over its steps as a line of blocks, each as high as the mean of the finite points
    /// in its column; a space where there is no point.
    fn course(&self, columns: usize) -> String {
        let (Some(first), Some(last)) = (self.points.first(), self.points.last()) else {
            return String::new();
        };
        let width = u128::from(last.step.saturating_sub(first.step)) + 1;
        let columns = u128::from(columns as u64).min(width);
        let place = |point: &MetricPoint| {
            (u128::from(point.step.saturating_sub(first.step)) * columns / width) as usize
        };
        // Sum and count of the finite points; present when there is any point.
        let mut cells: Vec<Option<(f64, u32)>> = vec![None; columns as usize];
        for point in &self.points {
            if let Some(cell) = cells.get_mut(place(point)) {
                let (sum, count) = cell.get_or_insert_default();
                if point.value.is_finite() {
                    // Halved against an overflow; only the relation of the means counts.
                    *sum += point.value / 2.0;
                    *count += 1;
                }
            }
        }
        let mean = |(sum, count): (f64, u32)| (count > 0).then(|| sum / f64::from(count));
        let means = || cells.iter().flatten().filter_map(|cell| mean(*cell));
        let low = means().fold(f64::INFINITY, f64::min);
        let span = means().fold(f64::NEG_INFINITY, f64::max) - low;
        let block = |value: f64| {
            let height = (value - low) / span * (BLOCKS.len() - 1) as f64;
            // A flat course is drawn in the middle; a cast of what is not finite is 0.
            if span > 0.0 {
                BLOCKS[(height.round() as usize).min(BLOCKS.len() - 1)]
            } else {
                BLOCKS[3]
            }
        };
        let draw = |cell: &Option<(f64, u32)>| match cell {
            None => ' ',
            Some(cell) => mean(*cell).map_or(UNDEFINED, block),
        };
        cells.iter().map(draw).collect()
    }
}

/// A name without what a terminal would obey.
fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::wire;

    fn series(values: &[(u64, f64)]) -> Series {
        let point = |(step, value): &(u64, f64)| MetricPoint {
            step: *step,
            value: *value,
            ..MetricPoint::default()
        };
        let points = values.iter().map(point).collect();
        Series { metric: "loss".into(), rank: 0, stored: values.len() as u64, points }
    }

    #[track_caller]
    fn check(values: &[(u64, f64)], columns: usize, expected: &str) {
        assert_eq!(series(values).course(columns), expected);
    }

    #[test]
    fn a_course_is_drawn_over_its_steps() {
        check(&[], 4, "");
        check(&[(7, 1.0)], 4, "▄");
        check(&[(0, 0.0), (1, 1.0), (2, 2.0), (3, 7.0)], 4, "▁▂▃█");
        check(&[(0, 0.0), (1, 2.0), (2, 2.0), (3, 4.0)], 2, "▁█");
        check(&[(0, 3.0), (3, 3.0)], 4, "▄  ▄");
        check(&[(0, 1.0), (1, f64::NAN), (2, f64::INFINITY), (3, 0.0)], 4, "█××▁");
        check(&[(0, f64::NAN), (9, f64::NAN)], 2, "××");
        check(&[(0, f64::MAX), (1, f64::MIN)], 2, "█▁");
        check(&[(0, 1.0), (u64::MAX, 2.0)], 3, "▁ █");
    }

    #[test]
    fn a_table_has_the_numbers_of_each_series() {
        let point = |metric: &str, step, value| MetricPoint {
            metric: metric.into(),
            step,
            value,
            ..MetricPoint::default()
        };
        let mut shapes = Shapes::default();
        let points = vec![point("loss", 0, 4.0), point("loss", 9, 1.5), point("loss", 10, 2.0)];
        let of = Some(wire::Series { metric: "loss".into(), points: 5_000, rank: 0 });
        shapes.take(MetricBatch { points, series: of, notes: vec!["n".into()] }).unwrap();
        let points = vec![point("a\u{1b}[m", 3, f64::NAN)];
        shapes.take(MetricBatch { points, ..MetricBatch::default() }).unwrap();
        let text = shapes.table().render_within(None);
        let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(lines[1][..7], ["loss", "5000", "10", "4.000", "2.000", "1.500", "4.000"]);
        assert_eq!(lines[2], ["a?[m", "1", "3", "NaN", "NaN", "×"]);
        let json = shapes.json(&proto::TrialId::new("00000000000000aa").unwrap());
        assert_eq!(
            (&json["series"][1]["points"][0]["value"], &json["notes"][0]),
            (&"NaN".into(), &"n".into())
        );
    }

    #[test]
    fn members_of_a_gang_have_rows_of_their_own() {
        let point = |rank, value| MetricPoint { rank, value, ..MetricPoint::default() };
        let mut shapes = Shapes::default();
        let points = vec![point(0, 1.0), point(1, 2.0), point(1, 3.0)];
        shapes.take(MetricBatch { points, ..MetricBatch::default() }).unwrap();
        let text = shapes.table().render_within(None);
        let ranks: Vec<_> = text.lines().map(|l| l.split_whitespace().next().unwrap()).collect();
        assert_eq!(ranks, ["rank", "0", "1"]);
        assert_eq!(shapes.series[1].points.len(), 2);
    }

    #[test]
    fn an_answer_that_is_too_long_is_refused() {
        let points = vec![MetricPoint::default(); POINTS_MAX];
        let mut shapes = Shapes::default();
        shapes.take(MetricBatch { points, ..MetricBatch::default() }).unwrap();
        let points = vec![MetricPoint::default()];
        let error = shapes.take(MetricBatch { points, ..MetricBatch::default() }).unwrap_err();
        assert!(error.to_string().contains("--metric"), "{error}");
    }
}
